"""Association beside effect for every SAE and target, and the figures behind the claims."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.significance import spearman, wilson
from antibody_sae.steering.effects import KNOWN, matched_quality

BESIDE = ("difference_of_means", "probe", "rate_gradient", "matched_latent", "shuffled_sign")
"""Kinds of arms that stand beside the candidates of a target in the tables."""
BRANCH = ["sae", "architecture", "seed", "layer"]


def by_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """One row an SAE, concept and criterion, and one each for `any` criterion and the controls: the effect at matched
    quality. `table`: effects of several SAEs with columns sae, architecture, seed, layer."""
    rows = []
    for key, mine in table.groupby([*BRANCH, "concept"], sort=False):
        baseline = mine[mine["kind"] == "none"].iloc[0]
        random = mine.loc[mine["kind"] == "random_latent", "delta"]
        latents = mine[mine["kind"] == "latent"]
        reasons = latents["selected_by"].fillna("").str.split(";")
        groups = {c: latents[[c in why for why in reasons]] for c in dict.fromkeys(reasons.explode())}
        groups |= {"any": latents} | {kind: mine[mine["kind"] == kind] for kind in BESIDE}
        for criterion, arms in groups.items():
            best = matched_quality(arms, baseline)
            figures = ("latent", "f1", "r", "method", "strength", "norm", "rate", "delta", "delta_low", "delta_high")
            rows.append(
                dict(zip([*BRANCH, "concept"], key, strict=True))
                | {"selected_by": criterion, "arms": len(arms), "steerable": bool(arms["steerable"].any())}
                | {name: best.get(name) for name in (*figures, "valid", "perplexity")}
                | {"baseline_rate": baseline["baseline_rate"], "baseline_perplexity": baseline["perplexity"]}
                | {"random_low": random.min(), "random_high": random.max()}
            )
    return pd.DataFrame(rows)


def mapping_table(criteria: pd.DataFrame) -> pd.DataFrame:
    """tables/mapping_vs_steering.csv: one row an SAE and concept, association beside effect at matched quality.

    best_f1, best_r: test association of the latent chosen by it, and what steering that latent did; steered_*: the best
    of all candidates; steerable_by: the criteria that found a steerable latent; random_low, random_high: range over the
    SAE's random latents.
    """
    rows = []
    for key, mine in criteria.groupby([*BRANCH, "concept"], sort=False):
        by = mine.set_index("selected_by")
        best = by.loc["any"]
        row = dict(zip([*BRANCH, "concept"], key, strict=True)) | {"baseline_rate": best["baseline_rate"]}
        for name in ("f1", "r"):
            if name in by.index:
                one = by.loc[name]
                row |= {f"best_{name}": one[name], f"best_{name}_latent": one["latent"]}
                row |= {f"best_{name}_{c}": one[c] for c in ("delta", "delta_low", "delta_high", "steerable")}
        for name in ("latent", "strength", "norm", "rate", "delta", "delta_low", "delta_high", "valid", "perplexity"):
            row[f"steered_{name}"] = best[name]
        named = mine[mine["steerable"] & ~mine["selected_by"].isin(["any", *BESIDE])]
        row |= {"steerable": best["steerable"], "steerable_by": ";".join(named["selected_by"])}
        row |= {"random_low": best["random_low"], "random_high": best["random_high"]}
        row |= {f"{kind}_delta": by.loc[kind, "delta"] for kind in BESIDE}
        rows.append(row)
    return pd.DataFrame(rows)


def claims(criteria: pd.DataFrame, table: pd.DataFrame, side: pd.DataFrame, tested: pd.DataFrame) -> dict[str, Any]:
    """The three claims in figures, by SAE type over concepts and seeds, for tables/claims.json.

    `table` (effects), `side`, `tested`: of several SAEs, with columns sae, architecture, seed, layer. `chance`: random
    latents beyond the others at p < 0.05, a share which the comparison with controls promises to keep near 0.05.
    Spearman's correlations are over all steered latents and targets at equal length (the longest of `norms`), of what
    was known of a latent and its change: `spearman_<name>` leaves out both signs, `spearman_signed_<name>` keeps them.
    """
    out: dict[str, Any] = {}
    longest = side["layer"].map(side[side["kind"] == "random_latent"].groupby("layer")["norm"].max())
    pairs = side[side["kind"].isin(["latent", "random_latent"]) & np.isclose(side["norm"], longest, rtol=1e-3)]
    figures = tested[[*BRANCH, "latent", "concept", *KNOWN.values()]]
    pairs = pairs[pairs["method"] == "add"].merge(figures, on=[*BRANCH, "latent", "concept"])
    for architecture, mine in criteria.groupby("architecture", sort=False):
        entry: dict[str, Any] = {"by_criterion": {}}
        for criterion, arms in mine.groupby("selected_by", sort=False):
            low, high = wilson(arms["steerable"].sum(), len(arms))
            entry["by_criterion"][criterion] = {
                "concepts_and_seeds": len(arms), "steerable": int(arms["steerable"].sum()),
                "share": float(arms["steerable"].mean()), "share_low": float(low), "share_high": float(high),
                "mean_delta": _mean(arms["delta"]), "mean_f1": _mean(arms["f1"]), "mean_r": _mean(arms["r"]),
            }  # fmt: skip
        chance = table[(table["kind"] == "random_latent") & (table["architecture"] == architecture)]["p_control"]
        passed, n = int((chance < 0.05).sum()), int(chance.notna().sum())
        low, high = wilson(passed, n)
        entry["chance"] = {"arms": n, "passed": passed, "share_low": float(low), "share_high": float(high)}
        own = pairs[pairs["architecture"] == architecture]
        groups = own.groupby([*BRANCH, "latent"]).ngroup().to_numpy()
        change = own["delta"].to_numpy()
        for name, column in KNOWN.items():
            value = own[column].to_numpy()
            entry[f"spearman_{name}"] = spearman(np.abs(value), np.abs(change), groups)
            entry[f"spearman_signed_{name}"] = spearman(value, change, groups)
        out[str(architecture)] = entry
    return _finite(out)


def _mean(values: pd.Series) -> float:
    return float(pd.to_numeric(values).mean())


def _finite(value: Any) -> Any:
    """NaN, which JSON has not, becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
