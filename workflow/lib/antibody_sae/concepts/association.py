"""Which latent stands for what: every latent against every concept, beside everything simpler that could explain it.

Latents, thresholds and baselines are chosen on validation; every reported figure is from test, unless its name ends in
`_validation`. An SAE's codes are written once, in residue order, to an anonymous temporary file and read back in blocks
of whole clusters, so memory does not grow with the number of residues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.antibody import RESIDUES
from antibody_sae.concepts import labels as simple_labels
from antibody_sae.concepts import probes
from antibody_sae.concepts.codes import Block, CodeFile, heavy_lengths, partner_residues, shuffled_partners
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.patterns import Patterns
from antibody_sae.concepts.probes import Moments, Scores
from antibody_sae.concepts.rows import Csr, Floats, Ints, take_rows
from antibody_sae.concepts.scoring import (
    RANK_BINS,
    Bootstrap,
    ClusterTest,
    Tally,
    add_histogram,
    cluster_means,
    densify,
    raise_maximum,
)
from antibody_sae.concepts.selection import SIMPLE, always_yes, at_choice, best_rows, choose, keep_best
from antibody_sae.io import InputError, progress
from antibody_sae.sae.model import SAE
from antibody_sae.significance import q_values

VIEWS = (("residue", "none"), ("antibody", "max"), ("antibody", "mean"))
"""(level, pool): a latent's values per residue, its largest per antibody, its mean per antibody."""
LEARNED = ("neuron", "pca", "untrained", "shuffled")
"""The simple baselines without position and residue, which define some concepts (a region is a range of positions), so
that no latent can beat them there."""
KEEP = 20
"""Pairs kept for each concept by F1 and by r on validation, even below the floor."""
BEST_CONCEPTS = 10
MARGIN = 0.2
"""F1 beyond always saying yes from which on a concept counts for a latent's complexity."""
_ENCODE = 8192


def untrained(sae: SAE, seed: int) -> SAE:
    """The SAE before training: as many latents in random directions, same k, pre-bias and scale."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.functional.normalize(torch.randn(sae.latents, sae.d_model, generator=generator), dim=1)
    fresh = {"encoder_weight": weight, "encoder_bias": torch.zeros(sae.latents), "directions": weight}
    return SAE(**{**vars(sae), **fresh})


def _encode(sae: SAE, x: Tensor) -> tuple[Ints, Floats]:
    codes = sae.encode(x)
    return codes.indices.cpu().numpy(), codes.values.cpu().numpy()


class _Together:
    """Runs tasks that share no state side by side, on torch's number of threads; results do not depend on it.

    The threads live as long as the run: torch's scratch memory stays with a thread.
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._workers = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, tasks: Sequence[Callable[[], None]]) -> None:
        if self._workers is None:
            for task in tasks:
                task()
        else:
            for done in [self._workers.submit(task) for task in tasks]:
                done.result()


class _Views:
    """One thing per (level, pool) of VIEWS."""

    def __init__(self, labels: Labels):
        self.labels = labels
        self.names = [labels.names(level) for level, _ in VIEWS]

    def of(self, block: Block, latents: int, partner: tuple[Ints, Ints] | None = None) -> list[tuple[Csr, Csr]]:
        """(features, labels) of each view; `partner` = (each antibody's partner, heavy lengths) shuffles the labels."""
        ids, antibodies = block.ids, block.antibodies
        if partner is not None:
            owner = np.repeat(block.antibodies, np.diff(block.offsets))
            ids = partner_residues(self.labels, ids, owner, partner[0][owner], partner[1])
            antibodies = partner[0][antibodies]
        residue, antibody = take_rows(self.labels.residue, ids), take_rows(self.labels.antibody, antibodies)
        pools = block.pooled(latents)
        return [(block.codes, residue), (pools["max"], antibody), (pools["mean"], antibody)]


@dataclass
class Associations:
    """What `associate` found."""

    pairs: pd.DataFrame
    """associations.parquet"""
    best: pd.DataFrame
    """best.parquet"""
    latents: pd.DataFrame
    """latents/<...>.parquet, without the columns that name the SAE"""
    scores: dict[str, Tensor]
    """scores.safetensors: f1_validation, r_validation, f1 and r (test) of every latent and concept, [latents, concepts]
    float32, residue-level concepts first; of an antibody-level concept the pool with the better F1 on validation. A
    latent that is never active on the training split has f1_validation -1."""


