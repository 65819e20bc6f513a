"""Libraries, written by the real IgLM-S."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae import config
from antibody_sae.designs import build, constraints, handles, liabilities, library, outputs, page, parents, picking
from antibody_sae.designs.constraints import Constraints
from antibody_sae.interventions import Intervention, Where
from antibody_sae.io import InputError, write_json
from antibody_sae.report.charts.base import Palette, svg
from antibody_sae.report.run import Run
from antibody_sae.report.tabs import library as tab
from antibody_sae.steering import outcomes, sampling

BINS = {"cdr3_length": [14], "cdr3_charge": [0], "cdr3_hydropathy": [0], "v_identity": [0.9]}
BATCH = 32
CONCEPTS = {"bins": BINS, "metadata": {}, "position_pairs": 0}
TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)


@pytest.fixture(scope="module")
def direction(iglm_s):
    direction = torch.randn(iglm_s.d_model, generator=torch.Generator().manual_seed(0))
    return 0.5 * direction / direction.norm()


@pytest.fixture(scope="module")
def made(iglm_s, direction):
    limits = Constraints(
        max_perplexity=3.5,
        liabilities={"N-glycosylation": "all"},
        rates={"cdr3-length=H:>=12": (1, 1), "v-family=IGHV4": (0, 0), "j-gene=IGHJ4": (0.25, 0.75)},
    )
    training = {TRASTUZUMAB: "trastuzumab"}
    with pytest.MonkeyPatch.context() as patch:
        for module in (sampling, library):
            patch.setattr(module, "BATCH", BATCH)
        return library.design(
            iglm_s, 2, Intervention(vector=direction), 8, limits, name="lib", seed=3, writing=library.WRITING,
            concepts=CONCEPTS, training=training,
        )  # fmt: skip


def test_every_constraint_holds(made):
    chains = made.chains
    assert len(chains) == chains["sequence_aa"].nunique() == 8
    assert (chains["perplexity"] <= 3.5).all()
    assert (chains["cdr3_aa"].str.len() >= 12).all()
    assert not chains["v_call"].str.startswith("IGHV4").any()
    assert 2 <= chains["j_call"].str.startswith("IGHJ4").sum() <= 6
    assert (chains["liability_n_glycosylation"] == "").all()
    assert not chains["sequence_aa"].str.contains("N[^P][ST]").any()
    for numbering in chains["numbering"]:
        places = dict(pair.split(":") for pair in numbering.split())
        assert {"1", "2"} & set(places)
        assert {"127", "128"} & set(places)
        assert places["23"] == places["104"] == "C"
        assert places["41"] == "W"


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


def test_seed_batch_and_row_write_the_sequence_again(iglm_s, direction, made, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    one = made.chains.iloc[-1]
    seed = [int(one["seed"]), build.LIBRARY, int(one["batch"])]
    arm = [Intervention(vector=direction)]
    again = sampling.generate(iglm_s, 2, arm, [BATCH], library.WRITING, seed)
    assert again["text"].iloc[int(one["row"])] == one["sequence_aa"]


def test_the_funnel_accounts_for_every_sequence(made):
    left = [row["left"] for row in made.funnel]
    assert left[0] == made.written
    assert left[-1] == 8
    assert left == sorted(left, reverse=True)
    by_name = {row["constraint"]: row for row in made.funnel}
    assert 0 < by_name["cdr3-length=H:>=12"]["yield"] < 1
    assert made.price == made.tokens / (8 + made.surplus)


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


def test_constraints_that_cannot_be_met_end_with_the_yield_of_each(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(library, "MOST_TRIES", 4)
    limits = Constraints(max_perplexity=1.0, rates={"j-gene=IGHJ4": (1, 1)})
    with pytest.raises(InputError, match="0 of 5 designs after 16 sequences") as error:
        library.design(iglm_s, 2, Intervention(), 5, limits, concepts=CONCEPTS)
    for name in ("complete", "conserved", "j-gene=IGHJ4", "max_perplexity"):
        assert any(line.split()[0] == name and "meet it by itself" in line for line in str(error.value).splitlines())
    with pytest.raises(InputError, match="section `concepts`"):
        library.design(iglm_s, 2, Intervention(), 5, Constraints(rates={"j-gene=IGHJ4": (0, 1)}))
    with pytest.raises(InputError, match="none of"):
        Constraints(liabilities={"N-glycosilation": "all"})


def test_designs_keep_their_distance(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    near = library.design(iglm_s, 2, Intervention(), 6, Constraints(complete=False, min_distance=30))
    between = picking.distances(near.chains["text"].tolist())
    assert between[~np.eye(6, dtype=bool)].min() >= 30


# --- parents ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parent():
    return parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["CDR1", "CDR3"]}, "H", library.NUMBERING)


def test_infilling_rewrites_the_regions_alone(iglm_s, parent, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 8)
    made = library.design(iglm_s, 2, Intervention(), 4, parent=parent, infill=True).chains
    regions = parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["FR1", "FR2", "CDR2", "FR3", "FR4"]}, "H",
                             library.NUMBERING)  # fmt: skip
    for column, region in (("fwr1_aa", "FR1"), ("fwr2_aa", "FR2"), ("cdr2_aa", "CDR2"), ("fwr4_aa", "FR4")):
        start, end = regions.spans[region]
        assert (made[column] == TRASTUZUMAB[start:end]).all()
    assert made["cdr3_aa"].nunique() == 4
    assert not (made["cdr3_aa"] == "SRWGGDGFYAMDY").any()


def test_infilling_reads_what_iglm_was_trained_on(iglm_s, parent):
    """[HEAVY][HUMAN] EVQ...[MASK]WGQ...[SEP], and the span ends with [CLS]; positions as in the package's own code."""
    model = parents.infilling(iglm_s, "H", "human", parent, "CDR3")
    vocabulary = {token: i for i, token in enumerate(_vocabulary())}
    start, end = parent.spans["CDR3"]
    text = [*TRASTUZUMAB[:start], "[MASK]", *TRASTUZUMAB[end:], "[SEP]"]
    assert model.prefix("H") == [vocabulary[t] for t in ("[HEAVY]", "[HUMAN]", *text)]
    assert model.stop_token("H") == vocabulary["[CLS]"]


