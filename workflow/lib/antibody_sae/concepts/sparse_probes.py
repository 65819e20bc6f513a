"""k-sparse probes: how well few latents, and which, say a concept (Gurnee et al., arXiv:2305.01610).

For each concept the latents are ranked on training rows by their correlation with it, which is the difference of their
means with and without the concept in units of their own spread (Gurnee's ranking by the F statistic; the plain
difference of means would rank a latent of large values first). On the first k of them a logistic regression is fitted;
its cut is the one with the best F1 on validation rows, and every other figure is from test rows.

A latent is silent on most rows, and rows on which all k are silent are the same row: they are counted, not visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import sparse

from antibody_sae.concepts.rows import Floats, Ints

KS = (1, 2, 4, 8, 16)
"""Latents of a probe."""
JUMP = 0.03
"""A concept takes one more latent as long as that raises F1 by more than this (arXiv:2409.14507)."""
PENALTY = 1.0
"""Half the weight of the squared coefficients (of features in units of their spread) in the summed log loss."""
MOST = 4096
"""Active rows of each class that a regression sees; of more a random part, weighed accordingly."""
_BINS = 2048
"""Of a probe's scores, between its smallest and largest: AUROC and cuts are exact to their width."""


@dataclass(frozen=True)
class SplitRows:
    """Residues or antibodies of one split."""

    features: sparse.csc_array
    """[n, latents], what is active."""
    labels: sparse.csc_array
    """[n, concepts] of ones."""
    cluster: Ints
    """[n] which of the split's clusters, counted from 0."""

    @property
    def n(self) -> int:
        return int(self.features.shape[0])

    @property
    def clusters(self) -> int:
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    def positive(self, concept: int) -> np.ndarray:
        """[n] bool."""
        out = np.zeros(self.n, bool)
        out[self.labels.indices[self.labels.indptr[concept] : self.labels.indptr[concept + 1]]] = True
        return out


@dataclass(frozen=True)
class Probed:
    """What k-sparse probes say of each concept; arrays by concept hold nan or 0 for those that were not asked."""

    latents: Ints
    """[concepts, KS[-1]] latents in the order of their ranking, -1 where there are no more."""
    takes: Ints
    """[concepts] latents that the concept takes: 1 and as many as raise the validation F1 by more than JUMP in turn."""
    f1_validation: Floats
    """[concepts, KS]"""
    f1: Floats
    """[concepts, KS]"""
    auroc: Floats
    """[concepts, KS]"""
    counts: Ints
    """[concepts, KS, (true positives, predicted, positives), clusters] of test."""
    influence: Floats
    """[concepts, KS, clusters] how far each cluster of test pulls the AUROC: the sum over its rows of a row's placement
    among the other class less the AUROC, over the rows of its class (Obuchowski, Biometrics 53:567, 1997)."""


def ranking(train: SplitRows) -> tuple[Floats, Floats]:
    """([latents, concepts] correlation, [latents] standard deviation) on training rows; -1 for a latent that is
    constant."""
    n = max(train.n, 1)
    mean = np.asarray(train.features.sum(0), float) / n
    spread = np.sqrt(np.maximum(np.asarray(train.features.multiply(train.features).sum(0), float) / n - mean**2, 0))
    share = np.asarray(train.labels.sum(0), float) / n
    covariance = (train.features.T @ train.labels).toarray() / n - np.outer(mean, share)
    scale = np.outer(spread, np.sqrt(share * (1 - share)))
    return np.divide(covariance, scale, out=np.full_like(covariance, -1.0), where=scale > 1e-12), spread


class _Few(NamedTuple):
    """The rows on which any of a few latents is active."""

    rows: Ints
    """[active] row numbers."""
    ptr: Ints
    """[active + 1]"""
    at: Ints
    """Which of the few latents, ascending in each row."""
    val: Floats
    """Their values, in units of the latents' spread."""


