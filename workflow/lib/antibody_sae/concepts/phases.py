"""The phases of an association: encoding, then training, validation and test, each reading what those before it found.

Latents, thresholds and baselines are chosen on validation; what `test` adds decides nothing. An SAE's codes are written
once, in residue order, to an anonymous temporary file and read back in blocks of whole clusters, so memory does not
grow with the number of residues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.concepts import probes
from antibody_sae.concepts.codes import (
    ENCODE,
    VIEWS,
    CodeBlock,
    CodeFile,
    codes_of,
    heavy_lengths,
    partner_residues,
    shuffled_partners,
)
from antibody_sae.concepts.labels import Labels, owners
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
from antibody_sae.concepts.selection import SIMPLE, Choice, best_rows, choose_thresholds, keep_best
from antibody_sae.io import InputError, progress
from antibody_sae.sae.model import SAE
from antibody_sae.significance import q_values

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection

View = tuple[Csr, Csr]
"""(features, labels) of the same rows, one of VIEWS."""


class Together:
    """Runs tasks that share no state side by side, on torch's number of threads; results do not depend on it.

    The threads live as long as this object: torch's scratch memory stays with a thread.
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


@dataclass(frozen=True)
class Setup:
    """What every phase needs. Lists by view are in the order of VIEWS."""

    store: Store
    sae: SAE
    labels: Labels
    settings: ConceptsSection
    """The section `concepts:` of the configuration."""
    testable: list[np.ndarray]
    """By view: [concepts] bool."""
    together: Together

    @property
    def latents(self) -> int:
        return self.sae.latents

    @cached_property
    def names(self) -> list[list[str]]:
        """By view: the concepts' names."""
        return [self.labels.names(level) for level, _ in VIEWS]

    @cached_property
    def thresholds(self) -> Floats:
        return np.asarray(sorted(self.settings["thresholds"]), np.float32)

    @cached_property
    def _partner(self) -> tuple[Ints, Ints]:
        """Each antibody's partner, and the lengths of heavy chains."""
        return shuffled_partners(self.labels, self.settings["seed"]), heavy_lengths(self.labels)

    def views(self, block: CodeBlock, shuffled: bool = False) -> list[View]:
        """A block's views; `shuffled` gives each antibody the labels of its partner."""
        ids, antibodies = block.ids, block.antibodies
        if shuffled:
            partner, heavy = self._partner
            owner = np.repeat(block.antibodies, np.diff(block.offsets))
            ids = partner_residues(self.labels, ids, owner, partner[owner], heavy)
            antibodies = partner[antibodies]
        residue, antibody = take_rows(self.labels.residue, ids), take_rows(self.labels.antibody, antibodies)
        pools = block.pooled(self.latents)
        return [(block.codes, residue), (pools["max"], antibody), (pools["mean"], antibody)]

    def held_out(self, ids: Ints) -> np.ndarray:
        """[n] bool: whether residues are of validation or test."""
        return self.labels.split[owners(self.labels, ids)] > 0

    def tallies(self, moments: bool = True) -> list[Tally]:
        """By view: an empty tally of all latents and concepts."""
        return [Tally(self.latents, len(names), self.thresholds, moments) for names in self.names]

    def no_scales(self) -> list[Floats]:
        """By view: [latents] zeros, which `raise_maximum` raises."""
        return [np.zeros(self.latents, np.float32) for _ in VIEWS]

    def best_of(self, baseline: str, tallies: Sequence[Sequence[Tally]]) -> pd.DataFrame:
        """The best latent for each concept as rows of a baseline; `tallies`: of validation and of test, by view."""
        details = [f"latent {j}" for j in range(self.latents)]
        frames = [
            best_rows(baseline, level, how, pair, names, details)
            for (level, how), names, *pair in zip(VIEWS, self.names, *tallies, strict=True)
        ]
        return keep_best(pd.concat(frames))


# --- encoding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoding:
    """The codes of the store."""

    codes: CodeFile
    untrained: CodeFile
    """Of held-out residues, by the SAE before training."""
    patterns: Patterns
    """Knows the residues on which each latent is active; the phases after this one add antibodies."""


