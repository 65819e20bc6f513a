"""Files of real users, as they are found in ../shared/cases: what of each is read, and what is said of the rest."""

from collections import Counter
from pathlib import Path

import pytest
from antibody_sae import species
from antibody_sae.io import InputError
from antibody_sae.sequences import chunks, readers
from antibody_sae.sequences.records import ReadSettings

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases with users' files here")


def read(*names: str, **how):
    """The records of some files of the cases, as a run reads them."""
    return list(chunks.antibodies([str(CASES / name) for name in names], ReadSettings(**how), ["human"], (90, 200)))


def reasons(records) -> Counter:
    return Counter(r.reason for r in records if r.reason)


def accepted(records) -> list[str]:
    return [r.id for r in records if not r.reason]


def test_a_refused_contig_takes_no_partner(tmp_path):
    case = CASES / "01-nonproductive-contig" / "airr.tsv"
    records = read(str(case), chains="HL")
    assert sorted(accepted(records)) == [f"CELL0{i}-1" for i in range(6)]
    assert reasons(records) == {"not productive": 5}
    header, *rows = case.read_text().splitlines()
    turned = tmp_path / "turned.tsv"
    turned.write_text("\n".join([header, *reversed(rows)]) + "\n")
    pairs = [
        {(r.id, r.heavy, r.light) for r in each if not r.reason} for each in (records, read(str(turned), chains="HL"))
    ]
    assert pairs[0] == pairs[1]


def test_the_light_chain_seen_most_often_is_the_cells_own(capsys):
    records = read("03-ambient-light-chain/airr.tsv", chains="HL")
    own = {
        r.id: r.light
        for r in readers.read(CASES / "03-ambient-light-chain/airr.tsv", ReadSettings(chains="HL"))
        if r.light
    }
    assert len(accepted(records)) == 4
    for pair in records:
        if not pair.reason:
            assert own[f"{pair.id}_3"].startswith(pair.light[:90])
    assert reasons(records) == {"another light chain of the cell was seen more often": 4}
    assert {r.id[-2:] for r in records if r.reason} == {"_1"}


@pytest.mark.parametrize(
    ("chains", "n", "refused"), [("HL", 6, {}), ("L", 6, {"no light chain": 6}), ("H", 6, {"no heavy chain": 6})]
)
def test_gene_names_are_parsed_not_their_first_letter(chains, n, refused):
    records = read("04-vquest-names-no-locus/airr.tsv", chains=chains)
    assert (len(accepted(records)), reasons(records)) == (n, refused)
    assert len(accepted(read("04-vquest-names-no-locus/several-alleles.tsv", chains="HL"))) == 4


def test_species_in_the_words_of_databases():
    records = {r.id: r for r in read("05-species-words/antibodies.csv")}
    known = {"c": "mouse", "d": "mouse", "e": "rabbit", "f": "human", "g": None, "b": "alpaca", "h": "camel"}
    assert {name: records[name].species for name in known} == known
    assert species.tag(records["a"].species, ["CAMEL".lower(), "human"]) == "camel"  # a llama is a camelid
    assert records["i"].reason == "species 'Gallus gallus' is not known"
    nanobodies = read("05-species-words/vhh.csv", columns={"heavy": "VHH"})
    assert {r.species for r in nanobodies} <= {"llama", "alpaca", "camelid"}


@pytest.mark.parametrize(
    "name",
    ["06-excel-semicolon/antibodies.csv", "06-excel-semicolon/with-sep-line.csv",
     "22-excel-semicolon-decimal-comma/antibodies.csv", "22-excel-semicolon-decimal-comma/with-sep-comma-line.csv"],
)  # fmt: skip
def test_what_excel_writes(name):
    records = read(name, chains="HL")
    assert accepted(records) == ["mAb0", "mAb1", "mAb2", "mAb3"]
    if name.endswith("antibodies.csv"):
        assert [float(value) for r in records for value in r.metadata.values()] == [0.5, 1.5, 2.5, 3.5]


def test_a_fasta_name_ends_at_the_first_blank():
    assert accepted(read("08-fasta-description/mabs.fasta", chains="HL")) == ["mAb0", "mAb1", "mAb2", "mAb3"]


def test_a_terminal_asterisk_is_where_translation_ended():
    records = read("09-trailing-asterisk/translated.fasta", chains="HL")
    assert accepted(records) == ["ab0", "ab1", "ab2", "ab3"]
    assert [(r.id, r.reason) for r in records if "stop codon" in r.reason] == [("bad_H", "chain: stop codon")]


def test_two_chains_in_one_entry():
    for name, n in (("paired", 6), ("scfv", 4)):
        records = read(f"10-heavy-and-light-in-one-entry/{name}.fasta", chains="HL")
        assert len(accepted(records)) == len(records) == n
        assert all(len(r.heavy) > 100 and len(r.light) > 100 for r in records)
    assert len(accepted(read("10-heavy-and-light-in-one-entry/paired.fasta", chains="L"))) == 6
    assert all("an scFv" in r.reason for r in read("10-heavy-and-light-in-one-entry/scfv.fasta", chains="H"))


def test_a_donors_id_names_each_of_its_antibodies(capsys):
    records = read("13-id-column-is-the-donor/antibodies.csv", chains="HL")
    assert accepted(records) == [f"donor{d}{n}" for d in (0, 1) for n in ("", "-2", "-3", "-4")]
    assert "6 records repeat an id over other residues" in capsys.readouterr().err


def test_a_path_that_exists_is_that_file():
    for name in ("antibodies [batch 1] (final).csv", "antibodies-{x}.csv"):
        path = str(CASES / "14-file-names-with-brackets" / name)
        assert readers.find([path]) == [path]
        assert len(accepted(read(path))) == 4


def test_cell_ranger_contigs():
    records = read("18-10x-contig-annotations/filtered_contig_annotations.csv", chains="HL")
    assert len(accepted(records)) == 4
    assert len(read("18-10x-contig-annotations/filtered_contig_annotations.csv", chains="HL")) == 4


def test_json_lines_get_a_clear_word():
    with pytest.raises(InputError, match="is JSON lines, an object a record, which is not read; write a table"):
        read("19-json-lines/annotated.jsonl")


def test_heavy_and_light_in_two_files():
    files = [f"20-heavy-and-light-in-two-files/{side}.fasta" for side in ("heavy", "light")]
    assert accepted(read(*files, chains="HL", join="id")) == ["ab0", "ab1", "ab2"]
    by_order = read(*files, chains="HL", join="order")
    assert [r.id for r in by_order if not r.reason] == ["ab0_H", "ab1_H", "ab2_H"]
    apart = reasons(read(files[0], chains="HL"))
    assert apart == {"no light chain of the pair in this file (see sequences.pair_pattern and sequences.join)": 3}
