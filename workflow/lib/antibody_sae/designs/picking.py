"""Which designs to order when not all can be: spread out, the best first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

WELLS = [f"{row}{column}" for row in "ABCDEFGH" for column in range(1, 13)]
"""A 96-well plate, row by row."""


def distances(texts: Sequence[str], others: Sequence[str] | None = None) -> np.ndarray:
    """[n, m] Levenshtein distances in residues; of `texts` among themselves where `others` is None."""
    return cdist(list(texts), list(texts if others is None else others), scorer=Levenshtein.distance, dtype=np.int32)


def nearest(texts: Sequence[str], others: Sequence[str], block: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """([n] index of the nearest of `others`, [n] its distance in residues); others must not be empty."""
    index, distance = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
    for start in range(0, len(texts), block):
        found = distances(texts[start : start + block], others)
        index[start : start + block] = found.argmin(1)
        distance[start : start + block] = found.min(1)
    return index, distance


def pick(between: np.ndarray, n: int) -> list[int]:
    """n members that lie far apart: the first, then always the one whose nearest picked member is farthest.

    `between` [m, m] are distances of members in order of quality; of equals the better one is taken, and the result is
    in the order of picking (Gonzalez 1985: at least half as spread as the best choice).
    """
    if not len(between):
        return []
    picked = [0]
    nearest = between[0].astype(float)
    nearest[0] = -1
    while len(picked) < min(n, len(between)):
        new = int(nearest.argmax())
        picked.append(new)
        nearest = np.minimum(nearest, between[new])
        nearest[picked] = -1
    return picked


def plate(library: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """One row a picked antibody in order: plate, well, name, heavy, light; `library`: one row a chain."""
    chains = {
        side: library[library["side"] == side].set_index("cell_id")["sequence_aa"].reindex(list(cells))
        for side in ("heavy", "light")
    }
    places = range(len(cells))
    table = pd.DataFrame(
        {
            "plate": [i // len(WELLS) + 1 for i in places],
            "well": [WELLS[i % len(WELLS)] for i in places],
            "name": list(cells),
            **{side: found.to_numpy() for side, found in chains.items()},
        }
    )
    return table.dropna(axis=1, how="all")