def untrained(sae: SAE, seed: int) -> SAE:
    """The SAE before training: as many latents in random directions, the k largest active, same pre-bias and scale."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.functional.normalize(torch.randn(sae.latents, sae.d_model, generator=generator), dim=1)
    bias = torch.zeros(sae.latents)
    return replace(sae, encoder_weight=weight, encoder_bias=bias, directions=weight, threshold=None)


def encode(setup: Setup, scratch: str | Path | None) -> Encoding:
    """Encode the store once (and held-out residues with the untrained SAE); sum up where each latent is active.

    Raises InputError for a residue that the store holds twice, or that is in no split, and where the store is not the
    SAE's.
    """
    store, sae, labels = setup.store, setup.sae, setup.labels
    sae.check(store.provenance(), store.folder)
    ids = np.sort(np.concatenate([ids for _, ids in store.blocks(ENCODE)]))
    if len(ids) and (np.diff(ids) == 0).any():
        raise InputError(f"{store.folder}: a residue appears twice among the activations; delete it and run again")
    encoded = Encoding(
        CodeFile(ids, labels, scratch),
        CodeFile(ids[setup.held_out(ids)], labels, scratch),
        Patterns(sae.latents, labels),
    )
    fresh = untrained(sae, setup.settings["seed"])
    for x, ids in progress(store.blocks(ENCODE), -(-store.n // ENCODE), "encoding"):
        held_out = setup.held_out(ids)

        def trained(x: Tensor = x, ids: Ints = ids) -> None:
            indices, values = codes_of(sae, x)
            encoded.codes.write(ids, indices, values)
            encoded.patterns.add_residues(ids, indices, values)

        def baseline(x: Tensor = x, ids: Ints = ids, rows: np.ndarray = held_out) -> None:
            encoded.untrained.write(ids[rows], *codes_of(fresh, x[torch.from_numpy(rows)]))

        setup.together([trained, baseline])
    return encoded


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What training rows say."""

    scales: list[Floats]
    """By view: [latents] largest value, 0 of a latent that is never active."""
    probe: tuple[Floats, Floats]
    """Weights [latents, concepts] and intercepts [concepts] of the residue-level probe on the codes, float32."""
    antibody_probes: list[tuple[Floats, Floats]]
    """The same for antibodies, one a ridge penalty."""


def train(setup: Setup, encoded: Encoding) -> Training:
    """Scales of the thresholds, and the probes on the codes. Raises InputError without a training residue."""
    latents, labels, scales = setup.latents, setup.labels, setup.no_scales()
    residue, antibody = Moments(latents, len(labels.residue_names)), Moments(latents, len(labels.antibody_names))
    for block in encoded.codes.blocks(0):
        views = setup.views(block)
        for (matrix, _), scale in zip(views, scales, strict=True):
            raise_maximum(matrix.idx, matrix.val, scale)
        residue.add_sparse(*views[0])
        antibody.add(densify(views[2][0], latents), views[2][1])
        encoded.patterns.add_antibodies(block)
    if residue.n == 0:
        folder = setup.store.folder
        raise InputError(f"{folder}: no training residue among the activations; raise activations.max_tokens")
    weight, intercept = residue.ridge(probes.RIDGES[0])
    return Training(
        scales,
        (weight.astype(np.float32), intercept.astype(np.float32)),
        [antibody.ridge(strength) for strength in probes.RIDGES],
    )


# --- validation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Baselines that validation and test rows are added to as they come."""

    shuffled: tuple[list[Tally], list[Tally]]
    """Of validation and of test, by view: latents against the labels of other antibodies."""
    probe: Scores
    antibody_probes: list[Scores]
    """One a ridge penalty."""

    def tasks(
        self, setup: Setup, encoded: Encoding, trained: Training, block: CodeBlock, views: list[View], test: bool
    ) -> list[Callable[[], None]]:
        """What adds a block: to the baselines, and to the description of the latents."""

        def shuffled() -> None:
            turned = setup.views(block, shuffled=True)
            for tally, view, scale in zip(self.shuffled[test], turned, trained.scales, strict=True):
                tally.add(*view, scale)

        def probe_residues() -> None:
            self.probe.add(test, probes.sparse_scores(*views[0][0], *trained.probe), views[0][1])

        def probe_antibodies() -> None:
            pooled = densify(views[2][0], setup.latents)
            for scores, (weight, intercept) in zip(self.antibody_probes, trained.antibody_probes, strict=True):
                scores.add(test, pooled @ weight + intercept, views[2][1])

        def describe() -> None:
            encoded.patterns.add_antibodies(block)
            encoded.patterns.add_examples(block, views[1][0])

        return [shuffled, probe_residues, probe_antibodies, describe]


@dataclass(frozen=True)
class Validation:
    """What validation rows say of every latent and concept."""

    tallies: list[Tally]
    """By view."""
    choices: list[Choice]
    """By view: the best threshold of every latent and concept."""
    held_out: HeldOut


