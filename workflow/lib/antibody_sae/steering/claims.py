"""The paper's claims on steering in figures: tables over all SAEs of a run, and what the protocol makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.significance import LEVEL, Interval, over_targets, paired, q_values, spearman_within, wilson
from antibody_sae.steering.criteria import CRITERIA, MEASURES
from antibody_sae.steering.effects import families

SAE_KEYS = ["sae", "architecture", "seed", "layer"]
REPEATS = ["concept", "layer", "seed"]
"""A target, and what repeats it."""
TRAINED = "trained"
"""The kind that claim 2 holds the best-F1 latents against."""
_FIGURES = [
    "kind", "latent", "f1", "r", "consistency", "length", "norm", "strength", "n", "rate", "baseline_rate", "delta",
    "delta_low", "delta_high", "log_odds", "log_odds_low", "log_odds_high", "effect_sd", "p_length", "p_tries",
    "p_value", "p_common", "q_value", "detectable", "valid", "perplexity", "perplexity_ratio", "perplexity_ratio_high",
    "unique", "acceptable", "steerable", "random_low", "random_high", "off_target", "random_off_target",
    "off_target_per_point",
]  # fmt: skip


def by_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """tables/steering_by_criterion.csv: one row a confirmed arm, SAE, target and criterion (selected_by, of latents).

    `table`: effects of several SAEs with the columns SAE_KEYS. q_value and steerable are those of the row's own family.
    The layer's arms stand beside every SAE.
    """
    table = table[table["stage"] == "confirm"].reset_index(drop=True)
    parts = []
    for _, own in table.groupby(SAE_KEYS, sort=False):
        for criterion, rows in families(own):
            part = own.loc[rows]
            q = q_values(part["p_value"].to_numpy(float))
            moved = np.where(part["length"] < 0, -part["log_odds_high"], part["log_odds_low"]) > 0
            part = part.assign(q_value=q, steerable=part["acceptable"] & (q < LEVEL) & moved)
            parts.append(part.assign(selected_by=criterion or None))
    columns = [*SAE_KEYS, "concept", "selected_by", *_FIGURES]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def mapping_table(criteria: pd.DataFrame) -> pd.DataFrame:
    """tables/mapping_vs_steering.csv: one row an SAE and target: the test association of the latents with the best F1
    and r beside what steering them did, which criteria found a steerable latent, what random latents did, and each
    other kind."""
    rows = []
    raised = criteria[criteria["length"] > 0]
    for key, mine in raised.groupby([*SAE_KEYS, "concept"], sort=False):
        row = dict(zip([*SAE_KEYS, "concept"], key, strict=True)) | {"baseline_rate": mine["baseline_rate"].iloc[0]}
        latents = mine[mine["kind"] == "latent"]
        by = latents.drop_duplicates("selected_by").set_index("selected_by")
        for name in ("f1", "r"):
            if name in by.index:
                one = by.loc[name]
                row |= {f"best_{name}": one[name], f"best_{name}_latent": one["latent"]}
                columns = ("length", "delta", "delta_low", "delta_high", "log_odds", "effect_sd", "steerable", "valid")
                row |= {f"best_{name}_{c}": one[c] for c in columns}
        row["steerable_by"] = ";".join(dict.fromkeys(latents.loc[latents["steerable"], "selected_by"]))
        row |= {"random_low": latents["random_low"].min(), "random_high": latents["random_high"].max()}
        for kind, one in mine[mine["kind"] != "latent"].drop_duplicates("kind").set_index("kind").iterrows():
            row |= {f"{kind}_delta": one["delta"], f"{kind}_steerable": one["steerable"]}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*SAE_KEYS, "concept", "baseline_rate"])


def across_seeds(criteria: pd.DataFrame, matches: pd.DataFrame) -> pd.DataFrame:
    """tables/latents_across_seeds.csv: one row a latent that a criterion chose for a target, and another seed.

    `criteria`: `by_criterion`; `matches`: `sae.evaluation.matches` of pairs of seeds, with sae, layer, seed and
    other_seed. match, cosine: its counterpart there; like, cosine_like: a latent of its density, as a control; same:
    whether that seed's criterion chose the counterpart, same_like: the control; log_odds, other_log_odds: what steering
    it did, and what steering the other seed's choice did.
    """
    keys = ["sae", "layer", "concept", "selected_by"]
    columns = [*keys, "seed", "other_seed", "latent", "match", "cosine", "same", "like", "cosine_like", "same_like",
               "log_odds", "other_log_odds"]  # fmt: skip
    chosen = criteria[(criteria["kind"] == "latent") & (criteria["length"] > 0)]
    chosen = chosen[[*keys, "seed", "latent", "log_odds"]].drop_duplicates([*keys, "seed"])  # the first of candidates
    if not len(matches) or not len(chosen):
        return pd.DataFrame(columns=columns)
    table = chosen.merge(matches, on=["sae", "layer", "seed", "latent"])
    there = chosen.rename(columns={"seed": "other_seed", "latent": "chosen", "log_odds": "other_log_odds"})
    table = table.merge(there, on=[*keys, "other_seed"])
    return table.assign(same=table["match"] == table["chosen"], same_like=table["like"] == table["chosen"])[columns]


def _series(table: pd.DataFrame, column: str) -> pd.Series:
    """[target, layer, seed] mean of a column, where an SAE type has several candidates."""
    return table.assign(**{column: table[column].astype(float)}).groupby(REPEATS)[column].mean()


def claims(criteria: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """tables/claims.json. `criteria`: `by_criterion`; `table`: effects of several SAEs with the columns SAE_KEYS.

    by_sae: for each SAE type and criterion, or other kind, the steered share and the mean log odds ratio over targets;
    `chance`, random latents that pass the others at p < 0.05, which the test promises to keep near 0.05; `spearman`,
    within targets, of what was known of a latent and its log odds ratio, over latents of the target's length.
    control: claim 2, on TopK alone, over targets that the trained vector steers.
    reliability: claim 3, each type's log odds ratios less TopK's, by criterion.
    """
    raised = criteria[criteria["length"] > 0]
    out: dict[str, Any] = {"seeds": int(table["seed"].nunique()), "by_sae": {}, "reliability": {}}
    for sae, mine in raised.groupby("sae", sort=False):
        latents, others = mine[mine["kind"] == "latent"], mine[mine["kind"] != "latent"]
        entry: dict[str, Any] = {
            "architecture": mine["architecture"].iloc[0],
            "by_criterion": {name: _totals(arms) for name, arms in latents.groupby("selected_by", sort=False)},
            "by_kind": {name: _totals(arms) for name, arms in others.groupby("kind", sort=False)},
        }
        own = table[(table["sae"] == sae) & (table["stage"] == "confirm") & (table["length"] > 0)]
        entry["chance"] = _chance(own)
        entry["spearman"] = {name: _plain(_correlation(own, mine, name)) for name in MEASURES}
        out["by_sae"][str(sae)] = entry
    topk = next((name for name, entry in out["by_sae"].items() if entry["architecture"] == "topk"), None)
    if topk is not None:
        out["control"] = _control(raised[raised["sae"] == topk])
        for sae in out["by_sae"]:
            if sae != topk:
                out["reliability"][sae] = _reliability(raised[raised["sae"] == sae], raised[raised["sae"] == topk])
    found: dict[str, Any] = _finite(out)
    return found


def _totals(arms: pd.DataFrame) -> dict[str, Any]:
    figures = {"share": "steerable"} | {name: name for name in ("log_odds", "delta", "effect_sd", "off_target")}
    return {
        "targets": int(arms["concept"].nunique()),
        "arms": len(arms),
        "steerable": int(arms["steerable"].sum()),
        "detectable": float(arms["detectable"].median()),
        **{name: _plain(over_targets(_series(arms, column))) for name, column in figures.items()},
    }


def _chance(own: pd.DataFrame) -> dict[str, Any]:
    p = own.loc[own["kind"] == "random_latent", "p_value"]
    passed, n = int((p < 0.05).sum()), int(p.notna().sum())
    low, high = wilson(passed, n)
    return {"arms": n, "passed": passed, "share_low": float(low), "share_high": float(high)}


def _correlation(own: pd.DataFrame, chosen: pd.DataFrame, name: str) -> Interval:
    """Within each target, over its candidates and the random latents of their length."""
    length = chosen[chosen["kind"] == "latent"].groupby(REPEATS)["length"].first().rename("at")
    arms = own[own["kind"].isin(["latent", "random_latent"])].merge(length, on=REPEATS)
    arms = arms[np.isclose(arms["length"], arms["at"])]
    return spearman_within(arms.set_index(REPEATS), name, "log_odds")


def _control(topk: pd.DataFrame) -> dict[str, Any]:
    """Claim 2: over targets that the trained vector steers, the share that the best-F1 latent steers less its share."""
    trained, best = topk[topk["kind"] == TRAINED], topk[topk["selected_by"] == "f1"]
    steers = trained[trained["steerable"]]
    of = set(zip(steers["concept"], steers["layer"], strict=True))
    best = best[np.array([key in of for key in zip(best["concept"], best["layer"], strict=True)], bool)]
    found = paired(_series(best, "steerable"), _series(steers, "steerable"))
    return {
        "trained": len(trained.drop_duplicates(["concept", "layer"])),
        "trained_steers": len(of),
        "best_f1": len(best),
        "best_f1_steers": int(best["steerable"].sum()),
        "difference": _plain(found),
    }


def _reliability(ordered: pd.DataFrame, topk: pd.DataFrame) -> dict[str, Any]:
    """Claim 3: log odds ratios of the same target, layer and seed, the type's less TopK's, by criterion."""
    out = {}
    for criterion in [c for c in CRITERIA if c in set(ordered["selected_by"]) & set(topk["selected_by"])]:
        pair = [t[t["selected_by"] == criterion] for t in (ordered, topk)]
        out[criterion] = {
            "log_odds": _plain(paired(_series(pair[0], "log_odds"), _series(pair[1], "log_odds"))),
            "delta": _plain(paired(_series(pair[0], "delta"), _series(pair[1], "delta"))),
            "share": _plain(paired(_series(pair[0], "steerable"), _series(pair[1], "steerable"))),
        }
    return out


def _plain(found: Interval) -> dict[str, Any]:
    return found._asdict()


def _finite(value: Any) -> Any:
    """NaN, which JSON has not, becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
