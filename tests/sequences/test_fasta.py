"""FASTA."""

import gzip

import pytest
from readers_world import HEAVY, HERE, LIGHT, read, write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_fasta(tmp_path, pack):
    text = f">ab1_H some text\n{HEAVY[:50]}\n{HEAVY[50:]}\n\n>ab1_L\n{LIGHT}\n>ab2_VK\n{LIGHT}\n"
    path = write(tmp_path / "a.fasta", pack(text.encode()))
    pair, alone = read(path, chains="HL")
    assert (pair.id, pair.heavy, pair.light, pair.reason) == ("ab1", HEAVY, LIGHT, "")
    assert (alone.id, alone.line, alone.reason) == ("ab2_VK", 7, f"no heavy chain of the pair{HERE}")
    first = read(path, chains="H")[0]
    assert (first.line, first.heavy) == (1, HEAVY)
    own = write(tmp_path / "b.fasta", f">heavy of x\n{HEAVY}\n>light of x\n{LIGHT}\n>other\n{LIGHT}\n")
    pair, other = read(own, chains="HL", pair_pattern=r"(?P<chain>heavy|light) of (?P<id>\w+)")
    assert (pair.id, pair.heavy, pair.light) == ("x", HEAVY, LIGHT)
    assert "sequences.pair_pattern" in other.reason
