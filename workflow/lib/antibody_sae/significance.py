"""Intervals, tests and false discovery rates: the statistics that more than one stage uses.

A *target* is what a statement across targets is made of: seeds and layers are repetitions within it, never further
targets. Intervals are 95 % and two-sided unless said otherwise.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr, ndtri, stdtrit

Floats = NDArray[np.floating]
LEVEL = 0.05
"""Of tests, false discovery rates and intervals."""


# --- proportions ----------------------------------------------------------------------------------------------------


def wilson(hits: Any, n: Any, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's (1927) score interval of a proportion; (0, 1) where n = 0."""
    hits, n = np.asarray(hits, float), np.asarray(n, float)
    z = ndtri(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = hits / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.where(n > 0, np.maximum(centre - half, 0), 0.0), np.where(n > 0, np.minimum(centre + half, 1), 1.0)


def difference_interval(hits: Any, n: Any, hits0: Any, n0: Any) -> tuple[Floats, Floats]:
    """Newcombe's (1998, method 10) 95 % interval of p - p0, from both Wilson intervals; nan where n or n0 is 0."""
    low, high = wilson(hits, n)
    low0, high0 = wilson(hits0, n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, p0 = np.asarray(hits) / np.asarray(n), np.asarray(hits0) / np.asarray(n0)
    return p - p0 - np.hypot(p - low, high0 - p0), p - p0 + np.hypot(high - p, p0 - low0)


def two_proportions(hits: Any, n: Any, hits0: Any, n0: Any) -> Floats:
    """Two-sided p of the pooled z test that two proportions are equal; 1 where they cannot differ."""
    hits, n, hits0, n0 = (np.asarray(v, float) for v in (hits, n, hits0, n0))
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (hits + hits0) / (n + n0)
        z = (hits / n - hits0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n0))
    return np.where(np.isfinite(z), 2 * ndtr(-np.abs(np.nan_to_num(z))), 1.0)


def log_odds_ratio(hits: Any, n: Any, hits0: Any, n0: Any) -> tuple[Floats, Floats, Floats]:
    """(log odds ratio of p against p0, low, high), nats: 0.5 is added to each cell (Haldane 1956, Anscombe 1956), and
    the interval is Woolf's (1955) with those cells; nan where n or n0 is 0."""
    hits, n, hits0, n0 = (np.asarray(v, float) for v in (hits, n, hits0, n0))
    cells = [hits + 0.5, n - hits + 0.5, hits0 + 0.5, n0 - hits0 + 0.5]
    value = np.log(cells[0]) - np.log(cells[1]) - np.log(cells[2]) + np.log(cells[3])
    reach = ndtri(1 - LEVEL / 2) * np.sqrt(sum(1 / cell for cell in cells))
    value = np.where((n > 0) & (n0 > 0), value, np.nan)
    return value, value - reach, value + reach


def ratio_bound(mean: Any, sd: Any, n: Any, mean0: Any, sd0: Any, n0: Any) -> Floats:
    """Upper 95 % bound, one-sided, of the ratio of two perplexities exp(-mean), from the log-likelihoods' means,
    standard deviations and numbers (Welch 1947); infinite with fewer than two sequences on either side."""
    mean, sd, n, mean0, sd0, n0 = (np.asarray(v, float) for v in (mean, sd, n, mean0, sd0, n0))
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = sd**2 / n, sd0**2 / n0
        freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (n0 - 1))
        bound = np.exp(mean0 - mean + stdtrit(np.maximum(freedom, 1), 1 - LEVEL) * np.sqrt(a + b))
    known = (n >= 2) & (n0 >= 2)
    return np.where(known & (a + b > 0), bound, np.where(known, np.exp(mean0 - mean), np.inf))


# --- one arm against random arms of its length ------------------------------------------------------------------------


_QUANTILES = (np.arange(400) + 0.5) / 400
"""Where the mean over a fiducial distribution is taken."""


@cache
def _chi2(freedom: int) -> Floats:
    return np.asarray(2 * gammaincinv(freedom / 2, _QUANTILES))


FEWEST = 3
"""Random arms below which nothing is held against them."""


class Null(NamedTuple):
    """What random arms of one length do to one concept, on the scale of arcsin sqrt(rate)."""

    centre: float
    """Their mean."""
    variances: Floats
    """[400] equally likely variances of the error with which one more arm of n sequences would miss the centre, less
    its own sampling variance 1 / (4 n)."""


def null_of(hits: Floats, n: Floats) -> Null | None:
    """The null of random arms with `hits` of `n` sequences each; None with fewer than FEWEST.

    How far they spread beyond their sampling is itself uncertain, and few or small arms may hide it: the variance has
    the fiducial distribution (m - 1) s^2 / chi^2 with m - 1 degrees, less their sampling variance (Fisher; for mixed
    models Weerahandi 1995, ISBN 978-1-4612-0825-9).
    """
    hits, n = np.asarray(hits, float), np.asarray(n, float)
    hits, n = hits[n > 0], n[n > 0]
    m = len(n)
    if m < FEWEST:
        return None
    x = np.arcsin(np.sqrt(hits / n))
    sampling = float((1 / (4 * n)).mean())
    spread = np.maximum((m - 1) * x.var(ddof=1) / _chi2(m - 1) - sampling, 0.0)
    return Null(float(x.mean()), spread + (spread + sampling) / m)


