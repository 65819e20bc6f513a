"""Numbering: published CDRs, ANARCI's own program, statuses, and the tables' row numbers."""

import csv
import importlib.util
import shutil

import numpy as np
import pandas as pd
import pytest
from anarci.germlines import all_germlines
from antibody_sae import species
from antibody_sae.antibody import REGIONS
from antibody_sae.io import InputError, antibody_id, read_json, read_parquet, write_parquet
from antibody_sae.numbering import anarci, checks, germlines
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
    for residue, region in zip(chain[numbered.start : numbered.end], numbered.numbers.region, strict=True):
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
        at = dict(zip(numbered.numbers.imgt.tolist(), chain[numbered.start : numbered.end], strict=True))
        assert (at[23], at[41], at[104], at[118]) == ("C", "W", "C", "W" if kind == "H" else "F")


def test_kabat_insertions_of_trastuzumab():
    (numbered,) = anarci.number([HEAVY], ["human"], "kabat")
    numbers = numbered.numbers
    names = [f"{n}{anarci.INSERTIONS[i]}" for n, i in zip(numbers.number, numbers.number_insertion, strict=True)]
    inserted = [name for name in names if not name.isdigit()]
    assert inserted == ["52A", "82A", "82B", "82C", "100A", "100B", "100C"]
    # W95 and Y100A bind HER2 in the papers on this antibody
    assert (HEAVY[names.index("95")], HEAVY[names.index("100A")], HEAVY[names.index("94")]) == ("W", "Y", "R")
    assert names[-1] == "113"


def test_germlines_of_trastuzumab():
    heavy, light = anarci.number([HEAVY, LIGHT], ["human"])
    assert germlines.family(heavy.germline.v_allele) == "IGHV3"
    assert germlines.gene(heavy.germline.j_allele) == "IGHJ4"
    assert germlines.family(light.germline.v_allele) == "IGKV1"
    assert 0.75 < heavy.germline.v_identity < 1
    assert heavy.germline.species == light.germline.species == "human"
    text = germlines.residues("human", heavy.germline.v_allele, heavy.germline.j_allele)
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
        assert alone.germline.v_allele == one.germline.v_allele
        assert (alone.numbers is None) == (one.numbers is None)
        assert alone.numbers is None or np.array_equal(alone.numbers.imgt, one.numbers.imgt)


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
    for sequence, a, b, detail in zip(sequences, mine, theirs, details, strict=True):
        profile = f"{detail[0]['species']}_{detail[0]['chain_type']}" if detail else ""
        assert a == b or bench.fault(sequence, a, b, profile), sequence
    assert sum(a != b for a, b in zip(mine, theirs, strict=True)) <= len(sequences) // 100  # ANARCI's known faults
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
@pytest.mark.parametrize("species", [["human"], ["human", "mouse"], ["rabbit"]])
def test_same_as_anarci_for_any_species(benchmark_module, species):
    compare(benchmark_module, benchmark_module.chains(400, seed=1)[-250:], species, "imgt")


def assembled(kind, name):
    """[(V allele, chain)]: every V germline of a species as a chain, with a short CDR3 and each J germline in turn."""
    j = list((germlines.alleles("J", kind, name) or germlines.alleles("J", kind, "mouse")).values())
    middle = "ARDGYSSG" if kind == "H" else "QQYNSY"
    return [
        (v, v[:104].replace("-", "") + middle + j[i % len(j)].replace("-", ""))
        for i, v in enumerate(germlines.alleles("V", kind, name).values())
    ]


@pytest.mark.parametrize("kind", "HKL")
@pytest.mark.parametrize("name", anarci.SPECIES)
def test_every_species_and_chain_type_is_at_imgts_positions(name, kind):
    """Each residue of each germline V gene is numbered as the germline table has it, or the type is not offered."""
    pairs = assembled(kind, name)
    assert bool(pairs) == (kind in species.PROFILES[name])
    if not pairs:  # alpaca light chains
        (one,) = anarci.number([LIGHT], [name])
        assert one.germline.v_allele is None
        return
    exact = 0
    for (v, _), one in zip(pairs, anarci.number([chain for _, chain in pairs], [name]), strict=True):
        assert (one.status, one.germline.species) == ("ok", name)
        assert (v[22], v[103], one.conserved[0], one.conserved[2]) == ("C", "C", "C", "C")
        assert one.germline.v_identity > 0.9
        assert (one.germline.j_allele is None) == (name == "rat" and kind == "H")  # there are no rat heavy J genes
        imgt = one.numbers.imgt[one.numbers.imgt <= 104].tolist()
        exact += imgt == [position for position, residue in enumerate(v[:104], start=1) if residue != "-"]
        assert one.conserved[1] == v[40]
    assert exact >= 0.9 * len(pairs)