@njit(cache=True, nogil=True)
def _gather(ptr, row, val, latents, spread, place):  # type: ignore[no-untyped-def]
    """place: [n] int32 of -1, and left so."""
    total = 0
    for j in latents:
        total += ptr[j + 1] - ptr[j]
    rows, n = np.empty(min(total, len(place)), np.int64), 0
    for j in latents:
        for e in range(ptr[j], ptr[j + 1]):
            if place[row[e]] < 0:
                place[row[e]] = n
                rows[n] = row[e]
                n += 1
    out = np.zeros(n + 1, np.int64)
    for j in latents:
        for e in range(ptr[j], ptr[j + 1]):
            out[place[row[e]] + 1] += 1
    for i in range(n):
        out[i + 1] += out[i]
    fill = out[:n].copy()
    at, values = np.empty(total, np.int8), np.empty(total, np.float32)
    for t in range(len(latents)):
        j = latents[t]
        for e in range(ptr[j], ptr[j + 1]):
            i = place[row[e]]
            at[fill[i]], values[fill[i]] = t, val[e] / spread[j]
            fill[i] += 1
    for i in range(n):
        place[rows[i]] = -1
    return rows[:n], out, at, values


@njit(cache=True, nogil=True)
def _solve(matrix, gradient, step):  # type: ignore[no-untyped-def]
    """step = -matrix^-1 gradient by Cholesky's factor, which replaces the lower half of the matrix, all that is read.

    By hand: LAPACK's call takes numba ten seconds to compile.
    """
    n = len(step)
    for i in range(n):
        for j in range(i + 1):
            for t in range(j):
                matrix[i, j] -= matrix[i, t] * matrix[j, t]
            matrix[i, j] = np.sqrt(max(matrix[i, i], 1e-12)) if i == j else matrix[i, j] / matrix[j, j]
    for i in range(n):
        step[i] = -gradient[i]
        for t in range(i):
            step[i] -= matrix[i, t] * step[t]
        step[i] /= matrix[i, i]
    for i in range(n - 1, -1, -1):
        for t in range(i + 1, n):
            step[i] -= matrix[t, i] * step[t]
        step[i] /= matrix[i, i]


@njit(cache=True, nogil=True)
def _fit(ptr, at, val, positive, weight, silent, k, start):  # type: ignore[no-untyped-def]
    """[k + 1] coefficients and intercept: Newton's method, halving a step that does not lower the loss.

    silent: (negative, positive) rows on which none is active.
    """
    beta, step = start.copy(), np.zeros(k + 1)
    before, halved = np.inf, 0
    gradient, hessian = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    for _ in range(60):
        gradient[:] = 0.0
        hessian[:] = 0.0
        loss = 0.0
        for i in range(len(ptr) - 1):
            last = ptr[i]
            score = beta[k]
            while last < ptr[i + 1] and at[last] < k:
                score += beta[at[last]] * val[last]
                last += 1
            p = 1.0 / (1.0 + np.exp(-score))
            sign = score if positive[i] else -score
            loss += weight[i] * (max(-sign, 0.0) + np.log1p(np.exp(-abs(sign))))
            error, curve = weight[i] * (p - positive[i]), weight[i] * p * (1.0 - p)
            for e in range(ptr[i], last):
                gradient[at[e]] += error * val[e]
                for f in range(ptr[i], e + 1):
                    hessian[at[e], at[f]] += curve * val[e] * val[f]
                hessian[k, at[e]] += curve * val[e]
            gradient[k] += error
            hessian[k, k] += curve
        p = 1.0 / (1.0 + np.exp(-beta[k]))
        gradient[k] += (silent[0] + silent[1]) * p - silent[1]
        hessian[k, k] += (silent[0] + silent[1]) * p * (1.0 - p) + 1e-9
        loss += silent[0] * np.log1p(np.exp(beta[k])) + silent[1] * np.log1p(np.exp(-beta[k]))
        for t in range(k):
            loss += 0.5 * PENALTY * beta[t] ** 2
            gradient[t] += PENALTY * beta[t]
            hessian[t, t] += PENALTY
        if loss > before * (1 + 1e-9) and halved < 30:
            step *= 0.5
            beta -= step
            halved += 1
            continue
        before, halved = loss, 0
        _solve(hessian, gradient, step)
        decrement = 0.0
        for t in range(k + 1):
            decrement -= step[t] * gradient[t]
        if decrement < 1e-7 * (1.0 + loss):
            break
        beta += step
    return beta


