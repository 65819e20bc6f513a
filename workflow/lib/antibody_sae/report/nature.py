"""What the model writes unsteered beside what people have: germlines, CDR3, germline identity and liabilities.

Both are complete domains, judged alike. The antibodies of the input are related: what varies is its clonotype clusters,
each of which counts once in an interval; what the model wrote are independent draws.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from antibody_sae.antibody import RESIDUES
from antibody_sae.concepts.catalogue import MOTIFS, in_bins, motif_regex
from antibody_sae.io import InputError
from antibody_sae.numbering.germlines import family
from antibody_sae.numbering.tables import net_charge
from antibody_sae.significance import LEVEL, Floats, difference_interval, q_values, two_proportions, wilson

Counts = dict[tuple[str, str], tuple[Any, Any]]
"""(measure, value) -> what is counted and what it is a share of, one number an antibody each."""
CHARGES = (-3, 3)
"""CDR3 net charges beyond these are counted together."""
RARE = 0.005
"""Values of a measure that neither side has more often are left out."""
MEASURES = (
    "V family", "J gene", "V identity", "CDR3 length", "CDR3 net charge", "CDR3 residue", "liability in CDR3",
    "liability in the domain",
)  # fmt: skip
SHARES, MEANS = "share", "mean"
COUNTED = ["v_gene", "j_gene", "cdr3", "domain", "v_identity", "cluster"]
"""Of a table of chains that is counted."""


def of_input(
    antibodies: pd.DataFrame,
    chains: pd.DataFrame,
    splits: pd.DataFrame,
    side: str,
    edges: Sequence[float],
    watched: Collection[str],
) -> pd.DataFrame:
    """The input's complete domains of one side ("heavy" or "light"): v_gene, j_gene, cdr3, domain, cluster and
    v_identity, its bin between `edges`, if it is one of those `watched` among the written sequences (steering watches
    what is neither rare nor universal). Raises InputError where there are fewer than two clusters."""
    mine = chains[(chains["side"] == side) & (chains["status"] == "ok") & chains["complete"]]
    table = mine.merge(antibodies[["antibody_id", side]], on="antibody_id").merge(splits, on="antibody_id")
    if table["cluster_id"].nunique() < 2:
        raise InputError(
            f"numbering/chains.parquet: {len(table)} complete {side} chains of the input in "
            f"{table['cluster_id'].nunique()} clonotype clusters; that is too few to hold what the model writes against"
        )
    spans = zip(table[side], table["start"], table["end"], strict=True)
    identity = in_bins(table["v_identity"], list(edges)).map((side[0].upper() + ":{}").format, na_action="ignore")
    return table.assign(
        domain=[text[start:end] for text, start, end in spans],
        v_identity=identity.where(identity.isin(watched), None),
        cluster=table["cluster_id"],
    )[COUNTED].reset_index(drop=True)


def watched(outcomes: pd.DataFrame) -> list[str]:
    """Bins of germline identity that written sequences were looked at for."""
    return [name.partition("=")[2] for name in map(str, outcomes) if name.startswith("v-identity=")]


def of_written(outcomes: pd.DataFrame, side: str) -> pd.DataFrame:
    """The same columns of the unsteered sequences that are whole and ended by themselves; each is its own cluster."""
    table = outcomes[outcomes["valid"]].reset_index(drop=True)
    identity = pd.Series(None, index=table.index, dtype=object)
    for value in watched(outcomes):
        identity[table[f"v-identity={value}"].to_numpy(bool)] = value
    return table.assign(domain=table[side], v_identity=identity, cluster=np.arange(len(table)))[COUNTED]


def counts(table: pd.DataFrame) -> Counts:
    """What is counted in each antibody of `of_input` or `of_written`."""
    cdr3, one = table["cdr3"].fillna(""), np.ones(len(table), float)
    length = np.asarray(cdr3.str.len(), float)
    charge = cdr3.map(net_charge).to_numpy(float)
    low, high = CHARGES
    found: Counts = {}
    for measure, values in (
        ("V family", table["v_gene"].map(family, na_action="ignore")),
        ("J gene", table["j_gene"]),
        ("V identity", table["v_identity"]),
        ("CDR3 length", pd.Series(length.astype(int).astype(str))),
        ("CDR3 net charge", pd.Series(np.clip(charge, low, high).astype(int)).map("{:+d}".format)),
    ):
        for value in sorted(values.dropna().unique()):
            found[measure, value] = (values == value).to_numpy(float), one
    found["CDR3 length", MEANS], found["CDR3 net charge", MEANS] = (length, one), (charge, one)
    for letter in RESIDUES:
        found["CDR3 residue", letter] = cdr3.str.count(letter).to_numpy(float), length
    for name, pattern in MOTIFS.items():
        motif = re.compile(motif_regex(pattern))
        for measure, texts in (("liability in CDR3", cdr3), ("liability in the domain", table["domain"])):
            found[measure, name] = texts.map(lambda t, m=motif: bool(m.search(t))).to_numpy(float), one
    odd = table["domain"].str.count("C").to_numpy() % 2 == 1
    found["liability in the domain", "free cysteine"] = odd.astype(float), one
    return found


def ratio(y: Floats, x: Floats, clusters: NDArray[np.integer]) -> tuple[float, float, int]:
    """(sum of y / sum of x, its standard error, clusters): the linearised variance of a ratio between clusters
    (Cochran 1977, 6.3 and 9.6; ISBN 978-0-471-16240-7)."""
    total = x.sum()
    if not total:
        return float("nan"), float("nan"), 0
    r = y.sum() / total
    errors = np.bincount(clusters, y - r * x)
    m = len(errors)
    spread = m / (m - 1) * np.square(errors - errors.mean()).sum() if m > 1 else np.nan
    return float(r), float(np.sqrt(spread) / total), m


def effective(r: float, error: float, n: float, m: int) -> float:
    """Independent antibodies (or residues) that would say as much of a share r as these n in m clusters; m where r is
    0 or 1."""
    return min(float(n), r * (1 - r) / error**2) if error > 0 and 0 < r < 1 else float(m)


def by_chains(
    antibodies: pd.DataFrame,
    chains: pd.DataFrame,
    splits: pd.DataFrame,
    unsteered: pd.DataFrame,
    edges: Sequence[float],
) -> pd.DataFrame:
    """`compared` of each kind of chain that was written (column `chains`), of pairs that are written at once the heavy
    one; `unsteered` are rows of outcomes.parquet with a column `chains`. Nothing of chains of which fewer than two were
    whole."""
    frames = []
    for name, own in unsteered.groupby("chains", sort=True):
        side = "light" if name == "L" else "heavy"
        written = of_written(own, side)
        if len(written) > 1:
            input_ = of_input(antibodies, chains, splits, side, edges, watched(own))
            frames.append(compared(input_, written).assign(chains=side))
    columns = ["chains", "measure", "value"]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return table[columns + [column for column in table if column not in columns]]


def compared(input_: pd.DataFrame, written: pd.DataFrame) -> pd.DataFrame:
    """One row a measure and value: share or mean on either side and their difference (written - input), each with its
    95 % interval (shares: Wilson's and Newcombe's with the effective number; means: Student's t), and q_value of no
    difference over all rows."""
    tables = {"input": input_, "written": written}
    tallies = {name: counts(table) for name, table in tables.items()}
    clusters = {name: pd.factorize(table["cluster"])[0] for name, table in tables.items()}
    rows = []
    for measure, value in sorted({key for tally in tallies.values() for key in tally}, key=_place):
        row: dict[str, Any] = {"measure": measure, "value": value, "unit": MEANS if value == MEANS else SHARES}
        sides = []
        for name, table in tables.items():
            y, x = tallies[name].get((measure, value), (np.zeros(len(table)), np.ones(len(table))))
            r, error, m = ratio(y, x, clusters[name])
            size = effective(r, error, x.sum(), m)
            sides.append((r, error, m, size))
            reach = float(stdtrit(m - 1, 1 - LEVEL / 2)) * error
            low, high = (r - reach, r + reach) if value == MEANS else map(float, wilson(r * size, size))
            row |= {name: r, f"{name}_low": low, f"{name}_high": high}
        (r0, e0, m0, n0), (r, e, m, n) = sides
        if value == MEANS:
            error = float(np.hypot(e, e0))
            reach = float(stdtrit(min(m, m0) - 1, 1 - LEVEL / 2)) * error
            low, high = r - r0 - reach, r - r0 + reach
            row["p_value"] = float(2 * ndtr(-abs(r - r0) / error)) if error > 0 else np.nan
        else:
            low, high = map(float, difference_interval(r * n, n, r0 * n0, n0))
            row["p_value"] = float(two_proportions(r * n, n, r0 * n0, n0))
        row |= {"difference": r - r0, "low": low, "high": high}
        rows.append({**row, "n_input": len(input_), "clusters": m0, "n_written": len(written)})
    table = pd.DataFrame(rows)
    table["q_value"] = q_values(table.pop("p_value").to_numpy(float))
    common = table[["input", "written"]].max(axis=1) >= RARE
    return table[common | (table["unit"] == MEANS)].reset_index(drop=True)


def _place(key: tuple[str, str]) -> tuple[int, float, str]:
    """Measures in their order, means first, numbers as numbers."""
    measure, value = key
    number = re.match(r"(?:[HL]:)?(<|>=)?([+-]?\d+(?:\.\d+)?)", value)
    place = float(number[2]) - (number[1] == "<") if number else 0.0
    return MEASURES.index(measure), (-np.inf if value == MEANS else place), value
