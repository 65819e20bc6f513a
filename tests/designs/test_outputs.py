"""The files of a library, as a lab reads them."""

from __future__ import annotations

import csv

import pandas as pd
from antibody_sae.designs import library, outputs, picking
from designs_world import TRASTUZUMAB


def test_rows_are_consistent_with_the_sequence(made):
    for row in made.chains.itertuples():
        regions = [getattr(row, f"{name}_aa") for name in library.AIRR.values()]
        assert "".join(regions) in row.sequence_aa
        assert row.junction_aa == "C" + row.cdr3_aa + row.fwr4_aa[0]
        assert row.v_call.startswith("IGHV")
        assert row.j_call.startswith("IGHJ")
        assert row.nearest_training == "trastuzumab"
        assert row.training_distance == picking.distances([row.sequence_aa], [TRASTUZUMAB])[0, 0]
        assert row.nearest_design != row.cell_id


def test_names_say_library_and_rank_and_quality_falls(made):
    assert made.chains["sequence_id"].tolist() == [f"lib-{i:04d}-heavy" for i in range(1, 9)]
    key = list(zip(made.chains["cdr_liabilities"], made.chains["perplexity"], strict=True))
    assert key == sorted(key)


def test_files_of_two_libraries_stay_apart(made, tmp_path):
    outputs.write(made, tmp_path / "one", pick=4, about={"lever": "x"})
    fasta = (tmp_path / "one.fasta").read_text().splitlines()
    assert fasta[::2] == [">" + name for name in made.chains["sequence_id"]]
    assert fasta[1::2] == made.chains["sequence_aa"].tolist()
    table = pd.read_csv(tmp_path / "one.tsv", sep="\t")
    assert table["sequence_aa"].tolist() == made.chains["sequence_aa"].tolist()
    assert list(table.columns[:14]) == list(outputs.AIRR_REQUIRED)
    plate = list(csv.DictReader((tmp_path / "one-picked.csv").open()))
    assert [row["well"] for row in plate] == ["A1", "A2", "A3", "A4"]
    assert plate[0]["name"] == "lib-0001"
    known = made.chains.set_index("cell_id")["sequence_aa"]
    assert all(known[row["name"]] == row["heavy"] for row in plate)
    assert len({row["name"] for row in plate}) == 4


def test_the_airr_community_accepts_the_table(made, tmp_path):
    import airr  # its validator

    outputs.write(made, tmp_path / "one")
    assert airr.validate_rearrangement(str(tmp_path / "one.tsv"))
