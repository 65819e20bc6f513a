"""Plain references that the fused paths are held against."""

from __future__ import annotations


def dense_prefix_loss(y, code, decoder, p):
    """The definition: every prefix decoded densely, in float64."""
    return sum(p[i] * (y - code[:, : i + 1] @ decoder[: i + 1]).square().sum() for i in range(len(p)))
