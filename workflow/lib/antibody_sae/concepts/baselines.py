"""What else could explain a latent: single neurons, principal components, positions, residues, and linear probes.

Every baseline is chosen as a latent is (feature and threshold on validation, figures from test), so the comparison is
fair. Those here do not depend on an SAE and are computed once a layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from antibody_sae.activations import Store
from antibody_sae.antibody import RESIDUES
from antibody_sae.concepts import germline
from antibody_sae.concepts.labels import Labels, owners, residues_of
from antibody_sae.concepts.probes import RIDGES, LinearProbe, Moments, Scores, best_ridge
from antibody_sae.concepts.rows import Csr, Floats, Ints, codes_csr, signed_csr, take_rows
from antibody_sae.concepts.scoring import Tally, pool
from antibody_sae.concepts.selection import best_rows, keep_best
from antibody_sae.io import InputError

FREQUENCY_GRID = np.linspace(0, 1, 21)[:-1]
"""Thresholds on a residue's frequency in the antibody, as shares of its largest in training."""


def predictors(labels: Labels) -> pd.DataFrame:
    """Best predictors that use only the IMGT position, only the residue, or both.

    Residue level: P(concept | position or residue) counted on train, its threshold chosen on validation. Antibody
    level: the best single "this position is occupied", "this residue is more frequent than t" or "this residue is at
    this position", or its negation, chosen on validation.
    """
    n_positions, n_letters = len(labels.positions) + 1, len(RESIDUES)
    keys = {
        "position": (labels.position.astype(np.int64) % n_positions, [*labels.positions, "outside"]),
        "residue": (labels.letter.astype(np.int64) % n_letters, list(RESIDUES)),
        "position_residue": (
            (labels.position.astype(np.int64) % n_positions) * n_letters + labels.letter % n_letters,
            [f"{p}:{r}" for p in (*labels.positions, "outside") for r in RESIDUES],
        ),
    }
    frames = []
    for baseline, (key, names) in keys.items():
        n_keys, n_concepts = len(names), len(labels.residue_names)
        rows, hits = np.zeros((3, n_keys), np.int64), np.zeros((3, n_keys, n_concepts), np.int64)
        grid = FREQUENCY_GRID if baseline == "residue" else np.zeros(1)
        tallies = [Tally(n_keys, len(labels.antibody_names), grid, moments=False) for _ in range(2)]
        scale = np.zeros(n_keys)
        for split in range(3):  # train first: it sets the scale of the frequencies
            for antibodies in _some(np.flatnonzero(labels.split == split), 20_000):
                ids = residues_of(labels, antibodies)
                residue = take_rows(labels.residue, ids)
                entry_key = np.repeat(key[ids], np.diff(residue.ptr))
                rows[split] += np.bincount(key[ids], minlength=n_keys)
                pairs = np.bincount(entry_key * n_concepts + residue.idx, minlength=n_keys * n_concepts)
                hits[split] += pairs.reshape(n_keys, n_concepts)
                matrix = codes_csr(key[ids, None].astype(np.int32), np.ones((len(ids), 1), np.float32))
                offsets = np.concatenate([[0], np.cumsum(labels.length[antibodies])])
                ptr, idx, _, share = pool(*matrix, offsets, n_keys)
                share = share if baseline == "residue" else np.ones_like(share)
                if split == 0:
                    np.maximum.at(scale, idx, share)
                else:
                    here = Csr(ptr, idx, share)
                    tallies[split - 1].add(here, take_rows(labels.antibody, antibodies), scale)
        frames.append(_best_keys(baseline, rows, hits, labels.residue_names))
        frames.append(
            best_rows(
                baseline,
                "antibody",
                "mean" if baseline == "residue" else "max",
                tallies,
                labels.antibody_names,
                names,
                complement=True,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _some(rows: Ints, n: int) -> Iterator[Ints]:
    for start in range(0, len(rows), n):
        yield rows[start : start + n]


def _best_keys(baseline: str, rows: Ints, hits: Ints, concepts: list[str]) -> pd.DataFrame:
    """Predict a concept at the keys with a training share above the threshold that has the best validation F1."""
    share = hits[0] / np.maximum(rows[0], 1)[:, None]
    order = np.argsort(-share, axis=0, kind="stable")
    ranked = np.take_along_axis(share, order, 0)
    last_of_ties = np.vstack([ranked[:-1] > ranked[1:], np.ones((1, ranked.shape[1]), bool)])
    tp = [np.cumsum(np.take_along_axis(h, order, 0), 0) for h in hits]
    predicted = [np.cumsum(r[order], 0) for r in rows]
    positives = [h.sum(0) for h in hits]
    f1 = [2 * t / np.maximum(p + y, 1) for t, p, y in zip(tp, predicted, positives, strict=True)]
    cut, c = np.where(last_of_ties, f1[1], -1).argmax(0), np.arange(len(concepts))
    return pd.DataFrame(
        {
            "baseline": baseline,
            "detail": [f"{n + 1} keys" for n in cut],
            "concept": concepts,
            "level": "residue",
            "pool": "none",
            "threshold": ranked[cut, c],
            "f1_validation": f1[1][cut, c],
            "f1": f1[2][cut, c],
            "precision": tp[2][cut, c] / np.maximum(predicted[2][cut, c], 1),
            "recall": tp[2][cut, c] / np.maximum(positives[2], 1),
        }
    )


class _Bank:
    """Dense signed features: pooled per antibody in a temporary file, tallied per residue."""

    def __init__(self, name: str, labels: Labels, d: int, thresholds: Floats, scratch: str):
        self.name, self.d = name, d
        self.scale = np.zeros(2 * d, np.float32)
        self.tallies = [Tally(2 * d, len(labels.residue_names), thresholds, moments=False) for _ in range(2)]
        self.names = [f"{sign}{name} {i}" for i in range(d) for sign in "+-"]
        shape = (len(labels.first), 4, d)
        self.pooled = np.memmap(f"{scratch}/{name}", np.float32, "w+", shape=shape)
        """[antibodies, (max, -min, sum of positive parts, sum of negative parts), d]"""

    def pool(self, x: Floats, owner: Ints, train: Any) -> None:
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        a = owner[starts]
        top, bottom = np.maximum.reduceat(x, starts), -np.minimum.reduceat(x, starts)
        self.pooled[a, 0] = np.maximum(self.pooled[a, 0], top)
        self.pooled[a, 1] = np.maximum(self.pooled[a, 1], bottom)
        positive = np.maximum(x, 0)
        self.pooled[a, 2] += np.add.reduceat(positive, starts)
        self.pooled[a, 3] += np.add.reduceat(positive - x, starts)
        for part, values in enumerate((top, bottom)):
            if train[starts].any():
                self.scale[part::2] = np.maximum(self.scale[part::2], values[train[starts]].max(0))

    def antibodies(self, rows: Ints, counts: Ints, how: str) -> Floats:
        """[rows, 2 d] pooled parts, positive and negative in turns."""
        out = np.empty((len(rows), 2 * self.d), np.float32)
        for part in range(2):
            values = self.pooled[rows, part + (0 if how == "max" else 2)]
            out[:, part::2] = values if how == "max" else values / np.maximum(counts[rows, None], 1)
        return np.maximum(out, 0)


class Baselines(NamedTuple):
    """What neurons, principal components, positions, residues and probes say of a layer's concepts."""

    table: pd.DataFrame
    """baselines.parquet: one row a baseline and concept."""
    probe: LinearProbe
    """The probe on raw activations (probe_raw) of the residue-level concepts."""


def on_activations(store: Store, labels: Labels, thresholds: Floats) -> Baselines:
    """Best neuron, best principal component and linear probe of each concept. Streams the store three times."""
    d = store.d_model
    residue, n_antibodies = Moments(d, len(labels.residue_names)), len(labels.first)
    counts = np.zeros(n_antibodies, np.int64)
    for x, ids, owner in _sorted(store, labels):
        counts += np.bincount(owner, minlength=n_antibodies)
        train = labels.split[owner] == 0
        residue.add(x[train], take_rows(labels.residue, ids[train]))
    if residue.n == 0:
        raise InputError(f"{store.folder}: no training residue among the activations; raise activations.max_tokens")
    mean = (residue.x / residue.n).astype(np.float32)
    axes = np.linalg.eigh(residue.xx / residue.n - np.outer(mean, mean))[1][:, ::-1].astype(np.float32)
    weight, intercept = residue.ridge(RIDGES[0])
    with tempfile.TemporaryDirectory() as scratch:
        neuron, pca = (_Bank(name, labels, d, thresholds, scratch) for name in ("neuron", "pca"))
        for x, _, owner in _sorted(store, labels):
            train = labels.split[owner] == 0
            neuron.pool(x - mean, owner, train)
            pca.pool((x - mean) @ axes, owner, train)
        scores = Scores(len(labels.residue_names))
        for x, ids, owner in _sorted(store, labels):
            for split in (1, 2):
                here = labels.split[owner] == split
                block, y = x[here], take_rows(labels.residue, ids[here])
                scores.add(split == 2, block @ weight.astype(np.float32) + intercept, y)
                neuron.tallies[split - 1].add(signed_csr(block - mean), y, neuron.scale)
                pca.tallies[split - 1].add(signed_csr((block - mean) @ axes), y, pca.scale)
        frames = [scores.rows("probe_raw", "residue", "none", labels.residue_names, "least squares")]
        for bank in (neuron, pca):
            frames.append(best_rows(bank.name, "residue", "none", bank.tallies, labels.residue_names, bank.names))
            frames.append(_pooled_rows(bank, labels, counts, thresholds))
        frames.append(_probe_pooled(neuron, labels, counts))
    probe = LinearProbe(weight.astype(np.float32), intercept.astype(np.float32))
    return Baselines(pd.concat(frames, ignore_index=True), probe)


def _sorted(store: Store, labels: Labels, rows: int = 8192) -> Iterator[tuple[Floats, Ints, Ints]]:
    """Blocks of the store as float32 [n, d], residue_id [n], antibody [n], in residue order."""
    for acts, ids in store.blocks(rows):
        order = np.argsort(ids, kind="stable")
        yield acts.float().numpy()[order], ids[order], owners(labels, ids[order])


def _pooled_rows(bank: _Bank, labels: Labels, counts: Ints, thresholds: Floats) -> pd.DataFrame:
    frames = []
    for how in ("max", "mean"):
        scale = bank.scale
        if how == "mean":
            scale = np.zeros_like(scale)
            for rows in _some(np.flatnonzero((labels.split == 0) & (counts > 0)), 4096):
                scale = np.maximum(scale, bank.antibodies(rows, counts, how).max(0))
        tallies = [Tally(2 * bank.d, len(labels.antibody_names), thresholds, moments=False) for _ in range(2)]
        for split in (1, 2):
            for rows in _some(np.flatnonzero((labels.split == split) & (counts > 0)), 4096):
                values = bank.antibodies(rows, counts, how)
                columns = np.broadcast_to(np.arange(2 * bank.d, dtype=np.int32), values.shape)
                tallies[split - 1].add(codes_csr(columns, values), take_rows(labels.antibody, rows), scale)
        frames.append(best_rows(bank.name, "antibody", how, tallies, labels.antibody_names, bank.names))
    return keep_best(pd.concat(frames))


def _probe_pooled(neuron: _Bank, labels: Labels, counts: Ints) -> pd.DataFrame:
    def means(rows: Ints) -> Floats:
        parts = neuron.antibodies(rows, counts, "mean").astype(np.float64)
        return parts[:, ::2] - parts[:, 1::2]

    moments = Moments(neuron.d, len(labels.antibody_names))
    for rows in _some(np.flatnonzero((labels.split == 0) & (counts > 0)), 4096):
        moments.add(means(rows), take_rows(labels.antibody, rows))
    probes = [moments.ridge(strength) for strength in RIDGES]
    scores = [Scores(len(labels.antibody_names)) for _ in RIDGES]
    for split in (1, 2):
        for rows in _some(np.flatnonzero((labels.split == split) & (counts > 0)), 4096):
            x, y = means(rows), take_rows(labels.antibody, rows)
            for histogram, (weight, intercept) in zip(scores, probes, strict=True):
                histogram.add(split == 2, x @ weight + intercept, y)
    return best_ridge("probe_raw", scores, labels.antibody_names)


def compute(store: Store, labels: Labels, thresholds: Sequence[float]) -> Baselines:
    """All baselines of a layer that need no SAE; `thresholds` as for latents."""
    dense = on_activations(store, labels, np.asarray(sorted(thresholds), np.float32))
    rows = pd.concat([predictors(labels), germline.rows(labels), dense.table], ignore_index=True)
    return Baselines(rows, dense.probe)
