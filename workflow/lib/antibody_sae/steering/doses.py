"""How far each kind of arm is pushed towards each target: chosen from the explored sequences, and never reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.significance import log_odds_ratio, wilson
from antibody_sae.steering.arms import RANDOM, SPARSE, pairs

COMPLETE = 0.95
"""Share of complete sequences that an arm must keep."""
DOUBT = 0.8
"""Confidence of the interval that an explored length's share may reach COMPLETE with: of the default run's 12 sequences
one may be incomplete, not two. At 95 % two may be, and more than a third of what it chose failed on fresh sequences."""


def _joined(criteria: pd.Series) -> Any:
    return ";".join(criteria.dropna()) or None


def towards(arms: pd.DataFrame, targets: Mapping[str, str]) -> pd.DataFrame:
    """Arms by target: columns row (place of the arm), concept, criteria (";"-joined, of a latent), hits. Random arms
    and no steering stand beside every target of their chains (`targets`: target -> chains), the others beside those
    that they were chosen for."""
    found = pairs(arms)
    chosen = found.groupby(["row", "concept"], sort=False)["criterion"].agg(_joined)
    everywhere = np.flatnonzero(arms["kind"].isin([*RANDOM, "none"]))
    written = arms["chains"].to_numpy()
    beside = [(row, target) for row in everywhere for target, chains in targets.items() if written[row] == chains]
    rest = pd.MultiIndex.from_frame(pd.DataFrame(beside, columns=["row", "concept"]).astype({"row": "int64"}))
    table: pd.DataFrame = (
        pd.concat([chosen, pd.Series(None, index=rest, dtype=object)]).rename("criteria").reset_index()
    )
    hits = arms[[f"hits:{target}" for target in targets]].to_numpy()
    column = {target: i for i, target in enumerate(targets)}
    table["hits"] = hits[table["row"], table["concept"].map(column)] if len(table) else []
    return table


def baselines(arms: pd.DataFrame, targets: Mapping[str, str]) -> pd.DataFrame:
    """[targets] no steering of each target's chains: the arm's columns, and hits (of the target); index: target."""
    none = arms[arms["kind"] == "none"].set_index("chains")
    rows = [
        none.loc[chains].to_dict() | {"hits": none.at[chains, f"hits:{target}"]} for target, chains in targets.items()
    ]
    return pd.DataFrame(rows, index=list(targets))


def choose(explored: Sequence[pd.DataFrame], targets: Mapping[str, str], bound: float) -> pd.DataFrame:
    """The length of each target, kind and direction of pushing, one for all SAEs of a layer, so that what is compared
    is equally long.

    `explored`: arms with their outcomes (`measured.joined`), of each SAE and of the layer, no steering
    among them; targets: target -> chains. All arms of a kind are pooled. Of the lengths at which the share of complete
    sequences is not below COMPLETE (by its interval, at DOUBT) and the perplexity at most `bound` times the unsteered
    one, that with the largest log odds ratio in the direction of pushing is taken; where there is none, the shortest.
    Levers of few latents (SPARSE) are written at the trained vector's length too, so that fresh sequences tell how much
    of its effect they have.

    Returns one row a target, kind and length: concept, chains, kind, length, arms, n, n_valid, hits, rate, log_odds,
    valid, perplexity_ratio, acceptable, chosen.
    """
    (none,) = [baselines(arms, targets) for arms in explored if (arms["kind"] == "none").any()]
    parts = []
    for arms in explored:
        own = towards(arms, targets)
        about = arms.iloc[own["row"]].reset_index(drop=True)
        columns = ["kind", "length", "n", "n_valid", "scored"]
        total = about["log_likelihood"].fillna(0) * about["scored"]
        parts.append(pd.concat([own[["concept", "hits"]], about[columns], total.rename("total")], axis=1))
    table = pd.concat(parts, ignore_index=True)
    table = table[table["kind"] != "none"].assign(arms=1)
    table = table.groupby(["concept", "kind", "length"], sort=True, as_index=False).sum()
    table.insert(1, "chains", table["concept"].map(targets))
    base = none.loc[table["concept"]].reset_index(drop=True)
    table["log_odds"] = log_odds_ratio(table["hits"], table["n_valid"], base["hits"], base["n_valid"])[0]
    table["rate"] = (table["hits"] / table["n_valid"]).where(table["n_valid"] > 0)
    table["valid"] = table["n_valid"] / table["n"]
    with np.errstate(divide="ignore", invalid="ignore"):
        table["perplexity_ratio"] = np.exp(base["log_likelihood"] - table["total"] / table["scored"])
    able = wilson(table["n_valid"], table["n"], DOUBT)[1] >= COMPLETE
    table["acceptable"] = able & (table["perplexity_ratio"] <= bound).to_numpy()
    sign = np.sign(table["length"])
    gain = (sign * table["log_odds"]).where(table["acceptable"] & table["log_odds"].notna(), -np.inf)
    order = table.assign(gain=gain, size=table["length"].abs(), sign=sign).sort_values(
        ["gain", "size"], ascending=[False, True], kind="stable"
    )
    best = order.drop_duplicates(["concept", "kind", "sign"]).index
    table["chosen"] = table.index.isin(best)
    whole = table.loc[table["chosen"] & (table["kind"] == "trained"), ["concept", "length"]]
    beside = pd.MultiIndex.from_frame(table[["concept", "length"]]).isin(pd.MultiIndex.from_frame(whole))
    table["chosen"] |= beside & table["kind"].str.fullmatch(SPARSE)
    return table.drop(columns="total")