@njit(cache=True, nogil=True)
def _scores(ptr, at, val, beta):  # type: ignore[no-untyped-def]
    """[active] scores."""
    k = len(beta) - 1
    out = np.empty(len(ptr) - 1)
    for i in range(len(out)):
        out[i] = beta[k]
        for e in range(ptr[i], ptr[i + 1]):
            if at[e] >= k:
                break
            out[i] += beta[at[e]] * val[e]
    return out


def _thinned(few: _Few, positive: np.ndarray, generator: np.random.Generator) -> tuple[_Few, np.ndarray, Floats]:
    """At most MOST rows of each class, their labels, and how many rows each stands for."""
    keep, weight = np.ones(len(positive), bool), np.ones(len(positive))
    for own in (positive, ~positive):
        found = np.flatnonzero(own)
        if len(found) > MOST:
            keep[found] = False
            keep[generator.choice(found, MOST, replace=False)] = True
            weight[found] = len(found) / MOST
    length = np.diff(few.ptr)
    entries = np.repeat(keep, length)
    ptr = np.concatenate([[0], np.cumsum(length[keep])])
    return _Few(few.rows[keep], ptr, few.at[entries], few.val[entries]), positive[keep], weight[keep]


class _Split:
    """One split's rows, ready to be asked for a few latents."""

    def __init__(self, rows: SplitRows, spread: Floats):
        self.rows, self._spread = rows, spread.astype(np.float32)
        self._place = np.full(rows.n, -1, np.int32)
        self.size = np.bincount(rows.cluster, minlength=rows.clusters)

    def few(self, latents: Ints) -> _Few:
        features = self.rows.features
        return _Few(*_gather(features.indptr, features.indices, features.data, latents, self._spread, self._place))


class _Asked:
    """One concept's rows of a split: the active ones, and how many silent ones each cluster has."""

    def __init__(self, split: _Split, latents: Ints, concept: int):
        positive = split.rows.positive(concept)
        self.few = split.few(latents)
        self.positive = positive[self.few.rows]
        self.cluster = split.rows.cluster[self.few.rows]
        n = len(split.size)
        active = [np.bincount(self.cluster[self.positive == y], minlength=n) for y in (False, True)]
        self.positives = np.bincount(split.rows.cluster[positive], minlength=n)
        self.silent = np.stack([split.size - self.positives - active[0], self.positives - active[1]])
        """[(negative, positive), clusters]"""

    def counts(self, bins: Ints, silent: int) -> Ints:
        """[(negative, positive), _BINS] rows by the bin of their score; `silent`: that of the silent ones."""
        out = np.stack([np.bincount(bins[self.positive == y], minlength=_BINS) for y in (False, True)])
        out[:, silent] += self.silent.sum(1)
        return out


def probe(splits: Sequence[SplitRows], asked: np.ndarray, seed: int) -> Probed:
    """k-sparse probes, from training, validation and test rows, of the concepts that are `asked` ([concepts] bool)."""
    correlation, spread = ranking(splits[0])
    concepts, most = len(asked), KS[-1]
    order = np.argsort(-correlation, axis=0, kind="stable")[:most]
    latents = np.full((concepts, most), -1, np.int64)
    latents[:, : len(order)] = np.where(np.take_along_axis(correlation, order, 0) > -1, order, -1).T
    shape, clusters = (concepts, len(KS)), splits[2].clusters
    out = Probed(
        latents=latents,
        takes=np.zeros(concepts, np.int64),
        f1_validation=np.full(shape, np.nan),
        f1=np.full(shape, np.nan),
        auroc=np.full(shape, np.nan),
        counts=np.zeros((*shape, 3, clusters), np.int32),
        influence=np.zeros((*shape, clusters), np.float32),
    )
    ready = [_Split(rows, spread) for rows in splits]
    for c in np.flatnonzero(asked):
        few = latents[c][latents[c] >= 0]
        parts = [_Asked(split, few, int(c)) for split in ready]
        one = _Concept(parts, len(few), np.random.default_rng((seed, int(c))))
        for i, k in enumerate(KS):
            figures = one.figures(k)
            out.f1_validation[c, i], out.f1[c, i], out.auroc[c, i] = figures.f1_validation, figures.f1, figures.auroc
            out.counts[c, i], out.influence[c, i] = figures.counts, figures.influence
        out.takes[c] = one.takes()
    return out


