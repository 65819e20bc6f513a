"""Liability motifs, by region."""

from __future__ import annotations

from antibody_sae.designs import liabilities, library
from antibody_sae.steering import outcomes
from designs_world import TRASTUZUMAB


def test_liabilities_by_region():
    """Trastuzumab's known sites: N-D in CDR-H1... none glycosylated; N54-G55 in CDR-H2, D98-G99 in CDR-H3, M and W."""
    found = outcomes.number_texts([TRASTUZUMAB], library.WRITING, library.NUMBERING)
    places = liabilities.find(found.residues)
    assert places["N-glycosylation"] == []
    assert "CDR2:62" in places["deamidation"] or any(p.startswith("CDR2") for p in places["deamidation"])
    assert any(p.startswith("CDR3") for p in places["isomerisation"])
    assert len([p for p in places["oxidation"] if p.startswith("CDR3")]) == 2  # W and M of SRWGGDGFYAMDY
    assert all(p.startswith("CDR") for p in places["oxidation"])
    assert places["free-cysteine"] == []
    row = liabilities.describe(found.residues)
    assert row["cdr3_net_charge"] == -1  # R, D, D
    assert row["mutations"] > 5
    with_cysteine = TRASTUZUMAB.replace("SRWGGDG", "SRCGGDG")
    found = outcomes.number_texts([with_cysteine], library.WRITING, library.NUMBERING)
    assert [p.partition(":")[0] for p in liabilities.find(found.residues)["free-cysteine"]] == ["CDR3"]
    glycan = TRASTUZUMAB.replace("KNTAYLQ", "KNTSYLQ")
    found = outcomes.number_texts([glycan], library.WRITING, library.NUMBERING)
    places = liabilities.find(found.residues)
    assert [p.partition(":")[0] for p in places["N-glycosylation"]] == ["FR3"]
    assert liabilities.refused(places, {"N-glycosylation": "all"})
    assert not liabilities.refused(places, {"N-glycosylation": ["CDR1", "CDR3"]})
