"""Sparse rows: what latents and labels look like to the statistics.

A *feature matrix* (latents, neurons, principal components, predictors) is CSR: `ptr` [n + 1] int64, `idx` int32, `val`
float32 > 0. A *label matrix* is CSR without values. Rows are residues or antibodies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


class Csr(NamedTuple):
    """Sparse rows; `val` is empty for boolean labels."""

    ptr: Ints
    """[n + 1] int64: row i occupies idx[ptr[i]:ptr[i + 1]]."""
    idx: Ints
    """Column of each entry."""
    val: Floats
    """Value of each entry, > 0."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.ptr) - 1


def codes_csr(indices: Ints, values: Floats) -> Csr:
    """Fixed-width codes ([n, k] indices, [n, k] values, 0 = inactive) as CSR without copying the entries."""
    n, k = indices.shape
    ptr = np.arange(0, n * k + 1, k, dtype=np.int64) if k else np.zeros(n + 1, np.int64)
    return Csr(ptr, np.ascontiguousarray(indices, np.int32).ravel(), np.ascontiguousarray(values, np.float32).ravel())


def signed_csr(values: Floats) -> Csr:
    """Dense features [n, d] as 2 d non-negative ones: columns 2 i and 2 i + 1 are i's positive and negative part."""
    columns = 2 * np.arange(values.shape[1], dtype=np.int32) + (values < 0)
    return codes_csr(columns.astype(np.int32), np.abs(values))


def take_rows(matrix: Csr, rows: Ints) -> Csr:
    """The given rows of a label matrix, in that order; row -1 gives an empty row."""
    rows = np.asarray(rows, np.int64)
    length = np.where(rows >= 0, np.diff(matrix.ptr)[rows], 0)
    ptr = np.concatenate([[0], np.cumsum(length)])
    at = np.arange(ptr[-1]) + np.repeat(matrix.ptr[rows] - ptr[:-1], length)
    return Csr(ptr, matrix.idx[at], np.empty(0, np.float32))
