"""Batches: every row once an epoch, in bounded memory."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from antibody_sae.activations import Store
from antibody_sae.io import InputError
from antibody_sae.sae import stream as training_stream
from antibody_sae.sae.stream import Stream
from sae_world import D, make_store


@pytest.fixture
def numbered_store(tmp_path, monkeypatch) -> Store:
    """Row i holds the number i; small chunks and windows."""
    monkeypatch.setattr(training_stream, "CHUNK", 37)
    monkeypatch.setattr(training_stream, "WINDOW", 4)
    return make_store(tmp_path / "numbered", torch.arange(1000.0)[:, None].repeat(1, D), shards=4)


def take(stream: Stream, n: int, first: int = 0) -> torch.Tensor:
    with stream.batches(first) as batches:
        return torch.stack([batch for batch, _ in zip(batches, range(n), strict=False)])[:, :, 0]


def test_each_epoch_visits_every_row_to_keep_once_and_no_other(numbered_store):
    keep = np.arange(1000) % 3 != 0
    rows = take(Stream(numbered_store, keep, 18, seed=1), 74).flatten()  # two epochs of 666 rows
    for epoch in rows.reshape(2, 666):
        np.testing.assert_array_equal(epoch.sort().values, np.flatnonzero(keep))
    assert not torch.equal(rows[:666], rows[666:]), "each epoch in an order of its own"
    first = rows[:100]
    assert len({int(r) // 250 for r in first}) >= 3, "shards are mixed"
    assert (first.diff() > 0).float().mean() < 0.7, "rows are shuffled"


def test_batches_continue_where_they_stopped(numbered_store):
    keep = np.ones(1000, dtype=bool)
    whole = take(Stream(numbered_store, keep, 30, seed=2), 80)
    for first in (1, 17, 33, 34, 71):
        assert torch.equal(take(Stream(numbered_store, keep, 30, seed=2), 80 - first, first), whole[first:])
    assert not torch.equal(take(Stream(numbered_store, keep, 30, seed=3), 80), whole)


def test_memory_holds_one_window_whatever_the_size(numbered_store, monkeypatch):
    stream = Stream(numbered_store, np.ones(1000, dtype=bool), 20, seed=0)
    read = []
    original = numbered_store.read
    monkeypatch.setattr(numbered_store, "read", lambda *a: read.append(a) or original(*a))
    with stream.batches() as batches:
        next(batches)
        time.sleep(0.3)  # the prefetch thread fills its queue and waits
        assert len(read) <= 2 * training_stream.WINDOW


def test_errors_of_the_prefetch_thread_reach_the_trainer(numbered_store, monkeypatch):
    stream = Stream(numbered_store, np.ones(1000, dtype=bool), 20, seed=0)
    monkeypatch.setattr(numbered_store, "read", lambda *a: (_ for _ in ()).throw(InputError("disk is gone")))
    with stream.batches() as batches, pytest.raises(InputError, match="disk is gone"):
        next(batches)
