"""Levers on planted models, whose rates are known exactly: credit, trained vectors, sparse levers, the map of control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.interventions import Where
from antibody_sae.steering import credit
from planted import planted_model

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


EARLY = 3
"""The property: a W among the first EARLY residues. All that is written later is noise."""


def chances(model, v, temperature=1.0):
    """[EARLY + 1, vocabulary] exact chance that one of the next n residues is W, by the last token read, with v added to
    the residual stream: the planted model is a Markov chain."""
    ids = [*model.residue_tokens.values(), model.stop_token("H")]
    hidden = model.hf.transformer.ln_f(model.hf.transformer.wte.weight + v)
    p = (model.hf.lm_head(hidden)[:, ids].double() / temperature).softmax(-1).numpy()
    w = list(model.residue_tokens).index("W")
    chance = np.zeros((EARLY + 1, len(p)))
    for n in range(1, EARLY + 1):
        later = chance[n - 1][ids]
        later[w], later[-1] = 1.0, 0.0
        chance[n] = p @ later
    return chance


def slope(model, direction, step=1e-2, **kwargs):
    first = model.prefix("H")[-1]
    ends = [chances(model, s * step * direction, **kwargs)[EARLY, first] for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.fixture(scope="module")
def drawn():
    """A model, what it wrote, and the exact V of the property after every residue."""
    model = planted_model()
    model.hf.lm_head.weight[model.stop_token("H"), -1] = -0.2  # some forty residues a sequence
    texts = [g.text for g in model.generate(800, seed=5, max_residues=200)]
    passages = [model.encode(text, chains="H")[0] for text in texts]
    has = np.array([["W" in text[:EARLY]] for text in texts], float)
    chance = chances(model, torch.zeros(16))
    read = []
    for text, f in zip(texts, has, strict=True):
        left = [chance[max(0, EARLY - 1 - i), model.residue_tokens[r]] for i, r in enumerate(text)]
        seen = np.cumsum([r == "W" for r in text[:EARLY]] + [0] * len(text[EARLY:])) > 0
        read.append(np.where(seen, 1.0, left).reshape(-1, 1) if len(text) else np.empty((0, 1)))
    start = chance[EARLY, [model.prefix("H")[-1]]]
    return model, texts, passages, credit.Values(start, read, has)


def test_credit_has_the_plain_estimators_mean_at_a_fraction_of_its_variance(drawn):
    """Both agree with finite differences of the exact rate, along what raises W and along a direction of no meaning."""
    model, texts, passages, known = drawn
    axes = torch.eye(16)[[0, 5]]
    exact = np.array([slope(model, axis) for axis in axes])
    noise = {}
    for name, given in (
        ("credit", credit.differences(known)),
        ("plain", credit.plain(known.outcome, [len(t) for t in texts])),
    ):
        terms = credit.derivatives(model, 1, passages, given, Where(), WRITING)[:, 0].double()
        error = ((terms @ axes.T.double()).std(0) / len(terms) ** 0.5).numpy()
        assert (np.abs((terms @ axes.T.double()).mean(0).numpy() - exact) < 4 * error).all(), name
        noise[name] = float(terms.var(0).sum())
    assert noise["credit"] < 0.25 * noise["plain"], noise
