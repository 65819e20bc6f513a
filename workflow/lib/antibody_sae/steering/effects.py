"""Did an intervention do more than chance and more than any push of its size? The statistics of steering.

Rates are shares of the numbered sequences. An arm counts against no steering (two-proportion test), against random
latents or directions of the same length (`beyond_controls`), and only while its sequences stay acceptable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from antibody_sae.significance import difference_interval, q_values, two_proportions, wilson

_QUANTILES = (np.arange(400) + 0.5) / 400
"""Where `beyond_controls` takes its mean over a distribution."""


def beyond_controls(rate: float, n: int, norm: float, controls: pd.DataFrame, sign: float) -> float:
    """One-sided p that an arm moves a concept further in the direction `sign` than a random arm of its length.

    `controls` (columns rate, n, norm) are random arms; those whose length is nearest (in ratio) are used. On the scale
    of arcsin sqrt(rate), where the sampling variance is 1/(4n), the arm is held against one more draw from them, at its
    own n. How far they spread beyond their sampling is itself uncertain, and small m or small n may hide it: p is the
    mean over the fiducial distribution of their variance, (m - 1) s^2 / chi^2 with m - 1 degrees (Fisher; for mixed
    models Weerahandi 1995, ISBN 978-1-4612-0825-9). Where the arm's vector is longer than theirs, their spread beyond
    sampling and their mean shift count in proportion to the length, as effects grow; nan with fewer than 3 controls.
    """
    if len(controls) < 3 or n == 0 or not np.isfinite(norm):
        return float("nan")
    ratio = np.abs(np.log(controls["norm"].to_numpy() / max(norm, 1e-12)))
    near = controls[ratio <= ratio.min() + 1e-3]
    m = len(near)
    if m < 3:
        return float("nan")
    scale = max(1.0, norm / float(near["norm"].mean()))
    x = np.arcsin(np.sqrt(near["rate"].to_numpy()))
    sampling = float((1 / (4 * near["n"])).mean())
    spread = np.maximum((m - 1) * x.var(ddof=1) / stats.chi2.ppf(_QUANTILES, m - 1) - sampling, 0.0)
    centre = x.mean()
    if "baseline" in near:
        base = np.arcsin(np.sqrt(near["baseline"].iloc[0]))
        centre = base + (centre - base) * scale
    error = np.sqrt(1 / (4 * n) + spread * scale**2 + (spread + sampling) * scale**2 / m)
    return float(stats.norm.sf(sign * (np.arcsin(np.sqrt(rate)) - centre) / error).mean())


def measure(rows: pd.DataFrame) -> pd.DataFrame:
    """Outcomes by arm: n, n_valid, valid (share numbered), ended, unique, perplexity, edit_distance; `hits:<concept>`;
    and `half:<concept>` and n_half, which count the first half of the rows."""
    concepts = [column for column in rows.columns if "=" in column]
    grouped = rows.groupby("arm", sort=True)
    texts = rows["heavy"].fillna("") + "|" + rows["light"].fillna("")
    table = pd.DataFrame({
        "n": grouped.size(),
        "n_valid": grouped["valid"].sum().astype("int64"),
        "valid": grouped["valid"].mean(),
        "ended": grouped["ended"].mean(),
        "perplexity": np.exp(-grouped["log_likelihood"].mean()),
        "unique": texts.groupby(rows["arm"]).nunique() / grouped.size(),
        "edit_distance": grouped["edit_distance"].mean(),
    })  # fmt: skip
    first = rows[rows["row"] < rows["arm"].map(table["n"]) // 2]
    table["n_half"] = first.groupby("arm")["valid"].sum().reindex(table.index, fill_value=0).astype("int64")
    hits, half = rows.groupby("arm")[concepts].sum(), first.groupby("arm")[concepts].sum()
    counts = {f"hits:{c}": hits[c].astype("int64") for c in concepts}
    counts |= {f"half:{c}": half[c].reindex(table.index, fill_value=0).astype("int64") for c in concepts}
    return pd.concat([table, pd.DataFrame(counts)], axis=1).reset_index()


RANDOM = ("random_latent", "random_direction")
LATENTS = ("latent", "matched_latent", "random_latent")
"""Kinds that are held against random latents of the same SAE; the others are held against random directions."""


def effects(
    plan: pd.DataFrame, measured: pd.DataFrame, controls_plan: pd.DataFrame, controls: pd.DataFrame,
    tested: pd.DataFrame, settings: Mapping[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """(effects, side effects) of an SAE's arms, the layer's controls among them.

    effects: an arm by target it was chosen for (every target for random arms and none). `p_value`: two-proportion test
    against no steering, `q_value`: Benjamini-Hochberg over the file's arms. `p_control`, `q_control`: a latent against
    random latents of its SAE, any other vector against random directions, of this length (`beyond_controls`); a random
    arm against the others of its kind, which shows how often chance passes, and stays out of `q_control`.
    `steerable`: both q below 0.05, moved in the direction of the strength's sign, and `acceptable`: at least 95 %
    numbered, perplexity at most `perplexity_bound` times the unsteered sequences'. `f1` and `r` are the latent's test
    associations with the target (`tested`).
    side effects: every arm by every concept.
    """
    parts = [
        controls_plan.merge(controls.drop(columns="n"), on="arm"),
        plan.merge(measured.drop(columns="n"), on="arm"),
    ]
    arms = pd.concat(
        [part.assign(owner=owner) for part, owner in zip(parts, ("layer", "sae"), strict=True)], ignore_index=True
    )
    baseline = arms[arms["kind"] == "none"].iloc[0]
    arms["acceptable"] = arms["valid"].ge(0.95) & arms["perplexity"].le(
        settings["perplexity_bound"] * baseline["perplexity"]
    )
    concepts = [c.removeprefix("hits:") for c in arms.columns if c.startswith("hits:")]
    side = {concept: _changes(arms, baseline, concept) for concept in concepts}
    reasons = [
        list(zip(str(targets).split(";"), str(criteria).split(";"), strict=False))
        for targets, criteria in zip(arms["concept"], arms["selected_by"], strict=True)
    ]
    everywhere = arms["kind"].isin([*RANDOM, "none"]).to_numpy()
    rows = []
    for target in tested["concept"].drop_duplicates():
        table = side[target]
        random = table.assign(baseline=table["baseline_rate"], n=table["n_valid"])
        columns = ["rate", "n", "norm", "baseline"]
        pools = {kind: random.loc[arms["kind"] == kind, columns].dropna() for kind in RANDOM}
        mine = everywhere | np.array([any(t == target for t, _ in why) for why in reasons])
        table = table.assign(
            selected_by=[";".join(c for t, c in why if t == target and c not in ("nan", "None")) for why in reasons]
        )
        table["selected_by"] = table["selected_by"].where(table["selected_by"] != "", None)
        table = table[mine].copy()
        sign = np.where(table["strength"].fillna(1) < 0, -1.0, 1.0)
        table["p_control"] = [
            beyond_controls(rate, n, norm, pools[RANDOM[kind not in LATENTS]].drop(arm, errors="ignore"), s)
            for arm, kind, rate, n, norm, s in zip(
                table.index, table["kind"], table["rate"], table["n_valid"], table["norm"], sign, strict=True
            )
        ]
        table.loc[table["kind"] == "none", "p_control"] = np.nan
        rows.append(table.assign(moved=table["delta"] * sign))
    table = pd.concat(rows, ignore_index=True)
    table["q_value"] = q_values(table["p_value"].where(table["kind"] != "none").to_numpy(float))
    table["q_control"] = q_values(table["p_control"].where(~table["kind"].isin(RANDOM)).to_numpy(float))
    strong = (table["q_value"] < 0.05) & (table["q_control"] < 0.05) & (table["moved"] > 0)
    table["steerable"] = strong & table["acceptable"]
    figures = tested[["latent", "concept", *KNOWN.values()]].rename(columns={v: k for k, v in KNOWN.items()})
    table = table.drop(columns="moved").merge(figures, on=["latent", "concept"], how="left")
    everything = pd.concat(side.values(), ignore_index=True)
    everything["q_value"] = q_values(everything["p_value"].where(everything["kind"] != "none").to_numpy(float))
    return table, everything


def _changes(arms: pd.DataFrame, baseline: pd.Series, concept: str) -> pd.DataFrame:
    """Rate of one concept among each arm's numbered sequences, and its change from the baseline; a row an arm."""
    hits, n = arms[f"hits:{concept}"].to_numpy(float), arms["n_valid"].to_numpy(float)
    half, n_half = arms[f"half:{concept}"].to_numpy(float), arms["n_half"].to_numpy(float)
    hits0, n0 = np.float64(baseline[f"hits:{concept}"]), np.float64(baseline["n_valid"])
    low, high = wilson(hits, n)
    delta_low, delta_high = difference_interval(hits, n, hits0, n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, rate0 = hits / n, hits0 / n0
        first, second = half / n_half - rate0, (hits - half) / (n - n_half) - rate0
    columns = ["owner", "arm", "kind", "latent", "method", "strength", "norm", "n", "n_valid", "n_half", "valid",
               "ended", "perplexity", "unique", "edit_distance", "acceptable"]  # fmt: skip
    return arms[columns].assign(
        concept=concept, rate=rate, rate_low=low, rate_high=high, baseline_rate=rate0, delta=rate - rate0,
        delta_low=delta_low, delta_high=delta_high, delta_first=first, delta_second=second,
        p_value=two_proportions(hits, n, hits0, n0),
    )  # fmt: skip


def matched_quality(rows: pd.DataFrame, baseline: pd.Series) -> dict[str, Any]:
    """The effect of some arms at matched quality: of the acceptable ones, the one that moved most in the first half of
    its sequences, with the change measured on its second half, so that choosing does not flatter it; nan if none is."""
    usable = rows[rows["acceptable"] & rows["delta_first"].notna() & rows["delta_second"].notna()]
    if usable.empty:
        return {"delta": np.nan, "delta_low": np.nan, "delta_high": np.nan}
    best = usable.iloc[int(usable["delta_first"].to_numpy().argmax())]
    n, n0 = int(best["n_valid"] - best["n_half"]), int(baseline["n_valid"])
    hits, hits0 = round((best["delta_second"] + best["baseline_rate"]) * n), round(best["baseline_rate"] * n0)
    low, high = difference_interval(hits, n, hits0, n0)
    return {
        **{str(k): v for k, v in best.items()},
        "delta": best["delta_second"],
        "delta_low": float(low),
        "delta_high": float(high),
    }


KNOWN = {"f1": "test_f1", "r": "test_r", "output_score": "output_score", "decoder_alignment": "decoder_alignment"}
"""What is known of a latent before it is steered -> its column in tested.parquet."""