def associate(
    store: Store,
    sae: SAE,
    labels: Labels,
    support: pd.DataFrame,
    baselines: pd.DataFrame,
    settings: Mapping[str, Any],
    lens: Floats | None = None,
    scratch: str | Path | None = None,
) -> Associations:
    """All latents of an SAE against all concepts.

    `support` is concepts.parquet, `baselines` the layer's baselines.parquet, `settings` the section `concepts:`, `lens`
    [latents, 20] the logit lens, `scratch` a folder for the temporary codes (12 k bytes a residue at most).
    """
    run = _Run(store, sae, labels, support, settings, scratch)
    run.encode()
    run.train()
    run.validate()
    run.choose(baselines)
    run.test()
    return run.report(lens)


class _Run:
    def __init__(
        self,
        store: Store,
        sae: SAE,
        labels: Labels,
        support: pd.DataFrame,
        settings: Mapping[str, Any],
        scratch: str | Path | None,
    ):
        self.store, self.sae, self.labels, self.settings = store, sae, labels, settings
        self.views, self.k = _Views(labels), sae.latents
        self.thresholds = np.asarray(sorted(settings["thresholds"]), np.float32)
        ok = support.set_index(["level", "concept"])["status"] == "ok"
        self.testable = [np.array([bool(ok[level, c]) for c in labels.names(level)], bool) for level, _ in VIEWS]
        self.partner = (shuffled_partners(labels, settings["seed"]), heavy_lengths(labels))
        ids = np.sort(np.concatenate([ids for _, ids in store.blocks(_ENCODE)]))
        if len(ids) and (np.diff(ids) == 0).any():
            raise InputError(f"{store.folder}: a residue appears twice among the activations; delete it and run again")
        self.codes = CodeFile(ids, sae.k, labels, scratch)
        held_out = labels.split[simple_labels.owners(labels, ids)] > 0
        self.fresh_codes = CodeFile(ids[held_out], sae.k, labels, scratch)
        self.patterns, self.together = Patterns(self.k, labels), _Together()
        self.scales = [np.zeros(self.k, np.float32) for _ in VIEWS]

    def encode(self) -> None:
        """Encode the store once (and held-out residues with the untrained SAE); sum up where each latent is active."""
        fresh = untrained(self.sae, self.settings["seed"])
        for x, ids in progress(self.store.blocks(_ENCODE), -(-self.store.n // _ENCODE), "encoding"):
            held_out = self.labels.split[simple_labels.owners(self.labels, ids)] > 0

            def trained(x: Tensor = x, ids: Ints = ids) -> None:
                indices, values = _encode(self.sae, x)
                self.codes.write(ids, indices, values)
                self.patterns.add_residues(ids, indices, values)

            def baseline(x: Tensor = x, ids: Ints = ids, rows: np.ndarray = held_out) -> None:
                self.fresh_codes.write(ids[rows], *_encode(fresh, x[torch.from_numpy(rows)]))

            self.together([trained, baseline])

    def train(self) -> None:
        """Scales of the thresholds, and the moments of the probes on the codes."""
        counts = len(self.labels.residue_names), len(self.labels.antibody_names)
        residue, antibody = Moments(self.k, counts[0]), Moments(self.k, counts[1])
        for block in self.codes.blocks(0):
            views = self.views.of(block, self.k)
            for (matrix, _), scale in zip(views, self.scales, strict=True):
                raise_maximum(matrix.idx, matrix.val, scale)
            residue.add_sparse(*views[0])
            antibody.add(densify(views[2][0], self.k), views[2][1])
            self.patterns.add_antibodies(block)
        if residue.n == 0:
            raise InputError(
                f"{self.store.folder}: no training residue among the activations; raise activations.max_tokens"
            )
        self.probe = [m.astype(np.float32) for m in residue.ridge(probes.RIDGES[0])]
        self.antibody_probes = [antibody.ridge(strength) for strength in probes.RIDGES]

    def _tallies(self, **options: Any) -> list[Tally]:
        return [Tally(self.k, len(names), self.thresholds, **options) for names in self.views.names]

    def validate(self) -> None:
        """Everything that validation decides."""
        self.validation = self._tallies()
        self.shuffled = [self._tallies(moments=False), self._tallies(moments=False)]
        self.scores = Scores(len(self.labels.residue_names))
        self.antibody_scores = [Scores(len(self.labels.antibody_names)) for _ in probes.RIDGES]
        for block in self.codes.blocks(1):
            views = self.views.of(block, self.k)
            counts = [
                partial(tally.add, *view, scale)
                for tally, view, scale in zip(self.validation, views, self.scales, strict=True)
            ]
            self.together([*counts, *self._held_out(block, views, 0)])
        self.choices = [choose(t) for t in self.validation]

    def _held_out(self, block: Block, views: list[tuple[Csr, Csr]], test: int) -> list[Callable[[], None]]:
        """What validation and test have in common, as tasks: the baselines and the description of the latents."""

        def shuffled() -> None:
            turned = self.views.of(block, self.k, self.partner)
            for tally, view, scale in zip(self.shuffled[test], turned, self.scales, strict=True):
                tally.add(*view, scale)

        def probe_residues() -> None:
            self.scores.add(bool(test), probes.sparse_scores(*views[0][0], *self.probe), views[0][1])

        def probe_antibodies() -> None:
            pooled = densify(views[2][0], self.k)
            for scores, (weight, intercept) in zip(self.antibody_scores, self.antibody_probes, strict=True):
                scores.add(bool(test), pooled @ weight + intercept, views[2][1])

        def describe() -> None:
            self.patterns.add_antibodies(block)
            self.patterns.add_examples(block, views[1][0])

        return [shuffled, probe_residues, probe_antibodies, describe]

    def _untrained(self) -> pd.DataFrame:
        """The untrained SAE's best latents; its scale is its largest value on validation."""
        scales = [np.zeros(self.k, np.float32) for _ in VIEWS]
        for block in self.fresh_codes.blocks(1):
            for (matrix, _), scale in zip(self.views.of(block, self.k), scales, strict=True):
                raise_maximum(matrix.idx, matrix.val, scale)
        tallies = [self._tallies(moments=False), self._tallies(moments=False)]
        for split in (1, 2):
            for block in self.fresh_codes.blocks(split):
                for tally, view, scale in zip(tallies[split - 1], self.views.of(block, self.k), scales, strict=True):
                    tally.add(*view, scale)
        return self._best_of("untrained", tallies)

    def _best_of(self, baseline: str, tallies: list[list[Tally]]) -> pd.DataFrame:
        details = [f"latent {j}" for j in range(self.k)]
        frames = [
            best_rows(baseline, level, how, pair, names, details)
            for (level, how), names, *pair in zip(VIEWS, self.views.names, *tallies, strict=True)
        ]
        return keep_best(pd.concat(frames))

    def choose(self, baselines: pd.DataFrame) -> None:
        """Latents to report, from validation alone. The shuffled labels' test figures are added by `test`."""
        self.baselines = pd.concat([baselines, self._untrained()], ignore_index=True)
        shuffled = self._best_of("shuffled", [self.shuffled[0], self.shuffled[0]])
        rows = pd.concat([self.baselines, shuffled])
        rows = rows[rows["baseline"].isin(SIMPLE)]
        strongest = rows.groupby(["level", "concept"])["f1_validation"].max()
        self.best: list[tuple[int, int, int]] = []  # (view, latent, concept) of each testable concept
        for level in ("residue", "antibody"):
            views = [v for v, view in enumerate(VIEWS) if view[0] == level]
            f1 = np.stack([np.where(self.scales[v][:, None] > 0, self.choices[v].f1, -1) for v in views])
            flat = f1.reshape(-1, f1.shape[2]).argmax(0)
            self.best += [
                (views[flat[c] // self.k], int(flat[c] % self.k), int(c))
                for c in np.flatnonzero(self.testable[views[0]])
            ]
        margin = np.full((len(VIEWS), self.k), -np.inf)
        concept = np.zeros((len(VIEWS), self.k), np.int64)
        for v, (level, _) in enumerate(VIEWS):
            columns = np.flatnonzero(self.testable[v])
            if len(columns):
                bar = np.array([strongest.get((level, self.views.names[v][c]), 0.0) for c in columns])
                gain = np.where(self.scales[v][:, None] > 0, self.choices[v].f1[:, columns] - bar, -np.inf)
                margin[v], concept[v] = gain.max(1), columns[gain.argmax(1)]
        self.own_view = margin.argmax(0)
        self.own_concept = concept[self.own_view, np.arange(self.k)]
        self.has_own = np.isfinite(margin.max(0))

    def test(self) -> None:
        """Figures from test at what validation chose."""
        names = self.views.names
        histograms = [np.zeros((self.k, RANK_BINS), np.int32) for _ in VIEWS]
        rows, n_clusters = np.zeros(len(VIEWS), np.int64), 0
        means = [(np.zeros(self.k), np.zeros(len(n))) for n in names]  # of the clusters' means, for antibody labels
        for block in self.codes.blocks(2):
            n_clusters += len(block.clusters) - 1
            for v, (matrix, y) in enumerate(self.views.of(block, self.k)):
                add_histogram(matrix, self.scales[v], histograms[v])
                rows[v] += matrix.rows
                if v:
                    for total, part in zip(means[v], (matrix, y), strict=True):
                        total += cluster_means(part, block.clusters, len(total)).sum(0)
        for pair in means:
            for total in pair:
                total /= max(n_clusters, 1)
        self.tested = [Tally(self.k, len(n), self.thresholds, elements=v == 0) for v, n in enumerate(names)]
        for tally, histogram, n in zip(self.tested, histograms, rows, strict=True):
            tally.rank_by(histogram, int(n))
        del histograms
        tests = [ClusterTest(self.k, len(n)) for n in names]
        boots = [self._bootstrap(v) for v in range(len(VIEWS))]
        for block in self.codes.blocks(2):
            views = self.views.of(block, self.k)
            chain = 2 * np.repeat(block.antibodies, np.diff(block.offsets)) + self.labels.light[block.ids]
            cluster_of = np.repeat(np.arange(len(block.clusters) - 1), np.diff(block.clusters))
            group = [np.repeat(cluster_of, np.diff(block.offsets)), cluster_of, cluster_of]
            ids = self.labels.cluster[block.antibodies[block.clusters[:-1]]]
            tasks = [partial(tests[0].add_residues, *views[0], block.offsets, block.clusters)]
            for v, view in enumerate(views):
                tasks.append(partial(self.tested[v].add, *view, self.scales[v], None if v else chain))
                tasks.append(partial(boots[v].add, *view, group[v], ids, len(names[v])))
                if v:
                    sizes = self.k, len(names[v])
                    parts = [cluster_means(m, block.clusters, n) for m, n in zip(view, sizes, strict=True)]
                    tasks.append(partial(tests[v].add_clusters, parts[0], parts[1], *means[v]))
            self.together([*tasks, *self._held_out(block, views, 1)])
        p = [np.where(self.testable[v], tests[v].p_values(), np.nan) for v in range(len(VIEWS))]
        q = q_values(np.concatenate([a.ravel() for a in p]))
        self.q = [a.reshape(b.shape) for a, b in zip(np.split(q, np.cumsum([a.size for a in p])[:-1]), p, strict=True)]
        self.interval = [b.interval() for b in boots]
        antibody = probes.best_ridge("probe_codes", self.antibody_scores, names[1])
        residue = self.scores.rows("probe_codes", "residue", "none", names[0], "least squares")
        self.baselines = pd.concat(
            [self.baselines, self._best_of("shuffled", self.shuffled), residue, antibody], ignore_index=True
        )

    def _bootstrap(self, view: int) -> Bootstrap:
        """Intervals for the best pair of each concept, then for each latent's own pair."""
        best = [(j, c) for v, j, c in self.best if v == view]
        own = [(int(j), int(self.own_concept[j])) for j in np.flatnonzero(self.has_own & (self.own_view == view))]
        j, c = (
            (np.array(x, np.int64) for x in zip(*(best + own), strict=True))
            if best + own
            else (np.empty(0, np.int64),) * 2
        )
        cuts = self.thresholds[self.choices[view].threshold[j, c]] * self.scales[view][j]
        return Bootstrap(j, c, cuts, self.k, self.settings["bootstrap"], self.settings["seed"])

    # -- tables --------------------------------------------------------------------------------------------------------

    def _figures(self, v: int) -> dict[str, Floats]:
        """Every column of associations.parquet as [latents, concepts]."""
        choice, test = self.choices[v], self.tested[v]
        shape = choice.f1.shape
        element = np.full(shape, np.nan)
        if v == 0:
            element = np.take_along_axis(test.element_recall(), choice.threshold[:, None], 1)[:, 0]
        return {
            "threshold": self.thresholds[choice.threshold],
            **at_choice(test, choice),
            "element_recall": element,
            "auroc": test.auroc(),
            "r": test.r(),
            "support": np.broadcast_to(test.positives, shape),
            "q_value": self.q[v],
            "f1_validation": choice.f1,
            "r_validation": self.validation[v].r(),
        }

    def report(self, lens: Floats | None) -> Associations:
        """The three tables."""
        floor, frames = self.settings["floor"], []
        figures = [self._figures(v) for v in range(len(VIEWS))]
        for v, (level, how) in enumerate(VIEWS):
            f = figures[v]
            keep = np.maximum(f["f1"], f["f1_validation"]) >= floor
            keep |= np.fmax(np.abs(f["r"]), np.abs(f["r_validation"])) >= floor
            for by in ("f1_validation", "r_validation"):
                top = np.argsort(-np.nan_to_num(f[by], nan=-2), axis=0, kind="stable")[:KEEP]
                np.put_along_axis(keep, top, True, 0)
            keep &= self.testable[v] & (self.scales[v] > 0)[:, None]
            j, c = np.nonzero(keep)
            table = pd.DataFrame(
                {"latent": j, "concept": np.array(self.views.names[v], object)[c], "level": level, "pool": how}
            )
            frames.append(table.assign(**{k: a[j, c] for k, a in f.items()}))
        return Associations(
            pd.concat(frames, ignore_index=True),
            self._best_table(figures),
            self._latent_table(figures, lens),
            self._scores(figures),
        )

    def _scores(self, figures: list[dict[str, Floats]]) -> dict[str, Tensor]:
        dead = [scale[:, None] <= 0 for scale in self.scales]
        f1 = [np.where(dead[v], -1, f["f1_validation"]) for v, f in enumerate(figures)]
        by_mean = f1[2] > f1[1]
        out = {}
        for name in ("f1_validation", "r_validation", "f1", "r"):
            values = f1 if name == "f1_validation" else [f[name] for f in figures]
            wide = np.concatenate([values[0], np.where(by_mean, values[2], values[1])], 1)
            out[name] = torch.from_numpy(np.ascontiguousarray(wide, np.float32))
        return out

    def _wide_baselines(self) -> pd.DataFrame:
        """One row a (level, concept): f1_<baseline>, the strongest simple one and its F1 on test."""
        wide = self.baselines.pivot_table(index=["level", "concept"], columns="baseline", values="f1", sort=False)
        simple_ones = wide[[b for b in SIMPLE if b in wide]]
        out = wide.add_prefix("f1_")
        out["simple_baseline"], out["f1_simple"] = simple_ones.idxmax(axis=1), simple_ones.max(axis=1)
        out["f1_learned"] = wide[[b for b in LEARNED if b in wide]].max(axis=1)
        return out

    def _best_table(self, figures: list[dict[str, Floats]]) -> pd.DataFrame:
        rows = []
        seen = [0] * len(VIEWS)
        chosen = {(VIEWS[v][0], c): (v, j) for v, j, c in self.best}
        for level in ("residue", "antibody"):
            for c, name in enumerate(self.labels.names(level)):
                row: dict[str, Any] = {"concept": name, "level": level}
                if (level, c) in chosen:
                    v, j = chosen[level, c]
                    low, high = self.interval[v]
                    row |= {"pool": VIEWS[v][1], "latent": j} | {k: a[j, c] for k, a in figures[v].items()}
                    row |= {"f1_low": low[seen[v]], "f1_high": high[seen[v]]}
                    seen[v] += 1
                rows.append(row)
        table = pd.DataFrame(rows, columns=["concept", "level", "pool", "latent", *figures[0], "f1_low", "f1_high"])
        table["latent"] = table["latent"].astype("Int64")
        table = table.merge(self._wide_baselines(), on=["level", "concept"], how="left")
        known = table["latent"].notna()
        for bar in ("simple", "learned"):
            table[f"beats_{bar}"] = (table["f1"] > table[f"f1_{bar}"]).astype("boolean").where(known)
        compared = [str(c) for c in table if str(c).startswith("f1_")]
        table.loc[~known, compared] = np.nan
        table.loc[~known, "simple_baseline"] = None
        return table

    def _latent_table(self, figures: list[dict[str, Floats]], lens: Floats | None) -> pd.DataFrame:
        bars = self._wide_baselines()
        n_best = [sum(v == view for v, _, _ in self.best) for view in range(len(VIEWS))]
        seen = list(n_best)
        rows = []
        examples = self.patterns.examples(self.codes)
        associated, above = self._associated(figures), self._above_yes(figures)
        for j in range(self.k):
            row: dict[str, Any] = {
                "latent": j,
                "max_activation": float(self.scales[0][j]),
                **self.patterns.measures(j),
                "n_concepts": len(associated[j]),
                "n_above_yes": int(above[j]),
            }
            if self.has_own[j]:
                v, c = int(self.own_view[j]), int(self.own_concept[j])
                level, name = VIEWS[v][0], self.views.names[v][c]
                low, high = (x[seen[v]] for x in self.interval[v])
                seen[v] += 1
                f1, q = figures[v]["f1"][j, c], figures[v]["q_value"][j, c]
                bar, bar_name = float(bars["f1_simple"][level, name]), str(bars["simple_baseline"][level, name])
                significant = bool(q < self.settings["q"])
                row |= {
                    "concept": name, "level": level, "pool": VIEWS[v][1], "f1": f1, "f1_low": low, "f1_high": high,
                    "q_value": q, "simple_baseline": bar_name, "f1_simple": bar,
                    "interpretable": significant and bool(f1 > bar),
                    "interpretable_strict": significant and bool(low > bar),
                }  # fmt: skip
            else:  # no concept could be tested: the columns are there all the same
                row |= dict.fromkeys(("concept", "level", "pool", "simple_baseline"))
                row |= dict.fromkeys(("f1", "f1_low", "f1_high", "q_value", "f1_simple"), np.nan)
                row |= {"interpretable": False, "interpretable_strict": False}
            row["best_concepts"] = json.dumps(associated[j][:BEST_CONCEPTS])
            row |= examples[j] | self.patterns.profiles(j)
            if lens is not None:
                order = np.argsort(-lens[j], kind="stable")[:5]
                row |= {"lens_residues": [RESIDUES[i] for i in order], "lens_logits": lens[j][order].astype(np.float32)}
            rows.append(row)
        return pd.DataFrame(rows)

    def _above_yes(self, figures: list[dict[str, Floats]]) -> Ints:
        """[latents] concepts whose F1 on test exceeds that of always saying yes by MARGIN, q below the level."""
        hits = [
            (f["q_value"] < self.settings["q"]) & (f["f1"] >= always_yes(self.tested[v]) + MARGIN)
            for v, f in enumerate(figures)
        ]
        return hits[0].sum(1) + (hits[1] | hits[2]).sum(1)

    def _associated(self, figures: list[dict[str, Floats]]) -> list[list[dict[str, Any]]]:
        """Per latent, the concepts it is associated with: q below the level and F1 at or above the floor, best first;
        of an antibody-level concept's two pools the better one on validation."""
        out: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in range(self.k)]
        for v, (level, how) in enumerate(VIEWS):
            f = figures[v]
            hit = (f["q_value"] < self.settings["q"]) & (f["f1"] >= self.settings["floor"])
            if v:
                hit &= f["f1_validation"] >= figures[3 - v]["f1_validation"]
            if v == 2:
                hit &= f["f1_validation"] > figures[1]["f1_validation"]
            for j, c in zip(*np.nonzero(hit), strict=True):
                entry: dict[str, Any] = {"concept": self.views.names[v][c], "level": level, "pool": how}
                for key in ("f1", "precision", "recall", "auroc", "r", "threshold"):
                    value = float(f[key][j, c])
                    entry[key] = round(value, 4) if np.isfinite(value) else None
                entry["q_value"] = float(f"{f['q_value'][j, c]:.2e}")
                out[j].append((float(f["f1_validation"][j, c]), entry))
        return [[entry for _, entry in sorted(found, key=lambda x: -x[0])] for found in out]
