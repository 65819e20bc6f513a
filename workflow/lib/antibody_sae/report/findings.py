"""The paper's three claims, as a run sees them and as docs/protocol.md judges them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.config import control_of
from antibody_sae.report.run import Run, rows, title
from antibody_sae.sae.prefixes import kind_of
from antibody_sae.significance import Interval, paired
from antibody_sae.steering.criteria import CRITERIA

ONE_SEED = "one seed: not a test of the claims"
"""The verdict of a run whose SAEs have one seed, whatever its figures."""
UNDECIDED = "undecided"


def _finding(claim: str, verdict: str, text: str, figures: Sequence[tuple[str, str]], rule: str) -> dict[str, Any]:
    """claim, verdict, one sentence, what the verdict rests on as (what, value) pairs, and how it is decided."""
    return {"claim": claim, "verdict": verdict, "text": text, "figures": [list(pair) for pair in figures], "rule": rule}


def _untested(claim: str, reason: str) -> dict[str, Any]:
    return _finding(claim, "not tested", reason, [], "")


def points(x: float | None) -> str:
    """A change of a share in percentage points, with its sign."""
    if x is None or not math.isfinite(x):
        return "–"
    return f"{round(100 * x):+d}" if round(100 * x) else "0"


def joined(parts: Sequence[str]) -> str:
    """Parts as a list in a sentence."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def interval(found: Interval | Mapping[str, Any], scale: float = 1.0, fmt: str = "+.2f") -> str:
    """A mean over targets with its interval, as text."""
    mean, low, high = (found[k] for k in ("mean", "low", "high")) if isinstance(found, Mapping) else found[:3]
    if mean is None or not math.isfinite(mean):
        return "–"
    known = low is not None and high is not None and math.isfinite(low)
    return f"{scale * mean + 0.0:{fmt}}" + (f" [{scale * low:{fmt}}, {scale * high:{fmt}}]" if known else "")


def _verdict(low: float | None, high: float | None, seeds: int) -> str:
    """confirmed where the whole interval lies above 0, not confirmed where it lies below."""
    if seeds < 2:
        return ONE_SEED
    if low is None or high is None or not math.isfinite(low):
        return UNDECIDED
    return "confirmed" if low > 0 else "not confirmed" if high < 0 else UNDECIDED


def matching(saes_found: list[dict[str, Any]], targets: list[str]) -> dict[str, Any]:
    """Claim 1, judged on TopK alone: its latents match biological concepts."""
    claim = "TopK latents match antibody concepts"
    known = [row for row in saes_found if row.get("interpretable") is not None]
    if not known:
        return _untested(claim, "No latent was compared with concepts in this run.")
    table = pd.DataFrame(known).assign(control=pd.Series([row.get("control") for row in known], dtype=object))
    totals = table.groupby("sae", sort=False)[["interpretable_strict", "alive"]].sum().astype(int)
    figures = [
        (f"latents above every simple baseline, {title(row.Index)}", f"{row.interpretable_strict:,} of {row.alive:,}")
        for row in rows(totals)
    ]
    best = [row["best_f1"][t]["f1"] for row in known for t in targets if t in row.get("best_f1", {})]
    if best:
        figures.append((f"median F1 of the targets' best latents, {len(targets)} in all", f"{np.median(best):.2f}"))
    rule = (
        "confirmed where the share of TopK's latents whose whole interval of F1 lies above every single neuron, "
        "principal component, untrained latent, position and residue, on test antibodies, exceeds that of an untrained "
        "SAE and of an SAE trained on the same model with random weights (difference over seeds, 95% interval above 0)"
    )
    own = table[(table["architecture"] == "topk") & table["control"].isna()]
    if not len(own):
        return _finding(claim, "not tested", "This run has no TopK SAE.", figures, rule)
    own = own[own["sae"] == own["sae"].iloc[0]]  # of several the first: the others are rows of an ablation
    share = own["interpretable_strict"].sum() / max(1, own["alive"].sum())
    text = f"{share:.0%} of TopK's active latents predict a concept better than everything simpler does"
    shares, bounds = own.groupby(["seed", "layer"])["share_strict"].mean(), []
    for control, name in (("untrained", "an untrained SAE's"), ("random_model", "that on random weights")):
        other = table[table["control"] == control]
        if len(other):
            difference = paired(shares, other.groupby(["seed", "layer"])["share_strict"].mean())
            figures.append((f"TopK's share less {name}", f"{interval(difference, 100, '+.1f')} points"))
            bounds.append(difference)
    if len(bounds) < 2:
        text += "; the run lacks the controls that the claim is judged by"
        verdict = ONE_SEED if own["seed"].nunique() < 2 else UNDECIDED
        return _finding(claim, verdict, f"{text}.", figures, rule)
    low, high = min(b.low for b in bounds), min(b.high for b in bounds)
    return _finding(claim, _verdict(low, high, own["seed"].nunique()), f"{text}.", figures, rule)


