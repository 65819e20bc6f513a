"""Files as people have them: every format, every kind of damage, and a fuzz that allows nothing but InputError."""

import csv
import gzip
import io
import json
import os
import string
from pathlib import Path

import pandas as pd
import pytest
from antibody_sae.antibody import RESIDUES
from antibody_sae.io import InputError
from antibody_sae.sequences import chunks, pairing, readers
from antibody_sae.sequences import records as cleaning
from antibody_sae.sequences.records import ReadSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEAVY = "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGQGTLVTVSS"
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
TABLE = f"id,vh\nx,{HEAVY}\n".encode()
NUCLEOTIDES = "GAGGTGCAGCTGGTGGAGTCTGGGGGAGGCTTGGTACAGCCTGGGGGGTCCCTGAGACTC"  # EVQLVESGGGLVQPGGSLRL


BASES = "nucleotides where residues are expected: set sequences.translate: true, or give an AIRR table"
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


# --- formats ---------------------------------------------------------------------------------------------------------


def oas_unit(rows: list[dict[str, str]], metadata: dict) -> bytes:
    """As published: two gzip members, the metadata one CSV field on top."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    first = io.StringIO()
    csv.writer(first).writerow([json.dumps(metadata)])
    return gzip.compress(first.getvalue().encode()) + gzip.compress(table.getvalue().encode())


def test_oas_unpaired(tmp_path):
    row = {"sequence": "ACGT", "productive": "T", "stop_codon": "F", "vj_in_frame": "T", "v_call": "IGHV3-66*01",
           "sequence_alignment_aa": HEAVY, "Redundancy": "2.0"}  # fmt: skip
    rows = [row, {**row, "productive": "F"}, {**row, "stop_codon": "T"}, {**row, "vj_in_frame": "F"}]
    path = write(
        tmp_path / "unit.csv.gz",
        oas_unit(rows, {"Species": "mouse_BALB/c", "Chain": "Heavy", "Disease": "None", "Age": 3}),
    )
    good, *bad = read(path)
    assert (good.heavy, good.light, good.species, good.reason) == (HEAVY, None, "mouse", "")
    assert good.metadata == {
        "input_Species": "mouse_BALB/c", "Chain": "Heavy", "Disease": "None", "Age": "3", "Redundancy": "2.0",
    }  # fmt: skip
    assert [r.reason for r in bad] == ["not productive", "stop codon", "out of frame"]
    assert read(path, chains="L")[0].reason == "no light chain"


def test_oas_metadata_may_run_over_several_lines(tmp_path):
    text = (
        '"{""Run"": ""R1"", ""Author"": ""A\nand\nB""}"\r\nv_call,sequence_alignment_aa\r\nIGKV1-5*01,' + LIGHT + "\r\n"
    )
    record = only(read(write(tmp_path / "unit.csv", text), chains="L"))
    assert (record.light, record.line) == (LIGHT, 5)
    assert record.metadata == {"Run": "R1", "Author": "A\nand\nB"}
    plain = '{"Run": "R1", "Chain": "Heavy"}\nsequence_alignment_aa\n' + HEAVY + "\n"
    assert only(read(write(tmp_path / "plain.csv", plain))).heavy == HEAVY


def test_oas_paired_with_all_its_columns(tmp_path, shared_data):
    names = (shared_data / "oas_paired_columns.txt").read_text().replace(",", "\n").split()
    assert len(names) == 180
    row = dict.fromkeys(names, "") | {"sequence_alignment_aa_heavy": HEAVY, "sequence_alignment_aa_light": LIGHT,
                                      "productive_heavy": "T", "productive_light": "T",
                                      "sequence_id_heavy": "c1"}  # fmt: skip
    rows = [row, row | {"productive_light": "F"}, row | {"sequence_alignment_aa_light": ""}]
    path = write(tmp_path / "paired.csv.gz", oas_unit(rows, {"Run": "R", "Disease": "HIV"}))
    pair, light_not_productive, no_light = read(path, chains="HL")
    assert (pair.heavy, pair.light, pair.id, pair.metadata["Disease"]) == (HEAVY, LIGHT, "c1", "HIV")
    assert light_not_productive.reason == "not productive"
    assert no_light.reason == "no light chain of the pair"
    assert [r.reason for r in read(path, chains="H")] == ["", "", ""]


def test_real_oas_units(shared_data):
    records = read(shared_data / "SRR2153045_Heavy_Bulk.csv.gz")
    assert len(records) == 8
    assert {r.metadata["Disease"] for r in records} == {"Dengue"}
    assert sum(not r.reason for r in records) >= 7
    records = read(shared_data / "SRR2153038_Heavy_Bulk.csv.gz")
    assert len(records) == 496
    assert sum(not r.reason for r in records) > 450


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


def test_airr_pairs_by_cell(tmp_path):
    heavy = {
        "sequence_id": "c1_1",
        "productive": "T",
        "v_call": "IGHV3-66",
        "sequence_aa": HEAVY,
        "cell_id": "c1",
        "disease": "flu",
    }
    light = {"sequence_id": "c1_2", "productive": "T", "v_call": "IGKV1-39", "sequence_aa": LIGHT, "cell_id": "c1"}
    rows = [
        heavy,
        light,
        {**light, "cell_id": "c2"},
        {**heavy, "cell_id": "c3", "productive": "F"},
        {**light, "cell_id": "c3"},
    ]
    path = airr(tmp_path / "r.tsv", rows)
    records = read(path, chains="HL")
    pair = only([r for r in records if not r.reason])
    assert (pair.heavy, pair.light, pair.id) == (HEAVY, LIGHT, "c1")
    assert pair.metadata == {"cell_id": "c1", "disease": "flu"}  # alignments are not kept
    alone = f"no heavy chain of the pair{HERE}"
    assert sorted(r.reason for r in records if r.reason) == [alone, alone, "not productive"]
    assert [bool(r.reason) for r in read(path, chains="H")] == [False, True, True, True, True]


def test_airr_nucleotides_are_translated_in_frame(tmp_path):
    gapped = NUCLEOTIDES[:12] + "......---" + NUCLEOTIDES[12:]
    rows = [
        {"v_call": "IGHV1", "sequence_alignment": gapped},
        {"v_call": "IGHV1", "sequence_alignment": NUCLEOTIDES[4:], "v_germline_start": "5"},
        {"v_call": "IGHV1", "sequence_alignment": NUCLEOTIDES[:9] + "TAA" + NUCLEOTIDES[12:]},
        {"v_call": "IGHV1", "sequence_alignment": NUCLEOTIDES[:9] + "NNN" + NUCLEOTIDES[12:]},
    ]
    records = list(readers.read(airr(tmp_path / "r.tsv", rows), ReadSettings()))  # too short to be numbered
    assert [r.heavy for r in records[:2]] == ["EVQLVESGGGLVQPGGSLRL", "QLVESGGGLVQPGGSLRL"]
    assert [r.reason for r in records[2:]] == ["heavy chain: stop codon", "heavy chain: ambiguous residue: X"]


def test_real_airr_table(shared_data):
    path = shared_data / "airr_rearrangement_scirpy.tsv"
    rows = pd.read_csv(path, sep="\t")
    cells = rows[rows["productive"] == "T"].groupby("cell_id")["v_call"].agg(lambda v: {x[2] for x in v})
    pairs = [r for r in read(path, chains="HL") if not r.reason]
    assert len(pairs) == sum("H" in chains and bool(chains & {"K", "L"}) for chains in cells) > 0
    assert all("QVQLV" in r.heavy or "EVQLV" in r.heavy or len(r.heavy) > 100 for r in pairs)


def test_csv_finds_or_is_told_its_columns(tmp_path):
    path = write(tmp_path / "a.csv", f"Name,VH,VL,Binder,source\na1,{HEAVY},{LIGHT},yes,lab\na2,{HEAVY[1:]},,no,lab\n")
    first, second = read(path, chains="HL")
    assert (first.heavy, first.light) == (HEAVY, LIGHT)
    assert (first.id, first.metadata) == ("a1", {"Binder": "yes", "input_source": "lab"})
    assert second.reason == "no light chain of the pair"
    told = write(tmp_path / "b.csv", f"n,chain one,org,Binder,x\na1,{HEAVY},Mus musculus,1,2\n")
    record = only(read(told, columns={"heavy": "chain one", "id": "n", "species": "org"}, metadata=["Binder"]))
    assert (record.heavy, record.id, record.species, record.metadata) == (HEAVY, "a1", "mouse", {"Binder": "1"})
    single = write(tmp_path / "c.tsv", f"id\tsequence\nx\t{LIGHT}\n")
    assert only(read(single, chains="L")).light == LIGHT


def test_parquet(tmp_path):
    pd.DataFrame({"vh": [HEAVY, None], "vl": [LIGHT, LIGHT], "titre": [1.5, 2.0]}).to_parquet(tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet", chains="HL")
    assert (first.heavy, first.light, first.metadata) == (HEAVY, LIGHT, {"titre": "1.5"})
    assert (second.line, second.reason) == (2, "no heavy chain of the pair")
    write(tmp_path / "broken.parquet", b"PAR1" + b"\0" * 100)
    with pytest.raises(InputError, match=r"broken\.parquet: is no readable Parquet file"):
        read(tmp_path / "broken.parquet")


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


def test_too_many_chains_without_partner_are_an_error(tmp_path, monkeypatch):
    sides = [[f">{i}_{side}\n{chain}\n" for i in range(20)] for side, chain in (("H", HEAVY), ("L", LIGHT))]
    apart = write(tmp_path / "a.fasta", "".join(sides[0] + sides[1]))
    near = write(tmp_path / "b.fasta", "".join(h + k for h, k in zip(*sides, strict=True)))
    alone = write(tmp_path / "c.fasta", "".join(sides[0]))
    assert len(read(apart, chains="HL")) == 20
    monkeypatch.setattr(pairing, "_WAITING", 10)
    assert len(read(near, chains="HL")) == len(read(alone, chains="HL")) == 20  # decided at once: nothing waits
    with pytest.raises(InputError, match=r"a\.fasta line 21: more than 10 chains wait .*; sort the file"):
        read(apart, chains="HL")


@pytest.mark.parametrize("pattern", ["(", "(?P<name>.*)"])
def test_pair_pattern_must_be_one(tmp_path, pattern):
    path = write(tmp_path / "a.fasta", f">x\n{HEAVY}\n")
    with pytest.raises(InputError, match=r"sequences\.pair_pattern"):
        read(path, pair_pattern=pattern)


# --- cleaning --------------------------------------------------------------------------------------------------------


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


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("form", ["id,vh\nx,{0}\ny,{0}", "id\tvh\nx\t{0}\ny\t{0}", ">x\n{0}\n>y\n{0}"])
def test_byte_order_mark_and_line_ends(tmp_path, ending, mark, form):
    path = write(tmp_path / "a.txt", mark + form.format(HEAVY).replace("\n", ending).encode())
    assert [(r.id, r.heavy, r.reason) for r in read(path)] == [("x", HEAVY, ""), ("y", HEAVY, "")]


def test_a_hundred_thousand_residues_on_one_line(tmp_path):
    for name, text in (("a.csv", "id,vh\nx,{}\ny,{}\n"), ("a.fasta", ">x\n{}\n>y\n{}\n")):
        long, good = read(write(tmp_path / name, text.format("A" * 100_000, HEAVY)))
        assert long.reason.startswith("heavy chain: wrong length")
        assert (good.heavy, good.reason) == (HEAVY, "")


@pytest.mark.parametrize(
    ("content", "how", "message"),
    [
        (b"", {}, r"a\.txt: is empty"),
        (gzip.compress(b"", mtime=0), {}, r"a\.txt: is empty"),
        (b"\n \n", {}, r"a\.txt: is empty"),
        (gzip.compress(TABLE * 2000)[:-20], {}, r"a\.txt after line \d+: the gzip data are truncated"),
        (b"\x1f\x8b\x08\0broken", {}, "gzip data are truncated or damaged"),
        (TABLE.replace(b",", b"|"), {"format": "csv"}, r"a\.txt line 1: the columns are separated by '\|', not ','"),
        (f"id\tvh\nx\t{HEAVY}\n".encode(), {"format": "csv"}, r"separated by '\\t', not ','"),
        (b"id,seq_x\nx,A\n", {}, r"a\.txt line 1, sequences\.columns\.heavy: there is no .*columns are: id, seq_x"),
        (TABLE, {"chains": "HL"}, r"sequences\.columns\.light: there is no column"),
        (TABLE, {"columns": {"heavy": "VHH"}}, r"sequences\.columns\.heavy: there is no column 'VHH'"),
        (b">x\nEVQ\n", {"columns": {"heavy": "VH"}}, r"a\.txt: FASTA has no columns"),
        (TABLE, {"metadata": ["age"]}, r"sequences\.metadata: there is no column 'age'"),
        (b'"{""Run"": 1}"\n', {}, r"a\.txt: has no header line"),
        (b'"{""Run"": 1}"\nid,x\nx,A\n', {}, r"a\.txt line 2, .*sequence_alignment_aa.*columns are: id, x, Run"),
        (b'{"id": 1, "sequence_aa": "EVQ"}\n', {}, r"a\.txt: is JSON lines"),
        (b'{"id": 1}\n{"id": 2}\n', {}, r"a\.txt: is JSON lines"),
        (b'[{"id": 1, "vh": "EVQ"}]\n', {}, r"a\.txt: is a JSON array"),
        (b'"{""Run"": 1\nx,y\n', {}, r"a\.txt line 1: is not an OAS unit's metadata"),
        (b"sequence_id\tv_call\nx\ty\n", {}, "looked for.* sequence_aa.*columns are: sequence_id, v_call"),
        (b"pdb\tHchain\tLchain\tmodel\n1abc\tH\tL\t0\n", {}, "SAbDab's summary, which names the chains of structures"),
        (b"barcode,contig_id,chain,cdr3\nA,A_1,IGH,CAR\n", {}, r"give airr_rearrangement\.tsv, which lies beside it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", {}, "is an Excel workbook; save its sheet as CSV"),
        (f"{HEAVY}\n>x\n{HEAVY}\n".encode(), {"format": "fasta"}, r"a\.txt line 1: FASTA starts with '>'"),
        ("id,vh\n".encode("utf-16"), {}, r"a\.txt line 1: is UTF-16; save it as UTF-8"),
        (b"PK\x03\x04rest", {}, "is compressed with zip; decompress it"),
        (b"BZh9rest", {}, "is compressed with bzip2"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_say_where_and_what_to_do(tmp_path, content, how, message):
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(InputError, match=message):
        read(path, **how)


def test_rows_of_another_width_are_refused_one_by_one(tmp_path):
    path = write(tmp_path / "a.csv", f"id,vh\nx,{HEAVY}\ny\nz,{HEAVY},3\n\nw,{HEAVY}\n")
    assert [(r.line, r.reason) for r in read(path)] == [
        (2, ""), (3, "fewer fields than the header"), (4, "more fields than the header"), (6, ""),
    ]  # fmt: skip


def test_paths(tmp_path):
    for name in ("b.csv", "a.csv"):
        write(tmp_path / name, "id,vh\n")
    (tmp_path / "folder").mkdir()
    assert readers.find([f"{tmp_path}/*.csv", f"{tmp_path}/a.csv"]) == [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]
    for patterns, message in (
        ([f"{tmp_path}/*.tsv"], "no file matches"),
        ([f"{tmp_path}/folder"], "is a folder; name its files"),
        ([], "is empty; with `source: file`"),
    ):
        with pytest.raises(InputError, match=message):
            readers.find(patterns)


def test_unreadable_paths(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    closed = write(tmp_path / "closed.csv", f"id,vh\nx,{HEAVY}\n")
    for path in (tmp_path, tmp_path / "link.csv", tmp_path / "none.csv"):
        with pytest.raises(InputError, match=r"cannot be read .*; check the path, its permissions"):
            read(path)
    closed.chmod(0)
    if not os.access(closed, os.R_OK):  # the superuser reads everything
        with pytest.raises(InputError, match=r"Permission denied"):
            read(closed)


# --- fuzz ------------------------------------------------------------------------------------------------------------

quiet = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = [
    f"id,vh,vl\na,{HEAVY},{LIGHT}\nb,{HEAVY},\n".encode(),
    f"sequence_id\tv_call\tsequence_aa\tcell_id\nx\tIGHV1\t{HEAVY}\tc\ny\tIGKV1\t{LIGHT}\tc\n".encode(),
    f">x_H\n{HEAVY}\n>x_L\n{LIGHT}\n".encode(),
    f'"{{""Run"": ""R"", ""Chain"": ""Heavy""}}"\nsequence_alignment_aa,productive\n{HEAVY},T\n'.encode(),
]
edits_of_bytes = st.lists(st.tuples(st.integers(0, 500), st.binary(max_size=3)), max_size=6)
wanted = st.sampled_from(["H", "L", "HL"])
formats = st.sampled_from(["auto", "oas", "airr", "csv", "tsv", "fasta", "parquet"])


def all_fit_or_refused(path: Path, chains: str, kind: str) -> None:
    try:
        records = read(path, chains=chains, format=kind)
    except InputError as error:
        said = str(error)
        records = []
    else:
        said = str(path)
    assert str(path) in said or "sequences." in said
    for record in records:
        for side, letter in (("heavy", "H"), ("light", "L")):
            chain = getattr(record, side)
            assert letter in chains or chain is None
            assert record.reason or letter not in chains or (chain and set(chain) <= set(RESIDUES))


@quiet
@given(st.binary(max_size=400), st.sampled_from(["H", "L", "HL"]), formats)
def test_fuzz_bytes(tmp_path, content, chains, kind):
    all_fit_or_refused(write(tmp_path / "fuzz", content), chains, kind)


@quiet
@given(
    st.sampled_from(seeds),
    edits_of_bytes,
    st.booleans(),
    st.integers(0, 200),
    st.sampled_from(["H", "L", "HL"]),
    formats,
)
def test_fuzz_damaged_files(tmp_path, content, edits, pack, cut, chains, kind):
    for position, new in edits:
        position %= len(content)
        content = content[:position] + new + content[position + 1 :]
    content = gzip.compress(content) if pack else content
    all_fit_or_refused(write(tmp_path / "fuzz", content[: len(content) - cut // 4]), chains, kind)


cells = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.sampled_from([HEAVY, LIGHT, "", "X", "*"])


@quiet
@given(
    st.lists(st.tuples(cells, cells, cells), max_size=8),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["H", "L", "HL"]),
)
def test_fuzz_rows_in_are_records_out(tmp_path, rows, delimiter, chains):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "vh", "vl"), *rows])
    path = tmp_path / "fuzz.csv"
    path.write_bytes(text.getvalue().encode())
    how = ReadSettings(chains=chains, format="csv" if delimiter == "," else "tsv")
    records = list(readers.read(path, how))
    assert len(records) == len(rows)
    for record, (name, *pair) in zip(records, rows, strict=True):
        assert record.id == ("" if cleaning.missing(name) else name)
        wanted = [c for c, letter in zip(pair, "HL", strict=True) if letter in chains]
        usable = all(cleaning.clean(c)[0] and c.strip().lower() not in cleaning.MISSING for c in wanted)
        assert usable == (not record.reason)


@quiet
@given(
    st.lists(
        st.tuples(st.text(string.ascii_letters + "_ |", max_size=8), st.sampled_from([HEAVY, LIGHT, "X", ""])),
        min_size=1,
        max_size=8,
    )
)
def test_fuzz_fasta_entries_in_are_records_out(tmp_path, entries):
    path = write(tmp_path / "fuzz.fasta", "".join(f">{name}\n{sequence}\n" for name, sequence in entries))
    assert len(read(path, chains="H")) == len(entries)
    paired = read(path, chains="HL")
    assert sum(2 if r.heavy is not None and r.light is not None else 1 for r in paired) >= len(entries)
