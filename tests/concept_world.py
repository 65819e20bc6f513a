"""Antibodies with planted concepts, and latents that are one, nearly one, or none of them."""

from __future__ import annotations

import numpy as np
import torch
from antibody_sae.concepts import association, baselines
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Csr
from antibody_sae.sae.model import SAE

ANTIBODIES, LENGTH, LATENTS, K = 300, 30, 12, 6
SETTINGS = {"thresholds": [0, 0.15, 0.5, 0.6, 0.8], "floor": 0.2, "q": 0.05, "bootstrap": 200, "seed": 1}
NONE = np.empty(0, np.float32)


def csr(dense: np.ndarray) -> Csr:
    """A dense matrix as rows of labels (bool) or of values."""
    ptr = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int64)
    columns = np.nonzero(dense)[1]
    if dense.dtype == bool:
        return Csr(ptr, columns.astype(np.int16), NONE)
    return Csr(ptr, columns.astype(np.int32), dense[dense != 0].astype(np.float32))


def csr_column(matrix: Csr, column: int) -> np.ndarray:
    out = np.zeros(matrix.rows, bool)
    out[np.repeat(np.arange(matrix.rows), np.diff(matrix.ptr))[matrix.idx == column]] = True
    return out


class MemoryStore:
    """The part of activations.Store that the statistics use; `ids`: of the rows, in order where nothing is said."""

    folder = "memory"

    def __init__(self, x: np.ndarray, ids: np.ndarray | None = None):
        self.x, self.n, self.d_model = torch.from_numpy(x), len(x), x.shape[1]
        self.ids = np.arange(len(x)) if ids is None else ids

    def provenance(self):
        return {"model": "planted"}

    def blocks(self, rows: int):
        for start in range(0, self.n, rows):
            yield self.x[start : start + rows], self.ids[start : start + rows]


ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(LATENTS, LATENTS)))[0].astype(np.float32)
MARGIN = 0.01
"""Activations are codes turned by ROTATION; the encoder turns them back and its bias hides the rounding."""


def planted_sae() -> SAE:
    """Its codes are those that `store_of` was given: at most K positive ones a row."""
    turn, one = torch.from_numpy(ROTATION), torch.ones(LATENTS)
    return SAE(turn, torch.full((LATENTS,), -MARGIN), turn, torch.zeros(LATENTS), 1.0, K, one, one, {})


def store_of(z: np.ndarray, ids: np.ndarray) -> MemoryStore:
    """Activations of the residues `ids` whose codes are rows of z."""
    return MemoryStore(np.where(z > 0, z + MARGIN, 0).astype(np.float32) @ ROTATION, ids)


def make() -> tuple[Labels, np.ndarray]:
    """(labels, codes [residues, latents]): concepts 0 motif, 1 rare, 2 absent from test; 0 IGHJ4, 1 random.

    Latent 0 is the motif, latent 1 the motif with a tenth of the residues flipped, latent 2 fires once in antibodies
    with IGHJ4, latent 3 wherever it likes, latent 4 at one position of every antibody, the others at random and rarely.
    """
    rng = np.random.default_rng(7)
    split = np.repeat([0, 1, 2], ANTIBODIES // 3).astype(np.int8)
    cluster = np.arange(ANTIBODIES) // 2
    n = ANTIBODIES * LENGTH
    motif = np.zeros((ANTIBODIES, LENGTH), bool)
    for a, start in enumerate(rng.integers(0, LENGTH - 5, ANTIBODIES)):
        motif[a, start : start + 5] = True
    rare = rng.random((ANTIBODIES, LENGTH)) < 0.03
    absent = rare & (split < 2)[:, None]
    fixed = np.zeros((ANTIBODIES, LENGTH), bool)
    fixed[:, 10:15] = True
    residue = np.stack([motif, rare, absent, fixed], -1).reshape(n, 4)
    gene = np.repeat(rng.random(ANTIBODIES // 2) < 0.4, 2)
    antibody = np.stack([gene, rng.random(ANTIBODIES) < 0.5, np.ones(ANTIBODIES, bool)], 1)
    x = np.zeros((n, LATENTS), np.float32)
    x[:, 0] = motif.ravel() * rng.uniform(1, 2, n)
    x[:, 1] = (motif.ravel() ^ (rng.random(n) < 0.1)) * rng.uniform(1, 2, n)
    at = rng.integers(0, LENGTH, ANTIBODIES)
    x[np.arange(ANTIBODIES) * LENGTH + at, 2] = gene * rng.uniform(1, 2, ANTIBODIES)
    x[:, 3] = (rng.random(n) < 0.2) * rng.uniform(0, 2, n)
    x[fixed.ravel(), 4] = 1.5
    x[:, 5:] = (rng.random((n, LATENTS - 5)) < 0.02) * rng.uniform(0, 2, (n, LATENTS - 5))
    assert (x > 0).sum(1).max() <= K
    labels = Labels(
        ids=np.array([f"antibody{a:03d}" for a in range(ANTIBODIES)]),
        residue_names=["motif=planted", "motif=rare", "motif=absent", "region=fixed"],
        antibody_names=["j-gene=IGHJ4", "random=yes", "species=human"],
        positions=[f"H{i + 1}" for i in range(LENGTH)],
        residue=csr(residue), antibody=csr(antibody),
        first=np.arange(ANTIBODIES) * LENGTH, length=np.full(ANTIBODIES, LENGTH), split=split, cluster=cluster,
        position=np.tile(np.arange(LENGTH, dtype=np.int16), ANTIBODIES),
        region=np.tile(np.arange(LENGTH, dtype=np.int8) % 7, ANTIBODIES),
        letter=rng.integers(0, 20, n).astype(np.int8), light=np.zeros(n, np.int8),
    )  # fmt: skip
    return labels, x


def run(labels: Labels, x: np.ndarray, order: np.ndarray | None = None, **settings):
    """`associate` on the world, harvested in any order."""
    ids = np.arange(len(x)) if order is None else order
    store = store_of(x[ids], ids)
    settings = {**SETTINGS, **settings}
    simple = baselines.compute(store, labels, settings["thresholds"]).table
    return association.associate(store, planted_sae(), labels, labels.support(5), simple, settings)