def selection(run: Run, claims: Mapping[str, Any]) -> dict[str, Any]:
    """Claim 2, judged on TopK alone: a high association does not guarantee control."""
    claim = "A high association does not guarantee control"
    control = claims.get("control")
    if not len(run.criteria) or control is None:
        return _untested(claim, "No TopK latent was steered in this run.")
    text = (
        f"Of {control['trained']} targets the trained vector steers {control['trained_steers']}; of TopK's latents "
        f"with the best F1 for those, {control['best_f1_steers']} of {control['best_f1']} do."
    )
    figures = []
    difference = control["difference"]
    if difference["mean"] is not None:
        figures.append(
            ("share of targets steered, best F1 less trained vector", f"{interval(difference, 100, '+.0f')} points")
        )
    for sae, entry in claims["by_sae"].items():
        figures += [
            (f"Spearman's correlation of {CRITERIA[key].title} with the effect, within targets, {title(sae)}",
             interval(entry["spearman"][key]))
            for key in ("f1", "rate_derivative")
            if entry["spearman"].get(key, {}).get("mean") is not None
        ]  # fmt: skip
    chance = [entry["chance"] for entry in claims["by_sae"].values() if entry["chance"]["arms"]]
    if chance:
        passed, arms = (sum(entry[key] for entry in chance) for key in ("passed", "arms"))
        figures.append(("random latents that pass against each other at p < 0.05", f"{passed} of {arms}"))
    rule = (
        "confirmed where, over targets that the trained vector steers, the share steered by TopK's latent with the "
        "best F1 lies below the vector's (95% interval of the difference below 0)"
    )
    if not control["trained"]:
        text = "This run has no trained vector to judge by."
        return _finding(claim, "not tested", text, figures, rule)
    if not control["trained_steers"]:
        text = (
            f"The trained vector steers none of {control['trained']} targets, so there is nothing to hold latents to."
        )
        return _finding(claim, UNDECIDED if claims["seeds"] > 1 else ONE_SEED, text, figures, rule)
    low, high = difference["low"], difference["high"]
    less = None if high is None else -high, None if low is None else -low  # of the vector beyond the latents
    verdict = _verdict(less[0], less[1], claims["seeds"])
    if verdict == UNDECIDED and low == high == 0:
        verdict = "not confirmed"
    return _finding(claim, verdict, text, figures, rule)