def validate(setup: Setup, encoded: Encoding, trained: Training) -> Validation:
    """Count validation rows, and choose thresholds by them."""
    tallies = setup.tallies()
    held_out = HeldOut(
        (setup.tallies(moments=False), setup.tallies(moments=False)),
        Scores(len(setup.labels.residue_names)),
        [Scores(len(setup.labels.antibody_names)) for _ in probes.RIDGES],
    )
    for block in encoded.codes.blocks(1):
        views = setup.views(block)
        counts = [
            partial(tally.add, *view, scale) for tally, view, scale in zip(tallies, views, trained.scales, strict=True)
        ]
        setup.together([*counts, *held_out.tasks(setup, encoded, trained, block, views, test=False)])
    return Validation(tallies, [choose_thresholds(tally) for tally in tallies], held_out)


@dataclass(frozen=True)
class Chosen:
    """The pairs to report, from validation alone."""

    baselines: pd.DataFrame
    """Those of the layer and the untrained SAE's, one row a baseline and concept."""
    best: list[tuple[int, int, int]]
    """(view, latent, concept) of each testable concept's best latent."""
    own_view: Ints
    """[latents] view of a latent's own concept, by which it beats the strongest simple baseline the furthest."""
    own_concept: Ints
    """[latents] that concept's column."""
    has_own: np.ndarray
    """[latents] bool; False where no concept is testable, and for latents that are never active."""

    def pairs(self, view: int) -> list[tuple[int, int]]:
        """(latent, concept): the best of each concept, then each latent's own."""
        best = [(j, c) for v, j, c in self.best if v == view]
        own = [(int(j), int(self.own_concept[j])) for j in np.flatnonzero(self.has_own & (self.own_view == view))]
        return best + own


