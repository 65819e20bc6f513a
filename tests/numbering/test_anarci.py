"""Numbering: published CDRs, ANARCI's own program, statuses, and the tables' row numbers."""

import csv
import importlib.util
import shutil

import numpy as np
import pandas as pd
import pytest
from antibody_sae.antibody import REGIONS
from antibody_sae.io import InputError, antibody_id, read_parquet, write_parquet
from antibody_sae.numbering import anarci
from antibody_sae.numbering import tables as numbering_tables

# Trastuzumab (Carter et al. 1992, doi:10.1073/pnas.89.10.4285; PDB 1N8Z)
HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
    "WGQGTLVTVSS"
)
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGNGMNAWVAWRNRC"
    "KGTDVQAWIRGCRL"
)
# T-cell receptor alpha, A6 (PDB 1AO7), variable domain
TCR = "KEVEQNSGPLSVPEGAIASLNCTYSDRGSQSFFWYRQYSGKSPELIMFIYSNGDKEDGRFTAQLNKASQYVSLLIRDSQPSDSATYLCAVTTDSWGKLQFGAGTQVVVTP"
CDRS = {
    "imgt": (("GFNIKDTY", "IYPTNGYT", "SRWGGDGFYAMDY"), ("QDVNTA", "SAS", "QQHYTTPPT")),
    "kabat": (("DTYIH", "RIYPTNGYTRYADSVKG", "WGGDGFYAMDY"), ("RASQDVNTAVA", "SASFLYS", "QQHYTTPPT")),
    "chothia": (("GFNIKDT", "YPTNGY", "WGGDGFYAMDY"), ("RASQDVNTAVA", "SASFLYS", "QQHYTTPPT")),
    "martin": (("GFNIKDT", "YPTNGY", "WGGDGFYAMDY"), ("RASQDVNTAVA", "SASFLYS", "QQHYTTPPT")),
    "aho": (("AASGFNIKDTYIH", "RIYPTNGYTR", "SRWGGDGFYAMDY"), ("RASQDVNTAVA", "YSASFLYS", "QQHYTTPPT")),
}


def regions(chain: str, numbered: anarci.Numbered) -> dict[str, str]:
    text = dict.fromkeys(REGIONS, "")
    for residue, region in zip(chain[numbered.start : numbered.end], numbered.labels.region, strict=True):
        text[REGIONS[region]] += residue
    return text


@pytest.mark.parametrize("scheme", anarci.SCHEMES)
def test_published_cdrs(scheme):
    for chain, kind, cdrs in zip((HEAVY, LIGHT), "HK", CDRS[scheme], strict=True):
        (numbered,) = anarci.number([chain], ["human"], scheme)
        assert (numbered.status, numbered.chain) == ("ok", kind)
        found = regions(chain, numbered)
        assert (found["CDR1"], found["CDR2"], found["CDR3"]) == cdrs
        assert "".join(found.values()) == chain
        # IMGT's anchors, whatever the scheme: C23, W41, C104, W/F118
        at = dict(zip(numbered.labels.imgt.tolist(), chain[numbered.start : numbered.end], strict=True))
        assert (at[23], at[41], at[104], at[118]) == ("C", "W", "C", "W" if kind == "H" else "F")


def test_kabat_insertions_of_trastuzumab():
    (numbered,) = anarci.number([HEAVY], ["human"], "kabat")
    labels = numbered.labels
    names = [f"{n}{anarci.INSERTIONS[i]}" for n, i in zip(labels.number, labels.number_insertion, strict=True)]
    inserted = [name for name in names if not name.isdigit()]
    assert inserted == ["52A", "82A", "82B", "82C", "100A", "100B", "100C"]
    # W95 and Y100A bind HER2 in the papers on this antibody
    assert (HEAVY[names.index("95")], HEAVY[names.index("100A")], HEAVY[names.index("94")]) == ("W", "Y", "R")
    assert names[-1] == "113"


def test_germlines_of_trastuzumab():
    heavy, light = anarci.number([HEAVY, LIGHT], ["human"])
    assert anarci.family(heavy.v_allele) == "IGHV3"
    assert anarci.gene(heavy.j_allele) == "IGHJ4"
    assert anarci.family(light.v_allele) == "IGKV1"
    assert 0.75 < heavy.v_identity < 1
    assert heavy.germline_species == light.germline_species == "human"
    text = anarci.germline_residues("human", heavy.v_allele, heavy.j_allele)
    assert len(text) == 128
    assert (text[22], text[103], text[117]) == ("C", "C", "W")


