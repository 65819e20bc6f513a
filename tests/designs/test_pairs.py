"""Libraries of pairs, by a small model of p-IgGen's kind that learned to write them: no package has such weights."""

from __future__ import annotations

import csv

import airr
import pandas as pd
import pytest
import torch
from antibody_sae.designs import build, library, outputs
from antibody_sae.designs.constraints import Constraints
from antibody_sae.interventions import Intervention
from antibody_sae.models import model as models
from antibody_sae.steering import outcomes, sampling
from designs_world import BATCH, CONCEPTS

pytestmark = pytest.mark.slow
WRITING = {**library.WRITING, "chains": "HL"}


@pytest.fixture(scope="module")
def writer(pair_writer):
    """The trained checkpoint, loaded as a user's own p-IgGen."""
    torch.set_num_threads(1)
    return models.load({"name": "p-iggen", "path": str(pair_writer), "dtype": "float32"})


@pytest.fixture(scope="module")
def made(writer):
    limits = Constraints(max_perplexity=4.0, rates={"j-gene=IGHJ6": (1, 1)})
    with pytest.MonkeyPatch.context() as patch:
        for module in (sampling, library):
            patch.setattr(module, "BATCH", BATCH)
        return library.design(
            writer, 1, Intervention(), 8, limits, name="pairs", seed=2, writing=WRITING, concepts=CONCEPTS
        )


def test_a_pair_is_written_whole_cut_in_two_and_keeps_its_constraints(made):
    chains = made.chains
    assert chains["side"].tolist() == ["heavy", "light"] * 8
    assert chains["sequence_id"].tolist()[:2] == ["pairs-0001-heavy", "pairs-0001-light"]
    for _, both in chains.groupby("cell_id"):
        assert "".join(both["sequence_aa"]) == both["text"].iloc[0], "no residue is lost between the chains"
        assert both["perplexity"].nunique() == 1
        for numbering in both["numbering"]:
            places = dict(pair.split(":") for pair in numbering.split())
            assert {"1", "2"} & set(places)
            assert {"127", "128"} & set(places)
            assert places["23"] == places["104"] == "C"
    heavy, light = (chains[chains["side"] == side] for side in ("heavy", "light"))
    assert heavy["j_call"].str.startswith("IGHJ6").all()
    assert (heavy["locus"].eq("IGH") & light["locus"].eq("IGK").to_numpy()).all()


def test_steered_pairs_are_written_to_their_end(writer):
    push = Intervention(vector=0.1 * torch.ones(writer.d_model))
    written = sampling.generate(writer, 1, [push], [8], WRITING, [3])
    assert written["ended"].mean() > 0.8
    assert written["text"].str.len().median() > 200, "both chains, where one is 120 residues"


def test_a_pair_without_its_light_chain_is_none(made):
    both = made.chains.drop_duplicates("cell_id").iloc[0]
    heavy = made.chains["sequence_aa"].iloc[0]
    found = outcomes.number_texts([both["text"], heavy], WRITING, library.NUMBERING)
    assert found.antibodies["valid"].tolist() == [True, False]


def test_files_hold_both_chains_of_each_pair(made, tmp_path):
    outputs.write(made, tmp_path / "pairs", pick=4)
    fasta = (tmp_path / "pairs.fasta").read_text().splitlines()[::2]
    assert len(set(fasta)) == 16
    assert airr.validate_rearrangement(str(tmp_path / "pairs.tsv"))
    cells = pd.read_csv(tmp_path / "pairs.tsv", sep="\t").groupby("cell_id")["locus"].agg(set)
    assert (cells == {"IGH", "IGK"}).all()
    plate = list(csv.DictReader((tmp_path / "pairs-picked.csv").open()))
    text = made.chains.drop_duplicates("cell_id").set_index("cell_id")["text"]
    assert len(plate) == 4
    assert all(row["heavy"] + row["light"] == text[row["name"]] for row in plate)


def test_a_pair_is_judged_with_its_own_light_chain_and_has_a_page(writer, made, monkeypatch):
    from antibody_sae import config
    from antibody_sae.designs import page

    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    entry = {"lever": "none", "concepts": {"j-gene=IGHJ4": "high"}, "n": 4, "baseline": 32}
    asked = config.complete({"designs": {"lib": entry}})["designs"]["lib"]
    sections = {"writing": WRITING, "numbering": library.NUMBERING, "concepts": CONCEPTS}
    chains, about = build.build("lib", asked, writer, 1, build.NO_LEVERS, {}, sections, {}, None)
    own = chains[chains["set"] == "design"]
    data = page.page(chains, {**about}, outputs.picked(own, 2))
    assert data["counts"]["design"] == 4, "pairs are counted, not chains"
    assert len(data["picked"]) == 2
