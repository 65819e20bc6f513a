"""What a usable chain is."""

import pytest
from antibody_sae.sequences import records as cleaning
from readers_world import HEAVY, NUCLEOTIDES, only, read, write

BASES = "nucleotides where residues are expected: set sequences.translate: true, or give an AIRR table"


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (HEAVY.lower(), ""),
        (f" {HEAVY[:20]}--..{HEAVY[20:]}\t", ""),
        (HEAVY + "*", ""),  # where translation ended
        (HEAVY[:50] + "*" + HEAVY[50:], "stop codon"),
        (HEAVY[:9] + "X" + HEAVY[10:], "ambiguous residue: X"),
        (HEAVY + "1", "characters that are not residues: '1'"),
        (HEAVY + "é", "characters that are not residues: 'é'"),
        (HEAVY + "ß", "characters that are not residues: 'ß'"),  # upper case would make it SS
        ("\u00a0" + HEAVY, "characters that are not residues: '\\xa0'"),
        (NUCLEOTIDES, BASES),
        (NUCLEOTIDES.lower() + "nnn", BASES),
        ("A" * 100_000, "wrong length: more than 5000 residues"),
        ("---", "empty"),
    ],
)
def test_clean(chain, reason):
    assert cleaning.clean(chain) == ("" if reason else HEAVY, reason)


@pytest.mark.parametrize("missing", ["", "-", "ND", "NA", "nan", "None"])
def test_words_for_nothing(tmp_path, missing):
    assert only(read(write(tmp_path / "a.csv", f"id,vh\nx,{missing}\n"))).reason == "no heavy chain"
