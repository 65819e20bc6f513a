"""Levers on planted models, whose rates are known: credit, trained vectors, sparse levers, the map of control."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from antibody_sae.interventions import Where
from antibody_sae.io import InputError, write_safetensors
from antibody_sae.sae.model import SAE
from antibody_sae.steering import alternatives, control_map, credit, sparse, trained
from planted import planted_model
from safetensors import safe_open

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


CHAIN = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAKDRWGQGTLVTVSS"
)
EARLY = 3
"""The property: a W among the first EARLY residues. All that is written later is noise."""


def chances(model, v, temperature=1.0):
    """[EARLY + 1, vocabulary] exact chance that one of the next n residues is W, by the last token read, with v added
    to the residual stream: the planted model is a Markov chain."""
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
    model.hf.lm_head.weight[model.stop_token("H"), -1] = -0.35  # some eighty residues a sequence
    texts = [g.text for g in model.generate(600, seed=5, max_residues=240)]
    passages = [model.encode(text, chains="H")[0] for text in texts]
    has = np.array([["W" in text[:EARLY]] for text in texts], float)
    chance = chances(model, torch.zeros(16))
    read = []
    for text in texts:
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


def test_credit_respects_temperature_and_top_p():
    """A token that generation cannot draw has no derivative, and the others' are those of what it draws from."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 9.0]], requires_grad=True)
    allowed = torch.tensor([True, True, True, True, False])
    all_p = credit.log_probabilities(logits.expand(5, 5), torch.arange(5), allowed, temperature=2.0).exp()
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0]) / 2, 0)
    torch.testing.assert_close(all_p[:4].detach(), expected)
    nucleus = credit.log_probabilities(logits.expand(5, 5), torch.arange(5), allowed, top_p=0.8)
    assert nucleus[:2].exp().sum().item() == pytest.approx(1.0)  # .64 and .24 reach .8; the others cannot be drawn
    assert (nucleus[2:] == 0).all()
    (gradient,) = torch.autograd.grad(nucleus[2:].sum(), logits, retain_graph=True)
    assert not gradient.any()


def test_the_probe_finds_when_a_property_is_decided_and_keeps_what_is_forgotten():
    rng = np.random.default_rng(0)
    n, length = 400, 10
    y = (rng.random((n, 1)) < 0.3).astype(float)
    features = [rng.normal(size=(length, 6)).astype(np.float32) for _ in range(n)]
    for i in range(n):
        features[i][4, 0] = 4 * y[i, 0] - 2 + rng.normal() * 0.3  # said once, at the fifth residue
    clocks = [np.arange(length)] * n
    found, probe = credit.fit(features, clocks, y)
    explained = credit.reliability(found, clocks, length)["explained"][:, 0]
    assert (np.abs(explained[:4]) < 0.03).all()
    assert (explained[4:] > 0.97).all()
    for c, f in zip(credit.differences(found), y, strict=True):
        assert c.sum() == pytest.approx(f[0] - found.start[0])  # all credit adds up to what came of it
    fresh = probe.values(features, clocks, y)
    assert np.abs(np.stack(fresh.read)[:, -1, 0] - y[:, 0]).mean() < 0.05


def test_what_is_still_to_come_is_the_credit_of_a_sum():
    """Equal clocks have equal means: the credit of a token is what it and all later ones bring, less that."""
    parts = [np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0]), np.array([2.0, 1.0, 0.0])]
    found = credit.to_go(parts, [np.arange(len(p)) for p in parts])
    assert [c[0] for c in found] == pytest.approx([3 - 7 / 3, 1 - 7 / 3, 3 - 7 / 3])
    assert [c[1] for c in found] == pytest.approx([2 - 4 / 3, 1 - 4 / 3, 1 - 4 / 3])
    assert [len(c) for c in found] == [4, 3, 4]
    region = np.full(5, 5)
    assert credit.residue_parts("cdr3-charge=H:>=2", "ARDEW", region).tolist() == [0, 1, -1, -1, 0]
    assert credit.residue_parts("cdr3-length=H:<10", "ARDEW", region).tolist() == [-1] * 5
    assert credit.residue_parts("cdr3-charge=H:0", "ARDEW", region) is None  # a bin in the middle is no sum


