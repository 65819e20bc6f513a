"""Other ways to a rate: rejection and its price, a logit bias, infilling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.io import InputError
from antibody_sae.steering import alternatives
from planted import CHAIN, chances


def test_price_counts_tokens_for_each_distinct_accepted_sequence():
    assert alternatives.price(["AC", "AC", "ACD"], [True, True, False]) == 10
    assert alternatives.price(["AC", "ACD"], [True, True], given=2) == 1.5
    assert alternatives.price(["AC"], [False]) == np.inf


def test_a_logit_bias_moves_the_odds_by_its_own_amount(drawn):
    model, *_ = drawn
    chance = chances(model, torch.zeros(16))[1, model.prefix("H")[-1]]
    with alternatives.logit_bias(model, {"W": 2.0}) as edit:
        written = model.generate(400, seed=3, layer=1, edit=edit, max_residues=1)
    odds = chance / (1 - chance) * np.exp(2.0)
    assert np.mean([w.text[:1] == "W" for w in written]) == pytest.approx(odds / (1 + odds), abs=0.08)
    before = model.generate(5, seed=3, max_residues=5)
    assert [w.text for w in before] == [w.text for w in model.generate(5, seed=3, max_residues=5)]


def test_infilling_writes_only_the_span(iglm_s):
    made = [text for text in alternatives.infill(iglm_s, CHAIN, 98, 100, 4, seed=1) if text]
    assert made
    assert all(text.startswith(CHAIN[:98]) and text.endswith(CHAIN[100:]) for text in made)
    with pytest.raises(InputError, match="span"):
        alternatives.infill(iglm_s, CHAIN, 5, 5, 1, seed=1)
