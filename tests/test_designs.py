"""Steered libraries, written by the real IgLM-S."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae import designs
from antibody_sae.designs import Constraints
from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError
from antibody_sae.steering import sampling

CONCEPTS = {"bins": {"cdr3_length": [14], "cdr3_charge": [0], "cdr3_hydropathy": [0], "v_identity": [0.9]},
            "metadata": {}, "position_pairs": 0}  # fmt: skip


@pytest.fixture(scope="module")
def gentle(iglm_s):
    direction = torch.randn(iglm_s.d_model, generator=torch.Generator().manual_seed(0))
    return Intervention(vector=0.5 * direction / direction.norm())


@pytest.fixture(scope="module")
def library(iglm_s, gentle):
    limits = Constraints(max_perplexity=3.0, rates={"cdr3-length=H:>=14": (0.5, 0.75), "v-family=IGHV4": (0.0, 0.0)})
    return designs.design(iglm_s, 2, gentle, 12, limits, seed=3, concepts=CONCEPTS)


def test_every_constraint_holds(library):
    assert len(library) == library["sequence_aa"].nunique() == 12
    assert (library["perplexity"] <= 3.0).all()
    long = library["cdr3_aa"].str.len() >= 14
    assert 6 <= long.sum() <= 9
    assert not library["v_call"].str.startswith("IGHV4").any()
    assert library["locus"].eq("IGH").all()


def test_rows_are_airr_and_consistent_with_the_sequence(library):
    for row in library.itertuples():
        regions = [getattr(row, f"{name}_aa") for name in designs.AIRR.values()]
        assert "".join(regions) in row.sequence_aa
        assert row.junction_aa == "C" + row.cdr3_aa + row.fwr4_aa[0]
        places = dict(pair.split(":") for pair in row.numbering.split())
        assert places["104"] == "C"
        assert "".join(places.values()) in row.sequence_aa
        assert row.v_call.startswith("IGHV")
        assert "*" in row.v_call
        assert row.j_call.startswith("IGHJ")


def test_seed_batch_and_row_write_the_sequence_again(iglm_s, gentle, library):
    one = library.iloc[-1]
    counts = [sampling.BATCH]
    again = sampling.generate(iglm_s, 2, [gentle], counts, designs.WRITING, [int(one["seed"]), int(one["batch"])])
    assert again["text"].iloc[int(one["row"])] == one["sequence_aa"]


def test_files_are_fasta_and_tsv(library, tmp_path):
    designs.write(library, tmp_path / "lib", '{"latents": {"29": 1.0}}')
    lines = (tmp_path / "lib.fasta").read_text().splitlines()
    assert lines[0] == ">" + library["sequence_id"].iloc[0]
    assert lines[1::2] == library["sequence_aa"].tolist()
    table = pd.read_csv(tmp_path / "lib.tsv", sep="\t")
    assert table["sequence_aa"].tolist() == library["sequence_aa"].tolist()
    assert table["intervention"].eq('{"latents": {"29": 1.0}}').all()
    assert np.allclose(table["perplexity"], library["perplexity"])


def test_constraints_that_cannot_be_met_end_with_the_reasons(iglm_s, gentle, monkeypatch):
    monkeypatch.setattr(designs, "MOST_TRIES", 1)
    monkeypatch.setattr(sampling, "BATCH", 4)
    with pytest.raises(InputError, match=r"0 of 5 sequences after .* above max_perplexity"):
        designs.design(iglm_s, 2, gentle, 5, Constraints(max_perplexity=1.0))
    with pytest.raises(InputError, match="section `concepts`"):
        designs.design(iglm_s, 2, gentle, 5, Constraints(rates={"j-gene=IGHJ4": (0, 1)}))


def test_quota_keeps_shares_reachable():
    rates = {"x": (0.5, 0.6)}
    assert designs._quota({"x": True}, {"x": 6}, rates, 6, 10) == "x above its rate"
    assert designs._quota({"x": False}, {"x": 0}, rates, 5, 10) == "x below its rate"
    assert designs._quota({"x": False}, {"x": 0}, rates, 4, 10) is None
    assert designs._quota({"x": True}, {"x": 5}, rates, 5, 10) is None


def test_best_latent_prefers_steerable_arms_of_acceptable_quality():
    rows = [
        ("latent", 5, 1.0, 0.5, False, False, "f1"),  # moved most, but its sequences fell apart
        ("latent", 7, 2.0, 0.3, True, False, "r"),
        ("latent", 8, 0.5, 0.2, True, True, "output_score;r"),
        ("random_latent", 9, 1.0, 0.9, True, False, None),
    ]
    columns = ["kind", "latent", "strength", "delta", "acceptable", "steerable", "selected_by"]
    effects = pd.DataFrame(rows, columns=columns).assign(concept="j-gene=IGHJ4", method="add")
    assert designs.best_latent(effects, "j-gene=IGHJ4") == (8, 0.5)
    assert designs.best_latent(effects, "j-gene=IGHJ4", "r") == (8, 0.5)
    with pytest.raises(InputError, match="no latent raised"):
        designs.best_latent(effects, "j-gene=IGHJ4", "f1")
    with pytest.raises(InputError, match="was not steered"):
        designs.best_latent(effects, "j-gene=IGHJ9")
