"""Files as people have them: every format, every kind of damage, and a fuzz that allows nothing but InputError."""

import csv
import gzip
import io
import os
import string
from pathlib import Path

import pytest
from antibody_sae.antibody import RESIDUES
from antibody_sae.io import InputError
from antibody_sae.sequences import pairing, readers
from antibody_sae.sequences import records as cleaning
from antibody_sae.sequences.records import ReadSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers_world import HEAVY, LIGHT, cells, read, write

TABLE = f"id,vh\nx,{HEAVY}\n".encode()


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
