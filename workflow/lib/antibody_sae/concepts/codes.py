"""An SAE's codes in residue order, whatever order they were harvested in, read back cluster by cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antibody_sae.concepts.labels import Labels, residues_of
from antibody_sae.concepts.rows import Csr, Floats, Ints
from antibody_sae.concepts.scoring import pool

if TYPE_CHECKING:
    from torch import Tensor

    from antibody_sae.activations import Store
    from antibody_sae.sae.model import SAE

VIEWS = (("residue", "none"), ("antibody", "max"), ("antibody", "mean"))
"""(level, pool): a latent's values per residue, its largest per antibody, its mean per antibody."""
ENCODE = 8192
"""Residues that are encoded together."""
_ENTRY = np.dtype([("index", np.int32), ("value", np.float32)])
"""An active latent of a residue."""
_BLOCK = 65_536
"""Residues of a block; a larger cluster makes a larger one."""


@dataclass(frozen=True)
class CodeBlock:
    """Whole clusters of one split."""

    codes: Csr
    ids: Ints
    """[rows] residue_id."""
    antibodies: Ints
    offsets: Ints
    """[antibodies + 1] rows of each antibody."""
    clusters: Ints
    """[clusters + 1] antibodies of each cluster."""

    def pooled(self, latents: int) -> dict[str, Csr]:
        """The antibodies' max- and mean-pooled values."""
        ptr, idx, top, mean = pool(*self.codes, self.offsets, latents)
        return {"max": Csr(ptr, idx, top), "mean": Csr(ptr, idx, mean)}


class CodeFile:
    """Sparse codes of residues in a temporary file that has no name, so nothing is left behind however the job ends.

    It holds the active entries alone, in the order they are written in; in memory is where each residue's start.
    """

    def __init__(self, ids: Ints, labels: Labels, folder: str | Path | None = None):
        self.ids = ids
        """[n] residue_ids in order."""
        self.labels = labels
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as this object)
        self._size = 0
        self._place = np.zeros(len(ids), np.int64)
        self._length = np.zeros(len(ids), np.int32)
        self._start = np.searchsorted(ids, labels.first)
        self._stop = np.searchsorted(ids, labels.first + labels.length)

    def write(self, ids: Ints, indices: Ints, values: Floats) -> None:
        """Add the codes [n, m], of any width m, of residues in any order."""
        order = np.argsort(ids, kind="stable")
        rows = np.searchsorted(self.ids, ids[order])
        indices, values = indices[order], values[order]
        active = values > 0
        length = active.sum(1)
        entries = np.empty(int(length.sum()), _ENTRY)
        entries["index"], entries["value"] = indices[active], values[active]
        self._place[rows] = self._size + np.cumsum(length) - length
        self._length[rows] = length
        os.pwrite(self._file.fileno(), entries.tobytes(), self._size * _ENTRY.itemsize)
        self._size += len(entries)

    def residues(self, antibody: int) -> Ints:
        """residue_ids of an antibody."""
        return self.ids[self._start[antibody] : self._stop[antibody]]

    def read(self, antibody: int) -> Csr:
        """The codes of an antibody's residues."""
        mine = slice(self._start[antibody], self._stop[antibody])
        place, length = self._place[mine], self._length[mine]
        ptr = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
        some = np.flatnonzero(length)
        if not len(some):  # an SAE with thresholds may be silent on a whole antibody
            return Csr(ptr, np.empty(0, np.int32), np.empty(0, np.float32))
        new = np.flatnonzero(np.diff(place[some] - ptr[some], prepend=-(1 << 62)) != 0)  # where the file does not go on
        first, last, at = some[new], some[np.append(new[1:], len(some)) - 1], place[some[new]] * _ENTRY.itemsize
        sizes = (ptr[last + 1] - ptr[first]) * _ENTRY.itemsize
        parts = [os.pread(self._file.fileno(), int(size), int(start)) for size, start in zip(sizes, at, strict=True)]
        entries = np.frombuffer(b"".join(parts), _ENTRY)
        return Csr(ptr, entries["index"].copy(), entries["value"].copy())

    def blocks(self, split: int) -> Iterator[CodeBlock]:
        """The split's antibodies, cluster by cluster; a block ends with a cluster."""
        mine = np.flatnonzero((self.labels.split == split) & (self._stop > self._start))
        mine = mine[np.argsort(self.labels.cluster[mine], kind="stable")]
        sizes = (self._stop - self._start)[mine]
        new = np.diff(self.labels.cluster[mine], prepend=-1) != 0
        bounds = np.append(np.flatnonzero(new), len(mine))
        first, rows = 0, 0
        for cluster, (a, b) in enumerate(pairwise(bounds)):
            rows += int(sizes[a:b].sum())
            if rows >= _BLOCK or cluster == len(bounds) - 2:
                here = slice(bounds[first], b)
                codes = [self.read(int(i)) for i in mine[here]]
                lengths = np.concatenate([[0], *(np.diff(each.ptr) for each in codes)])
                spans = [self.ids[self._start[i] : self._stop[i]] for i in mine[here]]
                yield CodeBlock(
                    Csr(np.cumsum(lengths), *(np.concatenate([each[i] for each in codes]) for i in (1, 2))),
                    np.concatenate(spans),
                    mine[here],
                    np.concatenate([[0], np.cumsum(sizes[here])]),
                    bounds[first : cluster + 2] - bounds[first],
                )
                first, rows = cluster + 1, 0


