"""The antibodies of a run: generated the same way each time, or read with an account of every record."""

import csv
import gzip
import tracemalloc

import pandas as pd
import pytest
from antibody_sae.io import InputError, antibody_id, read_json, read_parquet
from antibody_sae.models import model as models
from antibody_sae.models.generation import Generated
from antibody_sae.sequences import chunks as sequences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
    "WGQGTLVTVSS"
)
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
OTHER = HEAVY.replace("DTYIH", "STWIH")
LEADER, CONSTANT = "MKHLWFFLLLVAAPRWVLS", "ASTKGPSVFPLAPSSKSTSGGTAALGC"
READ = {"chains": "H", "species": "human", "format": "auto", "columns": {}, "metadata": None, "min_length": 90,
        "max_length": 200, "pair_pattern": r"(?P<id>.+?)_(?P<chain>[HLK])", "join": None,
        "translate": False}  # fmt: skip
GENERATE = {
    "n": 10,
    "chunks": 2,
    "chains": "H",
    "species": "human",
    "temperature": 1.0,
    "top_p": 1.0,
    "prompt": "",
    "complete": False,
    "seed": 3,
}


def merged(tmp_path, chunks: int, drop: float = 0.0):
    """(antibodies, rejected, summary) of the chunk files 0.."""
    paths = [[tmp_path / f"{kind}-{c}.parquet" for c in range(chunks)] for kind in ("accepted", "rejected")]
    out = [tmp_path / name for name in ("antibodies.parquet", "rejected.parquet", "summary.json")]
    summary = sequences.merge(*paths, drop, *out)
    assert read_json(out[2]) == summary
    tables = read_parquet(out[0]), read_parquet(out[1])
    assert summary["read"] == len(tables[0]) + len(tables[1])
    assert summary["accepted"] == len(tables[0])
    assert summary["rejected"] == tables[1]["reason"].value_counts().to_dict()
    return *tables, summary


def load(tmp_path, *contents: str | bytes, suffix: str = "csv", **how):
    """Read files as one chunk and merge."""
    paths = []
    for i, content in enumerate(contents):
        path = tmp_path / f"file{i}.{suffix}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths.append(str(path))
    sequences.read_chunk(paths, READ | how, ["human"], tmp_path / "accepted-0.parquet", tmp_path / "rejected-0.parquet")
    return merged(tmp_path, 1)


# --- files -----------------------------------------------------------------------------------------------------------


def test_every_record_is_accounted_for(tmp_path):
    rows = [("a", HEAVY), ("b", HEAVY), ("c", OTHER), ("c", HEAVY[1:]), ("d", LEADER + HEAVY.lower() + CONSTANT),
            ("e", LIGHT), ("f", HEAVY[60:]), ("g", "AL" * 60), ("h", HEAVY + "GGGGSGGGGSGGGGS" + LIGHT),
            ("i", HEAVY[:9] + "X" + HEAVY[10:]), ("j", HEAVY + "*"), ("k", "GATTACA" * 20), ("l", "A" * 100_000),
            ("m", "")]  # fmt: skip
    table = "id,vh,disease\n" + "".join(f"{name},{chain},flu\n" for name, chain in rows)
    antibodies, rejected, summary = load(tmp_path, table)
    assert antibodies["heavy"].tolist() == [HEAVY, OTHER, HEAVY[1:]]
    assert antibodies["antibody_id"].tolist() == [antibody_id(chain, None) for chain in (HEAVY, OTHER, HEAVY[1:])]
    # b, d once it is cut to its variable domain, j without its terminal "*"
    assert antibodies["n_duplicates"].tolist() == [3, 0, 0]
    assert antibodies["id"].tolist() == ["a", "c", "c-2"]
    assert set(antibodies["disease"]) == {"flu"}
    assert antibodies["light"].isna().all()
    assert antibodies["log_likelihood"].isna().all()
    reason = rejected.set_index("line")["reason"]
    assert rejected["source"].str.endswith("file0.csv").all()
    expected = {
        3: "duplicate", 6: "duplicate", 7: "heavy chain: is of type K",
        8: "heavy chain: wrong length (not 90", 9: "heavy chain: no antibody domain",
        10: "heavy chain: 2 antibody domains (H+K)", 11: "heavy chain: ambiguous residue: X",
        12: "duplicate",
        13: "heavy chain: nucleotides where residues are expected", 14: "heavy chain: wrong length: more than 5000",
        15: "no heavy chain",
    }  # fmt: skip
    assert set(reason.index) == set(expected)
    for line, start in expected.items():
        assert reason[line].startswith(start), (line, reason[line])
    assert summary["read"] == len(rows)


