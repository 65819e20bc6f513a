"""The catalogue's concepts on antibodies whose labels are known, and the files that carry them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from antibody_sae.antibody import RESIDUES, SIDED_REGIONS
from antibody_sae.concepts import catalogue, labelling
from antibody_sae.concepts.catalogue import Block
from antibody_sae.io import InputError, antibody_id, read_parquet, write_parquet
from antibody_sae.numbering import tables as numbering
from antibody_sae.report.tabs.concepts import CHARTS

SETTINGS = {
    "metadata": {},
    "position_pairs": 20,
    "min_clusters": 1,
    "bins": {
        "cdr3_length": [10, 14, 18, 22], "cdr3_charge": [-1, 0, 1, 2], "cdr3_hydropathy": [-1.5, -0.75, 0],
        "v_identity": [0.8, 0.85, 0.9, 0.95],
    },
}  # fmt: skip
ANTIBODIES = {  # public sequences of therapeutic antibodies
    "trastuzumab": (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    ),
    "adalimumab": (
        "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
        "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
    ),
    "avelumab": (
        "EVQLLESGGGLVQPGGSLRLSCAASGFTFSSYIMMWVRQAPGKGLEWVSSIYPSGGITFYADTVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCARIKLGTVTTVDYWGQGTLVTVSS",
        "QSALTQPASVSGSPGQSITISCTGTSSDVGGYNYVSWYQQHPGKAPKLMIYDVSNRPSGVSNRFSGSKSGNTASLTISGLQAEDEADYYCSSYTSSSTRVFGTGTKVTVL",
    ),
    "heavy only": (
        "QVQLVQSGAEVKKPGASVKVSCKASGYTFTSYGISWVRQAPGQGLEWMGWISAYNGNTNYAQKLQGRVTMTTDTSTSTAYMELRSLRSDDTAVYYCARDRGNWFDPWGQGTLVTVSS",
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """sequences, numbering and splits of ANTIBODIES, with two metadata columns."""
    run = tmp_path_factory.mktemp("run")
    table = pd.DataFrame(
        [
            (antibody_id(heavy, light), heavy, light, "human", name, "IgG" if i < 3 else None, 20.0 * i)
            for i, (name, (heavy, light)) in enumerate(ANTIBODIES.items())
        ],
        columns=["antibody_id", "heavy", "light", "species", "name", "isotype", "age"],
    )
    for folder in ("sequences", "numbering"):
        (run / folder).mkdir()
    write_parquet(table, run / "sequences" / "antibodies.parquet")
    chunk = run / "numbering" / "c.parquet", run / "numbering" / "r.parquet"
    numbering.number_chunk(run / "sequences" / "antibodies.parquet", 0, 1, ["human"], "imgt", *chunk)
    merged = run / "numbering" / "chains.parquet", run / "numbering" / "residues.parquet"
    numbering.merge_chunks([chunk[0]], [chunk[1]], "imgt", *merged, run / "numbering" / "summary.json")
    splits = pd.DataFrame({"antibody_id": table["antibody_id"], "cluster_id": range(4)})
    splits["split"] = ["train", "train", "validation", "test"]
    write_parquet(splits.iloc[::-1], run / "splits" / "antibodies.parquet")  # in another order
    return run


def label(run, **settings):
    settings = {**SETTINGS, **settings}
    return labelling.label(labelling.read_blocks(run, settings), settings)[0]


@pytest.fixture(scope="module")
def labels(run_folder):
    return label(run_folder)


def text(labels, run, concept: str, side: str, antibody: int = 0) -> str:
    """The chain's residues with the concept, in order."""
    residues = read_parquet(run / "numbering" / "residues.parquet")
    has = np.zeros(len(residues), bool)
    number = labels.residue_names.index(concept)
    has[np.repeat(np.arange(labels.residue.rows), np.diff(labels.residue.ptr))[labels.residue.idx == number]] = True
    mine = residues["antibody_id"] == labels.ids[antibody]
    chain = residues["chain"].eq("H") if side == "H" else residues["chain"].ne("H")
    return "".join(residues.loc[has & mine & chain, "residue"])


def of_antibody(labels, antibody: int) -> set[str]:
    idx = labels.antibody.idx[labels.antibody.ptr[antibody] : labels.antibody.ptr[antibody + 1]]
    return {labels.antibody_names[i] for i in idx}


