"""What the tests of sequences share."""

from pathlib import Path

from antibody_sae.sequences import chunks, readers
from antibody_sae.sequences.records import ReadSettings
from hypothesis import strategies as st

HEAVY = "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGQGTLVTVSS"
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
NUCLEOTIDES = "GAGGTGCAGCTGGTGGAGTCTGGGGGAGGCTTGGTACAGCCTGGGGGGTCCCTGAGACTC"  # EVQLVESGGGLVQPGGSLRL
HERE = " in this file (see sequences.pair_pattern and sequences.join)"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, **how) -> list[readers.Record]:
    """As a run reads it: numbered, cut to the variable domain, paired."""
    return list(chunks.antibodies([path], ReadSettings(**how), ["human"], (1, 1000)))


def only(records: list[readers.Record]) -> readers.Record:
    assert len(records) == 1
    return records[0]


AIRR = [
    "sequence_id",
    "rev_comp",
    "productive",
    "v_call",
    "sequence_alignment",
    "sequence_aa",
    "cell_id",
    "v_germline_start",
    "disease",
]


def airr(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = ["\t".join(AIRR), *("\t".join(row.get(name, "") for name in AIRR) for row in rows)]
    return write(path, "\n".join(lines) + "\n")


cells = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.sampled_from([HEAVY, LIGHT, "", "X", "*"])
