"""Trained vectors and the levers that go to files, on planted models whose rates are known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from antibody_sae.interventions import Where
from antibody_sae.io import write_safetensors
from antibody_sae.sae.model import SAE
from antibody_sae.steering import control_map, sparse, trained
from planted import EARLY, planted_model
from safetensors import safe_open

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


def train(sample, first, baseline, length, **options):
    """One search; sample(vector, round) -> (rate, valid, log-likelihood, derivative)."""
    one = {0: trained.search(first, baseline, length, **options)}
    return trained.train(lambda vectors, number: {0: trained.Round(*sample(vectors[0], number))}, one)[0]


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
    made = train(pair_sample, first, (1.0, -1.0), 1.0)
    levers = sparse.pursue(directions, made.vector)
    assert sorted(levers[2].latents) == [0, 1]
    assert pair_sample(levers[2].vector)[0] > 0.8
    held = train(pair_sample, first, (1.0, -1.0), 1.0, project=lambda u: sparse.pursue(directions, u, (2,))[2].vector)
    assert sorted(held.vector.nonzero()[:, 0].tolist()) == [0, 1]


def test_the_first_step_is_the_rate_derivative_and_all_latents_reach_the_trained_vector():
    generator = torch.Generator().manual_seed(0)
    first, seen = torch.randn(8, generator=generator), []

    def sample(v, number):
        seen.append(v)
        return 0.1 * number, 1.0, -1.0, torch.randn(8, generator=generator)

    made = train(sample, first, (1.0, -1.0), 2.0)
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

    made = train(sample, torch.ones(4), (1.0, -1.0), 1.0, perplexity_bound=1.5)
    assert made.history["accepted"].tolist()[:2] == [False, False]
    assert 0 < float(made.vector.norm()) <= np.log(1.5)
    hopeless = train(lambda v, n: (1.0, 0.0, -1.0, v), torch.ones(4), (1.0, -1.0), 1.0)
    assert not hopeless.vector.any()


def axes(*active):
    """A dictionary of the first six axes; active: the latents' largest activations in training, 1 unless given."""
    largest = torch.tensor(active or [1] * 6).float()
    return SAE(
        torch.eye(16)[:6], torch.zeros(6), torch.eye(16)[:6], torch.zeros(16), 1.0, 2, largest,
        torch.full((6,), 0.1), {"architecture": "topk"},
    )  # fmt: skip


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
    first = {0: base.derivative[0]}
    runs = [bench.train(base, first, length=2.0, n=60, seed=7, **options)[0] for _ in range(2)]
    torch.testing.assert_close(runs[0].vector, runs[1].vector, atol=0, rtol=0)
    assert runs[0].history.equals(runs[1].history)
    axis = runs[0].vector / runs[0].vector.norm()
    assert axis[0] > 0.8  # what raises W
    assert runs[0].history["rate"].max() > base.rates[0] + 0.2