def test_every_chain_has_a_status():
    scfv = HEAVY + "GGGGSGGGGSGGGGS" + LIGHT
    chains = [LYSOZYME, scfv, TCR, HEAVY[:98], "", "A" * 200, "ACDEF", HEAVY + "1", HEAVY.lower(), HEAVY]
    statuses = [n.status for n in anarci.number(chains, ["human"])]
    expected = ["no antibody domain", "2 antibody domains (H+K)", "T-cell receptor", "no J region", "empty",
                "no antibody domain", "no antibody domain", "not amino acids: '1'", "ok", "ok"]  # fmt: skip
    for status, start in zip(statuses, expected, strict=True):
        assert status.startswith(start), (status, start)


def test_leader_and_constant_region_lie_outside_the_domain():
    chain = "MKHLWFFLLLVAAPRWVLS" + HEAVY + "ASTKGPSVFPLAPSSKSTSGGTAALGC"
    (numbered,) = anarci.number([chain], ["human"])
    assert chain[numbered.start : numbered.end] == HEAVY


def test_a_chain_is_numbered_alike_alone_and_among_others():
    chains = [LIGHT, HEAVY, LYSOZYME, HEAVY[3:], LIGHT, HEAVY[:-2]]
    together = anarci.number(chains, ["human", "mouse"])
    for chain, one in zip(chains, together, strict=True):
        (alone,) = anarci.number([chain], ["human", "mouse"])
        assert alone[:4] == one[:4]
        assert alone.v_allele == one.v_allele
        assert (alone.labels is None) == (one.labels is None)
        assert alone.labels is None or np.array_equal(alone.labels.imgt, one.labels.imgt)


def test_pairs_are_cut_after_the_heavy_domain():
    pairs = anarci.split_pairs([HEAVY + LIGHT, HEAVY, LIGHT, LYSOZYME, LIGHT + HEAVY, "?"], ["human"])
    assert pairs == [
        (HEAVY, LIGHT),
        (HEAVY, None),
        (None, LIGHT),
        (LYSOZYME, None),
        (LIGHT + HEAVY, None),
        ("?", None),
    ]


def test_real_pairs_are_cut_where_they_were_joined(shared_data):
    with open(shared_data / "oas_jaffe2022_1500.csv", newline="") as file:
        pairs = [(row["vh"], row["vl"]) for row in csv.DictReader(file)][:300]
    cut = anarci.split_pairs([heavy + light for heavy, light in pairs], ["human"])
    assert sum(a == b for a, b in zip(cut, pairs, strict=True)) >= 297


