"""OAS units, AIRR and plain tables, Parquet."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest
from antibody_sae.io import InputError
from antibody_sae.sequences import readers
from antibody_sae.sequences.records import ReadSettings
from readers_world import HEAVY, HERE, LIGHT, NUCLEOTIDES, airr, only, read, write


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


def test_rows_of_another_width_are_refused_one_by_one(tmp_path):
    path = write(tmp_path / "a.csv", f"id,vh\nx,{HEAVY}\ny\nz,{HEAVY},3\n\nw,{HEAVY}\n")
    assert [(r.line, r.reason) for r in read(path)] == [
        (2, ""), (3, "fewer fields than the header"), (4, "more fields than the header"), (6, ""),
    ]  # fmt: skip