def test_a_located_vector_acts_where_its_target_is_decided_as_long_in_the_mean_square(drawn, monkeypatch):
    model, *_ = drawn
    plain = workbench(model)

    def judge(texts):
        region = [(np.arange(len(text)) >= EARLY).astype(np.int8) for text in texts]  # FR1 is the first EARLY residues
        return dataclasses.replace(plain.judge(texts), region=region)

    bench = dataclasses.replace(plain, judge=judge)
    monkeypatch.setattr(control_map, "MAPPED", 1)
    base = bench.base(200, seed=1)
    settings = {"levers": ["located"], "lever_length": 0.5, "lever_rounds": 2, "perplexity_bound": 9.0, "n": 60,
                "seed": 1}  # fmt: skip
    drawn_at = []
    original = trained.Workbench.draw

    def watch(self, vectors, n, seed):
        drawn_at.extend((self.where, float(v.norm())) for v in vectors)
        return original(self, vectors, n, seed)

    monkeypatch.setattr(trained.Workbench, "draw", watch)
    vectors, history, places = trained.levers(bench, base, settings, 4.0, {"FR1": (0, EARLY)})
    (target,) = bench.targets
    share = sum(min(len(t), EARLY) for t in base.texts) / sum(map(len, base.texts))
    assert places == {target: {"region": "FR1", "share": pytest.approx(share)}}
    assert all(where == Where("FR1", counts={"FR1": (0, EARLY)}) for where, _ in drawn_at)
    assert drawn_at[0][1] == pytest.approx(0.5 * 4.0 / share**0.5)
    assert set(history["where"]) == {"FR1"}
    assert vectors["located"][0, 0] > 0.8  # what raises W
    assert float(vectors["located"].norm()) == pytest.approx(1.0)


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
    vectors, history, _ = trained.levers(bench, base, settings, 4.0)
    assert {name: tuple(v.shape) for name, v in vectors.items()} == {"rate_derivative": (1, 16), "trained": (1, 16)}
    torch.testing.assert_close(vectors["trained"], vectors["rate_derivative"])  # one round: its first step
    assert history["concept"].tolist() == bench.targets
    table = trained.reliability(base, bench.targets)
    assert table["explained"].between(-0.1, 1).all()
    sae = axes(0, 1, 1, 1, 1, 1)
    settings |= {"lever_sizes": [1, 4], "lever_trained": [1, 3], "lever_signs": "free"}
    found, chosen = sparse.levers(sae, vectors, bench.targets, settings)
    assert set(found) == {"sparse_1", "sparse_4", "in_span", "out_of_span"}
    assert 0 not in set(chosen["latent"])  # never active in training
    assert float(found["in_span"] @ found["out_of_span"].T) == pytest.approx(0, abs=1e-5)
    held, latents, steps = sparse.train(bench, base, sae, vectors["trained"], settings, 4.0)
    assert set(held) == {"trained_sparse_1", "trained_sparse_3"}
    torch.testing.assert_close(held["trained_sparse_1"], found["sparse_1"])  # one round: the greedy lever
    assert steps[["concept", "m"]].to_numpy().tolist() == [[bench.targets[0], 1], [bench.targets[0], 3]]
    assert latents.groupby("m")["latent"].nunique().le([1, 3]).all()
    write_safetensors(found, tmp_path / "l.safetensors", trained.provenance({**model.provenance, "targets": ["a"]}))
    with safe_open(tmp_path / "l.safetensors", "pt") as file:
        assert json.loads(file.metadata()["provenance"])["weights_sha256"] == "0"


def test_coefficients_are_trained_under_the_hard_limit_where_the_trained_vector_misleads(drawn):
    """The vector that the search begins with points past the latent that raises the rate; the derivative finds it."""
    model, *_ = drawn
    bench = workbench(model)
    base = bench.unsteered(200, seed=1)
    sae = axes()
    astray = torch.zeros(1, 16)
    astray[0, [0, 3]] = torch.tensor([-0.5, 0.9])
    settings = {
        "lever_trained": [2], "lever_signs": "free", "lever_length": 0.5, "lever_rounds": 3, "n": 40, "seed": 1,
        "perplexity_bound": 9.0,
    }  # fmt: skip
    runs = [sparse.train(bench, base, sae, astray, settings, 4.0) for _ in range(2)]
    (vectors, latents, _), (again, *_) = runs
    assert all(torch.equal(vectors[kind], again[kind]) for kind in vectors)
    assert latents.groupby("m").size().le(2).all()
    assert float(vectors["trained_sparse_2"][0, 0]) > 0.3  # it began at -0.5


def test_positive_levers_only_add_latents():
    sae = axes()
    vectors = torch.zeros(2, 16)
    vectors[0, [0, 3]] = torch.tensor([-0.9, 0.5])
    vectors[1, 0] = -1.0
    known, settings = {"trained": vectors, "rate_derivative": vectors}, {"lever_sizes": [1], "lever_signs": "free"}
    _, free = sparse.levers(sae, known, ["a", "b"], settings)
    assert free[["latent", "weight"]].to_numpy() == pytest.approx(np.array([[0, -0.9], [0, -1.0]]))
    found, added = sparse.levers(sae, known, ["a", "b"], {**settings, "lever_signs": "positive"})
    assert added[["concept", "latent"]].to_numpy().tolist() == [["a", 3]], "nothing that is added points along b"
    assert found["sparse_1"].norm(dim=1).tolist() == [1, 0]
