"""Intervals, tests and q-values: the statistics that every stage shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats


def wilson(hits: Any, n: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's (1927) score interval of a proportion; (0, 1) where n = 0."""
    hits, n = np.asarray(hits, float), np.asarray(n, float)
    z = stats.norm.ppf(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = hits / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.where(n > 0, np.maximum(centre - half, 0), 0.0), np.where(n > 0, np.minimum(centre + half, 1), 1.0)


def difference_interval(hits: Any, n: Any, hits0: Any, n0: Any) -> tuple[np.ndarray, np.ndarray]:
    """Newcombe's (1998, method 10) 95 % interval of p - p0, from both Wilson intervals; nan where n or n0 is 0."""
    low, high = wilson(hits, n)
    low0, high0 = wilson(hits0, n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, p0 = np.asarray(hits) / np.asarray(n), np.asarray(hits0) / np.asarray(n0)
    return p - p0 - np.hypot(p - low, high0 - p0), p - p0 + np.hypot(high - p, p0 - low0)


def two_proportions(hits: Any, n: Any, hits0: Any, n0: Any) -> np.ndarray:
    """Two-sided p of the pooled z test that two proportions are equal; 1 where they cannot differ."""
    hits, n, hits0, n0 = (np.asarray(v, float) for v in (hits, n, hits0, n0))
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (hits + hits0) / (n + n0)
        z = (hits / n - hits0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n0))
    return np.where(np.isfinite(z), 2 * stats.norm.sf(np.abs(np.nan_to_num(z))), 1.0)


def spearman(
    association: np.ndarray, effect: np.ndarray, groups: np.ndarray, seed: int = 0, draws: int = 1000
) -> dict[str, float]:
    """Spearman's rho with a 95 % percentile bootstrap over `groups` (a latent's pairs stay together); nan below 4."""
    unique = np.unique(groups)
    if len(unique) < 4 or np.ptp(association) == 0 or np.ptp(effect) == 0:
        return {
            "rho": float("nan"),
            "low": float("nan"),
            "high": float("nan"),
            "pairs": len(association),
            "latents": len(unique),
        }
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in unique]
    values = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if np.ptp(association[rows]) and np.ptp(effect[rows]):
            values.append(stats.spearmanr(association[rows], effect[rows]).statistic)
    low, high = np.percentile(values, [2.5, 97.5])
    rho = stats.spearmanr(association, effect).statistic
    return {
        "rho": float(rho),
        "low": float(low),
        "high": float(high),
        "pairs": len(association),
        "latents": len(unique),
    }


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg (1995) adjusted p-values over all finite entries of `p`, in its shape; NaN stays NaN."""
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q