def _vocabulary():
    import iglm

    return (Path(iglm.__file__).parent / "trained_models" / "vocab.txt").read_text().split()


def test_a_prompt_keeps_what_comes_before(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 8)
    parent = parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["CDR3"]}, "H", library.NUMBERING)
    made = library.design(iglm_s, 2, Intervention(), 3, parent=parent)
    assert made.chains["sequence_aa"].str.startswith(TRASTUZUMAB[:96]).all()
    assert made.price < 40  # the prompt costs nothing


def test_a_parent_must_be_a_domain():
    with pytest.raises(InputError, match=r"from\.heavy"):
        parents.parent({"light": "DIQ", "rewrite": ["CDR3"]}, "H", library.NUMBERING)
    with pytest.raises(InputError, match="whole variable domain"):
        parents.parent({"heavy": "EVQLVES", "rewrite": ["CDR3"]}, "H", library.NUMBERING)


# --- small parts ------------------------------------------------------------------------------------------------------


def test_liabilities_by_region():
    """Trastuzumab's known sites: N-D in CDR-H1... none glycosylated; N54-G55 in CDR-H2, D98-G99 in CDR-H3, M and W."""
    found = outcomes.number_texts([TRASTUZUMAB], library.WRITING, library.NUMBERING)
    places = liabilities.find(found.residues)
    assert places["N-glycosylation"] == []
    assert "CDR2:62" in places["deamidation"] or any(p.startswith("CDR2") for p in places["deamidation"])
    assert any(p.startswith("CDR3") for p in places["isomerisation"])
    assert len([p for p in places["oxidation"] if p.startswith("CDR3")]) == 2  # W and M of SRWGGDGFYAMDY
    assert all(p.startswith("CDR") for p in places["oxidation"])
    assert places["free-cysteine"] == []
    row = liabilities.describe(found.residues)
    assert row["cdr3_net_charge"] == -1  # R, D, D
    assert row["mutations"] > 5
    with_cysteine = TRASTUZUMAB.replace("SRWGGDG", "SRCGGDG")
    found = outcomes.number_texts([with_cysteine], library.WRITING, library.NUMBERING)
    assert [p.partition(":")[0] for p in liabilities.find(found.residues)["free-cysteine"]] == ["CDR3"]
    glycan = TRASTUZUMAB.replace("KNTAYLQ", "KNTSYLQ")
    found = outcomes.number_texts([glycan], library.WRITING, library.NUMBERING)
    places = liabilities.find(found.residues)
    assert [p.partition(":")[0] for p in places["N-glycosylation"]] == ["FR3"]
    assert liabilities.refused(places, {"N-glycosylation": "all"})
    assert not liabilities.refused(places, {"N-glycosylation": ["CDR1", "CDR3"]})