def beyond(null: Null | None, hits: float, n: float, sign: float) -> float:
    """One-sided p that an arm moves a concept further in the direction `sign` (1 or -1) than one more random arm would.

    It is held against one more draw from the null at its own n; p is the mean over the null's variances. nan without a
    null or sequences.
    """
    if null is None or not n > 0:
        return float("nan")
    z = (np.arcsin(np.sqrt(hits / n)) - null.centre) / np.sqrt(1 / (4 * n) + null.variances)
    return float(ndtr(-sign * z).mean())


def detectable(null: Null | None, n: float, rate: float, sign: float, power: float = 0.8) -> float:
    """Smallest change of a share from `rate`, in the direction `sign`, that `beyond` finds at LEVEL with this power in
    an arm of n sequences; nan where no share would do."""
    if null is None or not n > 0:
        return float("nan")
    error = float(np.sqrt(1 / (4 * n) + np.median(null.variances)))
    need = null.centre + sign * (ndtri(1 - LEVEL) * error + ndtri(power) / np.sqrt(4 * n))
    return float(np.sin(need) ** 2 - rate) if 0 <= need <= np.pi / 2 else float("nan")


def q_values(p: Floats) -> Floats:
    """Benjamini-Hochberg (1995) adjusted p-values over all finite entries of `p`, in its shape; NaN stays NaN."""
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    order = np.argsort(p[tested])
    scaled = p[tested][order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    q[tested] = adjusted
    return q


# --- across targets ---------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean over targets with its 95 % interval; nan where there are too few targets."""

    mean: float
    low: float
    high: float
    targets: int

    @property
    def above(self) -> bool:
        """Wholly above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Wholly below 0."""
        return self.high < 0


_FLOOR = 0.25
"""A resample's standard error is at least this share of the sample's: one that drew equal targets would have none."""


def over_targets(values: pd.Series, seed: int = 0, draws: int = 2000) -> Interval:
    """Mean over targets of the means over their repetitions, with the interval of a hierarchical bootstrap.

    `values`: one a target and repetition (seed, layer), the target being the index's first level; nan is left out.
    Each draw takes targets with replacement and repetitions within each, and the interval is the studentized one
    (bootstrap-t, Efron 1981; Davison & Hinkley 1997, 5.2): of few targets the percentiles are too narrow, and with
    repetitions the resampled variance is too wide. Both bounds are nan with fewer than three targets.
    """
    values = values.dropna()
    groups = [part.to_numpy(float) for _, part in values.groupby(level=0, sort=True)]
    n = len(groups)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    means = np.array([group.mean() for group in groups])
    centre = float(means.mean())
    if n < 3:
        return Interval(centre, float("nan"), float("nan"), n)
    error = means.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return Interval(centre, centre, centre, n)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, n, (draws, n))
    drawn = np.empty((draws, n))
    for target, group in enumerate(groups):
        here = chosen == target
        drawn[here] = group[rng.integers(0, len(group), (int(here.sum()), len(group)))].mean(1)
    errors = np.maximum(drawn.std(1, ddof=1) / np.sqrt(n), _FLOOR * error)
    low, high = np.quantile((drawn.mean(1) - centre) / errors, [1 - LEVEL / 2, LEVEL / 2])
    return Interval(centre, float(centre - low * error), float(centre - high * error), n)


def paired(first: pd.Series, second: pd.Series, seed: int = 0, draws: int = 2000) -> Interval:
    """`over_targets` of first - second, matched by their whole index (target, then what repeats it). Where one has a
    repetition level fewer, as what depends on no seed has, it is matched by the levels that both have."""
    joined = first.rename("first").to_frame().join(second.rename("second"), how="inner")
    return over_targets(joined["first"] - joined["second"], seed, draws)


def spearman_within(table: pd.DataFrame, x: str, y: str, seed: int = 0) -> Interval:
    """Spearman's rho of columns x and y within each target and repetition (the index), averaged as `over_targets` does.
    Groups of fewer than four rows, or in which a column does not vary, say nothing and are left out."""
    found = {}
    for key, part in table[[x, y]].dropna().groupby(level=list(range(table.index.nlevels)), sort=True):
        if len(part) >= 4 and np.ptp(part[x].to_numpy()) > 0 and np.ptp(part[y].to_numpy()) > 0:
            found[key] = float(part[[x, y]].corr("spearman").to_numpy()[0, 1])
    if not found:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    index = pd.MultiIndex.from_tuples([key if isinstance(key, tuple) else (key,) for key in found])
    return over_targets(pd.Series(list(found.values()), index=index), seed)
