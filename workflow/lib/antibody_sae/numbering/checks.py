"""Is a numbering plausible? What every chain is looked at for, what is counted of a run, and when a run must end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from antibody_sae.io import InputError

OK = "ok"
MISPLACED = "conserved residues not at 23/104"
INCOMPLETE = "incomplete domain: residues are missing at its {end}"
ANCHORS = {"C23": (23, "C"), "W41": (41, "W"), "C104": (104, "C"), "J118": (118, "WF")}
"""IMGT's conserved residues: 1st cysteine, tryptophan, 2nd cysteine, and the J region's W (heavy) or F (light)."""
FIRST, LAST = (1, 2), (127, 128)
"""IMGT positions at which a complete domain starts and ends (some V genes have no residue 1, most light J no 128)."""
LOW_IDENTITY = 0.75
"""Identity to the nearest V germline below which a chain is likely another species' (a mouse chain among human genes);
human chains lie above .8 but for a few in a thousand."""
MOST_WRONG = 0.05
"""Largest share of numbered chains without their cysteines at 23 and 104; of natural human chains it is .0003."""
_FEW = 2
"""So many chains may be wrong whatever their share: among a few dozen chains one mutant is no wrong numbering."""


def anchored(conserved: str, first: int) -> bool:
    """Whether a chain's residues at the anchors (`conserved`, "CWCW") have both cysteines, as far as it has got them:
    one that starts behind position 23 is truncated, not wrongly numbered."""
    residues = dict(zip(ANCHORS, conserved, strict=True))
    return all(residues[name] == "C" or first > ANCHORS[name][0] for name in ("C23", "C104"))


class Checks:
    """Counts over the chains tables of a run."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._profiles: dict[str, Counter[str]] = {}

    def add(self, chains: pa.Table) -> None:
        """Count a part of the chains table."""
        columns = (
            "status", "profile", "conserved", "complete", "first_imgt", "last_imgt", "v_identity", "j_gene"
        )  # fmt: skip
        incomplete = {INCOMPLETE.format(end=end) for end in ("start", "end")}
        for row in chains.select(columns).to_pylist():
            self._statuses[row["status"]] += 1
            if row["status"] not in {OK, MISPLACED, *incomplete}:
                continue
            counts = self._profiles.setdefault(row["profile"].split("_")[0], Counter())
            counts["numbered"] += 1
            counts["misplaced"] += row["status"] == MISPLACED
            for (name, (position, letters)), residue in zip(ANCHORS.items(), row["conserved"], strict=True):
                counts[f"without_{name}"] += row["first_imgt"] <= position and residue not in letters
            self._counts["numbered"] += 1
            self._counts["truncated"] += not row["complete"]
            self._counts["truncated_start"] += row["first_imgt"] not in FIRST
            self._counts["truncated_end"] += row["last_imgt"] not in LAST
            if row["status"] == OK:
                self._counts["low_identity"] += (row["v_identity"] or 1) < LOW_IDENTITY
                self._counts["without_v_gene"] += row["v_identity"] is None
                self._counts["without_j_gene"] += row["j_gene"] is None

    def summary(self) -> dict[str, Any]:
        """`statuses`: chains by status, most first. `numbered`: chains with a domain and framework 4. Of these:
        `misplaced` (cysteines not at 23/104), `truncated` (and at which end), and `profiles`: by the species of the
        profile that numbered them, numbered and misplaced chains and those without each conserved residue. Of the
        chains that are ok: `low_identity` (V identity below LOW_IDENTITY), `without_v_gene`, `without_j_gene`.
        """
        profiles = {name: dict(counts) for name, counts in sorted(self._profiles.items())}
        names = ("numbered", "truncated", "truncated_start", "truncated_end", "low_identity", "without_v_gene",
                 "without_j_gene")  # fmt: skip
        return {
            **{name: self._counts[name] for name in names},
            "chains": self._statuses.total(),
            "misplaced": self._statuses[MISPLACED],
            "statuses": dict(self._statuses.most_common()),
            "profiles": profiles,
        }

    def refuse(self, path: str | Path) -> None:
        """Raise InputError where the numbering cannot be right, or where no chain is ok."""
        found = self.summary()
        wrong, numbered = found["misplaced"], found["numbered"]
        if wrong > max(_FEW, MOST_WRONG * numbered):
            guilty = sorted(found["profiles"].items(), key=lambda item: -item[1]["misplaced"])
            by = ", ".join(f"{n['misplaced']} of {n['numbered']} by {name}'s" for name, n in guilty if n["misplaced"])
            raise InputError(
                f"{path}, conserved: {wrong} of {numbered} numbered chains ({wrong / numbered:.0%}) lack the conserved "
                f"cysteines at IMGT 23 and 104, {by} profiles; these do not fit the chains. Set numbering.species to "
                "the species whose antibodies they are (without those that they are not), or take out of "
                "sequences.paths what has no such cysteines"
            )
        if not self._statuses[OK]:
            reasons = "; ".join(f"{n} x {status}" for status, n in self._statuses.most_common(5))
            raise InputError(
                f"{path}, status: no chain could be numbered ({reasons or 'there are none'}); check "
                "numbering.species and that the sequences are amino acids of antibody variable domains"
            )


def describe(summary: dict[str, Any]) -> list[str]:
    """A run's summary in lines for its log."""
    lines = [f"{n:>9} chains {status}" for status, n in summary["statuses"].items()]
    numbered = max(1, summary["numbered"])
    says = {
        "truncated": "are no complete domain (first residue at IMGT 1 or 2, last at 127 or 128)",
        "misplaced": "have no cysteine at IMGT 23 or 104",
        "low_identity": f"have no V germline of {LOW_IDENTITY:.0%} identity: another species' antibodies?",
        "without_v_gene": "have no V germline: their species has none of this chain type",
        "without_j_gene": "have no J germline: their species has none of this chain type",
    }
    lines += [
        f"{summary[key]:>9} of {summary['numbered']} numbered chains ({summary[key] / numbered:.1%}) {text}"
        for key, text in says.items()
        if summary[key] or key in ("truncated", "misplaced")
    ]
    for species, counts in summary["profiles"].items():
        missing = ", ".join(f"{name} {counts[f'without_{name}'] / counts['numbered']:.2%}" for name in ANCHORS)
        lines.append(f"{counts['numbered']:>9} numbered by {species}'s profiles; without {missing}")
    return lines
