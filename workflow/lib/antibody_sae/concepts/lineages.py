"""Concepts from columns of the input, such as a binder's target, judged lineage by lineage.

A few hundred labelled antibodies in a few dozen lineages leave a fixed test split with next to nothing. So each lineage
is judged by what was chosen on all others: latent, pool and threshold, and beside them what the germline says, chosen
likewise. Each lineage has one vote, and antibodies of which the column says nothing are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from antibody_sae.activations import Store
from antibody_sae.concepts import catalogue, germline
from antibody_sae.concepts.codes import encode, of_antibodies
from antibody_sae.concepts.labels import Labels, owners
from antibody_sae.concepts.rows import Floats, Ints
from antibody_sae.concepts.scoring import densify, raise_maximum
from antibody_sae.sae.model import SAE

FEWEST_LINEAGES = 5
"""Lineages with the concept, and without it, below which nothing is said."""
FOLDS = 50
"""Lineages are left out one by one, or where there are more, in so many groups."""
MOST_LABELLED = 5000
"""Antibodies at most, evenly spaced over the lineages, so that memory stays bounded."""
POOLS = ("max", "mean")
PENALTIES = (0.1, 1.0, 3.0, 10.0, 30.0)
"""Penalties of the germline's regression, in lineages."""
_ROWS = 65_536
_JUDGED, _OTHER = 0, 3


class Called(NamedTuple):
    """Each antibody as it is called by what was chosen without its lineage."""

    has: np.ndarray
    """[n] bool"""
    chosen: int
    """Feature that was chosen most often."""