def codes_of(sae: SAE, x: Tensor) -> tuple[Ints, Floats]:
    """([n, m] latents, [n, m] values) of activations x [n, d_model]."""
    codes = sae.encode(x)
    return codes.indices.cpu().numpy(), codes.values.cpu().numpy()


def encode(sae: SAE, store: Store, labels: Labels, wanted: np.ndarray) -> CodeFile:
    """The SAE's codes of the `wanted` residues ([residues] bool) among the activations. Raises InputError where those
    are not the SAE's."""
    sae.check(store.provenance(), store.folder)
    file = CodeFile(np.sort(np.concatenate([ids[wanted[ids]] for _, ids in store.blocks(ENCODE)])), labels)
    for x, ids in store.blocks(ENCODE):
        keep = wanted[ids]
        if keep.any():
            file.write(ids[keep], *codes_of(sae, x[np.flatnonzero(keep)]))
    return file


def of_antibodies(labels: Labels, chosen: np.ndarray) -> np.ndarray:
    """[residues] bool: those of the chosen antibodies ([antibodies] bool)."""
    wanted = np.zeros(len(labels.letter), bool)
    wanted[residues_of(labels, np.flatnonzero(chosen))] = True
    return wanted


def shuffled_partners(labels: Labels, seed: int) -> Ints:
    """[antibodies] another antibody of the same split, whose labels each takes in the baseline of shuffled labels."""
    generator = np.random.default_rng(seed)
    partner = np.arange(len(labels.first))
    for split in range(3):
        turned = generator.permutation(np.flatnonzero(labels.split == split))
        partner[turned] = np.roll(turned, 1)
    return partner


def partner_residues(labels: Labels, ids: Ints, owner: Ints, partner: Ints, heavy: Ints) -> Ints:
    """[n] residue_id at the same place of the partner's same chain, -1 where that chain is shorter. heavy: [antibodies]
    number of heavy-chain residues."""
    place = ids - labels.first[owner]
    light = place >= heavy[owner]
    place = place - np.where(light, heavy[owner], 0)
    length = np.where(light, labels.length[partner] - heavy[partner], heavy[partner])
    start = labels.first[partner] + np.where(light, heavy[partner], 0)
    return np.where(place < length, start + place, -1)


def heavy_lengths(labels: Labels) -> Ints:
    """[antibodies] number of heavy-chain residues."""
    light = np.concatenate([[0], np.cumsum(labels.light, dtype=np.int64)])
    heavy: Ints = labels.length - (light[labels.first + labels.length] - light[labels.first])
    return heavy