def test_residue_concepts_of_trastuzumab(labels, run_folder):
    assert labels.ids[0] == antibody_id(*ANTIBODIES["trastuzumab"])  # in the order of residues, whatever that of splits
    expected = {
        ("region=H-CDR1", "H"): "GFNIKDTY", ("region=H-CDR2", "H"): "IYPTNGYT", ("region=H-CDR3", "H"): "SRWGGDGFYAMDY",
        ("region=H-FR4", "H"): "WGQGTLVTVSS", ("region=L-CDR3", "L"): "QQHYTTPPT", ("region=L-CDR2", "L"): "SAS",
        ("region=H-CDR1", "L"): "", ("conserved=C23", "H"): "C", ("conserved=C104", "H"): "C",
        ("conserved=C104", "L"): "C", ("conserved=W118", "H"): "W", ("conserved=F118", "L"): "F",
        ("conserved=W41", "L"): "W", ("residue=W", "L"): "W", ("chain=K", "L"): ANTIBODIES["trastuzumab"][1],
        ("chain=K", "H"): "", ("cdr3-part=H-V-derived", "H"): "", ("cdr3-part=H-J-derived", "H"): "DY",
    }  # fmt: skip
    for (concept, side), residues in expected.items():
        if concept in labels.residue_names:
            assert text(labels, run_folder, concept, side) == residues, concept
        else:
            assert residues == ""
    parts = [text(labels, run_folder, f"cdr3-part=H-{p}", "H") for p in ("V-derived", "middle", "J-derived")]
    assert "".join(parts) == "SRWGGDGFYAMDY"
    assert 10 < len(text(labels, run_folder, "germline=mutated", "H")) < 40


def test_each_concept_says_its_words_its_chart_and_its_regions(labels):
    for concept in (*labels.residue_names, *labels.antibody_names):
        group, value = catalogue.group_of(concept), concept.partition("=")[2]
        assert group.chart in CHARTS
        assert "=" not in catalogue.concept_label(concept)
        read, decided = group.regions(value)
        assert read
        assert set(read) <= set(decided) <= set(SIDED_REGIONS)
    assert catalogue.group_of("isotype=IgG").chart == "others"


def test_antibody_concepts(labels):
    trastuzumab, adalimumab, avelumab, single = (of_antibody(labels, i) for i in range(4))
    assert {
        "v-family=IGHV3", "v-gene=IGHV3-66", "j-gene=IGHJ4", "v-family=IGKV1", "light-locus=K", "species=human",
        "cdr3-length=H:10-13", "cdr3-length=L:<10", "cdr1-length=H:8", "cdr2-length=L:3", "cdr3-charge=H:-1",
    } <= trastuzumab  # fmt: skip
    assert "light-locus=L" in avelumab
    assert any(c.startswith("v-family=IGLV") for c in avelumab)
    assert not {c for c in single if "=L:" in c or "IGK" in c or c.startswith("light-locus")}
    assert {"v-family=IGHV1", "j-gene=IGHJ5"} <= single
    for concepts in (trastuzumab, adalimumab, avelumab, single):
        assert len([c for c in concepts if c.startswith("v-identity=H:")]) == 1
        assert len([c for c in concepts if c.startswith("cdr3-hydropathy=H:")]) == 1


def test_positions_are_in_sequence_order(labels):
    assert labels.positions.index("H104") < labels.positions.index("H105") < labels.positions.index("L1")
    places = ["H113", "H112", "H112A", "H112B", "H111B", "H111A", "H111", "L2", "H30", "H32A", "H32"]
    ordered = sorted(places, key=labelling._place_key)
    assert ordered == ["H30", "H32", "H32A", "H111", "H111A", "H111B", "H112B", "H112A", "H112", "H113", "L2"]


def test_a_frequent_pair_is_the_residue_at_its_position(labels, run_folder):
    pairs = [n for n in labels.residue_names if n.startswith("position=")]
    assert len(pairs) == 20
    place, residue = pairs[0].removeprefix("position=").split(":")
    column = labels.residue_names.index(pairs[0])
    rows = np.repeat(np.arange(labels.residue.rows), np.diff(labels.residue.ptr))[labels.residue.idx == column]
    expected = (labels.position == labels.positions.index(place)) & (labels.letter == RESIDUES.index(residue))
    assert rows.tolist() == np.flatnonzero(expected).tolist()
    assert len(rows)
    # the same concept on other antibodies, asked for by name
    wanted = ["position=H105:S", "position=H200:W"]
    again = labelling.label(labelling.read_blocks(run_folder, SETTINGS), SETTINGS, wanted)[0]
    assert [n for n in again.residue_names if n.startswith("position=")] == wanted
    frequent = labelling.label(labelling.read_blocks(run_folder, SETTINGS), SETTINGS)[0].residue_names
    rare = labelling.label(labelling.read_blocks(run_folder, SETTINGS), SETTINGS, also=["position=H200:W"])[0]
    assert rare.residue_names == [*frequent, "position=H200:W"], "a target is labelled however rare it is"
    assert again.having("position=H105:S").tolist() == [True, False, False, False]
    assert not again.having("position=H200:W").any()
    assert again.having("j-gene=IGHJ5").tolist() == [False, False, False, True]


