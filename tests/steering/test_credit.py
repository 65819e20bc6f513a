"""Credit where the decision falls, on a planted model whose rates are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.interventions import Where
from antibody_sae.steering import credit
from planted import CHAIN, EARLY, chances

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


def slope(model, direction, step=1e-2, **kwargs):
    first = model.prefix("H")[-1]
    ends = [chances(model, s * step * direction, **kwargs)[EARLY, first] for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


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


def test_a_push_counts_only_where_it_acts(drawn):
    """From the residue on after which all is decided, nothing moves; before it, the derivative is the exact one."""
    model, _, passages, known = drawn
    given = credit.differences(known)
    late = credit.derivatives(model, 1, passages[:200], given[:200], Where(start=EARLY), WRITING)
    early = credit.derivatives(model, 1, passages[:200], given[:200], Where(stop=EARLY), WRITING)
    whole = credit.derivatives(model, 1, passages[:200], given[:200], Where(), WRITING)
    assert not late.any()
    torch.testing.assert_close(early, whole)


def test_reliability_of_sequences_that_nobody_can_number_is_not_known():
    """A model of random weights writes none: no residue has a region."""
    found = credit.Values(np.array([0.5]), [np.full((4, 1), 0.5)], np.array([[1.0]]))
    figures = credit.reliability(found, [np.full(4, -1)], 14)
    assert figures["n"].tolist() == [[0.0]] * 14
    assert np.isnan(figures["explained"]).all()
    assert np.isnan(figures["calibration"]).all()
