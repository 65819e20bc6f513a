"""Libraries, written by the real IgLM-S."""

from __future__ import annotations

import numpy as np
from antibody_sae.designs import build, library, picking
from antibody_sae.designs.constraints import Constraints
from antibody_sae.interventions import Intervention
from antibody_sae.steering import sampling
from designs_world import BATCH


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


def test_designs_keep_their_distance(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    near = library.design(iglm_s, 2, Intervention(), 6, Constraints(complete=False, min_distance=30))
    between = picking.distances(near.chains["text"].tolist())
    assert between[~np.eye(6, dtype=bool)].min() >= 30
