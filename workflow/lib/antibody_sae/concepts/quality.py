"""What dictionaries are compared by, of one SAE: k-sparse probes, the latents that a concept takes, absorption.

At most SAMPLE antibodies of each split are read, so time and memory do not grow with the run. Latents, coefficients and
cuts come from training and validation antibodies, every figure from test; intervals draw test clusters anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from antibody_sae.activations import Store
from antibody_sae.concepts import absorption, sparse_probes
from antibody_sae.concepts.absorption import Absorbed
from antibody_sae.concepts.codes import ENCODE, codes_of
from antibody_sae.concepts.labels import Labels, owners
from antibody_sae.concepts.probes import LinearProbe, label_matrix
from antibody_sae.concepts.rows import Csr, Floats, Ints, take_rows
from antibody_sae.concepts.scoring import copies, pool
from antibody_sae.concepts.sparse_probes import KS, Probed, SplitRows
from antibody_sae.io import InputError, progress
from antibody_sae.sae.model import SAE

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection

SAMPLE = (1500, 1000, 1000)
"""Antibodies of train, validation and test at most."""
_LEFT_OUT = len(SAMPLE)
ABSORBERS = 5
"""Absorbing latents of a concept that are named."""
LEVELS = {"residue": "residues", "antibody": "antibodies"}
"""A concept's level, and what its rows are called in the names of figures."""


@dataclass(frozen=True)
class Quality:
    """What `measure` found."""

    concepts: pd.DataFrame
    """quality.parquet: a row a testable concept."""
    figures: dict[str, float]
    """quality.json: means over concepts with their intervals, the columns of tables/dictionaries.csv; none where there
    is nothing to take the mean of."""


def measure(
    store: Store, sae: SAE, labels: Labels, baselines: pd.DataFrame, probe: LinearProbe, settings: ConceptsSection
) -> Quality:
    """The quality of one SAE by the run's concepts.

    `baselines` is the layer's baselines.parquet, `probe` its probe of residue-level concepts on raw activations.
    Concepts with positives in fewer than settings.min_clusters clusters of what is read are left out. Raises
    InputError where a split has no residue among the activations.
    """
    labels = _sampled(labels, settings["seed"])
    ok = labels.support(settings["min_clusters"]).set_index(["level", "concept"])["status"] == "ok"
    testable = {
        level: np.array([bool(ok[level, concept]) for concept in labels.names(level)], bool) for level in LEVELS
    }
    simple = baselines[baselines["baseline"] == "probe_raw"].set_index(["level", "concept"])
    raw = {level: simple.reindex([(level, concept) for concept in labels.names(level)]) for level in LEVELS}
    read = _read(store, sae, labels, probe, raw["residue"]["threshold"].to_numpy(float))
    splits = [_Split(read, labels, split, sae.latents) for split in range(len(SAMPLE))]
    residue = sparse_probes.probe([each.residues for each in splits], testable["residue"], settings["seed"])
    pools = {
        how: sparse_probes.probe([each.antibodies[how] for each in splits], testable["antibody"], settings["seed"])
        for how in ("max", "mean")
    }
    draws = copies(splits[2].cluster_ids, settings["bootstrap"], settings["seed"])
    own = np.zeros((len(testable["residue"]), sae.latents), bool)
    for c in np.flatnonzero(testable["residue"]):
        own[c, residue.latents[c, : residue.takes[c]]] = True
    judged = testable["residue"] & (raw["residue"]["f1_validation"].to_numpy(float) >= absorption.CALLED)
    found = absorption.absorbed(
        read.codes[read.split == 2], read.evidence, read.evidence.data, splits[2].residues.cluster,
        splits[2].residues.clusters, own, sae.directions.cpu().numpy(), probe.weight, sae.scale,
    )  # fmt: skip
    best, how = _better(pools)
    parts = [
        _Part("residue", labels, residue, testable["residue"], "none", raw["residue"], splits[2].residues, draws),
        _Part("antibody", labels, best, testable["antibody"], how, raw["antibody"], splits[2].antibodies["max"], draws),
    ]
    absorbing, share = _absorbing(found, judged, draws)
    tables = [parts[0].table().merge(absorbing, on="column", how="left"), parts[1].table()]
    figures = {**parts[0].means(), **parts[1].means(), **share}
    concepts = pd.concat([table.drop(columns="column") for table in tables if len(table)] or tables[:1])
    return Quality(concepts.reset_index(drop=True), {k: float(v) for k, v in figures.items() if np.isfinite(v)})


# --- reading ----------------------------------------------------------------------------------------------------------