@pytest.fixture(scope="module")
def benchmark_module(root):
    spec = importlib.util.spec_from_file_location("bench_numbering", root / "tests" / "benchmarks" / "numbering.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(bench, sequences, species, scheme):
    if shutil.which("hmmscan") is None:
        pytest.skip("needs ANARCI's program hmmscan (Debian package hmmer)")
    from anarci import run_anarci

    named = [(str(i), sequence) for i, sequence in enumerate(sequences)]
    _, numbered, details, _ = run_anarci(named, ncpu=1, scheme=scheme, allowed_species=species, assign_germline=True)
    mine = bench.ours(anarci.number(sequences, species, scheme))
    theirs = bench.theirs(numbered, details)
    for sequence, a, b in zip(sequences, mine, theirs, strict=True):
        assert a == b, sequence
    return mine


@pytest.mark.parametrize("scheme", anarci.SCHEMES)
def test_same_as_anarci(benchmark_module, scheme):
    sequences = benchmark_module.chains(60)[-36:]
    sequences += [LYSOZYME, HEAVY + "GGGGSGGGGSGGGGS" + LIGHT, HEAVY[20:], LIGHT[:-8]]
    sequences.append(
        HEAVY[:98] + "DYSGSGSYYNPFDHWYYDSSGYPLRWFDPGSTAMEVLKRSDYPQNH" + HEAVY[106:]
    )  # J found in a 2nd search
    mine = compare(benchmark_module, sequences, ["human"], scheme)
    assert sum(m is not None for m in mine) >= 37


@pytest.mark.slow
@pytest.mark.parametrize("species", [["human"], ["human", "mouse"], ["rabbit"], ["human", "alpaca"]])
def test_same_as_anarci_for_any_species(benchmark_module, species):
    compare(benchmark_module, benchmark_module.chains(400, seed=1)[-250:], species, "imgt")


def antibodies(tmp_path):
    pairs = [
        (HEAVY, LIGHT),
        (HEAVY[1:], None),
        (LYSOZYME, LIGHT),
        (None, LIGHT[1:]),
        (LIGHT, HEAVY),
        (HEAVY, LIGHT[2:]),
    ]
    table = pd.DataFrame(pairs, columns=["heavy", "light"])
    table.insert(0, "antibody_id", [antibody_id(h, x) for h, x in pairs])
    write_parquet(table, tmp_path / "antibodies.parquet")
    return table


def numbered_tables(tmp_path, chunks, scheme="imgt"):
    paths = [[tmp_path / f"{kind}-{chunks}-{c}.parquet" for c in range(chunks)] for kind in ("chains", "residues")]
    for chunk in range(chunks):
        source = tmp_path / "antibodies.parquet"
        numbering_tables.number_chunk(source, chunk, chunks, ["human"], scheme, paths[0][chunk], paths[1][chunk])
    counts = numbering_tables.merge_chunks(*paths, scheme, tmp_path / "chains.parquet", tmp_path / "residues.parquet")
    return read_parquet(tmp_path / "chains.parquet"), read_parquet(tmp_path / "residues.parquet"), counts


def test_tables(tmp_path):
    table = antibodies(tmp_path)
    chains, residues, counts = numbered_tables(tmp_path, 1)
    assert counts == {
        "ok": 7, "no antibody domain found": 1, "chain type K where a heavy chain was expected": 1,
        "chain type H where a light chain was expected": 1,
    }  # fmt: skip
    text = table.set_index("antibody_id")
    ok = chains[chains["status"] == "ok"]
    assert (chains.loc[chains["status"] != "ok", "first_residue_id"] == -1).all()
    assert len(residues) == ok["length"].sum()
    for chain in ok.itertuples():
        rows = residues.iloc[chain.first_residue_id : chain.first_residue_id + chain.length]
        assert "".join(rows["residue"]) == text.loc[chain.antibody_id, chain.side]
        assert (rows["antibody_id"] == chain.antibody_id).all()
        assert rows["position"].tolist() == list(range(chain.length))
        assert "".join(rows.loc[rows["region"] == "CDR3", "residue"]) == chain.cdr3
    first = chains.iloc[0]
    assert (first["cdr1_length"], first["cdr2_length"], first["cdr3_length"]) == (8, 8, 13)
    assert first["cdr3_charge"] == -1  # SRWGGDGFYAMDY: R, D, D
    rows = residues.iloc[: len(HEAVY)].set_index("imgt")
    assert (rows.loc[104, "germline"], rows.loc[118, "germline"]) == ("C", "W")
    assert rows["germline"].isna().sum() > 0  # within CDR3 neither gene has a residue


def test_chunks_make_no_difference(tmp_path, monkeypatch):
    antibodies(tmp_path)
    one = numbered_tables(tmp_path, 1, "kabat")
    monkeypatch.setattr(numbering_tables, "_ROWS", 1)
    three = numbered_tables(tmp_path, 3, "kabat")
    pd.testing.assert_frame_equal(one[0], three[0])
    pd.testing.assert_frame_equal(one[1], three[1])
    assert {"number", "number_insertion"} <= set(one[1].columns)


def test_more_chunks_than_antibodies(tmp_path):
    antibodies(tmp_path)
    one = numbered_tables(tmp_path, 1)
    many = numbered_tables(tmp_path, 9)
    pd.testing.assert_frame_equal(one[1], many[1])


def test_nothing_to_number_says_why(tmp_path):
    table = pd.DataFrame({"antibody_id": ["a"], "heavy": [LYSOZYME], "light": [None]})
    write_parquet(table, tmp_path / "antibodies.parquet")
    with pytest.raises(InputError, match=r"1 x no antibody domain found.*numbering\.species"):
        numbered_tables(tmp_path, 1)
    assert not (tmp_path / "chains.parquet").exists()
