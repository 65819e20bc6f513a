"""What a design must be, and how many of the sequences that were written are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from antibody_sae.designs import judges, liabilities
from antibody_sae.io import InputError
from antibody_sae.steering import outcomes

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection

WRITTEN = "numbered and ended"
"""The constraint that is always there: what cannot be numbered, or was cut off, cannot be judged."""


@dataclass(frozen=True)
class Constraints:
    """What a design must be; the config's keys of the same names."""

    complete: bool = True
    """Every chain is a whole domain: it starts at IMGT 1 or 2 and ends at 127 or 128 (see numbering.checks)."""
    conserved: bool = True
    """C23, W41, C104 and W or F at 118 in every chain."""
    distinct: bool = True
    """No sequence twice in a library."""
    max_perplexity: float | None = None
    """Under the unsteered model."""
    min_humanness: float | None = None
    """OASis identity of every chain (0 to 1), by the judge oasis: it has to be installed."""
    liabilities: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    """Liability -> "all", or the regions where it is refused; names as in `liabilities.NAMES`."""
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Concept -> (smallest, largest) share of the library that has it; (1, 1): every design, (0, 0): none."""
    min_training_distance: int = 0
    """Residues that differ from the nearest training sequence, at least (Levenshtein)."""
    min_distance: int = 0
    """Residues that any two designs differ in, at least (Levenshtein)."""

    def __post_init__(self) -> None:
        for name in self.liabilities:
            if name not in liabilities.NAMES:
                raise InputError(
                    f"designs: constraints.liabilities: {name!r} is none of {', '.join(liabilities.NAMES)}"
                )

    @property
    def held(self) -> dict[str, bool]:
        """Concepts that every design has (True), or none has (False)."""
        return {c: low == 1 for c, (low, high) in self.rates.items() if low == high and low in (0, 1)}

    @property
    def quotas(self) -> dict[str, tuple[float, float]]:
        """Concepts that a share of the library has."""
        return {c: limits for c, limits in self.rates.items() if c not in self.held}


def _spans(found: outcomes.NumberedTexts) -> pd.DataFrame:
    """One row an antibody_id: complete and conserved in all of its chains, by the numbering's own columns."""
    chains = found.chains
    anchors = chains["conserved"].fillna("").str.fullmatch("CWC[WF]")
    flags = pd.DataFrame({"complete": chains["complete"].astype(bool), "conserved": anchors.astype(bool)})
    return flags.groupby(chains["antibody_id"]).all()


