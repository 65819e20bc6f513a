"""Linear probes: ridge regression by moments, and the curve of their scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numba import njit
from scipy import sparse

from antibody_sae.concepts.rows import Csr, Floats
from antibody_sae.concepts.selection import keep_best

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties of the antibody-level probes, relative to a standardised feature; the best on validation is taken."""
_LOW, _HIGH, _BINS = -0.5, 1.5, 2000


class LinearProbe(NamedTuple):
    """Linear probes of a layer's raw activations x: a concept's score is x @ weight + intercept."""

    weight: Floats
    """[d_model, concepts] float32"""
    intercept: Floats
    """[concepts] float32"""


class Moments:
    """Sums over training rows from which a least-squares probe of every label follows."""

    def __init__(self, features: int, labels: int):
        self.n = 0
        self.x, self.y = np.zeros(features), np.zeros(labels)
        self.xx, self.xy = np.zeros((features, features)), np.zeros((features, labels))
        self._upper = np.zeros((0, 0))

    def add(self, x: Floats, labels: Csr) -> None:
        """Add dense rows x [n, features]."""
        self.n += len(x)
        self.x += x.sum(0)
        self.xx += x.T @ x
        y = label_matrix(labels, len(self.y), x.dtype)
        self.xy += (y.T @ x).T
        self.y += np.bincount(labels.idx, minlength=len(self.y))

    def add_sparse(self, matrix: Csr, labels: Csr) -> None:
        """Add sparse rows."""
        self.n += matrix.rows
        if not len(self._upper):
            self._upper = np.zeros_like(self.xx)
        _sparse_moments(*matrix, labels.ptr, labels.idx, self.x, self._upper, self.xy)
        self.y += np.bincount(labels.idx, minlength=len(self.y))

    def ridge(self, strength: float) -> tuple[Floats, Floats]:
        """Weights [features, labels] and intercepts [labels] of least squares on 0/1 labels (up to scale Fisher's
        discriminant) with standardised features and penalty `strength`."""
        n = max(self.n, 1)
        mean, share = self.x / n, self.y / n
        products = self.xx + self._upper + self._upper.T if len(self._upper) else self.xx
        covariance = products / n - np.outer(mean, mean)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0))
        inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-9)
        system = covariance * inverse[:, None] * inverse
        system[np.diag_indices(len(system))] = 1 + strength
        cross = (self.xy / n - np.outer(mean, share)) * inverse[:, None]
        weight = np.linalg.solve(system, cross) * inverse[:, None]
        return weight, share - mean @ weight


@njit(cache=True, nogil=True)
def _sparse_moments(ptr, idx, val, label_ptr, label_idx, x, upper, xy):  # type: ignore[no-untyped-def]
    """upper + upper^T is the matrix of products."""
    for i in range(len(ptr) - 1):
        for e in range(ptr[i], ptr[i + 1]):
            v, j = val[e], idx[e]
            if v > 0:
                x[j] += v
                upper[j, j] += 0.5 * np.float64(v) * v
                for f in range(e + 1, ptr[i + 1]):
                    upper[min(j, idx[f]), max(j, idx[f])] += np.float64(v) * val[f]
                for q in range(label_ptr[i], label_ptr[i + 1]):
                    xy[j, label_idx[q]] += v


def label_matrix(labels: Csr, columns: int, dtype: Any = np.float32) -> sparse.csr_array:
    """The labels as a scipy matrix of ones."""
    return sparse.csr_array(
        (np.ones(len(labels.idx), dtype), labels.idx.astype(np.int32), labels.ptr), (labels.rows, columns)
    )


@njit(cache=True, nogil=True)
def sparse_scores(ptr, idx, val, weight, intercept):  # type: ignore[no-untyped-def]
    """[n, labels] float32 = sparse rows @ weight [features, labels] + intercept."""
    out = np.empty((len(ptr) - 1, weight.shape[1]), np.float32)
    for i in range(len(ptr) - 1):
        for c in range(weight.shape[1]):
            out[i, c] = intercept[c]
        for e in range(ptr[i], ptr[i + 1]):
            v, j = val[e], idx[e]
            if v > 0:
                for c in range(weight.shape[1]):
                    out[i, c] += v * weight[j, c]
    return out


@njit(cache=True, nogil=True)
def _score_bins(scores, label_ptr, label_idx, counts, low, step):  # type: ignore[no-untyped-def]
    last = counts.shape[2] - 1
    for i in range(len(scores)):
        for c in range(scores.shape[1]):
            counts[0, c, min(max(int((scores[i, c] - low) / step), 0), last)] += 1
        for q in range(label_ptr[i], label_ptr[i + 1]):
            c = label_idx[q]
            counts[1, c, min(max(int((scores[i, c] - low) / step), 0), last)] += 1


class Scores:
    """Histograms of probe scores of validation and test rows: thresholds from the one, figures from the other."""

    def __init__(self, labels: int):
        self.counts = np.zeros((2, 2, labels, _BINS), np.int64)
        """[validation or test, all or positive, labels, bins]"""

    def add(self, test: bool, scores: Floats, labels: Csr) -> None:
        """Add scores [n, labels]."""
        step = (_HIGH - _LOW) / _BINS
        _score_bins(
            np.ascontiguousarray(scores, np.float32), labels.ptr, labels.idx, self.counts[int(test)], _LOW, step
        )

    def rows(self, baseline: str, level: str, pool_name: str, concepts: list[str], detail: str) -> pd.DataFrame:
        """One row a concept, in the columns of `best_rows`."""
        above = np.cumsum(self.counts[..., ::-1], -1)[..., ::-1]
        (n_val, tp_val), (n_test, tp_test) = above
        f1 = 2 * tp_val / np.maximum(n_val + tp_val[:, :1], 1)
        cut, c = f1.argmax(1), np.arange(len(concepts))
        tp, predicted, positives = tp_test[c, cut], n_test[c, cut], tp_test[:, 0]
        negative = (self.counts[1, 0] - self.counts[1, 1]).astype(float)
        ranks = np.cumsum(negative, 1) - negative / 2  # negatives below a score, of its own bin half
        pairs = positives * negative.sum(1)
        above = (self.counts[1, 1] * ranks).sum(1)
        return pd.DataFrame(
            {
                "baseline": baseline,
                "detail": detail,
                "concept": concepts,
                "level": level,
                "pool": pool_name,
                "threshold": _LOW + cut * (_HIGH - _LOW) / _BINS,
                "f1_validation": f1[c, cut],
                "f1": 2 * tp / np.maximum(predicted + positives, 1),
                "precision": tp / np.maximum(predicted, 1),
                "recall": tp / np.maximum(positives, 1),
                "auroc": np.divide(above, pairs, out=np.full(len(c), np.nan), where=pairs > 0),
            }
        )


def best_ridge(baseline: str, scores: list[Scores], concepts: list[str]) -> pd.DataFrame:
    """Antibody-level probe: per concept the ridge penalty with the best validation F1 (scores in RIDGES' order)."""
    rows = [s.rows(baseline, "antibody", "mean", concepts, f"ridge {r:g}") for s, r in zip(scores, RIDGES, strict=True)]
    return keep_best(pd.concat(rows))