class _Figures(NamedTuple):
    f1_validation: float
    f1: float
    auroc: float
    counts: Ints
    influence: Floats


class _Concept:
    """The probes of one concept."""

    def __init__(self, parts: list[_Asked], latents: int, generator: np.random.Generator):
        train, self._validation, self._test = parts
        self._latents = latents
        self._few, self._positive, self._weight = _thinned(train.few, train.positive, generator)
        self._silent = train.silent.sum(1).astype(float)
        share = train.positives.sum() / max(len(train.positive) + self._silent.sum(), 1)
        share = min(max(share, 1e-6), 1 - 1e-6)
        self._beta = {0: np.array([np.log(share / (1 - share))])}
        self._judged: dict[int, tuple[Ints, Ints, int, int]] = {}

    def _coefficients(self, k: int) -> Floats:
        if k not in self._beta:
            near = self._beta[max(each for each in self._beta if each < k)]
            start = np.concatenate([near[:-1], np.zeros(k + 1 - len(near)), near[-1:]])
            few = self._few
            self._beta[k] = _fit(few.ptr, few.at, few.val, self._positive, self._weight, self._silent, k, start)
        return self._beta[k]

    def _judge(self, k: int) -> tuple[Ints, Ints, int, int]:
        """Bins of the scores of validation and of test rows, that of the silent rows, and the cut."""
        k = min(k, self._latents)
        if k not in self._judged:
            beta = self._coefficients(k)
            parts = (self._validation, self._test)
            scores = [_scores(part.few.ptr, part.few.at, part.few.val, beta) for part in parts]
            everything = np.concatenate([*scores, beta[-1:]])
            low, step = everything.min(), max(np.ptp(everything) / (_BINS - 1), 1e-12)
            bins = [((each - low) / step).astype(np.int64) for each in scores]
            silent = int((beta[-1] - low) / step)
            above = np.cumsum(self._validation.counts(bins[0], silent)[:, ::-1], 1)[:, ::-1]
            cut = int((2 * above[1] / np.maximum(above.sum(0) + above[1, 0], 1)).argmax())
            self._judged[k] = bins[0], bins[1], silent, cut
        return self._judged[k]

    def f1_validation(self, k: int) -> float:
        bins, _, silent, cut = self._judge(k)
        counts = self._validation.counts(bins, silent)
        return float(2 * counts[1, cut:].sum() / max(counts[:, cut:].sum() + counts[1].sum(), 1))

    def takes(self) -> int:
        """How many latents the concept takes."""
        k = 1
        while k < self._latents and self.f1_validation(k + 1) - self.f1_validation(k) > JUMP:
            k += 1
        return k

    def figures(self, k: int) -> _Figures:
        """Figures of the probe of k latents, from test rows at the cut that validation chose."""
        _, bins, silent, cut = self._judge(k)
        test, n = self._test, len(self._test.positives)
        counts = test.counts(bins, silent).astype(float)
        negatives, positives = counts.sum(1)
        predicted = np.bincount(test.cluster[bins >= cut], minlength=n)
        hits = np.bincount(test.cluster[(bins >= cut) & test.positive], minlength=n)
        if silent >= cut:
            predicted, hits = predicted + test.silent.sum(0), hits + test.silent[1]
        # of a positive row the share of negative ones below it, and of a negative one of positive ones above it
        below = (np.cumsum(counts[0]) - counts[0] / 2) / max(negatives, 1)
        above = (positives - np.cumsum(counts[1]) + counts[1] / 2) / max(positives, 1)
        auroc = float(counts[1] @ below / positives) if positives and negatives else np.nan
        influence = np.zeros(n)
        for y, placement, size in ((0, above, negatives), (1, below, positives)):
            pulls = (placement - auroc) / max(size, 1)
            own = test.positive == y
            influence += np.bincount(test.cluster[own], pulls[bins[own]], n) + test.silent[y] * pulls[silent]
        total = hits.sum(), predicted.sum(), test.positives.sum()
        return _Figures(
            self.f1_validation(k),
            float(2 * total[0] / max(total[1] + total[2], 1)),
            auroc,
            np.stack([hits, predicted, test.positives]),
            influence,
        )
