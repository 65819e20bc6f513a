"""Did an intervention do more than no steering, and more than any push of its size?

Rates are shares of the complete sequences. A confirmed arm is held against random arms of the same length and of the
same SAE (what needs no SAE, against random directions), and against random arms at the length that exploration chose
for *them* and that target: they had the same tries, so choosing a length is no advantage. Nothing is compared across
lengths by extrapolation: without random arms of its length an arm has no p-value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.significance import (
    FEWEST,
    LEVEL,
    Null,
    beyond,
    detectable,
    difference_interval,
    log_odds_ratio,
    null_of,
    q_values,
    ratio_bound,
    two_proportions,
    wilson,
)
from antibody_sae.steering.arms import RANDOM
from antibody_sae.steering.criteria import MEASURES
from antibody_sae.steering.doses import COMPLETE, baselines, towards
from antibody_sae.steering.selectivity import off_target

LAYER = "controls"
"""The unit of a layer's arms that need no SAE."""
DISTINCT = 0.95
"""Share of distinct sequences that an arm must keep, of the unsteered ones' share."""


def effects(
    confirmed: Mapping[str, pd.DataFrame],
    explored: Mapping[str, pd.DataFrame],
    doses: pd.DataFrame,
    tested: Mapping[str, pd.DataFrame],
    targets: Mapping[str, str],
    bound: float,
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """(effects, side effects) of each SAE of a layer, by unit.

    confirmed, explored: arms with their outcomes (`joined`) of each SAE's unit and of LAYER; tested: what was known of
    each SAE's latents; targets: target -> chains, whose no steering and random arms it is held against; bound: of the
    perplexity ratio.

    effects: a row an arm and target; the layer's arms stand in every SAE's table (`owner`). Explored arms (`stage`)
    have rates only. log_odds: log odds ratio against no steering, with its interval; delta: the same in shares.
    p_length, p_tries: one-sided, against random arms of this length, and against those at the length chosen for them;
    p_value: the larger of the two (of a random arm p_length, against the others). p_common: against the random latents
    of all SAEs of the layer. effect_sd: log odds ratio less the random arms' mean, in their standard deviations;
    random_low, random_high: their range of changes. off_target: `selectivity.off_target`; off_target_per_point: that
    over the change of the target, where the interval of its log odds ratio leaves 0 out; random_off_target: mean of the
    unit's random arms of this length. detectable: the change that would have been found with 80 % power.
    q_value: within the arm's family (`families`). acceptable: at least COMPLETE complete, `bound` above the perplexity
    ratio's upper bound, and DISTINCT. steerable: acceptable, q < 0.05, and the interval of the log odds ratio on the
    pushed side of 0. side effects: every confirmed arm but the random ones by every concept.
    """
    layer = explored[LAYER]
    baseline = baselines(layer, targets)
    unsteered = layer[layer["kind"] == "none"].reset_index(drop=True)
    units = [unit for unit in confirmed if unit != LAYER]
    everyone = pd.concat([confirmed[unit] for unit in units], ignore_index=True)
    shared = {
        "random_direction": _Pool(confirmed[LAYER], "random_direction", baseline, targets),
        "everyone": _Pool(everyone, "random_latent", baseline, targets),
    }
    controls = _judged(confirmed[LAYER], shared, doses, baseline, targets, bound)
    none = _rates(unsteered, baseline, targets, bound)
    looked = _rates(layer[layer["kind"] != "none"].reset_index(drop=True), baseline, targets, bound)
    parts = [none.assign(stage="confirm"), controls.assign(stage="confirm"), looked.assign(stage="explore")]
    controls = pd.concat(parts, ignore_index=True).assign(owner="layer")
    out = {}
    for unit in units:
        own = confirmed[unit].reset_index(drop=True)
        pools = {**shared, "random_latent": _Pool(own, "random_latent", baseline, targets)}
        mine = _judged(own, pools, doses, baseline, targets, bound)
        early = _rates(explored[unit].reset_index(drop=True), baseline, targets, bound)
        parts = [controls, mine.assign(stage="confirm"), early.assign(stage="explore", owner="sae")]
        table = pd.concat(parts, ignore_index=True)
        table["steerable"] = table["steerable"].astype("boolean").fillna(False).astype(bool)
        known = tested[unit].reindex(columns=["latent", "concept", *MEASURES])
        table = table.merge(known, on=["latent", "concept"], how="left")
        out[unit] = (table, _side_effects(own, unsteered))
    return out


def _rates(arms: pd.DataFrame, baseline: pd.DataFrame, targets: Mapping[str, str], bound: float) -> pd.DataFrame:
    """Rate of each arm's targets, and its change from no steering; quality beside it. `baseline`: doses.baselines."""
    own = towards(arms, targets)
    about = arms.iloc[own["row"]].reset_index(drop=True)
    base = baseline.loc[own["concept"]].reset_index(drop=True)
    columns = [
        "arm",
        "chains",
        "kind",
        "latent",
        "length",
        "strength",
        "norm",
        "n",
        "n_valid",
        "valid",
        "unique",
        "edit_distance",
    ]
    table = pd.concat([about[columns], _quality(about, base, bound)], axis=1)
    table.insert(3, "concept", own["concept"])
    table.insert(4, "selected_by", own["criteria"])
    table["hits"] = own["hits"].astype("int64")
    return table.assign(**_changes(own["hits"], table["n_valid"], base["hits"], base["n_valid"]))


def _changes(hits: Any, n: Any, hits0: Any, n0: Any) -> dict[str, Any]:
    hits, n, hits0, n0 = (np.asarray(value, float) for value in (hits, n, hits0, n0))
    low, high = wilson(hits, n)
    delta_low, delta_high = difference_interval(hits, n, hits0, n0)
    odds, odds_low, odds_high = log_odds_ratio(hits, n, hits0, n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, rate0 = hits / n, hits0 / n0
    return {
        "rate": rate, "rate_low": low, "rate_high": high, "baseline_rate": rate0, "delta": rate - rate0,
        "delta_low": delta_low, "delta_high": delta_high, "log_odds": odds, "log_odds_low": odds_low,
        "log_odds_high": odds_high,
    }  # fmt: skip


def _quality(arms: pd.DataFrame, baseline: pd.DataFrame, bound: float) -> pd.DataFrame:
    """`baseline`: a row an arm."""
    figures = ("log_likelihood", "log_likelihood_sd", "scored")
    high = ratio_bound(*(arms[name] for name in figures), *(baseline[name] for name in figures))
    return pd.DataFrame({
        "perplexity": np.exp(-arms["log_likelihood"]),
        "perplexity_ratio": np.exp(baseline["log_likelihood"] - arms["log_likelihood"]),
        "perplexity_ratio_high": high,
        "acceptable": (arms["valid"] >= COMPLETE) & (high <= bound) & (arms["unique"] >= DISTINCT * baseline["unique"]),
    })  # fmt: skip


class _Pool:
    """Random arms of one kind, by target (those of its chains) and length."""

    def __init__(self, arms: pd.DataFrame, kind: str, baseline: pd.DataFrame, targets: Mapping[str, str]) -> None:
        random = arms[arms["kind"] == kind]
        self._targets: Mapping[str, str] = targets
        self._none: Mapping[Any, Any] = baseline[["hits", "n_valid"]].to_dict("index")
        self._n, self._chains = random["n_valid"].to_numpy(float), random["chains"].to_numpy()
        self._arm, self._length = random["arm"].to_numpy(), random["length"].to_numpy()
        self._hits = {target: random[f"hits:{target}"].to_numpy(float) for target in targets}
        self._nulls: dict[tuple[str, float, int], Null | None] = {}

    def _there(self, target: str, length: float, without: int) -> np.ndarray:
        mine = (self._chains == self._targets[target]) & (self._n > 0)
        chosen: np.ndarray = mine & np.isclose(self._length, length) & (self._arm != without)
        return chosen

    def null(self, target: str, length: float, without: int = -1) -> Null | None:
        """Of the arms of this length but one."""
        key = (target, length, without)
        if key not in self._nulls:
            there = self._there(target, length, without)
            self._nulls[key] = null_of(self._hits[target][there], self._n[there])
        return self._nulls[key]

    def place(self, target: str, length: float, log_odds: float) -> dict[str, float]:
        """Where a log odds ratio lies among the arms', and how far those reach."""
        there = self._there(target, length, -1)
        if there.sum() < FEWEST:
            return {"effect_sd": np.nan, "random_low": np.nan, "random_high": np.nan}
        hits, n = self._hits[target][there], self._n[there]
        hits0, n0 = self._none[target]["hits"], self._none[target]["n_valid"]
        odds = log_odds_ratio(hits, n, hits0, n0)[0]
        change, sd = hits / n - hits0 / n0, odds.std(ddof=1)
        place = float((log_odds - odds.mean()) / sd) if sd > 0 else np.nan
        return {"effect_sd": place, "random_low": float(change.min()), "random_high": float(change.max())}


def _judged(
    arms: pd.DataFrame, pools: Mapping[str, _Pool], doses: pd.DataFrame, baseline: pd.DataFrame,
    targets: Mapping[str, str], bound: float,
) -> pd.DataFrame:  # fmt: skip
    """Confirmed arms of one unit. pools: random_direction; of an SAE also random_latent, and everyone, its layer's."""
    arms = arms.reset_index(drop=True)
    table = _rates(arms, baseline, targets, bound).assign(**_beside(arms, baseline, targets))
    sign = np.sign(table["length"]).to_numpy()
    taken = doses[doses["chosen"]]
    keys = zip(taken["concept"], taken["kind"], np.sign(taken["length"]), strict=True)
    lengths = dict(zip(keys, taken["length"], strict=True))
    rows = []
    every: Iterator[Any] = table.itertuples()
    for row, side in zip(every, sign, strict=True):
        latents = "random_latent" in pools and row.kind not in ("shuffled_sign", "random_direction")
        name = "random_latent" if latents else "random_direction"
        pool, random = pools[name], row.kind in RANDOM
        same = pool.null(row.concept, row.length, int(row.arm) if random else -1)
        p_length = beyond(same, row.hits, row.n_valid, side)
        if random:
            rows.append({"p_length": p_length, "p_value": p_length})
            continue
        length = lengths.get((row.concept, name, side))
        p_tries = beyond(None if length is None else pool.null(row.concept, length), row.hits, row.n_valid, side)
        common = pools["everyone"].null(row.concept, row.length) if latents else None
        rows.append({
            "p_length": p_length, "p_tries": p_tries, "p_value": float(np.max([p_length, p_tries])),  # nan where one is
            "p_common": beyond(common, row.hits, row.n_valid, side),
            "detectable": detectable(same, row.n_valid, row.baseline_rate, side),
            **pool.place(row.concept, row.length, row.log_odds),
        })  # fmt: skip
    judged = ["p_length", "p_tries", "p_value", "p_common", "detectable", "effect_sd", "random_low", "random_high"]
    table = pd.concat([table, pd.DataFrame(rows, index=table.index).reindex(columns=judged)], axis=1)
    sure = (table["log_odds_low"] > 0) | (table["log_odds_high"] < 0)
    table["off_target_per_point"] = (table["off_target"] / table["delta"].abs()).where(sure)
    table["owner"] = "sae" if "random_latent" in pools else "layer"
    table["q_value"] = _families(table)
    moved = np.where(sign < 0, -table["log_odds_high"], table["log_odds_low"]) > 0
    table["steerable"] = table["acceptable"] & (table["q_value"] < LEVEL) & moved
    return table


def _beside(arms: pd.DataFrame, baseline: pd.DataFrame, targets: Mapping[str, str]) -> dict[str, Any]:
    """What each row of `_rates` moved beside its target, and what the unit's random arms of its length did."""
    own = towards(arms, targets)
    column = {target: j for j, target in enumerate(targets)}
    at = own["row"].to_numpy(), own["concept"].map(column).to_numpy(int)
    moved = pd.DataFrame(
        {"concept": own["concept"], "length": arms["length"].to_numpy()[at[0]],
         "random": arms["kind"].isin(RANDOM).to_numpy()[at[0]], "value": off_target(arms, baseline, targets)[at]}
    )  # fmt: skip
    reference = moved[moved["random"]].groupby(["concept", "length"])["value"].mean().rename("reference")
    there = moved.join(reference, on=["concept", "length"])
    return {"off_target": there["value"].to_numpy(), "random_off_target": there["reference"].to_numpy()}


def _families(table: pd.DataFrame) -> pd.Series:
    """q-values over each family; a latent's is the largest of its criteria's."""
    q = pd.Series(np.nan, index=table.index)
    for _, rows in families(table):
        found = pd.Series(q_values(table.loc[rows, "p_value"].to_numpy(float)), index=rows)
        q.loc[rows] = np.fmax(q.loc[rows], found)
    return q


def families(table: pd.DataFrame) -> list[tuple[str, pd.Index]]:
    """(criterion or "", rows) of each family of one SAE's p-values: the latents of a criterion, each further kind made
    of latents, and all directions that need no SAE; pushing up and pushing down apart. Random arms are in none."""
    out = []
    usable = table[~table["kind"].isin([*RANDOM, "none"])]
    for _, side in usable.groupby(np.sign(usable["length"])):
        latents = side[side["kind"] == "latent"]
        reasons = latents["selected_by"].fillna("").str.split(";")
        for criterion in dict.fromkeys(reasons.explode().dropna()):
            out.append((str(criterion), latents.index[[criterion in why for why in reasons]]))
        rest = side[side["kind"] != "latent"]
        of = rest["kind"].where(rest["owner"] == "sae", "")
        out += [("", part.index) for _, part in rest.groupby(of, sort=False)]
    return out


def _side_effects(arms: pd.DataFrame, unsteered: pd.DataFrame) -> pd.DataFrame:
    """Each arm and concept beside no steering of the arm's chains; concepts that neither ever has (the other chain's)
    are left out."""
    arms = arms[~arms["kind"].isin(RANDOM)]
    none = unsteered.set_index("chains").loc[arms["chains"]]
    n, n0 = arms["n_valid"].to_numpy(float), none["n_valid"].to_numpy(float)
    parts = []
    for column in (c for c in arms.columns if c.startswith("hits:")):
        hits, hits0 = arms[column].to_numpy(float), none[column].to_numpy(float)
        table = arms[["arm", "kind", "latent", "length", "n_valid"]].assign(concept=column.removeprefix("hits:"))
        table = table.assign(**_changes(hits, n, hits0, n0), p_value=two_proportions(hits, n, hits0, n0))
        parts.append(table[(hits > 0) | (hits0 > 0) | (n == 0)])
    everything: pd.DataFrame = pd.concat(parts, ignore_index=True)
    everything["q_value"] = q_values(everything["p_value"].to_numpy(float))
    return everything
