"""The table of arms, as those read it who write and measure nothing: light, so that a table's job starts at once."""

from __future__ import annotations

import pandas as pd

COLUMNS = ("arm", "chains", "kind", "concept", "selected_by", "latent", "length", "where", "strength", "norm", "n")
"""chains: what is written, "H", "L" or "HL"; concept, selected_by: what the arm was chosen for and by, in pairs joined
by ";" (empty: every target of its chains); length: of the added vector, in root mean square lengths of the centred
residual stream, over the sequence in the mean square, negative where it suppresses; where: the region that alone is
pushed (empty: as the configuration says); strength: the same in multiples of the latent's largest activation; norm:
its length in raw units."""
RANDOM = ("random_latent", "random_direction")
SPARSE = r"(trained_)?sparse_(\d+)"
"""Kinds of the levers of so many latents: nearest to the trained vector, or trained in their coefficients."""


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One row a target and criterion of each arm that was chosen for some: columns row (its place in the table),
    concept and criterion (None but for latents)."""
    out = []
    for row, (concepts, criteria) in enumerate(zip(table["concept"], table["selected_by"], strict=True)):
        if isinstance(concepts, str):
            names = concepts.split(";")
            why: list[str | None] = [None] * len(names)
            out += [
                (row, *pair)
                for pair in zip(names, criteria.split(";") if isinstance(criteria, str) else why, strict=True)
            ]
    return pd.DataFrame(out, columns=["row", "concept", "criterion"])