@pytest.mark.parametrize(("concept", "lengths"), [
    ("cdr3-length=H:>=13", (True,)), ("cdr3-length=H:>=14", (False,)), ("cdr3-length=H:<14", (True,)),
    ("cdr3-length=H:10-13", (True,)), ("cdr3-length=H:13", (True,)), ("cdr3-charge=H:-1", (True,)),
    ("j-gene=IGHJ4", (True,)), ("motif=isomerisation", (True,)), ("motif=N-glycosylation", (False,)),
])  # fmt: skip
def test_concepts_have_thresholds_of_their_own(concept, lengths):
    found = outcomes.number_texts([TRASTUZUMAB], library.WRITING, library.NUMBERING)
    assert tuple(constraints.label(found, [concept], CONCEPTS, "human")[concept]) == lengths


def test_quota_keeps_shares_reachable():
    rates = {"x": (0.5, 0.6)}
    assert constraints.quota({"x": True}, {"x": 6}, rates, 6, 10) == "x above its rate"
    assert constraints.quota({"x": False}, {"x": 0}, rates, 5, 10) == "x below its rate"
    assert constraints.quota({"x": False}, {"x": 0}, rates, 4, 10) is None
    assert constraints.quota({"x": True}, {"x": 5}, rates, 5, 10) is None


def test_picking_spreads_and_prefers_the_better():
    points = np.array([0, 1, 2, 10, 11, 20])
    between = np.abs(points[:, None] - points[None])
    assert picking.pick(between, 3) == [0, 5, 3]  # 10 and... the first, the farthest, then the middle
    assert sorted(picking.pick(between, 9)) == list(range(6))
    assert picking.pick(np.zeros((3, 3)), 2) == [0, 1]  # all alike: by rank
    assert picking.WELLS[0] == "A1"
    assert picking.WELLS[12] == "B1"
    assert len(picking.WELLS) == 96


def test_joint_levers_add_unit_directions():
    known = {"j-gene=IGHJ6": torch.tensor([3.0, 0, 0]), "cdr3-length=H:>=22": torch.tensor([0, 5.0, 0]),
             "motif=N-glycosylation": torch.tensor([0, 0, 1.0])}  # fmt: skip
    wanted = {"j-gene=IGHJ6": "high", "cdr3-length=H:>=16": "high", "motif=N-glycosylation": "none",
              "v-family=IGHV1": "high"}  # fmt: skip
    handle = handles.joint("trained", known, wanted, 0.3, 10.0, Where())
    assert handle is not None
    vector = handle.intervention.vector
    assert torch.allclose(vector, 3.0 * torch.tensor([1.0, 1, -1]) / 3**0.5)
    assert handle.targets == {"j-gene=IGHJ6": "j-gene=IGHJ6", "cdr3-length=H:>=16": "cdr3-length=H:>=22",
                              "motif=N-glycosylation": "motif=N-glycosylation"}  # fmt: skip
    assert handles.joint("trained", known, {"v-family=IGHV1": "high"}, 0.3, 10.0, Where()) is None
    assert handles.target_for("cdr3-length=H:<10", known) is None  # the other way
    two = {"a=1": torch.ones(2), "b=1": torch.ones(2)}
    with pytest.raises(InputError, match="cancel"):
        handles.joint("trained", two, {"a=1": "high", "b=1": "none"}, 0.3, 1.0, Where())