def test_the_clock_reads_only_what_was_written():
    whole = credit.clock(CHAIN)
    assert len(set(whole)) == len(CHAIN)
    assert (np.diff(whole // 1024) != 0).sum() == 2  # CDR3 opens, and closes
    for n in (1, 30, 96, 105, len(CHAIN)):
        assert (credit.clock(CHAIN[:n]) == whole[:n]).all()


# --- trained and sparse levers -------------------------------------------------------------------------------------


def pair_sample(v, _round=0):
    """A property that takes two directions at once: its log odds are flat until v[0] + v[1] is large."""
    v = v.clone().requires_grad_()
    with torch.enable_grad():
        rate = torch.sigmoid(12 * (v[0] + v[1]) - 14.5)
        (gradient,) = torch.autograd.grad(rate, v)
    return rate.item(), 1.0, -1.0, gradient


def test_a_property_of_two_latents_together_is_found_by_the_sparse_lever_and_by_no_single_latent():
    directions = torch.eye(8)
    first = pair_sample(torch.zeros(8))[3]
    single = [pair_sample(d)[0] for d in directions]
    assert max(single) < 0.1
    made = trained.train(pair_sample, first, (1.0, -1.0), 1.0)
    levers = sparse.pursue(directions, made.vector)
    assert sorted(levers[2].latents) == [0, 1]
    assert pair_sample(levers[2].vector)[0] > 0.8
    held = trained.train(
        pair_sample, first, (1.0, -1.0), 1.0, project=lambda u: sparse.pursue(directions, u, (2,))[2].vector
    )
    assert sorted(held.vector.nonzero()[:, 0].tolist()) == [0, 1]


def test_the_first_step_is_the_rate_derivative_and_all_latents_reach_the_trained_vector():
    generator = torch.Generator().manual_seed(0)
    first, seen = torch.randn(8, generator=generator), []

    def sample(v, number):
        seen.append(v)
        return 0.1 * number, 1.0, -1.0, torch.randn(8, generator=generator)

    made = trained.train(sample, first, (1.0, -1.0), 2.0)
    torch.testing.assert_close(seen[0], 2 * first / first.norm())
    assert all(float(v.norm()) == pytest.approx(2.0) for v in seen)
    directions = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)
    levers = sparse.pursue(directions, made.vector, (1, 2, 8, 30))
    torch.testing.assert_close(levers[30].vector, made.vector, atol=1e-4, rtol=1e-4)
    error = [float((lever.vector - made.vector).norm()) for lever in levers.values()]
    assert error == sorted(error, reverse=True)
    positive = sparse.pursue(directions, made.vector, (4,), positive=True)[4]
    assert min(positive.weights) >= 0
    usable = torch.ones(30, dtype=torch.bool)
    usable[levers[1].latents[0]] = False
    assert levers[1].latents[0] not in sparse.pursue(directions, made.vector, (8,), usable=usable)[8].latents


def test_a_vector_whose_sequences_are_unlikely_is_shortened_and_never_the_result():
    def sample(v, number):
        length = float(v.norm())
        return length, 1.0, -1.0 - length, v

    made = trained.train(sample, torch.ones(4), (1.0, -1.0), 1.0, perplexity_bound=1.5)
    assert made.history["accepted"].tolist()[:2] == [False, False]
    assert 0 < float(made.vector.norm()) <= np.log(1.5)
    hopeless = trained.train(lambda v, n: (1.0, 0.0, -1.0, v), torch.ones(4), (1.0, -1.0), 1.0)
    assert not hopeless.vector.any()


def test_the_derivative_splits_into_the_decoders_span_and_the_rest():
    directions = torch.eye(6)[:4]
    inside, outside = sparse.share_in_span(directions, torch.arange(6.0))
    assert inside.tolist() == [0, 1, 2, 3, 0, 0]
    assert outside.tolist() == [0, 0, 0, 0, 4, 5]


def test_half_size_is_between_the_sizes_that_fall_short_and_reach_it():
    assert sparse.half_size({1: 0.0, 4: 1.0}, 1.0) == pytest.approx(2.0)
    assert sparse.half_size({1: 0.6, 4: 1.0}, 1.0) == 1
    assert sparse.half_size({1: 0.1, 4: 0.2}, 1.0) == np.inf
    assert np.isnan(sparse.half_size({1: 0.1}, 0.0))


def workbench(model):
    def judge(texts):
        has = np.array([["W" in text[:EARLY]] for text in texts], float)
        region = [np.zeros(len(text), np.int8) for text in texts]
        return trained.Judged(has, np.ones(len(texts), bool), region)

    return trained.Workbench(model, 1, Where(), WRITING, ["v-gene=early-W"], judge)


def test_training_on_the_model_raises_the_rate_and_is_the_same_twice(drawn):
    model, _, _, known = drawn
    bench = workbench(model)
    base = bench.base(200, seed=1)
    assert base.rates[0] == pytest.approx(float(known.start[0]), abs=0.08)
    options = {"rounds": 2, "perplexity_bound": 3.0, "valid_bound": 0.5}  # many do not end in time
    runs = [bench.train(0, base, length=2.0, n=60, seed=7, **options) for _ in range(2)]
    torch.testing.assert_close(runs[0].vector, runs[1].vector, atol=0, rtol=0)
    assert runs[0].history.equals(runs[1].history)
    axis = runs[0].vector / runs[0].vector.norm()
    assert axis[0] > 0.8  # what raises W
    assert runs[0].history["rate"].max() > base.rates[0] + 0.2


def test_a_push_counts_only_where_it_acts(drawn):
    """From the residue on after which all is decided, nothing moves; before it, the derivative is the exact one."""
    model, _, passages, known = drawn
    given = credit.differences(known)
    late = credit.derivatives(model, 1, passages[:200], given[:200], Where(start=EARLY), WRITING)
    early = credit.derivatives(model, 1, passages[:200], given[:200], Where(stop=EARLY), WRITING)
    whole = credit.derivatives(model, 1, passages[:200], given[:200], Where(), WRITING)
    assert not late.any()
    torch.testing.assert_close(early, whole)


@pytest.mark.parametrize("chains", ["L", "HL"])
def test_light_chains_and_pairs_have_levers_too(chains):
    model = planted_model()
    template = {"L": "[HEAVY][{species}]{light}[SEP]", "HL": "[HEAVY][{species}]{heavy}{light}[SEP]"}[chains]
    model.spec = dataclasses.replace(model.spec, templates={chains: template})
    bench = workbench(model)
    bench = dataclasses.replace(bench, writing={**WRITING, "chains": chains})
    base = bench.base(80, seed=1)
    assert base.derivative[0, 0] > 0
    assert torch.isfinite(base.terms).all()


def test_a_layers_levers_and_a_dictionarys_go_to_files_with_their_provenance(drawn, tmp_path):
    model, *_ = drawn
    bench = workbench(model)
    base = bench.base(200, seed=1)
    settings = {
        "levers": ["sparse", "trained"], "lever_length": 0.5, "lever_rounds": 1, "perplexity_bound": 3.0, "n": 50,
        "seed": 1,
    }  # fmt: skip
    vectors, history = trained.levers(bench, base, settings, 4.0)
    assert {name: tuple(v.shape) for name, v in vectors.items()} == {"rate_derivative": (1, 16), "trained": (1, 16)}
    torch.testing.assert_close(vectors["trained"], vectors["rate_derivative"])  # one round: its first step
    assert history["concept"].tolist() == bench.targets
    table = trained.reliability(base, bench.targets)
    assert table["explained"].between(-0.1, 1).all()
    sae = SAE(
        torch.eye(16)[:6], torch.zeros(6), torch.eye(16)[:6], torch.zeros(16), 1.0, 2,
        torch.tensor([0.0, 1, 1, 1, 1, 1]), torch.full((6,), 0.1), {"architecture": "topk"},
    )  # fmt: skip
    found, chosen = sparse.levers(sae, vectors, bench.targets, [1, 4])
    assert set(found) == {"sparse_1", "sparse_4", "in_span", "out_of_span"}
    assert 0 not in set(chosen["latent"])  # never active in training
    assert float(found["in_span"] @ found["out_of_span"].T) == pytest.approx(0, abs=1e-5)
    write_safetensors(found, tmp_path / "l.safetensors", trained.provenance({**model.provenance, "targets": ["a"]}))
    with safe_open(tmp_path / "l.safetensors", "pt") as file:
        assert json.loads(file.metadata()["provenance"])["weights_sha256"] == "0"


def test_the_map_of_control_agrees_with_the_derivative_and_finds_the_layer(drawn):
    model, texts, passages, known = drawn
    given = credit.differences(known)
    region = [np.zeros(len(text), np.int8) for text in texts]
    table = control_map.control_map(model, passages, given, region, ["early-W"], WRITING)
    assert set(table["layer"]) == {1, 2}
    assert set(table["region"]) == {"H-FR1"}
    terms = credit.derivatives(model, 1, passages, given, Where(start=0), WRITING)
    _, square = credit.mean_norm(terms)
    assert table["derivative"].iloc[0] == pytest.approx(float(square[0]) ** 0.5, rel=0.05)


# --- alternatives ---------------------------------------------------------------------------------------------------


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


def test_reliability_of_sequences_that_nobody_can_number_is_not_known():
    """A model of random weights writes none: no residue has a region."""
    found = credit.Values(np.array([0.5]), [np.full((4, 1), 0.5)], np.array([[1.0]]))
    figures = credit.reliability(found, [np.full(4, -1)], 14)
    assert figures["n"].tolist() == [[0.0]] * 14
    assert np.isnan(figures["explained"]).all()
    assert np.isnan(figures["calibration"]).all()