def choose(
    setup: Setup, encoded: Encoding, trained: Training, validated: Validation, baselines: pd.DataFrame
) -> Chosen:
    """Latents to report; the shuffled labels' figures on test are not known yet, and not looked at."""
    baselines = pd.concat([baselines, _untrained_rows(setup, encoded)], ignore_index=True)
    shuffled = setup.best_of("shuffled", [validated.held_out.shuffled[0]] * 2)
    rows = pd.concat([baselines, shuffled])
    rows = rows[rows["baseline"].isin(SIMPLE)]
    strongest = rows.groupby(["level", "concept"])["f1_validation"].max()
    active = [scale[:, None] > 0 for scale in trained.scales]
    best: list[tuple[int, int, int]] = []
    for level in ("residue", "antibody"):
        views = [v for v, view in enumerate(VIEWS) if view[0] == level]
        f1 = np.stack([np.where(active[v], validated.choices[v].f1, -1) for v in views])
        flat = f1.reshape(-1, f1.shape[2]).argmax(0)
        best += [
            (views[flat[c] // setup.latents], int(flat[c] % setup.latents), int(c))
            for c in np.flatnonzero(setup.testable[views[0]])
        ]
    margin = np.full((len(VIEWS), setup.latents), -np.inf)
    concept = np.zeros((len(VIEWS), setup.latents), np.int64)
    for v, (level, _) in enumerate(VIEWS):
        columns = np.flatnonzero(setup.testable[v])
        if len(columns):
            bar = np.array([strongest.get((level, setup.names[v][c]), 0.0) for c in columns])
            gain = np.where(active[v], validated.choices[v].f1[:, columns] - bar, -np.inf)
            margin[v], concept[v] = gain.max(1), columns[gain.argmax(1)]
    own_view = margin.argmax(0)
    own_concept = concept[own_view, np.arange(setup.latents)]
    return Chosen(baselines, best, own_view, own_concept, np.isfinite(margin.max(0)))


def _untrained_rows(setup: Setup, encoded: Encoding) -> pd.DataFrame:
    """The untrained SAE's best latents; its scale is its largest value on validation."""
    scales = setup.no_scales()
    for block in encoded.untrained.blocks(1):
        for (matrix, _), scale in zip(setup.views(block), scales, strict=True):
            raise_maximum(matrix.idx, matrix.val, scale)
    tallies = [setup.tallies(moments=False), setup.tallies(moments=False)]
    for split in (1, 2):
        for block in encoded.untrained.blocks(split):
            for tally, view, scale in zip(tallies[split - 1], setup.views(block), scales, strict=True):
                tally.add(*view, scale)
    return setup.best_of("untrained", tallies)


# --- test -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tested:
    """Figures from test at what validation chose."""

    tallies: list[Tally]
    """By view."""
    q: list[Floats]
    """By view: [latents, concepts], NaN where nothing was tested."""
    intervals: list[tuple[Floats, Floats]]
    """By view: (low, high) of F1 of `Chosen.pairs`, in their order."""
    baselines: pd.DataFrame
    """All of them."""


def _ranked_tallies(
    setup: Setup, encoded: Encoding, trained: Training
) -> tuple[list[Tally], list[tuple[Floats, Floats]]]:
    """By view what must be known of all test rows before they are counted: tallies that know the ranks of the values,
    and the means of the clusters' mean values [latents] and labels [concepts] (zeros for residues)."""
    histograms = [np.zeros((setup.latents, RANK_BINS), np.int32) for _ in VIEWS]
    rows, n_clusters = np.zeros(len(VIEWS), np.int64), 0
    means: list[tuple[Floats, Floats]] = [(np.zeros(setup.latents), np.zeros(len(names))) for names in setup.names]
    for block in encoded.codes.blocks(2):
        n_clusters += len(block.clusters) - 1
        for v, (matrix, y) in enumerate(setup.views(block)):
            add_histogram(matrix, trained.scales[v], histograms[v])
            rows[v] += matrix.rows
            if v:
                for total, part in zip(means[v], (matrix, y), strict=True):
                    total += cluster_means(part, block.clusters, len(total)).sum(0)
    for pair in means:
        for total in pair:
            total /= max(n_clusters, 1)
    tallies = [
        Tally(setup.latents, len(names), setup.thresholds, elements=v == 0) for v, names in enumerate(setup.names)
    ]
    for tally, histogram, n in zip(tallies, histograms, rows, strict=True):
        tally.rank_by(histogram, int(n))
    return tallies, means


def test(setup: Setup, encoded: Encoding, trained: Training, validated: Validation, chosen: Chosen) -> Tested:
    """Count test rows: figures, tests, intervals and the baselines that validation rows have been added to."""
    names, labels, held_out = setup.names, setup.labels, validated.held_out
    tallies, means = _ranked_tallies(setup, encoded, trained)
    tests = [ClusterTest(setup.latents, len(n)) for n in names]
    boots = [_bootstrap(setup, trained, validated, chosen, v) for v in range(len(VIEWS))]
    for block in encoded.codes.blocks(2):
        views = setup.views(block)
        chain = 2 * np.repeat(block.antibodies, np.diff(block.offsets)) + labels.light[block.ids]
        cluster_of = np.repeat(np.arange(len(block.clusters) - 1), np.diff(block.clusters))
        group = [np.repeat(cluster_of, np.diff(block.offsets)), cluster_of, cluster_of]
        ids = labels.cluster[block.antibodies[block.clusters[:-1]]]
        tasks: list[Callable[[], None]] = [partial(tests[0].add_residues, *views[0], block.offsets, block.clusters)]
        for v, view in enumerate(views):
            tasks.append(partial(tallies[v].add, *view, trained.scales[v], None if v else chain))
            tasks.append(partial(boots[v].add, *view, group[v], ids, len(names[v])))
            if v:
                sizes = setup.latents, len(names[v])
                parts = [cluster_means(m, block.clusters, n) for m, n in zip(view, sizes, strict=True)]
                tasks.append(partial(tests[v].add_clusters, parts[0], parts[1], *means[v]))
        setup.together([*tasks, *held_out.tasks(setup, encoded, trained, block, views, test=True)])
    p = [np.where(setup.testable[v], tests[v].p_values(), np.nan) for v in range(len(VIEWS))]
    q = q_values(np.concatenate([a.ravel() for a in p]))
    pieces = np.split(q, np.cumsum([a.size for a in p])[:-1])
    residue = held_out.probe.rows("probe_codes", "residue", "none", names[0], "least squares")
    antibody = probes.best_ridge("probe_codes", held_out.antibody_probes, names[1])
    shuffled = setup.best_of("shuffled", held_out.shuffled)
    return Tested(
        tallies,
        [piece.reshape(a.shape) for piece, a in zip(pieces, p, strict=True)],
        [boot.interval() for boot in boots],
        pd.concat([chosen.baselines, shuffled, residue, antibody], ignore_index=True),
    )


def _bootstrap(setup: Setup, trained: Training, validated: Validation, chosen: Chosen, view: int) -> Bootstrap:
    """Intervals for a view's chosen pairs."""
    j, c = np.array(chosen.pairs(view), np.int64).reshape(-1, 2).T
    cuts = setup.thresholds[validated.choices[view].threshold[j, c]] * trained.scales[view][j]
    return Bootstrap(j, c, cuts, setup.latents, setup.settings["bootstrap"], setup.settings["seed"])
