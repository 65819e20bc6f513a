"""The paper's three claims, as a run sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.run import Run, rows, title
from antibody_sae.significance import wilson

MATCH_SHARE = 0.05
"""Share of an SAE's non-dead latents that must be interpretable for claim 1; chance alone would give about none."""


def _finding(claim: str, verdict: str, text: str, rule: str) -> dict[str, str]:
    return {"claim": claim, "verdict": verdict, "text": text, "rule": rule}


def _untested(claim: str, reason: str) -> dict[str, str]:
    return _finding(claim, "not tested", reason, "")


def points(x: float | None) -> str:
    """A change of a share in percentage points, with its sign."""
    if x is None or not math.isfinite(x):
        return "–"
    return f"{round(100 * x):+d}" if round(100 * x) else "0"


def joined(parts: Sequence[str]) -> str:
    """Parts as a list in a sentence."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def matching(saes_found: list[dict[str, Any]], targets: list[str]) -> dict[str, str]:
    """Claim 1: latents match biological concepts."""
    claim = "SAE latents match antibody concepts"
    known = [row for row in saes_found if row.get("interpretable") is not None]
    if not known:
        return _untested(claim, "No latent was compared with concepts in this run.")
    totals = pd.DataFrame(known).groupby("sae", sort=False)[["interpretable", "alive"]].sum().astype(int)
    found = [f"{row.interpretable:,} of {row.alive:,} in {title(row.Index)}" for row in rows(totals)]
    best = [row["best_f1"][t]["f1"] for row in known for t in targets if t in row.get("best_f1", {})]
    beaten = [b["f1"] > b["f1_simple"] for row in known for b in row.get("best_f1", {}).values()]
    text = (
        f"Non-dead latents that are interpretable: {joined(found)}; on test antibodies they beat every single neuron, "
        "principal component, untrained latent, position and residue."
    )
    if best:
        text += (
            f" The best latents for the {len(targets)} steering targets have a median F1 of {np.median(best):.2f}, and "
            f"{sum(beaten)} of {len(beaten)} beat those baselines."
        )
    shares = [row["share_strict"] for row in known]
    verdict = "confirmed" if min(shares) >= MATCH_SHARE else "in part" if max(shares) > 0 else "not confirmed"
    rule = (
        f"confirmed where at least {MATCH_SHARE:.0%} of every SAE's non-dead latents are interpretable with the whole "
        "95% interval of F1 above the best simple baseline"
    )
    return _finding(claim, verdict, text, rule)


def selection(run: Run, claims: Mapping[str, Any]) -> dict[str, str]:
    """Claim 2: a high association does not guarantee control."""
    claim = "A high association does not guarantee control"
    table = run.criteria
    if not len(table):
        return _untested(claim, "No latent was steered in this run.")
    chosen = table[table["selected_by"].isin(["f1", "r"]) & table["latent"].notna()]
    if not len(chosen):
        return _untested(claim, "No latent was chosen by its association in this run.")
    chosen = chosen.drop_duplicates(["layer", "sae", "seed", "concept", "latent"])
    moved, n = int(chosen["steerable"].sum()), len(chosen)
    text = (
        f"Of the {n} latents chosen for the best F1 or r (median F1 {chosen['f1'].median():.2f}), {moved} "
        f"{'moves its' if moved == 1 else 'move their'} concept further than random latents of the same length do."
    )
    other = table[table["selected_by"].isin(["output_score", "decoder_alignment"]) & table["latent"].notna()]
    other = other.drop_duplicates(["layer", "sae", "seed", "concept", "latent"])
    if len(other):
        text += f" Of the {len(other)} chosen by output score or decoder alignment, {int(other['steerable'].sum())} do."
    twins = table[(table["selected_by"] == "matched_latent") & table["latent"].notna()]
    if len(twins):
        text += (
            f" So do {int(twins['steerable'].sum())} of {len(twins)} matched latents, which have nothing to do with it."
        )
    chance = [entry["chance"] for entry in claims.values() if entry.get("chance", {}).get("arms")]
    if chance:
        passed, arms = (sum(entry[key] for entry in chance) for key in ("passed", "arms"))
        text += f" Tested against each other, {passed} of {arms} random latents are significant at p < 0.05."
    text += _correlations(claims)
    possible = bool(table["steerable"].any())
    if not possible:
        text += " No arm moved a target at all, the supervised directions included: this run cannot tell."
    high = float(wilson(moved, n)[1])
    kept = moved / n >= GUARANTEE
    verdict = "not confirmed" if kept else "confirmed" if possible and high < GUARANTEE else "undecided"
    rule = (
        f"confirmed where the 95% interval of the share of latents with the best F1 or r that are steerable (here up "
        f"to {high:.0%}) stays below {GUARANTEE:.0%}, and something is steerable; not confirmed where it reaches that"
    )
    return _finding(claim, verdict, text, rule)


def _correlations(claims: Mapping[str, Any]) -> str:
    """A sentence on what tells, before anything is generated, how far a latent will move a concept."""
    parts = []
    for key, name in (("f1", "F1"), ("output_score", "the output score")):
        found = {title(kind): entry.get(f"spearman_signed_{key}") or {} for kind, entry in claims.items()}
        known = [
            f"{rho['rho']:+.2f} [{rho['low']:+.2f}, {rho['high']:+.2f}] for {kind}"
            for kind, rho in found.items()
            if rho.get("rho") is not None
        ]
        if known:
            parts.append(f"of {name} it is {joined(known)}")
    return f" Spearman's correlation with the change, over all steered latents: {'; '.join(parts)}." if parts else ""


def orderedness(run: Run) -> dict[str, str]:
    """Claim 3: Ordered SAEs steer reliably, at the price of more complex patterns."""
    claim = "Ordered SAEs steer more reliably, with more complex patterns"
    table = run.strongest
    by = _by_type(table) if len(table) else {}
    if not {"topk", "ordered"} <= set(by):
        return _untested(claim, "This run did not steer both a TopK and an Ordered SAE.")
    text = f"Targets with a steerable latent: {_steered(by)}."
    arms = table[table["delta"].notna()]
    if len(arms):
        arm = arms.sort_values("delta", kind="stable").iloc[-1]
        text += (
            f" The largest change is {points(arm['delta'])} points [{points(arm['delta_low'])}, "
            f"{points(arm['delta_high'])}] of {concept_label(arm['concept'])}, by {arm['sae']} latent "
            f"{arm['latent']:.0f}; random latents moved it by {points(arm['random_low'])} to "
            f"{points(arm['random_high'])}."
        )
    low, high, text_of_change = _paired(by["ordered"], by["topk"], "largest change")
    text_of_change += _by_association(run.criteria)
    measured, more = _complexity(run)
    hits = [(int(by[k]["steerable"].sum()), len(by[k])) for k in ("ordered", "topk")]
    p = stats.fisher_exact([[h, n - h] for h, n in hits]).pvalue
    better = hits[0][0] / hits[0][1] > hits[1][0] / hits[1][1]
    reliable = [p < 0.05 and better, low > 0]
    if (p < 0.05 and not better) or high < 0:
        verdict = "not confirmed"
    elif all(reliable) and more:
        verdict = "confirmed"
    else:
        verdict = "in part" if any(reliable) else "undecided"
    rule = (
        "confirmed where Ordered has the larger share of steerable targets (Fisher's exact test, here "
        f"p = {p:.2g}), moves the same targets further (95% interval of the mean difference above 0), and is the more "
        "complex by most of the three measures; in part where only one of the first two holds; not confirmed where one "
        "of them is reversed"
    )
    return _finding(claim, verdict, text + text_of_change + measured, rule)


def _by_association(criteria: pd.DataFrame) -> str:
    """A sentence on the latents that a user would try first, those with the best F1 for their target."""
    best = _by_type(criteria[criteria["selected_by"] == "f1"])
    if not {"topk", "ordered"} <= set(best):
        return ""
    return (
        f" Targets that the latent with the best F1 steers: {_steered(best)}."
        + _paired(best["ordered"], best["topk"], "change by that latent")[2]
    )


def _by_type(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each SAE type, in the order of the table."""
    return {kind: table[table["architecture"] == kind] for kind in dict.fromkeys(table["architecture"])}


