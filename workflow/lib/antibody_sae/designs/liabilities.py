"""What a lab looks for in a sequence before it orders it: liabilities by region, charge, hydropathy, mutations.

All of it is read off the numbered sequence; a motif is a warning, not a finding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from antibody_sae.concepts.catalogue import MOTIFS, motif_regex
from antibody_sae.numbering.tables import HYDROPATHY, net_charge

CDRS = ("CDR1", "CDR2", "CDR3")


LIABILITIES: dict[str, tuple[str, bool]] = {
    # name -> (motif, whether it counts in CDRs alone)
    **{name: (motif_regex(MOTIFS[name]), False) for name in ("N-glycosylation", "deamidation", "isomerisation")},
    "fragmentation": (motif_regex(MOTIFS["fragmentation"]), False),
    "integrin-binding": ("RGD|RYD|KGD|LDV", False),
    "oxidation": ("[MW]", True),
}
FREE_CYSTEINE = "free-cysteine"
"""Cysteines beside 23 and 104, where their number is odd: one of them has no partner in the chain."""
NAMES = (*LIABILITIES, FREE_CYSTEINE)


def find(residues: pd.DataFrame) -> dict[str, list[str]]:
    """Liability -> places ("CDR3:108", the IMGT position of the motif's first residue) in one numbered chain.

    `residues`: that chain's rows of numbering/residues.parquet, in order.
    """
    inside = residues[residues["imgt"].notna()]
    sequence = "".join(inside["residue"])
    regions = inside["region"].fillna("").tolist()
    numbers = (inside["imgt"].astype(int).astype(str) + inside["insertion"].fillna("")).tolist()
    places = [f"{region}:{number}" for region, number in zip(regions, numbers, strict=True)]
    found: dict[str, list[str]] = {}
    for name, (motif, in_cdrs) in LIABILITIES.items():
        starts = [match.start() for match in re.finditer(f"(?={motif})", sequence)]  # overlapping ones too
        found[name] = [places[i] for i in starts if not in_cdrs or regions[i] in CDRS]
    extra = [i for i, letter in enumerate(sequence) if letter == "C" and numbers[i] not in ("23", "104")]
    found[FREE_CYSTEINE] = [places[i] for i in extra] if len(extra) % 2 else []
    return found


def refused(found: Mapping[str, Sequence[str]], limits: Mapping[str, Any]) -> bool:
    """Whether a chain has a liability in a region where `limits` ({liability: "all" or regions}) does not allow it."""
    return any(
        regions == "all" or place.partition(":")[0] in regions
        for name, regions in limits.items()
        for place in found[name]
    )


def describe(residues: pd.DataFrame) -> dict[str, Any]:
    """Columns of one chain: liability_* (places), cdr_liabilities (how many lie in CDRs), CDRs' net charge and mean
    Kyte-Doolittle hydropathy, and mutations (residues that differ from the assigned V and J germlines)."""
    found = find(residues)
    row: dict[str, Any] = {f"liability_{name.replace('-', '_').lower()}": " ".join(at) for name, at in found.items()}
    row["cdr_liabilities"] = sum(place.startswith("CDR") for at in found.values() for place in at)
    for region in CDRS:
        letters = residues.loc[residues["region"] == region, "residue"].tolist()
        row[f"{region.lower()}_net_charge"] = net_charge(letters)
        row[f"{region.lower()}_hydropathy"] = (
            round(sum(HYDROPATHY.get(r, 0.0) for r in letters) / len(letters), 3) if letters else None
        )
    germline = residues["germline"]
    row["mutations"] = int((germline.notna() & (germline != residues["residue"])).sum())
    return row