def test_the_cheapest_handle_wins_and_all_are_reported():
    prices = {0.15: 400.0, 0.3: 250.0, 0.45: float("inf")}
    tried = [handles.Handle("trained", Intervention(), length) for length in prices]
    best, report = handles.cheapest(tried, lambda handle: prices[handle.length])
    assert best.length == 0.3
    assert [row["tokens_per_design"] for row in report] == [400.0, 250.0, None]


def test_best_latent_prefers_steerable_arms_of_acceptable_quality():
    rows = [
        ("latent", 5, 1.0, 0.5, False, False, "f1"),  # moved most, but its sequences fell apart
        ("latent", 7, 2.0, 0.3, True, False, "r"),
        ("latent", 8, 0.5, 0.2, True, True, "output_score;r"),
        ("random_latent", 9, 1.0, 0.9, True, False, None),
    ]
    columns = ["kind", "latent", "strength", "delta", "acceptable", "steerable", "selected_by"]
    effects = pd.DataFrame(rows, columns=columns).assign(concept="j-gene=IGHJ4", stage="confirm", length=0.3)
    assert handles.best_latent(effects, "j-gene=IGHJ4") == (8, 0.5)
    assert handles.best_latent(effects, "j-gene=IGHJ4", "r") == (8, 0.5)
    with pytest.raises(InputError, match="no latent raised"):
        handles.best_latent(effects, "j-gene=IGHJ4", "f1")
    with pytest.raises(InputError, match="was not steered"):
        handles.best_latent(effects, "j-gene=IGHJ9")


def test_a_vector_may_be_an_array():
    assert torch.equal(Intervention(vector=np.array([1.0, 2.0])).vector, torch.tensor([1.0, 2.0]))


# --- a whole entry of the configuration -------------------------------------------------------------------------------


def test_an_entry_without_a_lever_is_rejection_sampling(iglm_s, monkeypatch, tmp_path):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    asked = _defaults({"lever": "none", "concepts": {"j-gene=IGHJ4": "high"}, "n": 3, "baseline": 32})
    sections = {"writing": library.WRITING, "numbering": library.NUMBERING, "concepts": CONCEPTS}
    none = build.NO_LEVERS
    natural = pd.DataFrame({"antibody_id": ["t"], "heavy": [TRASTUZUMAB], "light": [None]})
    chains, about = build.build("lib", asked, iglm_s, 2, none, {}, sections, {}, natural)
    assert chains["set"].value_counts()["design"] == 3
    assert (chains["set"] == "natural").sum() == 1
    assert chains.loc[chains["set"] == "design", "j_call"].str.startswith("IGHJ4").all()
    assert about["lever"]["kind"] == "none"
    price = about["price"]
    assert price["rejection_low"] < price["rejection_tokens_per_design"] < price["rejection_high"]
    library_chains = chains[chains["set"] == "design"]
    data = page.page(chains, {**about}, outputs.picked(library_chains, 2))
    assert data["counts"]["design"] == 3
    assert data["distributions"]["J gene"]["design"] == {"IGHJ4": 1.0}
    assert len(data["picked"]) == 2
    assert {point["set"] for point in data["diversity"]} == set(data["counts"])
    write_json(data, tmp_path / "designs" / "lib" / "page.json")
    (section,) = tab.sections(Run(tmp_path, {**config.complete({}), "designs": ["lib"]}), Palette([]))
    assert "Nothing was pushed" in section.text
    assert "without steering" in section.text
    drawn = {figure.name: figure for figure in section.figures}
    assert {"library-lib-funnel", "library-lib-lengths", "library-lib-j-gene", "library-lib-logo-natural",
            "library-lib-diversity"} <= set(drawn)  # fmt: skip
    assert drawn["library-lib-funnel"].data["left"].iloc[-1] == 3
    assert "<svg" in svg(drawn["library-lib-funnel"])
    assert len(section.tables[1].cells) == 2
    with pytest.raises(InputError, match="no concept"):
        build.constraints(_defaults({"concepts": {"jgene=IGHJ4": "high"}}), CONCEPTS)
    with pytest.raises(InputError, match="no lever for any"):
        build.build("lib", {**asked, "lever": "trained"}, iglm_s, 2, none, {}, sections, {}, None)


def _defaults(entry):
    return config.complete({"designs": {"lib": entry}})["designs"]["lib"]
