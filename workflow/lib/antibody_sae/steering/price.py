"""What a way to a target costs: tokens written for one accepted sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def price(
    texts: Sequence[str], accepted: Sequence[bool] | np.ndarray, given: int | Sequence[int] | np.ndarray = 0
) -> float:
    """Tokens written (residues and stop; `given` residues are read, not written, of all texts or of each) for each
    distinct accepted sequence; inf where none was."""
    kept = {text for text, good in zip(texts, accepted, strict=True) if good}
    residues = np.array([len(text) for text in texts]) - np.broadcast_to(given, len(texts))
    return float((residues.clip(min=0) + 1).sum()) / len(kept) if kept else float("inf")
