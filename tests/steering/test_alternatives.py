"""Other ways to a rate: rejection and its price, a logit bias, infilling."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.steering import alternatives
from antibody_sae.steering.price import price
from antibody_sae.steering.trained import Judged
from planted import CHAIN, chances


def test_price_counts_tokens_for_each_distinct_accepted_sequence():
    assert price(["AC", "AC", "ACD"], [True, True, False]) == 10
    assert price(["AC", "ACD"], [True, True], given=2) == 1.5
    assert price(["AC"], [False]) == np.inf


def test_a_logit_bias_moves_the_odds_by_its_own_amount(drawn):
    model, *_ = drawn
    chance = chances(model, torch.zeros(16))[1, model.prefix("H")[-1]]
    with alternatives.logit_bias(model, [alternatives.Bias({"W": 2.0})]) as edit:
        written = model.generate(400, seed=3, layer=1, edit=edit, max_residues=1)
    odds = chance / (1 - chance) * np.exp(2.0)
    assert np.mean([w.text[:1] == "W" for w in written]) == pytest.approx(odds / (1 + odds), abs=0.08)
    with alternatives.logit_bias(model, [alternatives.Bias({"W": 9.0}), alternatives.Bias({"A": 9.0})] * 10) as edit:
        written = model.generate(20, seed=3, layer=1, edit=edit, max_residues=1)
    assert [w.text[:1] for w in written] == ["W", "A"] * 10, "each row has its own"
    before = model.generate(5, seed=3, max_residues=5)
    assert [w.text for w in before] == [w.text for w in model.generate(5, seed=3, max_residues=5)]


WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": True}
SETTINGS = {
    "alternatives": ["prompt", "logit_bias", "infill"],
    "n": 16,
    "explore_n": 8,
    "perplexity_bound": 1.2,
    "seed": 1,
}
TARGETS = ["begins", "glycines"]
CDR3 = SIDED_REGIONS.index("H-CDR3")


def judge(texts):
    """All are complete, framework 1 up to the CDR3 at residues 95 to 109. The targets: a start, and glycines there."""
    outcome = [[text.startswith("QVQ"), text[95:110].count("G") > 1] for text in texts]
    region = [np.where(np.arange(len(text)) < 95, 0, np.where(np.arange(len(text)) < 110, CDR3, -1)) for text in texts]
    return Judged(np.array(outcome, float), np.ones(len(texts), bool), region)


@pytest.fixture(scope="module")
def compared(iglm_s):
    desk = alternatives.Desk(iglm_s, 1, TARGETS, judge, SETTINGS, WRITING, ["human"], {"FR1": (0, 25)})
    written = iglm_s.generate(64, seed=9, **WRITING)
    texts, ended = [w.text for w in written], np.array([w.ended for w in written])
    likelihood = np.array([w.log_likelihood for w in written])
    return desk, texts, ended, likelihood, desk.compare(texts, ended, likelihood).set_index(["concept", "way"])


def test_each_way_is_tried_and_priced(compared):
    _, texts, ended, _, table = compared
    none = table.loc[("begins", "rejection")]
    has = ended & np.array([text.startswith("QVQ") for text in texts])
    assert none["hits"] == has.sum()
    assert none["tokens"] == price(texts, has)
    assert none["perplexity_ratio"] == pytest.approx(1.0)
    assert np.isnan(table.loc[("begins", "prompt"), "strength"])
    assert table.loc[("begins", "prompt"), "what"].startswith("QVQ")
    assert table.loc[("begins", "prompt"), "rate"] == 1.0
    assert table.loc[("begins", "prompt"), "tokens"] < none["tokens"], "and what is given is not written"
    biased = table.loc[("glycines", "logit_bias")]
    assert biased["what"] == "CDR3"
    assert biased["strength"] in alternatives.STRENGTHS
    assert table.loc[("glycines", "infill"), "n"] == 16
    assert table.loc[("glycines", "infill"), "tokens"] < 70, "the region alone is written"
    assert 0.3 < table.loc[("begins", "prompt"), "perplexity_ratio"] < 3
    low, rate, high = table[["rate_low", "rate", "rate_high"]].to_numpy().T
    assert ((low <= rate) & (rate <= high)).all()


def test_the_same_seed_gives_the_same_figures(compared):
    desk, *unsteered, table = compared
    own = dataclasses.replace(desk, settings={**SETTINGS, "alternatives": ["infill"]}).compare(*unsteered)
    again = own.set_index(["concept", "way"])
    pd.testing.assert_frame_equal(again, table.loc[again.index, again.columns], check_dtype=False)


def test_what_nothing_unsteered_has_is_only_counted(compared):
    desk, texts, ended, likelihood, _ = compared

    def never(texts):
        return dataclasses.replace(judge(texts), outcome=np.zeros((len(texts), 2)))

    table = dataclasses.replace(desk, judge=never).compare(texts[:8], ended[:8], likelihood[:8])
    assert table["way"].tolist() == ["rejection"] * 2
    assert np.isinf(table["tokens"]).all()


def test_the_region_that_tells_most_and_its_residues():
    texts = [f"AAAA{20 * inside}GG" for inside in ("WW", "WY", "AA", "AY")]
    region = [np.repeat([0, CDR3, -1], [4, 40, 2])] * 4
    has = np.array([True, True, False, False])
    judged = Judged(has[:, None].astype(float), np.ones(4, bool), region)
    found, bias = alternatives.telling(texts, judged, has)
    assert found == "H-CDR3"
    assert bias["W"] > 0.3
    assert bias["A"] < -0.3
    assert max(map(abs, bias.values())) <= alternatives.STRONGEST


def test_infilling_writes_only_the_span(iglm_s):
    filler = alternatives.filler(iglm_s, "H", "human", CHAIN[:98], CHAIN[100:])
    spans = [w for w in filler.generate(4, seed=1, species="human", max_residues=30) if w.ended]
    assert spans
    assert max(len(w.text) for w in spans) < 20
    assert alternatives.can_infill(iglm_s)
