"""The batch's codes in training: what is chosen is what the definitions say, whatever was guessed before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_code
from sae_world import SMALL, data

NONE = np.empty(0, dtype=np.int64)


def dense(chosen, latents, columns=slice(None)):
    """[n, latents] float64 from the columns of a rectangle."""
    code = torch.zeros(len(chosen.indices), latents + 1, dtype=torch.float64)
    indices, values = (torch.from_numpy(a[:, columns].copy()) for a in (chosen.indices, chosen.values))
    return code.scatter_(1, indices.long(), values.double())[:, :latents]


def pre(trainer, x):
    p = trainer.parameters
    return (x @ p["encoder"].T + p["bias"]).double()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e6]))
def test_batchtopk_chooses_the_largest_of_the_batch_wherever_its_floor_lies(n, k, seed, floor):
    trainer = Trainer(Settings(**SMALL | {"k": k}, activation="batchtopk", encoder_dtype="float32"), data(500), 1.3)
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))
    x[: n // 3] = x[0]  # ties
    trainer._choose._floor = floor
    chosen = trainer._choose(x, k, NONE)
    hidden = pre(trainer, x)
    want, _ = dense_code("batchtopk", hidden, k)
    got = dense(chosen, 48)
    torch.testing.assert_close(
        got.sort().values.flatten().sort().values, want.flatten().sort().values, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(got, torch.where(got > 0, hidden, 0), atol=1e-5, rtol=0)
    assert (got > 0).sum() == min(n * k, (hidden > 0).sum()), "no row is capped"
    assert chosen.least == pytest.approx(float(want[want > 0].min()) if (want > 0).sum() == n * k else 0.0, abs=1e-5)
    width = (got > 0).sum(1).max()
    assert chosen.indices.shape == (n, width)
    for row in chosen.indices:
        held = row[row < 48]
        assert (np.diff(held) > 0).all()
        assert (row[len(held) :] == 48).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "abstopk", "jumprelu"])
def test_values_are_float32_and_auxk_stands_beside_the_code(activation, threads, dtype):
    x = data(700) / 1.3
    settings = Settings(**SMALL, activation=activation, encoder_dtype=dtype, aux_k=5)
    trainer = Trainer(settings, data(500), 1.3, threads=threads)
    y = x - trainer.parameters["pre_bias"]
    dead = np.array([1, 4, 9, 16, 25, 36, 47], dtype=np.int64)
    chosen = trainer._choose(y, 4, dead)
    hidden = pre(trainer, y)
    threshold = trainer.parameters["threshold"].double().exp() if activation == "jumprelu" else None
    want, _ = dense_code(activation, hidden, 4, threshold, settings.bandwidth)
    code, beside = dense(chosen, 48, slice(chosen.width)), dense(chosen, 48, slice(chosen.width, None))
    near, _ = dense_code("abstopk" if activation == "abstopk" else "topk", hidden[:, dead], 5)
    assert not np.delete(beside.numpy(), dead, 1).any()
    for got, exact in ((code, want), (beside[:, dead], near)):
        differs = (got != 0) != (exact != 0)
        assert differs.double().mean() < (1e-6 if dtype == "float32" else 0.01)
        torch.testing.assert_close(got[~differs], exact[~differs], atol=1e-4, rtol=1e-4)


def test_jumprelu_lists_what_lies_just_below_a_threshold_too():
    trainer = Trainer(Settings(**SMALL, activation="jumprelu", encoder_dtype="float32"), data(500), 1.3)
    y = data(200) / 1.3 - trainer.parameters["pre_bias"]
    hidden, threshold = pre(trainer, y), trainer.parameters["threshold"].double().exp()
    chosen = trainer._choose(y, 4, NONE)
    listed = torch.zeros(200, 49).scatter_(1, torch.from_numpy(chosen.indices).long(), 1.0)[:, :48] > 0
    assert torch.equal(listed, hidden > threshold - 0.1)
    assert torch.equal(dense(chosen, 48) != 0, hidden > threshold)
    assert (listed & (hidden <= threshold)).sum() > 0