def _steered(by: Mapping[str, pd.DataFrame]) -> str:
    """How many rows of each SAE type are steerable, such as "1 of 6 with TopK and 5 of 6 with Ordered"."""
    return joined([f"{int(t['steerable'].sum())} of {len(t)} with {title(kind)}" for kind, t in by.items()])


def _paired(ordered: pd.DataFrame, topk: pd.DataFrame, what: str) -> tuple[float, float, str]:
    """95 % t interval of the mean difference in the targets' changes, Ordered minus TopK; and a sentence on `what`."""
    keys = ["layer", "seed", "concept"]
    means = [table.groupby(keys)["delta"].mean() for table in (ordered, topk)]  # where a type has several SAEs
    difference = (means[0] - means[1]).dropna().to_numpy(float)
    if len(difference) < 2:
        return -math.inf, math.inf, ""
    mean, error = difference.mean(), float(stats.sem(difference))
    reach = float(stats.t.ppf(0.975, len(difference) - 1)) * error
    text = (
        f" Over {len(difference)} pairs of the same target, layer and seed, Ordered's {what} is {points(mean)} points "
        f"[{points(mean - reach)}, {points(mean + reach)}] beyond TopK's."
    )
    return mean - reach, mean + reach, text


GUARANTEE = 0.9
"""Share of best-associated latents that would have to steer for association to be called a guarantee. Until the study
of three seeds the rule asked for under half; six of its twelve steered, which is no guarantee."""
COMPLEXITY = {
    "n_concepts_mean": ("concepts", ".1f"),
    "entropy_region_mean": ("bits of entropy over regions", ".2f"),
    "entropy_residue_mean": ("over residues", ".2f"),
}
"""Measures of how complex an activation pattern is, columns of tables/complexity.csv with their names. Chosen after the
default run had been seen, where concepts pointed one way and entropies the other: a run of other seeds is the test."""


def _complexity(run: Run) -> tuple[str, bool]:
    """A sentence on the activation patterns, and whether Ordered's are the more complex by most measures."""
    table = run.csv("complexity")
    if not len(table):
        return "", False
    named = {title(name): settings["architecture"] for name, settings in run.settings.items()}
    everywhere = table[table["subset"] == "all"].assign(kind=lambda t: t["sae"].map(named))
    mean = everywhere.groupby("kind")[list(COMPLEXITY)].mean()
    pairs = {key: (float(mean[key]["ordered"]), float(mean[key]["topk"])) for key in COMPLEXITY}
    more = sum(ordered > topk for ordered, topk in pairs.values()) > len(pairs) / 2
    parts = [f"{pairs[key][0]:{fmt}} {name} ({pairs[key][1]:{fmt}})" for key, (name, fmt) in COMPLEXITY.items()]
    return f" An Ordered latent has {joined(parts)} on average, TopK's in brackets.", more