def test_files_with_other_columns_come_together(tmp_path):
    one = f"id,vh,donor\nx,{HEAVY},d1\n"
    two = f"vh,titre,species\n{OTHER},5,mouse\n"
    antibodies, _, _ = load(tmp_path, one, two)
    assert antibodies["donor"].tolist() == ["d1", None] or antibodies["donor"].isna().tolist() == [False, True]
    assert antibodies["titre"].isna().tolist() == [True, False]
    assert antibodies["species"].tolist() == ["human", "mouse"]


def test_pairs(tmp_path):
    table = f"id,vh,vl\nx,{HEAVY},{LIGHT}\ny,{HEAVY},{LIGHT[1:]}\nz,{LIGHT},{HEAVY}\nw,{HEAVY},\n"
    antibodies, rejected, _ = load(tmp_path, table, chains="HL")
    assert antibodies[["heavy", "light"]].to_numpy().tolist() == [[HEAVY, LIGHT], [HEAVY, LIGHT[1:]]]
    assert rejected["reason"].tolist() == ["heavy chain: is of type K", "no light chain of the pair"]


def test_short_variable_domains_are_refused_by_the_length_asked_for(tmp_path):
    table = f"id,vh\nx,{HEAVY[38:]}\ny,{HEAVY}\n"
    _, rejected, _ = load(tmp_path, table)
    assert rejected["reason"].tolist() == ["heavy chain: wrong length (not 90 to 200 residues)"]
    antibodies, _, _ = load(tmp_path, table, min_length=50)
    assert len(antibodies) == 2


def test_nothing_accepted_says_why(tmp_path):
    with pytest.raises(
        InputError, match=r"none of 2 records was accepted: heavy chain: nucleotides .* \(2\)\. See .*rejected"
    ):
        load(tmp_path, "id,vh\nx," + "ACGT" * 90 + "\ny," + "GGCT" * 90 + "\n")
    assert not (tmp_path / "antibodies.parquet").exists()
    with pytest.raises(InputError, match="none of 0 records was accepted: there was none"):
        load(tmp_path, "id,vh\n")


def test_a_damaged_file_ends_the_chunk_and_leaves_nothing(tmp_path):
    good = gzip.compress(("id,vh\n" + "".join(f"{i},{HEAVY}\n" for i in range(3000))).encode())
    with pytest.raises(InputError, match=r"file0\.csv after line \d+: the gzip data are truncated"):
        load(tmp_path, good[:-12])
    assert not list(tmp_path.glob("accepted*"))


def test_real_files(tmp_path, shared_data):
    paths = [str(shared_data / name) for name in ("SRR2153038_Heavy_Bulk.csv.gz", "SRR2153045_Heavy_Bulk.csv.gz")]
    accepted, rejected = tmp_path / "accepted-0.parquet", tmp_path / "rejected-0.parquet"
    sequences.read_chunk(paths, READ | {"min_length": 70}, ["human"], accepted, rejected)
    antibodies, _, summary = merged(tmp_path, 1)
    assert summary["read"] == 496 + 8
    assert len(antibodies) > 400
    assert set(antibodies["Disease"]) == {"Dengue"}


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "_BLOCK", 200)
    monkeypatch.setattr(sequences, "_cut", lambda *_: None)  # the numbering of equal chains: not what grows

    def peak(n: int) -> int:
        path = tmp_path / f"{n}.csv"
        path.write_text("id,vh,note\n" + "".join(f"{i},{HEAVY},{'n' * 500}\n" for i in range(n)))
        tracemalloc.start()
        sequences.read_chunk([str(path)], READ, ["human"], tmp_path / "a.parquet", tmp_path / "r.parquet")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(200)
    small, large = peak(1000), peak(8000)
    assert large < small + 1_500_000  # 5 MB more of text


def test_merging_in_partitions_finds_the_same(tmp_path, monkeypatch):
    rows = "".join(f"{i},{chain}\n" for i, chain in enumerate([HEAVY, OTHER, HEAVY[1:], OTHER[1:], HEAVY[2:]] * 3))
    one, rejected, _ = load(tmp_path, "id,vh\n" + rows)
    monkeypatch.setattr(sequences, "_PARTITION", 4)
    many, rejected_again, _ = merged(tmp_path, 1)
    assert len(one) == 5
    assert one["n_duplicates"].tolist() == [2] * 5
    pd.testing.assert_frame_equal(*(t.sort_values("antibody_id", ignore_index=True) for t in (one, many)))
    assert len(rejected) == len(rejected_again) == 10