def test_shifted_germlines_are_mended():
    """As ANARCI ships them, none of these has both cysteines at 23 and 104; mended, all have, and W41 but for one."""
    for name, kind in (("rhesus", "H"), ("rhesus", "K"), ("rat", "H")):
        before, after = all_germlines["V"][kind][name], germlines.alleles("V", kind, name)
        assert not any((v[22], v[103]) == ("C", "C") for v in before.values())
        assert all((v[22], v[103], len(v)) == ("C", "C", 128) for v in after.values())
        assert sum(v[40] != "W" for v in after.values()) <= 1
        changed = {a for a in before if before[a].replace("-", "") != after[a].replace("-", "")}
        assert changed <= {"IGHV3-176*01"}  # it has a G more than any other gene


def test_rhesus_beside_human_takes_nothing_from_human_chains(monkeypatch):
    chains = [chain for _, chain in assembled("H", "human")[::8]]
    alone, beside = anarci.number(chains, ["human"]), anarci.number(chains, ["human", "rhesus"])
    for a, b in zip(alone, beside, strict=True):
        assert (a.status, a.numbers.imgt.tolist()) == (b.status, b.numbers.imgt.tolist())
    # Were the shifted profiles searched: one that wins by bits, its cysteines elsewhere, loses to one that keeps them.
    monkeypatch.setattr(anarci, "_SOUND", {})
    mended = anarci.number(chains, ["human", "rhesus"])
    monkeypatch.setattr(anarci, "_better", lambda chain, numbered, *_: numbered)
    shifted = anarci.number(chains, ["human", "rhesus"])
    assert {one.profile for one in shifted if one.status == checks.MISPLACED} == {"rhesus_H"}
    for a, b in zip(alone, mended, strict=True):
        assert (a.status, a.numbers.imgt.tolist()) == (b.status, b.numbers.imgt.tolist())


def test_a_species_without_a_chain_type_costs_the_others_nothing():
    alone, beside = anarci.number([HEAVY, LIGHT], ["human"]), anarci.number([HEAVY, LIGHT], ["human", "alpaca"])
    assert beside[1].germline == alone[1].germline
    assert alone[1].germline.v_allele is not None
    assert beside[0].germline.species == "human"


def test_conserved_residues_are_looked_at():
    broken = [HEAVY[:21] + "S" + HEAVY[22:], HEAVY[:95] + "S" + HEAVY[96:], LIGHT.replace("YYC", "YYS")]
    for one in anarci.number(broken, ["human"]):
        assert one.status == "conserved residues not at 23/104"
        assert one.numbers is not None
    whole, late, no_tryptophan = anarci.number([HEAVY, HEAVY[24:], HEAVY.replace("HWV", "HAV")], ["human"])
    assert (whole.status, whole.conserved, whole.complete) == ("ok", "CWCW", True)
    assert (late.status, late.conserved, late.numbers.first) == ("ok", "-WCW", 26)  # truncated, not misplaced
    assert (no_tryptophan.status, no_tryptophan.conserved) == ("ok", "CACW")


@pytest.mark.parametrize(
    ("chain", "complete"),
    [
        (HEAVY, True), (HEAVY[1:], True), (HEAVY[3:], False), (HEAVY[8:], False), (HEAVY[:-1], True),
        (HEAVY[:-2], False), (LIGHT, True), (LIGHT[1:], True), (LIGHT[3:], False), (LIGHT[:-1], False),
        ("MKHLWFFLLLVAAPRWVLS" + HEAVY + "ASTKGPSVFPLAPSS", True),
    ],
)  # fmt: skip
def test_complete_domains_start_at_1_or_2_and_end_at_127_or_128(chain, complete):
    (one,) = anarci.number([chain], ["human"])
    assert one.complete == complete


@pytest.mark.parametrize("tag", ["HHHHHH", "HHHHHHHHHH", "GSHHHHHH", "EPKTPKPQHHHHHH"])
def test_no_residue_of_a_tag_is_in_the_domain(tag):
    v = germlines.alleles("V", "H", "alpaca")["IGHV3S53*01"][:104].replace("-", "")
    for end in ("TVSS", "TVS"):  # ANARCI's alpaca IGHJ5 lacks its last residue
        vhh = v + "AADRGGSTLFEYWGQGTLV" + end
        for allowed in (["alpaca"], ["human"]):
            (one,) = anarci.number([vhh + tag], allowed)
            assert (one.status, one.complete) == ("ok", True)
            if end == "TVSS" or tag.startswith("HH"):
                assert (vhh + tag)[one.start : one.end] == vhh
                assert one.numbers.last == (128 if end == "TVSS" else 127)


def test_tied_germline_genes_are_all_kept():
    v, j = germlines.alleles("V", "H", "human")["IGHV3-23*01"], germlines.alleles("J", "H", "human")["IGHJ4*01"]
    chain = v[:104].replace("-", "") + "AKDGYSSG" + j.replace("-", "")
    (one,) = anarci.number([chain], ["human"])
    assert one.germline.v_allele == "IGHV3-23*01"
    assert one.germline.v_genes_tied == ("IGHV3-23", "IGHV3-23D")


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


