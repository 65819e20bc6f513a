"""Stored activations as a stream of shuffled rows, resumable at any step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE, finite

CHUNK = 8192
"""Rows read from a shard at a time."""
WINDOW = 16
"""Chunks, drawn from all shards, whose rows are shuffled together: 131,072 rows in memory, whatever the data's size."""


# -- data --------------------------------------------------------------------------------------------------------


class Stream:
    """Endless shuffled batches of the rows of a store that `keep` [residue ids] allows.

    An epoch visits the chunks of all shards in a new order; the rows of WINDOW chunks are shuffled together. The next
    batches are made by a thread of their own. Batch s is the same whether or not the run was interrupted before it.
    """

    def __init__(self, store: Store, keep: np.ndarray, batch_size: int, seed: int) -> None:
        """Raises InputError where no row is kept."""
        self.store, self.keep, self.batch_size, self.seed = store, keep, batch_size, seed
        self._chunks = [
            (shard, start, min(start + CHUNK, size))
            for shard, size in enumerate(store.sizes)
            for start in range(0, size, CHUNK)
        ]
        self._kept = np.array([self._mask(chunk).sum() for chunk in self._chunks])
        self.n = int(self._kept.sum())
        if self.n == 0:
            raise InputError(f"{store.folder}: none of its residues is in the training split; check splits and shards")

    def _mask(self, chunk: tuple[int, int, int]) -> np.ndarray:
        residue_id = self.store.read(*chunk)[1]
        if len(residue_id) and residue_id.max() >= len(self.keep):
            raise InputError(
                f"{self.store.folder}: residue {residue_id.max()} is not in the run's numbering; harvest it again"
            )
        mask: np.ndarray = self.keep[residue_id]
        return mask

    def _windows(self, skip: int) -> Iterator[Tensor]:
        """Shuffled rows [m, d] of window after window, without the first `skip` rows; whole windows are not read."""
        epoch = 0
        while True:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self._chunks))
            for w in range(0, len(order), WINDOW):
                members = order[w : w + WINDOW]
                size = int(self._kept[members].sum())
                if skip >= size:
                    skip -= size
                    continue
                rows = torch.cat([self._rows(self._chunks[c]) for c in members])
                shuffled = np.random.default_rng([self.seed, 2, epoch, w]).permutation(size)[skip:]
                skip = 0
                for start in range(0, len(shuffled), self.batch_size):
                    yield rows[torch.from_numpy(shuffled[start : start + self.batch_size])].float()
            epoch += 1

    def _rows(self, chunk: tuple[int, int, int]) -> Tensor:
        acts, residue_id = self.store.read(*chunk)
        if not finite(acts):
            name = self.store.manifest["shards"][chunk[0]]["file"]
            raise InputError(
                f"{self.store.folder / name}, rows {chunk[1]} to {chunk[2]}: NaN or Inf activations; delete the file "
                "and harvest again, in bfloat16 or float32"
            )
        return acts[torch.from_numpy(self.keep[residue_id])]

    def sample(self, n: int) -> Tensor:
        """[<= n, d] rows of the first window."""
        parts, have = [], 0
        for part in self._windows(0):
            parts.append(part[: n - have])
            have += len(parts[-1])
            if have >= min(n, self.n):
                break
        return torch.cat(parts)

    def _batches(self, first: int) -> Iterator[Tensor]:
        pending: list[Tensor] = []
        have = 0
        for part in self._windows(first * self.batch_size):
            pending.append(part)
            have += len(part)
            if have >= self.batch_size:
                rows = torch.cat(pending)
                yield rows[: self.batch_size]
                pending = [rows[self.batch_size :]]
                have -= self.batch_size

    @contextmanager
    def batches(self, first: int = 0) -> Iterator[Iterator[Tensor]]:
        """Batches [batch_size, d] float32 from number `first` on, prefetched by a thread."""
        ready: queue.Queue[Tensor | BaseException] = queue.Queue(maxsize=4)
        done = threading.Event()

        def fill() -> None:
            try:
                for batch in self._batches(first):
                    while not done.is_set():
                        try:
                            ready.put(batch, timeout=0.1)
                            break
                        except queue.Full:
                            continue
                    if done.is_set():
                        return
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        def drain() -> Iterator[Tensor]:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item

        thread = threading.Thread(target=fill, daemon=True, name="prefetch")
        thread.start()
        try:
            yield drain()
        finally:
            done.set()
            thread.join()


def kept(store: Store, keep: np.ndarray) -> Iterator[Tensor]:
    for acts, residue_id in store.blocks(CHUNK):
        rows = acts[torch.from_numpy(keep[residue_id])]
        if len(rows):
            yield rows.float()


def statistics(sae: SAE, store: Store, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """([latents] largest activation, [latents] share of active tokens) on the rows that `keep` [residue ids] allows.

    Raises InputError where that is none, or the store is not the SAE's.
    """
    sae.check(store.provenance(), store.folder)
    largest, active, n = torch.zeros(sae.latents), torch.zeros(sae.latents, dtype=torch.int64), 0
    for x in kept(store, keep):
        codes = sae.encode(x)
        index, value = codes.indices.flatten().long(), codes.values.flatten()
        largest.scatter_reduce_(0, index, value, "amax")
        active += torch.bincount(index[value > 0], minlength=sae.latents)
        n += len(x)
    if n == 0:
        raise InputError(f"{store.folder}: none of its residues is in the training split; check splits and shards")
    return largest, (active / n).float()
