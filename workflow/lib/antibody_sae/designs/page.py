"""What a library's page shows, as plain data: the library beside unsteered and natural antibodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.designs import picking
from antibody_sae.designs.judges import JUDGES

SETS = ("design", "unsteered", "natural")
DRAWN = 200
"""Antibodies of a set at most in the diversity picture."""
_GROUPS = {"v_call": "V gene", "j_call": "J gene"}
_SCORES = {
    "perplexity": "perplexity under the unsteered model",
    "mutations": "residues that differ from the germline",
    "cdr_liabilities": "liabilities in CDRs",
    "cdr3_net_charge": "net charge of CDR3",
    "cdr3_hydropathy": "hydropathy of CDR3 (Kyte-Doolittle)",
    "training_distance": "residues from the nearest training sequence",
    "oasis": "OASis identity (share of human peptides)",
    "antiberty_pll": "AntiBERTy: mean log-likelihood of a residue",
    "antiberty_human": "AntiBERTy: probability of human",
    "flashtap_flags": "FlashTAP: flags raised, of four",
    "flashtap_psh": "FlashTAP: surface hydrophobicity (PSH)",
    "flashtap_ppc": "FlashTAP: positive patches (PPC)",
    "flashtap_pnc": "FlashTAP: negative patches (PNC)",
    "flashtap_sfvcsp": "FlashTAP: charge symmetry (SFvCSP)",
    "flashabb_confidence": "FlashABB: confidence in the structure (mean predicted lDDT)",
}


def page(chains: pd.DataFrame, about: Mapping[str, Any], picked: list[str]) -> dict[str, Any]:
    """Everything that a library's page draws.

    `chains`: one row a chain with `set` (one of SETS) and `cell_id`, the judges' columns joined; `about`: the design's
    recipe with `funnel`, `price`, `tried`. Returns counts, funnel, price, distributions {title: {set: {value: share}}},
    lengths {set: [CDR3 lengths]}, scores {title: {set: values}}, cdr3 and fr4 {set: sequences} for a logo, diversity
    [{set, x, y, picked}], and the picked set's rows. All of it goes into JSON.
    """
    main = chains[chains["side"] == ("heavy" if (chains["side"] == "heavy").any() else "light")]
    sets = {name: main[main["set"] == name] for name in SETS if (main["set"] == name).any()}
    return {
        "counts": {name: len(table) for name, table in sets.items()},
        **{key: about[key] for key in ("funnel", "price", "lever", "tried", "concepts", "judges")},
        "distributions": {
            title: {name: _shares(table[column].str.split("*").str[0]) for name, table in sets.items()}
            for column, title in _GROUPS.items()
        },
        "lengths": {name: table["cdr3_aa"].str.len().tolist() for name, table in sets.items()},
        "scores": {
            title: {name: found for name, table in sets.items() if (found := _values(table, column))}
            for column, title in _SCORES.items()
            if column in main
        },
        "cdr3": {name: table["cdr3_aa"].tolist() for name, table in sets.items()},
        "fr4": {name: table["fwr4_aa"].tolist() for name, table in sets.items()},
        "diversity": _diversity(sets, set(picked)),
        "picked": _picked(sets["design"].set_index("cell_id").loc[picked].reset_index()),
    }


def medians(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{score: {set: median}} of a page: the closing comparison."""
    return {title: {s: float(np.median(v)) for s, v in sets.items()} for title, sets in data["scores"].items()}


def _shares(values: pd.Series) -> dict[str, float]:
    return {str(k): round(float(v), 4) for k, v in values.dropna().value_counts(normalize=True).items()}


def _values(table: pd.DataFrame, column: str) -> list[float]:
    return [round(float(v), 4) for v in pd.to_numeric(table[column], errors="coerce").dropna()]


def _diversity(sets: Mapping[str, pd.DataFrame], picked: set[str]) -> list[dict[str, Any]]:
    """Classical scaling of edit distances into two dimensions (Torgerson 1952), of all sets together."""
    drawn = []
    for name, table in sets.items():
        order = np.unique(np.linspace(0, len(table) - 1, min(len(table), DRAWN)).round().astype(int))
        keep = table.iloc[order]
        if name == "design":
            keep = pd.concat([keep, table[table["cell_id"].isin(picked)]]).drop_duplicates("cell_id")
        drawn.append(keep)
    rows = pd.concat(drawn, ignore_index=True)
    squared = picking.distances(rows["sequence_aa"].tolist()).astype(float) ** 2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    return [
        {"set": s, "name": c, "picked": c in picked, "x": round(float(x), 2), "y": round(float(y), 2)}
        for s, c, (y, x) in zip(rows["set"], rows["cell_id"], places.tolist(), strict=True)
    ]


def _picked(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["cell_id", "v_call", "j_call", "cdr3_aa", "mutations", "cdr_liabilities", "perplexity"]
    columns += [c for c in _SCORES if c in table and c not in columns]
    columns += [c for c in ("nearest_design", "design_distance") if c in table]
    rows = table[columns].astype(object).where(table[columns].notna(), None).to_dict("records")
    return [{str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def join_scores(chains: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Chains with each judge's columns: `oasis_heavy` of an antibody becomes `oasis` of its heavy chain, and what is
    said of the pair stands in the rows of both chains.

    `scores`: judge -> table with set, cell_id and the judge's columns.
    """
    for name, table in scores.items():
        assert name in JUDGES
        parts = []
        for side in ("heavy", "light"):
            other = "_light" if side == "heavy" else "_heavy"
            own = table[[c for c in map(str, table) if not c.endswith(other)]]
            names = {c: c.removesuffix(f"_{side}") for c in map(str, own)}
            parts.append(own.rename(columns=names).assign(side=side))
        chains = chains.merge(pd.concat(parts), on=["set", "cell_id", "side"], how="left", validate="one_to_one")
    return chains
