"""Tables as databases and tools write them, known by the names of their columns."""

import pytest
import yaml
from antibody_sae.io import InputError
from antibody_sae.sequences import readers
from antibody_sae.sequences.columns import USUAL_NAMES, plain
from antibody_sae.sequences.records import ReadSettings

HEAVY = "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGQGTLVTVSS"
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
BASES = "GAGGTGCAGCTGGTGGAGTCTGGGGGAGGCTTGGTACAGCCTGGGGGGTCCCTGAGACTC"

COV_ABDAB = ("Name,Ab or Nb,Binds to,Doesn't Bind to,Neutralising Vs,Not Neutralising Vs,Protein + Epitope,Origin,"
             "VHorVHH,VL,Heavy V Gene,Heavy J Gene,Light V Gene,Light J Gene,CDRH3,CDRL3,Sources")  # fmt: skip
THERA_SABDAB = ("Therapeutic,Format,CH1 Isotype,VD LC,Highest_Clin_Trial (Feb '25),Est. Status,Heavy Sequence,"
                "Light Sequence,Heavy Sequence (if bispec),Light Sequence (if bispec),Target")  # fmt: skip
PLABDAB = ("pairing,heavy_ID,light_ID,heavy_sequence,light_sequence,heavy_definition,light_definition,organism,"
           "reference_title,targets_mentioned,ID")  # fmt: skip


def table(path, header: str, values: dict[str, str], delimiter: str = ",", **how):
    """The record of a table of one row, whose other cells are x."""
    names = header.split(",")
    assert set(values) <= set(names)
    rows = [names, [values.get(name, "x") for name in names]]
    path.write_text("\n".join(delimiter.join(row) for row in rows) + "\n")
    (record,) = readers.read(path, ReadSettings(**how))
    return record


@pytest.mark.parametrize(
    ("header", "heavy", "light", "name", "species"),
    [
        (COV_ABDAB, "VHorVHH", "VL", "Name", ""),
        (COV_ABDAB.replace("VHorVHH", "VH or VHH"), "VH or VHH", "VL", "Name", ""),
        (THERA_SABDAB, "Heavy Sequence", "Light Sequence", "Therapeutic", ""),
        (THERA_SABDAB.replace("Sequence", "sequence"), "Heavy sequence", "Light sequence", "Therapeutic", ""),
        (THERA_SABDAB.replace("Heavy Sequence,Light Sequence", "HeavySequence,LightSequence"), "HeavySequence",
         "LightSequence", "Therapeutic", ""),
        (PLABDAB, "heavy_sequence", "light_sequence", "ID", "organism"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_databases(tmp_path, header, heavy, light, name, species, delimiter):
    values = {heavy: HEAVY, light: LIGHT, name: "mab"} | ({species: "Mus musculus"} if species else {})
    record = table(tmp_path / "a.csv", header, values, delimiter, chains="HL")
    assert (record.heavy, record.light, record.id, record.reason) == (HEAVY, LIGHT, "mab", "")
    assert record.species == ("mouse" if species else None)
    assert len(record.metadata) == header.count(",") + 1 - len(values)  # everything else stays
    alone = table(tmp_path / "a.csv", header, values | {light: "ND"}, delimiter, chains="HL")
    assert alone.reason == "no light chain of the pair"


@pytest.mark.parametrize(
    ("heavy", "light"),
    [
        ("heavy chain AA", "light chain AA"), ("VH_AA", "VL_AA"), ("sequence_vh", "sequence_vl"), ("HC", "LC"),
        ("vh_seq", "vl_seq"), ("Heavy_Chain", "Light_Chain"), ("vh_protein_sequence", "vl_protein_sequence"),
        ("HEAVY_CHAIN_AA_SEQUENCE", "LIGHT_CHAIN_AA_SEQUENCE"), ("Variable heavy", "Variable light"),
        ("fv_heavy", "fv_light"),
        ("sequence_alignment_aa_heavy", "sequence_alignment_aa_light"), ("igh_vdj_aa", "igl_vj_aa"), ("H", "L"),
    ],
)  # fmt: skip
def test_usual_names(tmp_path, heavy, light):
    record = table(tmp_path / "a.csv", f"n,{heavy},{light}", {heavy: HEAVY, light: LIGHT}, chains="HL")
    assert (record.heavy, record.light) == (HEAVY, LIGHT)


def test_residues_go_before_other_columns_of_the_chain(tmp_path):
    record = table(
        tmp_path / "a.csv", "VH,VH_AA,sequence_heavy", {"VH": "IGHV3-66", "VH_AA": HEAVY, "sequence_heavy": BASES}
    )
    assert record.heavy == HEAVY


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_airr_whatever_separates_its_columns(tmp_path, delimiter):
    header = ",sequence_id,sequence,productive,v_call,sequence_alignment,sequence_aa"  # with pandas' index
    values = {"sequence_id": "c1", "sequence": BASES, "productive": "T", "v_call": "Homsap IGHV3-66*01 F",
              "sequence_alignment": BASES, "sequence_aa": ""}  # fmt: skip
    record = table(tmp_path / "a", header, values, delimiter)
    assert (record.id, record.heavy, record.metadata) == ("c1", "EVQLVESGGGLVQPGGSLRL", {})
    assert table(tmp_path / "a", header, values | {"productive": "unproductive"}, delimiter).reason == "not productive"
    assert table(tmp_path / "a", header, values | {"v_call": "TRBV7-9*01"}, delimiter).reason.startswith(
        "T-cell receptor"
    )


def test_a_users_columns_go_before_the_usual_names_in_every_format(tmp_path):
    header, values = (
        "sequence_id,v_call,sequence_aa,mine,organism",
        {"v_call": "IGHV1-2*01", "sequence_aa": "X", "mine": HEAVY},
    )
    values["organism"] = "Gallus gallus"
    record = table(tmp_path / "a", header, values, columns={"sequence": "Mine", "species": None})
    assert (record.heavy, record.species, record.reason) == (HEAVY, None, "")
    assert (
        table(tmp_path / "a", header, values, columns={"sequence": "mine"}).reason
        == "species 'Gallus gallus' is not known"
    )
    with pytest.raises(
        InputError, match=r"sequences\.columns\.cell: there is no column 'droplet'; the columns are: sequence_id"
    ):
        table(tmp_path / "a", header, values, columns={"cell": "droplet"})


def test_only_a_header_is_read_to_know_the_metadata(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,vh,Binds to,\n")
    assert readers.metadata_columns(path, ReadSettings()) == ["Binds to"]
    assert readers.metadata_columns(path, ReadSettings(metadata=["binds_to"])) == ["Binds to"]


def test_names_are_compared_without_case_blanks_and_punctuation():
    assert {plain(name) for name in ("VH or VHH", "vh_or_vhh", "VHorVHH", " VH-or-VHH ")} == {"vhorvhh"}


def test_the_documentation_lists_every_column_that_can_be_named(root):
    text = (root / "docs" / "formats.md").read_text()
    schema = yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text())
    columns = schema["properties"]["sequences"]["properties"]["columns"]["properties"]
    assert set(columns) < set(USUAL_NAMES)
    for key in columns:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {key} |")]
        for name in row.split("|")[2].split(":")[0].split(","):
            assert plain(name.split("(")[0]) in USUAL_NAMES[key], name