def test_small_blocks_give_the_same_labels(labels, run_folder):
    blocks = list(labelling.read_blocks(run_folder, SETTINGS, rows=50))
    assert len(blocks) == 4
    pieces = labelling.label(iter(blocks), SETTINGS)[0]
    for level in ("residue", "antibody"):
        ours, theirs = getattr(pieces, level), getattr(labels, level)
        assert ours.ptr.tolist() == theirs.ptr.tolist()
        names, other = pieces.names(level), labels.names(level)
        assert sorted(names) == sorted(other)
        for i in range(ours.rows):
            mine = {names[c] for c in ours.idx[ours.ptr[i] : ours.ptr[i + 1]]}
            assert mine == {other[c] for c in theirs.idx[theirs.ptr[i] : theirs.ptr[i + 1]]}
    for field in ("ids", "first", "length", "split", "cluster", "position", "region", "letter", "light"):
        assert (getattr(pieces, field) == getattr(labels, field)).all(), field


def test_files_keep_everything_and_notice_damage(labels, run_folder, tmp_path):
    table = pd.DataFrame({"group": ["region"], "meaning": ["x"]})
    support = labelling.save(labels, table, SETTINGS, tmp_path)
    again = labelling.load(tmp_path)
    for name, value in vars(labels).items():
        other = getattr(again, name)
        if isinstance(value, tuple):
            assert all((a == b).all() for a, b in zip(value, other, strict=True))
        else:
            assert (value == other) if isinstance(value, list) else (value == other).all(), name
    assert len(support) == len(labels.residue_names) + len(labels.antibody_names)
    assert set(support["level"]) == {"residue", "antibody"}
    counts = support.set_index("concept").loc["region=H-CDR3"]
    assert (counts["positives_train"], counts["clusters_train"]) == (13 + 14, 2)
    data = bytearray((tmp_path / "labels.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "labels.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"labels\.safetensors"):
        labelling.load(tmp_path)


def test_metadata_columns_become_concepts(run_folder):
    labels = label(run_folder, metadata={"isotype": {}, "age": {"bins": [50, 30]}, "name": None})
    assert labels.having("isotype=IgG").tolist() == [True, True, True, False]
    assert labels.having("age=<30").tolist() == [True, True, False, False]
    assert labels.having("age=30-49").tolist() == [False, False, True, False]
    assert labels.having("name=heavy only").tolist() == [False, False, False, True]
    with pytest.raises(InputError, match=r"concepts\.metadata\.donor: the input has no such column; it has .*isotype"):
        label(run_folder, metadata={"donor": {}})
    with pytest.raises(InputError, match="already"):
        label(run_folder, metadata={"species": {}})


def test_a_cell_of_several_values_has_the_concept_of_each(run_folder, tmp_path):
    names = {name: antibody_id(*pair) for name, pair in ANTIBODIES.items()}
    run = with_columns(run_folder, tmp_path, {"Binds to": {
        names["trastuzumab"]: "WT; Beta;WT", names["adalimumab"]: "Beta", names["avelumab"]: "ND",
        names["heavy only"]: "",
    }})  # fmt: skip
    labels = label(run, metadata={"Binds to": {"split": ";"}})
    found = [{c for c in of_antibody(labels, i) if c.startswith("Binds to=")} for i in range(4)]
    assert found == [{"Binds to=WT", "Binds to=Beta"}, {"Binds to=Beta"}, set(), set()]


def with_columns(run_folder, run, columns: dict[str, dict[str, str]]):
    """A copy of the run whose antibodies have further columns (antibody_id -> value)."""
    for folder in ("numbering", "splits"):
        (run / folder).symlink_to(run_folder / folder)
    table = read_parquet(run_folder / "sequences" / "antibodies.parquet")
    for name, values in columns.items():
        table[name] = table["antibody_id"].map(values)
    write_parquet(table, run / "sequences" / "antibodies.parquet")
    return run


def test_columns_are_settled_before_labelling(tmp_path):
    n = 40
    ids = [f"{i:020x}" for i in range(n)]
    table = pd.DataFrame({"antibody_id": ids, "titre": [str(i / 4) for i in range(n)],
                          "grade": [str(i % 3) for i in range(n)],
                          "rare": ["yes"] * 3 + [None] * (n - 3), "name": [f"mab {i}" for i in range(n)], "all": "lab",
                          "disease": ["None", "flu"] * (n // 2)})  # fmt: skip
    write_parquet(table, tmp_path / "sequences" / "antibodies.parquet")
    splits = pd.DataFrame({"antibody_id": ids, "split": ["train"] * 20 + ["validation"] * 10 + ["test"] * 10})
    write_parquet(splits, tmp_path / "splits" / "antibodies.parquet")
    asked = dict.fromkeys(("titre", "grade", "rare", "name", "all", "disease"))
    settled, said = labelling.settle_metadata(tmp_path, {**SETTINGS, "min_clusters": 5, "metadata": asked})
    assert settled["metadata"] == {"titre": {"bins": [1.19, 2.38, 3.56], "whole": False}, "grade": {}, "disease": {}}
    assert said == [
        "titre: binned by quartiles of the training split, [1.19, 2.38, 3.56]",
        "rare: no concept, 3 of 40 antibodies have a value",
        "name: no concept, 40 different values in 40 antibodies",
        "all: no concept, all antibodies have the value 'lab'",
    ]
    with pytest.raises(InputError, match=r"concepts\.metadata\.donor: the input has no such column; it has .*disease"):
        labelling.settle_metadata(tmp_path, {**SETTINGS, "metadata": {"donor": {}}})


def test_only_frequent_values_of_a_column_become_concepts(run_folder, monkeypatch):
    monkeypatch.setattr(labelling, "MOST_VALUES", 1)
    labels = label(run_folder, metadata={"isotype": {}, "name": {}})
    assert [n for n in labels.antibody_names if n.startswith("name=")] == ["name=trastuzumab"]
    assert labels.having("isotype=IgG").sum() == 3
    assert labels.having("j-gene=IGHJ5").tolist() == [False, False, False, True]


def test_missing_residues_are_an_error(run_folder, tmp_path):
    for folder in ("sequences", "numbering"):
        (tmp_path / folder).symlink_to(run_folder / folder)
    splits = read_parquet(run_folder / "splits" / "antibodies.parquet")
    extra = pd.DataFrame({"antibody_id": ["unknown"], "cluster_id": [9], "split": ["test"]})
    write_parquet(pd.concat([splits, extra]), tmp_path / "splits" / "antibodies.parquet")
    with pytest.raises(InputError, match=r"residues\.parquet: 1 antibodies of the splits have no residues"):
        label(tmp_path)


def block(*chains: str) -> Block:
    """Chains of made-up residues, all outside any domain."""
    rows = [(f"a{i}", "H", p, r) for i, chain in enumerate(chains) for p, r in enumerate(chain)]
    residues = pd.DataFrame(rows, columns=["antibody_id", "chain", "position", "residue"])
    residues = residues.assign(imgt=np.nan, insertion="", region=None, germline=None)
    return Block(pd.DataFrame(), pd.DataFrame(), residues, SETTINGS)


@pytest.mark.parametrize(
    ("chains", "motif", "where"),
    [
        (["ANGSA"], "N-glycosylation", ".###."),
        (["ANPSA"], "N-glycosylation", "....."),
        (["NNTT"], "N-glycosylation", "####"),
        (["AANG", "TSA"], "N-glycosylation", "......."),  # not across chains
        (["NGA"], "deamidation", "##."),
        (["RGDP"], "integrin", "###."),
        (["RGDP"], "fragmentation", "..##"),
        (["DGDD"], "isomerisation", "####"),
        (["CAC"], "extra-cysteine", "..."),  # outside the domain
    ],
)
def test_motifs(chains, motif, where):
    found = {next(iter(s.dropna()), None): s for s in catalogue._motifs(block(*chains))}
    values = found.get(motif, pd.Series([None] * len(where)))
    assert "".join("#" if v == motif else "." for v in values.where(values.notna(), None)) == where


def test_parts_of_cdr3():
    b = block("CARDYW")
    b.residues["region"] = ["FR3", "CDR3", "CDR3", "CDR3", "CDR3", "FR4"]
    b.residues["germline"] = list("CAK-YW")
    parts = ["", "H-V-derived", "H-middle", "H-middle", "H-J-derived", ""]
    assert catalogue._cdr3_parts(b).fillna("").tolist() == parts
    assert catalogue._germline(b).tolist() == ["germline", "germline", "mutated", "mutated", "germline", "germline"]


def test_bins_are_named_for_what_they_hold():
    values = pd.Series([9, 10, 13, 14, 22, np.nan])
    assert catalogue.in_bins(values, [10, 14, 15]).fillna("").tolist() == ["<10", "10-13", "10-13", "14", ">=15", ""]
    assert catalogue.in_bins(pd.Series([-1.0, 0.2, 0.5]), [0.5, -0.5]).tolist() == ["<-0.5", "-0.5..0.5", ">=0.5"]