chains = st.sampled_from([HEAVY, OTHER, LIGHT, HEAVY[1:], HEAVY[80:], "X", "", "ACGT" * 30]) | st.text(max_size=5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcdef"), chains), max_size=12), st.sampled_from(["H", "L", "HL"]))
def test_fuzz_accepted_and_rejected_are_read(tmp_path, rows, kind):
    table = pd.DataFrame([(name, chain, LIGHT) for name, chain in rows], columns=["id", "vh", "vl"])
    table = table.to_csv(index=False, quoting=csv.QUOTE_ALL)
    try:
        _, _, summary = load(tmp_path, table, chains=kind)  # merged() compares the sums
    except InputError as error:
        said = str(error)
    else:
        said = f"none of {summary['read']} records was accepted"
    assert f"none of {len(rows)} records was accepted" in said


# --- generation ------------------------------------------------------------------------------------------------------


def generated(model, tmp_path, chunk: int = 0, **how) -> pd.DataFrame:
    accepted, rejected = tmp_path / f"accepted-{chunk}.parquet", tmp_path / f"rejected-{chunk}.parquet"
    sequences.generate_chunk(model, GENERATE | how, ["human"], chunk, tmp_path / "checkpoints", accepted, rejected)
    return read_parquet(accepted)


def test_generation_is_decided_by_seed_and_chunk(iglm_s, tmp_path):
    one = generated(iglm_s, tmp_path)
    assert len(one) <= 5
    pd.testing.assert_frame_equal(one, generated(iglm_s, tmp_path))
    assert set(one["heavy"]).isdisjoint(generated(iglm_s, tmp_path, chunk=1)["heavy"])
    assert set(one["heavy"]).isdisjoint(generated(iglm_s, tmp_path, seed=4)["heavy"])
    expected = iglm_s.log_likelihood([p for chain in one["heavy"] for p in iglm_s.encode(chain)])
    assert one["log_likelihood"].to_numpy() == pytest.approx(expected)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_prompt_species_and_chain(iglm_s, tmp_path):
    light = generated(iglm_s, tmp_path, chains="L", species="mouse", prompt="DIVM")
    assert light["heavy"].isna().all()
    assert light["light"].str.startswith("DIVM").all()
    assert set(light["species"]) == {"mouse"}


def test_a_stopped_generation_goes_on_and_ends_the_same(iglm_s, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "_PIECE", 2)
    whole = generated(iglm_s, tmp_path)
    (tmp_path / "accepted-0.parquet").unlink()
    calls = []
    real = sequences._generate

    def stops_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(sequences, "_generate", stops_at_third)
    with pytest.raises(KeyboardInterrupt):
        generated(iglm_s, tmp_path)
    assert not (tmp_path / "accepted-0.parquet").exists()
    resumed = generated(iglm_s, tmp_path)
    assert len(calls) == 4  # the two finished pieces are not made again
    pd.testing.assert_frame_equal(whole, resumed)


def test_unfinished_antibodies_are_refused(iglm_s, tmp_path, monkeypatch):
    monkeypatch.setattr(iglm_s, "generate", lambda n, **_: [Generated(HEAVY, i > 0, -1.0) for i in range(n)])
    assert len(generated(iglm_s, tmp_path)) == 4
    antibodies, rejected, summary = merged(tmp_path, 1)
    assert antibodies["n_duplicates"].tolist() == [3]
    assert summary == {"read": 5, "accepted": 1, "rejected": {"duplicate": 3, "did not end by itself": 1}}
    assert rejected["source"].str.startswith("generated").all()


def test_pairs_are_cut_where_the_model_writes_them_in_one(p_iggen_stub, tmp_path, monkeypatch):
    texts = [HEAVY + LIGHT, HEAVY, "A" * 90]
    model = models.load({"name": "p-iggen", "path": str(p_iggen_stub), "dtype": "float32"})
    monkeypatch.setattr(model, "generate", lambda n, **_: [Generated(t, True, -1.0) for t in texts[:n]])
    pairs = generated(model, tmp_path, chains="HL", n=3, chunks=1)
    assert pairs[["heavy", "light"]].to_numpy().tolist() == [[HEAVY, LIGHT]]
    assert set(read_parquet(tmp_path / "rejected-0.parquet")["reason"]) == {"not a heavy and a light chain"}


def test_the_least_likely_can_be_dropped(iglm_s, tmp_path):
    every = generated(iglm_s, tmp_path, n=40)
    antibodies, rejected, _ = merged(tmp_path, 1, drop=0.2)
    low = rejected[rejected["reason"] == "lowest likelihood"]
    assert len(low) == 4
    kept = set(antibodies["antibody_id"])
    dropped = every[~every["antibody_id"].isin(kept)]["log_likelihood"]
    assert dropped.max() < every[every["antibody_id"].isin(kept)]["log_likelihood"].min()