def folds(clusters: Ints) -> Ints:
    """[n] fold of each antibody: whole lineages, the largest dealt out first."""
    _, number, size = np.unique(clusters, return_inverse=True, return_counts=True)
    rank = np.empty(len(size), np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    return rank[number] % FOLDS


def votes(clusters: Ints) -> Floats:
    """[n] weights, those of a lineage sum to 1."""
    _, number, size = np.unique(clusters, return_inverse=True, return_counts=True)
    return 1 / size[number]


def call(features: np.ndarray, y: np.ndarray, weight: Floats, fold: Ints) -> Called:
    """Of features [n, m] (bool) the one with the best F1 on all other folds, for each fold."""
    hits, predicted = np.zeros((2, fold.max() + 1, features.shape[1]))
    for f in range(len(hits)):
        rows = np.flatnonzero(fold == f)
        here = features[rows].astype(np.float32)
        hits[f], predicted[f] = (weight * y)[rows] @ here, weight[rows] @ here
    positives = np.bincount(fold, weight * y, len(hits))
    has, best = np.zeros(len(y), bool), np.zeros(len(hits), np.int64)
    for f in range(len(hits)):
        tp, active = hits.sum(0) - hits[f], predicted.sum(0) - predicted[f]
        best[f] = (2 * tp / np.maximum(active + positives.sum() - positives[f], 1e-12)).argmax()
        has[fold == f] = features[fold == f, best[f]]
    return Called(has, int(np.bincount(best).argmax()))


def regress(x: Floats, y: np.ndarray, clusters: Ints) -> np.ndarray:
    """[n] bool: ridge regression on x [n, m] of all other folds, with the penalty and the cut of best F1 there.

    Both are chosen on scores without the antibody's own lineage, y - (1 - H)^-1 (y - fitted) with H the lineage's block
    of the hat matrix (Allen 1974, doi:10.1080/00401706.1974.10489157, for single rows): of many genes and few lineages
    the fitted scores themselves say too much.
    """
    weight, fold = votes(clusters), folds(clusters)
    has, design = np.zeros(len(y), bool), np.column_stack([x, np.ones(len(x))])
    for f in range(fold.max() + 1):
        out, train = fold == f, fold != f
        w, own, target = weight[train], design[train], y[train].astype(float)
        order = np.argsort(clusters[train], kind="stable")
        relatives = np.split(order, np.flatnonzero(np.diff(clusters[train][order])) + 1)
        by_size = [np.stack([r for r in relatives if len(r) == size]) for size in sorted(set(map(len, relatives)))]
        products, cross, best = own.T @ (own * w[:, None]), own.T @ (w * target), -1.0
        for penalty in PENALTIES:
            inverse = np.linalg.inv(products + np.diag(np.append(np.full(x.shape[1], penalty), 1e-9)))
            beta = inverse @ cross
            miss, turned = target - own @ beta, own @ inverse
            score = np.empty(len(target))
            for rows in by_size:  # [lineages, members]
                hat = (turned[rows] @ own[rows].swapaxes(1, 2)) * w[rows][:, None]
                left_out = np.linalg.solve(np.eye(rows.shape[1]) - hat, miss[rows][..., None])[..., 0]
                score[rows] = target[rows] - left_out
            ranked = np.argsort(-score, kind="stable")
            f1 = 2 * np.cumsum((w * target)[ranked]) / (np.cumsum(w[ranked]) + (w * target).sum())
            if f1.max() > best:
                best, cut = f1.max(), score[ranked][f1.argmax()]
                has[out] = design[out] @ beta >= cut
    return has


class Result(NamedTuple):
    """F1 over all lineages, each called without itself; 95 % intervals over lineages."""

    f1: float
    f1_low: float
    f1_high: float
    f1_germline: float
    """The best of a single value, regressions on all and on V families, and always saying yes."""
    difference: float
    difference_low: float
    difference_high: float


def compare(
    latent: np.ndarray, simple: list[np.ndarray], y: np.ndarray, clusters: Ints, draws: int, seed: int
) -> Result:
    """F1 of the calls `latent` and of the strongest of `simple` ([n] bool each), lineages resampled together."""
    weight, number = votes(clusters), np.unique(clusters, return_inverse=True)[1]
    lineages = int(number.max()) + 1
    copies = np.random.default_rng(seed).multinomial(lineages, np.full(lineages, 1 / lineages), draws)

    def f1(called: np.ndarray) -> tuple[float, Floats]:
        hits = np.bincount(number, weight * (called & y), lineages)
        total = np.bincount(number, weight * called + weight * y, lineages)
        drawn = 2 * (copies @ hits) / np.maximum(copies @ total, 1e-12)
        return float(2 * hits.sum() / max(total.sum(), 1e-12)), drawn

    own, own_drawn = f1(latent)
    others = [f1(each) for each in simple]
    bar, bar_drawn = max(value for value, _ in others), np.max([drawn for _, drawn in others], axis=0)
    tails = [0.025, 0.975]
    low, high = np.quantile(own_drawn, tails)
    below, above = np.quantile(own_drawn - bar_drawn, tails)
    return Result(own, float(low), float(high), bar, own - bar, float(below), float(above))


def judge(
    features: np.ndarray,
    names: list[str],
    given: Floats,
    details: list[str],
    y: np.ndarray,
    clusters: Ints,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """One concept's row: `features` [n, m] bool are the latents at their thresholds (`names`), `given` [n, g] what the
    germline says (`details`); `status` says why where nothing could be tested."""
    with_it, without = (len(np.unique(clusters[mask])) for mask in (y, ~y))
    row: dict[str, Any] = {
        "antibodies": len(y), "positives": int(y.sum()), "lineages": len(np.unique(clusters)),
        "lineages_with": with_it, "status": "ok",
    }  # fmt: skip
    for n, what in ((with_it, "with"), (without, "without")):
        if n < FEWEST_LINEAGES:
            return row | {"status": f"untestable: {n} lineages {what} it, {FEWEST_LINEAGES} needed"}
    weight, fold = votes(clusters), folds(clusters)
    latent = call(features, y, weight, fold)
    present = given > 0
    single = call(np.hstack([present, ~present]), y, weight, fold)
    families = np.array([name.startswith("v-family=") for name in details])
    regressions = [regress(x, y, clusters) for x in (given, given[:, families])]
    simple = [single.has, *regressions, np.ones(len(y), bool)]
    found = compare(latent.has, simple, y, clusters, draws, seed)
    negated, value = divmod(single.chosen, len(details))
    row |= {"chosen": names[latent.chosen], "germline": "not " * negated + details[value], **found._asdict()}
    return row | {"beats_germline": found.difference_low > 0}


def pooled(
    sae: SAE, store: Store, labels: Labels, antibodies: Ints, thresholds: list[float]
) -> tuple[np.ndarray, list[str]]:
    """([n, m] bool, names) of the antibodies' pooled latents above each threshold, a share of the largest value."""
    chosen = np.zeros(len(labels.first), bool)
    chosen[antibodies] = True
    only = replace(labels, split=np.where(chosen, _JUDGED, _OTHER))
    blocks = list(encode(sae, store, only, of_antibodies(labels, chosen)).blocks(_JUDGED))
    pools = [block.pooled(sae.latents) for block in blocks]
    place = pd.Series(np.arange(len(antibodies)), index=antibodies)
    out = np.zeros((len(antibodies), len(POOLS), len(thresholds), sae.latents), bool)
    for p, pool in enumerate(POOLS):
        scale = np.zeros(sae.latents, np.float32)
        for found in pools:
            raise_maximum(found[pool].idx, found[pool].val, scale)
        for block, found in zip(blocks, pools, strict=True):
            share = densify(found[pool], sae.latents) / np.maximum(scale, np.finfo(np.float32).tiny)
            for t, threshold in enumerate(thresholds):
                out[place[block.antibodies], p, t] = share > threshold
    names = [f"latent {j} {pool} > {t:g}" for pool in POOLS for t in thresholds for j in range(sae.latents)]
    return out.reshape(len(antibodies), -1), names


LINEAGE_COLUMNS = [
    "concept", "antibodies", "positives", "lineages", "lineages_with", "status", "chosen", "germline", *Result._fields,
    "beats_germline",
]  # fmt: skip
"""Of the table."""


def by_lineage(
    sae: SAE, store: Store, labels: Labels, metadata: pd.DataFrame, thresholds: list[float], draws: int, seed: int
) -> pd.DataFrame:
    """One row a concept from a column of the input: concept, antibodies (of which the column says something),
    positives, lineages, lineages_with, status, chosen (most often), F1 of the latents and of the germline lineage by
    lineage, and beats_germline: whether the whole interval of the difference is above 0.

    `metadata` has antibody_id and the columns that are concepts; `draws` and `seed` are the bootstrap's.
    """
    asked, given = germline.columns(labels)
    table = metadata.set_index("antibody_id").reindex(labels.ids)
    measured = np.zeros(len(labels.first), bool)
    measured[np.concatenate([owners(labels, ids) for _, ids in store.blocks(_ROWS)])] = True
    frames: list[dict[str, Any]] = []
    held: dict[str, tuple[Ints, np.ndarray, list[str]]] = {}
    for concept in asked:
        name = labels.antibody_names[concept]
        column = name.partition("=")[0]
        if column not in held:
            says = catalogue.metadata_values(table, column).notna().to_numpy()
            known: Ints = np.flatnonzero(says & measured)
            known = known[np.argsort(labels.cluster[known], kind="stable")]
            known = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_LABELLED)).round().astype(int))]
            held = {column: (known, *pooled(sae, store, labels, known, thresholds))}  # one column's at a time
        known, features, names = held[column]
        has = germline.dense(labels, known, np.array([concept]))[:, 0] > 0
        row = judge(
            features, names, germline.dense(labels, known, given), [labels.antibody_names[i] for i in given], has,
            labels.cluster[known], draws, seed,
        )  # fmt: skip
        frames.append({"concept": name, **row})
    return pd.DataFrame(frames, columns=LINEAGE_COLUMNS)