def orderedness(run: Run, claims: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Claim 3, its two verdicts: Ordered SAEs steer more reliably than TopK, with more complex patterns."""
    return [_reliability(claims), _complexity(run)]


def _reliability(claims: Mapping[str, Any]) -> dict[str, Any]:
    claim = "Ordered steers more reliably than TopK"
    found = claims.get("reliability", {}).get("ordered", {})
    if "f1" not in found:
        return _untested(claim, "This run did not steer both a TopK and an Ordered SAE by the best F1.")
    steered = [
        f"{entry['by_criterion']['f1']['steerable']} of {entry['by_criterion']['f1']['arms']} with {title(sae)}"
        for sae, entry in claims["by_sae"].items()
        if "f1" in entry["by_criterion"]
    ]
    odds, change = found["f1"]["log_odds"], found["f1"]["delta"]
    text = f"The latent with the best F1 steers its target {joined(steered)}."
    figures = [
        ("Ordered less TopK, same target and length, log odds ratio", interval(odds)),
        ("the same in points of the target's share", interval(change, 100, "+.0f")),
    ]
    figures += [
        (f"Ordered less TopK by {CRITERIA[criterion].title}, log odds ratio", interval(each["log_odds"]))
        for criterion, each in found.items()
        if criterion != "f1" and each["log_odds"]["mean"] is not None
    ]
    rule = (
        "confirmed where Ordered less TopK of the confirmed log odds ratios of the latents with the best F1 lies "
        "above 0 (95% interval over targets, seeds within them)"
    )
    return _finding(claim, _verdict(odds["low"], odds["high"], claims["seeds"]), text, figures, rule)


COMPLEXITY_WORDS = {
    "n_above_yes_mean": ("concepts that a latent predicts better than always-yes by 0.2 F1", ".1f"),
    "entropy_region_mean": ("entropy over regions, bits", ".2f"),
    "entropy_residue_mean": ("entropy over residues, bits", ".2f"),
}
"""Measures of how complex an activation pattern is, columns of tables/complexity.csv with their names. The first
decides, between latents of matched density; entropies are secondary."""


def _complexity(run: Run) -> dict[str, Any]:
    claim = "Ordered's patterns are more complex than TopK's"
    table = matched_density(run)
    first = {kind: first_of(run, kind) for kind in ("topk", "ordered")}
    if not len(table) or None in first.values():
        return _untested(claim, "This run has no TopK and Ordered SAE side by side.")
    parts = {kind: table[table["sae"] == name] for kind, name in first.items()}
    mean = {key: {kind: own[key].mean() for kind, own in parts.items()} for key in COMPLEXITY_WORDS}
    pairs = {key: (float(mean[key]["ordered"]), float(mean[key]["topk"])) for key in COMPLEXITY_WORDS}
    column = "n_above_yes_mean"
    by = {kind: own.groupby(["seed", "layer"])[column].mean() for kind, own in parts.items()}
    difference = paired(by["ordered"], by["topk"])
    ordered, topk = pairs[column]
    text = (
        f"Of latents that fire equally often, an Ordered one goes with {ordered:.1f} concepts on average, a TopK one "
        f"with {topk:.1f}."
    )
    figures = [("difference in concepts, over seeds", interval(difference))]
    figures += [
        (f"{name}, Ordered against TopK", f"{pairs[key][0]:{fmt}} against {pairs[key][1]:{fmt}}")
        for key, (name, fmt) in COMPLEXITY_WORDS.items()
    ]
    rule = (
        "a concept counts where the latent's F1 exceeds that of always saying yes by 0.2; confirmed where the "
        "difference in concepts, between latents of matched density, lies above 0 (95% interval over seeds)"
    )
    verdict = _verdict(difference.low, difference.high, table["seed"].nunique())
    return _finding(claim, verdict, text, figures, rule)


def matched_density(run: Run) -> pd.DataFrame:
    """tables/complexity.csv between latents of matched density; empty where the run has none."""
    table = run.csv("complexity")
    return table[table["subset"] == "matched density"] if len(table) else table


def first_of(run: Run, architecture: str) -> str | None:
    """Title of the first SAE of an architecture that is no control: the one that the claims are about."""
    own = [name for name, of in run.settings.items() if kind_of(of) == architecture and control_of(of) is None]
    return title(own[0]) if own else None