def numbered_tables(tmp_path, chunks, scheme="imgt", complete=False):
    paths = [[tmp_path / f"{kind}-{chunks}-{c}.parquet" for c in range(chunks)] for kind in ("chains", "residues")]
    for chunk in range(chunks):
        source = tmp_path / "antibodies.parquet"
        numbering_tables.number_chunk(
            source, chunk, chunks, ["human"], scheme, paths[0][chunk], paths[1][chunk], complete
        )
    merged = [tmp_path / name for name in ("chains.parquet", "residues.parquet", "summary.json")]
    summary = numbering_tables.merge_chunks(*paths, scheme, *merged)
    assert summary == read_json(merged[2])
    return read_parquet(merged[0]), read_parquet(merged[1]), summary


def test_tables(tmp_path):
    table = antibodies(tmp_path)
    chains, residues, summary = numbered_tables(tmp_path, 1)
    assert summary["statuses"] == {
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


def write_chains(tmp_path, heavy):
    table = pd.DataFrame({"antibody_id": [f"a{i}" for i in range(len(heavy))], "heavy": heavy})
    write_parquet(table.assign(light=None), tmp_path / "antibodies.parquet")


def test_what_is_truncated_or_misplaced_is_counted_and_said(tmp_path):
    write_chains(tmp_path, [HEAVY, HEAVY[8:], HEAVY[:-2], HEAVY[:95] + "S" + HEAVY[96:], HEAVY.replace("HWV", "HAV")])
    chains, _, summary = numbered_tables(tmp_path, 1)
    assert chains["complete"].tolist() == [True, False, False, True, True]
    assert chains["first_imgt"].tolist() == [1, 11, 1, 1, 1]
    assert chains["last_imgt"].tolist() == [128, 128, 126, 128, 128]
    assert chains["conserved"].tolist() == ["CWCW"] * 3 + ["CWSW", "CACW"]
    assert (chains["profile"] == "human_H").all()
    ok = chains["status"] == "ok"
    assert [one.split(",")[0] for one in chains.loc[ok, "v_genes_tied"]] == chains.loc[ok, "v_gene"].tolist()
    assert {key: summary[key] for key in ("chains", "numbered", "misplaced")} == {
        "chains": 5, "numbered": 5, "misplaced": 1
    }  # fmt: skip
    assert (summary["truncated"], summary["truncated_start"], summary["truncated_end"]) == (2, 1, 1)
    assert summary["profiles"]["human"] == {
        "numbered": 5, "misplaced": 1, "without_C23": 0, "without_W41": 1, "without_C104": 1, "without_J118": 0
    }  # fmt: skip
    said = "\n".join(checks.describe(summary))
    assert "2 of 5 numbered chains (40.0%) are no complete domain" in said
    assert "1 of 5 numbered chains (20.0%) have no cysteine at IMGT 23 or 104" in said
    assert "numbered by human's profiles; without C23 0.00%, W41 20.00%, C104 20.00%, J118 0.00%" in said


def test_truncated_chains_are_refused_with_their_reason_where_asked(tmp_path):
    write_chains(tmp_path, [HEAVY, HEAVY[8:], HEAVY[:-2]])
    chains, residues, summary = numbered_tables(tmp_path, 1, complete=True)
    assert chains["status"].tolist() == [
        "ok",
        "incomplete domain: residues are missing at its start",
        "incomplete domain: residues are missing at its end",
    ]
    assert len(residues) == len(HEAVY)
    assert (summary["numbered"], summary["truncated"]) == (3, 2)


def test_low_germline_identity_is_counted(tmp_path):
    chains = [chain for _, chain in assembled("H", "rabbit")[:4]]
    write_chains(tmp_path, [HEAVY, *chains])
    table, _, summary = numbered_tables(tmp_path, 1)
    assert summary["low_identity"] == (table["v_identity"] < 0.75).sum() >= 3
    assert "have no V germline of 75% identity" in "\n".join(checks.describe(summary))


def test_a_run_whose_cysteines_are_misplaced_ends_and_names_the_profiles(tmp_path):
    broken = [HEAVY[:95] + "S" + HEAVY[96 : 96 + i] + "A" + HEAVY[97 + i :] for i in range(3)]
    write_chains(tmp_path, [HEAVY, *broken])
    with pytest.raises(
        InputError, match=r"3 of 4 numbered chains \(75%\).*3 of 4 by human's profiles.*numbering\.species"
    ):
        numbered_tables(tmp_path, 1)
    assert not (tmp_path / "chains.parquet").exists()
    assert not (tmp_path / "summary.json").exists()