def _sampled(labels: Labels, seed: int) -> Labels:
    """The same labels with the antibodies beyond SAMPLE in no split."""
    generator, split = np.random.default_rng(seed), labels.split.copy()
    for s, most in enumerate(SAMPLE):
        split[generator.permutation(np.flatnonzero(labels.split == s))[most:]] = _LEFT_OUT
    return replace(labels, split=split)


class _Read(NamedTuple):
    """The residues that are read, in order of residue_id."""

    ids: Ints
    codes: sparse.csr_array
    """[n, latents], what is active."""
    owner: Ints
    """[n] antibody."""
    split: Ints
    """[n]"""
    evidence: sparse.csr_array
    """[test rows, concepts] entries where a residue has a concept: what it adds to the score of the probe on the raw
    activations, nan where that says no."""


def _read(store: Store, sae: SAE, labels: Labels, probe: LinearProbe, cut: Floats) -> _Read:
    """One pass over the store; cut: [concepts] of the probe's score."""
    ids, codes, tested, evidence = [], [], [], []
    bias = sae.pre_bias.cpu().numpy()
    start = bias @ probe.weight + probe.intercept
    for x, block_ids in progress(store.blocks(ENCODE), -(-store.n // ENCODE), "encoding"):
        split = labels.split[owners(labels, block_ids)]
        kept = np.flatnonzero(split < _LEFT_OUT)
        if not len(kept):
            continue
        indices, values = codes_of(sae, x[kept])
        on = values > 0
        ptr = np.concatenate([[0], np.cumsum(on.sum(1))])
        codes.append(sparse.csr_array((values[on], indices[on].astype(np.int32), ptr), (len(kept), sae.latents)))
        ids.append(block_ids[kept])
        test = np.flatnonzero(split == 2)
        has = take_rows(labels.residue, block_ids[test])
        added = (x[test].float().numpy() - bias) @ probe.weight
        row = np.repeat(np.arange(len(test)), np.diff(has.ptr))
        adds = added[row, has.idx]
        adds[adds + start[has.idx] < cut[has.idx]] = np.nan
        tested.append(block_ids[test])
        shape = len(test), len(labels.residue_names)
        evidence.append(sparse.csr_array((adds, has.idx.astype(np.int32), has.ptr), shape))
    every = np.concatenate(ids) if ids else np.empty(0, np.int64)
    order = np.argsort(every, kind="stable")
    owner = owners(labels, every[order])
    split = labels.split[owner]
    for s, name in enumerate(("training", "validation", "test")):
        if not (split == s).any():
            raise InputError(f"{store.folder}: no {name} residue among the activations; raise activations.max_tokens")
    by_id = np.argsort(np.concatenate(tested), kind="stable")
    stacked = sparse.csr_array(sparse.vstack(codes, format="csr"))[order]
    return _Read(every[order], stacked, owner, split, sparse.csr_array(sparse.vstack(evidence, format="csr"))[by_id])


class _Split:
    """One split's residues and antibodies."""

    def __init__(self, read: _Read, labels: Labels, split: int, latents: int):
        mine = np.flatnonzero(read.split == split)
        owner, codes = read.owner[mine], read.codes[mine]
        new = np.flatnonzero(np.diff(owner, prepend=-1))
        antibodies = owner[new]
        self.cluster_ids, cluster = np.unique(labels.cluster[antibodies], return_inverse=True)
        offsets = np.append(new, len(owner))
        of_row = np.repeat(cluster, np.diff(offsets))
        names = labels.residue_names, labels.antibody_names
        self.residues = SplitRows(codes.tocsc(), _columns(take_rows(labels.residue, read.ids[mine]), names[0]), of_row)
        ptr, idx, top, mean = pool(codes.indptr, codes.indices, codes.data, offsets, latents)
        has = _columns(take_rows(labels.antibody, antibodies), names[1])
        self.antibodies = {
            how: SplitRows(sparse.csr_array((values, idx, ptr), (len(antibodies), latents)).tocsc(), has, cluster)
            for how, values in (("max", top), ("mean", mean))
        }


def _columns(labels: Csr, names: list[str]) -> sparse.csc_array:
    return label_matrix(labels, len(names)).tocsc()


# --- figures ----------------------------------------------------------------------------------------------------------


def _better(pools: Mapping[str, Probed]) -> tuple[Probed, list[str]]:
    """Of each concept the pool with the better F1 on validation, over all numbers of latents."""
    names = list(pools)
    score = np.stack([np.nan_to_num(pools[how].f1_validation, nan=-1).sum(1) for how in names])
    which = score.argmax(0)
    found = [vars(pools[how]) for how in names]
    columns = np.arange(len(which))
    merged = {key: np.stack([each[key] for each in found])[which, columns] for key in found[0]}
    return Probed(**merged), [names[i] for i in which]


def _interval(values: Floats) -> tuple[Floats, Floats]:
    """95 % over the first axis."""
    low, high = np.nanquantile(values, [0.025, 0.975], axis=0)
    return low, high


@dataclass(frozen=True)
class _Part:
    """The probes of one level's concepts."""

    level: str
    labels: Labels
    probed: Probed
    testable: np.ndarray
    pools: str | list[str]
    raw: pd.DataFrame
    test: SplitRows
    draws: Floats

    @property
    def _columns(self) -> Ints:
        return np.flatnonzero(self.testable)

    def _f1_draws(self) -> Floats:
        """[replicates, concepts, KS]"""
        counts = self.probed.counts[self._columns].astype(np.float32)
        drawn = (self.draws.T.astype(np.float32) @ counts.reshape(-1, counts.shape[-1]).T).reshape(
            -1, *counts.shape[:3]
        )
        return 2 * drawn[..., 0] / np.maximum(drawn[..., 1] + drawn[..., 2], 1)

    def _positives(self) -> Ints:
        positives: Ints = self.probed.counts[self._columns, 0, 2].sum(-1)
        return positives

    def _always_yes(self) -> Floats:
        positives = self._positives()
        return 2 * positives / np.maximum(positives + self.test.n, 1)

    def table(self) -> pd.DataFrame:
        """A row a concept; `column` is its number among the level's concepts."""
        c, probed = self._columns, self.probed
        names = self.labels.names(self.level)
        table = pd.DataFrame({"column": c, "concept": [names[i] for i in c], "level": self.level})
        table["pool"] = self.pools if isinstance(self.pools, str) else [self.pools[i] for i in c]
        table["positives"] = self._positives()
        table["latents"] = [[int(j) for j in probed.latents[i] if j >= 0] for i in c]
        table["takes"] = probed.takes[c]
        low, high = _interval(self._f1_draws()) if len(c) else (np.empty((0, len(KS))),) * 2
        for i, k in enumerate(KS):
            table[f"f1_k{k}"], table[f"f1_k{k}_low"], table[f"f1_k{k}_high"] = probed.f1[c, i], low[:, i], high[:, i]
            table[f"auroc_k{k}"] = probed.auroc[c, i]
            table[f"f1_validation_k{k}"] = probed.f1_validation[c, i]
        table["f1_always_yes"] = self._always_yes()
        for figure in ("f1", "auroc"):
            table[f"{figure}_activations"] = self.raw[figure].to_numpy(float)[c]
        return table

    def means(self) -> dict[str, float]:
        """Means over concepts, with intervals."""
        c, rows = self._columns, LEVELS[self.level]
        out: dict[str, float] = {f"concepts_{rows}": len(c)}
        if not len(c):
            return out
        influence = self.probed.influence[c].mean(0)  # [KS, clusters]
        auroc = self.probed.auroc[c].mean(0)
        drawn = {"f1": self._f1_draws().mean(1), "auroc": auroc + (self.draws.T - 1) @ influence.T}
        for figure, mean in (("f1", self.probed.f1[c].mean(0)), ("auroc", auroc)):
            low, high = _interval(drawn[figure])
            for i, k in enumerate(KS):
                name = f"{figure}_{rows}_k{k}"
                out |= {name: mean[i], f"{name}_low": low[i], f"{name}_high": high[i]}
            out[f"{figure}_{rows}_activations"] = float(np.nanmean(self.raw[figure].to_numpy(float)[c]))
        out[f"f1_{rows}_always_yes"] = float(self._always_yes().mean())
        out[f"takes_{rows}"] = float(self.probed.takes[c].mean())
        return out


def _absorbing(found: Absorbed, judged: np.ndarray, draws: Floats) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row a judged concept, and the means over those of which any test residue is called."""
    totals = {name: getattr(found, name).sum(1) for name in ("called", "missed", "absorbed")}
    c = np.flatnonzero(judged & (totals["called"] > 0))
    table = pd.DataFrame({"column": c, "called": totals["called"][c]})
    figures: dict[str, float] = {"concepts_absorption": len(c)}
    called = draws.T @ found.called[c].T
    for name in ("missed", "absorbed"):
        share = totals[name][c] / totals["called"][c]
        drawn = np.where(called > 0, draws.T @ getattr(found, name)[c].T / np.maximum(called, 1), np.nan)
        table[name] = share
        if len(c):
            table[f"{name}_low"], table[f"{name}_high"] = _interval(drawn)
            low, high = _interval(np.nanmean(drawn, 1))
            figures |= {name: float(share.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    table["absorbed_by"] = [json.dumps(dict(islice(found.by[i].items(), ABSORBERS))) for i in c]
    return table, figures