def checks(
    written: pd.DataFrame, found: outcomes.NumberedTexts, constraints: Constraints, labels: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """[rows of `written`] one bool column a constraint that a sequence meets or not by itself, in the order asked.

    `written` has the columns text, ended, valid, antibody_id, heavy, light and, where it is asked for, perplexity;
    `labels` says for each concept which rows have it. A sequence that was not numbered meets nothing.
    """
    valid = written["valid"].to_numpy(bool)
    columns: dict[str, Any] = {WRITTEN: valid & written["ended"].to_numpy(bool)}
    spans = _spans(found).reindex(written["antibody_id"])
    for name in ("complete", "conserved"):
        if getattr(constraints, name):
            columns[name] = spans[name].eq(True).to_numpy(bool)
    for concept, wanted in constraints.held.items():
        columns[concept if wanted else f"no {concept}"] = labels[concept] == wanted
    if constraints.max_perplexity is not None:
        columns["max_perplexity"] = (written["perplexity"] <= constraints.max_perplexity).to_numpy()
    if constraints.liabilities:
        bad = {
            antibody: any(
                liabilities.refused(liabilities.find(chain), constraints.liabilities)
                for _, chain in residues.groupby("chain", sort=False)
            )
            for antibody, residues in found.residues.groupby("antibody_id", sort=False)
        }
        columns["liabilities"] = ~written["antibody_id"].map(bad).fillna(True).to_numpy(bool)
    if constraints.min_humanness is not None:
        columns["min_humanness"] = _human(written, valid, constraints.min_humanness)
    return pd.DataFrame({name: column & valid for name, column in columns.items()}, index=written.index)


def _human(written: pd.DataFrame, valid: np.ndarray, least: float) -> np.ndarray:
    out = np.zeros(len(written), bool)
    scores = judges.run("oasis", written.loc[valid, list(judges.SIDES)])
    out[valid] = (scores.fillna(np.inf) >= least).all(axis=1).to_numpy()
    return out


def quota(
    has: Mapping[str, bool], counts: Mapping[str, int], rates: Mapping[str, tuple[float, float]], accepted: int, n: int
) -> str | None:
    """Why a sequence would make the shares of a library of n impossible to reach, if it would."""
    for concept, (low, high) in rates.items():
        if has[concept] and counts[concept] + 1 > np.floor(high * n + 1e-9):
            return f"{concept} above its rate"
        if not has[concept] and counts[concept] + (n - accepted - 1) < np.ceil(low * n - 1e-9):
            return f"{concept} below its rate"
    return None


def funnel(checked: pd.DataFrame, refused: Mapping[str, int], accepted: int) -> list[dict[str, Any]]:
    """From written to accepted, one row a constraint in order.

    Each row: constraint, `left` (that meet it and all before it), `yield` (share of the sequences that meet it by
    itself, among those numbered). `refused`: constraints that depend on what was accepted before -> sequences lost.
    """
    numbered = checked[WRITTEN].to_numpy()
    left = np.ones(len(checked), bool)
    rows: list[dict[str, Any]] = [{"constraint": "written", "left": len(checked), "yield": None}]
    for name in checked:
        own = checked[name].to_numpy()
        left &= own
        share = own.mean() if name == WRITTEN else own[numbered].mean() if numbered.any() else 0.0
        rows.append({"constraint": str(name), "left": int(left.sum()), "yield": float(share)})
    remaining = int(left.sum())
    for name, lost in refused.items():
        share = 1 - lost / remaining if remaining else None
        remaining -= lost
        rows.append({"constraint": name, "left": remaining, "yield": share})
    return [*rows, {"constraint": "accepted", "left": accepted, "yield": None}]


def in_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """The funnel in one line a constraint, for a message."""
    lines = []
    for row in rows:
        share = "" if row["yield"] is None else f"  {row['yield']:6.1%} meet it by itself"
        lines.append(f"  {row['constraint']:<40}{row['left']:>8} left{share}")
    return "\n".join(lines)


_RANGE = re.compile(r"(?:[HL]:)?(?P<a><|>=)?(?P<x>-?[0-9.]+?)(?:(?P<dash>-|\.\.)(?P<y>-?[0-9.]+))?")


def bins_for(concept: str, settings: ConceptsSection) -> ConceptsSection:
    """The section `concepts` with bins under which a concept such as cdr3-length=H:>=16 has a name of its own."""
    group, _, value = concept.partition("=")
    column = group.replace("-", "_")
    found = _RANGE.fullmatch(value)
    if column not in settings["bins"] or found is None:
        return settings
    x = float(found["x"])
    edges = [x]
    if found["y"] is not None:  # "10-14" holds 14, "-1..0.5" ends before .5
        edges.append(float(found["y"]) + (found["dash"] == "-"))
    elif found["a"] is None:  # "12": a bin of one value
        edges.append(x + 1)
    return {**settings, "bins": {**settings["bins"], column: edges}}


def label(
    found: outcomes.NumberedTexts, concepts: Sequence[str], settings: ConceptsSection, species: str
) -> dict[str, np.ndarray]:
    """Concept -> [texts of `found`] bool, by the catalogue's functions and each concept's own bins."""
    return {c: outcomes.label_concepts(found, [c], bins_for(c, settings), species)[:, 0] for c in concepts}
