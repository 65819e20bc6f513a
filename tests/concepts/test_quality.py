"""The quality of a dictionary in the planted world: probes, intervals, and absorption where it was planted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from antibody_sae.concepts import baselines, quality
from antibody_sae.concepts.sparse_probes import KS
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE, Codes
from concept_world import LATENTS, LENGTH, SETTINGS, csr_column, planted_sae, store_of

CHILDREN = range(7, 12)
"""Latents that each stand in for latent 0 on a few residues of the motif."""


def measured(labels, x, order=None, sae=None, **settings):
    ids = np.arange(len(x)) if order is None else order
    store = store_of(x[ids], ids)
    simple = baselines.compute(store, labels, SETTINGS["thresholds"])
    settings = {**SETTINGS, "min_clusters": 5, **settings}
    return quality.measure(store, sae or planted_sae(), labels, simple.table, simple.probe, settings)


@pytest.fixture(scope="module")
def absorbing(world):
    """(labels, codes, [residues] whether a child stands in for latent 0)."""
    labels, x = world
    x, motif = x.copy(), csr_column(labels.residue, 0)
    rng = np.random.default_rng(5)
    x[:, [1, *CHILDREN]] = 0
    turn = rng.integers(0, 25, len(x))  # each child on one residue of the motif in 25
    for i, child in enumerate(CHILDREN):
        here = motif & (turn == i)
        x[here, child], x[here, 0] = rng.uniform(1, 2, here.sum()), 0
    return labels, x, motif & (turn < len(CHILDREN))


@pytest.fixture(scope="module")
def found(absorbing):
    return measured(*absorbing[:2])


def test_planted_absorption_is_found_and_its_share_is_right(absorbing, found):
    labels, _, stands_in = absorbing
    row = found.concepts.set_index("concept").loc["motif=planted"]
    test, motif = np.repeat(labels.split == 2, LENGTH), csr_column(labels.residue, 0)
    share = stands_in[test].sum() / motif[test].sum()
    assert 0.15 < share < 0.25
    assert (row["latents"][0], row["takes"]) == (0, 1)
    assert row["called"] == motif[test].sum(), "the probe on the activations sees all of them"
    assert row["missed"] == row["absorbed"] == pytest.approx(share)
    assert row["absorbed_low"] < share < row["absorbed_high"]
    by = json.loads(row["absorbed_by"])
    assert {int(latent) for latent in by} == set(CHILDREN)
    assert sum(by.values()) == stands_in[test].sum()
    fixed = found.concepts.set_index("concept").loc["region=fixed"]
    assert (fixed["missed"], fixed["absorbed"]) == (0, 0)
    assert found.figures["concepts_absorption"] == 2
    assert found.figures["absorbed"] == pytest.approx(share / 2)
    assert found.figures["absorbed_low"] < share / 2 < found.figures["absorbed_high"]


def test_more_latents_find_what_one_misses(found):
    row = found.concepts.set_index("concept").loc["motif=planted"]
    assert row["f1_k1"] == pytest.approx(2 * (1 - row["missed"]) / (2 - row["missed"]))
    assert row["f1_k8"] == row["f1_k16"] == 1
    assert row["f1_k1_low"] < row["f1_k1"] < row["f1_k1_high"] < 1
    assert row["f1_activations"] > 0.99
    assert row["auroc_activations"] > 0.99


def test_every_testable_concept_has_a_row(world, found):
    support = world[0].support(5).set_index("concept")
    assert set(found.concepts["concept"]) == set(support.index[support["status"] == "ok"])
    rows = found.concepts.set_index("concept")
    assert rows.loc["motif=planted", "positives"] == 500
    assert rows.loc["j-gene=IGHJ4", ["pool", "f1_k1"]].tolist() == ["max", 1]
    prevalence = 500 / (100 * LENGTH)
    assert rows.loc["motif=planted", "f1_always_yes"] == pytest.approx(2 * prevalence / (1 + prevalence))
    for k in KS:
        assert rows.loc["random=yes", f"auroc_k{k}"] == pytest.approx(0.5, abs=0.15)
        assert rows.loc["motif=rare", f"auroc_k{k}"] == pytest.approx(0.5, abs=0.1)


def test_means_are_over_concepts(found):
    rows = found.concepts[found.concepts["level"] == "residue"]
    figures = found.figures
    assert figures["concepts_residues"] == len(rows) == 3
    for name in ("f1", "auroc"):
        for k in KS:
            mean = figures[f"{name}_residues_k{k}"]
            assert mean == pytest.approx(rows[f"{name}_k{k}"].mean())
            assert figures[f"{name}_residues_k{k}_low"] <= mean <= figures[f"{name}_residues_k{k}_high"]
    assert figures["f1_residues_activations"] == pytest.approx(rows["f1_activations"].mean())
    assert figures["takes_residues"] == pytest.approx(rows["takes"].mean())


def test_the_order_of_the_harvest_changes_nothing(absorbing, found, monkeypatch):
    monkeypatch.setattr(quality, "ENCODE", 1000)
    again = measured(*absorbing[:2], order=np.random.default_rng(3).permutation(len(absorbing[1])))
    assert again.figures == pytest.approx(found.figures, rel=1e-4)


class Thresholded(SAE):
    """Codes are as wide as the token of a call that has the most active latents, and a few columns more."""

    def encode(self, x):
        codes = super().encode(x)
        wide = torch.zeros(len(x), 3 + len(x) % 4)
        return Codes(torch.cat([codes.indices, wide.int()], 1), torch.cat([codes.values, wide], 1))


def test_codes_may_have_any_width(absorbing, found):
    again = measured(*absorbing[:2], sae=Thresholded(**vars(planted_sae())))
    assert again.figures == found.figures


def test_large_runs_are_sampled_by_antibody(absorbing, found, monkeypatch):
    monkeypatch.setattr(quality, "SAMPLE", (60, 100, 80))
    some = measured(*absorbing[:2])
    rows = some.concepts.set_index("concept")
    assert rows.loc["motif=planted", "positives"] == 80 * 5
    assert some.figures["f1_residues_k8"] == pytest.approx(found.figures["f1_residues_k8"], abs=0.1)


def test_a_split_without_residues_is_said(absorbing):
    labels, x, _ = absorbing
    simple = baselines.compute(store_of(x, np.arange(len(x))), labels, SETTINGS["thresholds"])
    train = np.flatnonzero(np.repeat(labels.split == 0, LENGTH))
    settings = {**SETTINGS, "min_clusters": 5}
    with pytest.raises(InputError, match="no validation residue among the activations"):
        quality.measure(store_of(x[train], train), planted_sae(), labels, simple.table, simple.probe, settings)


def test_an_sae_whose_latents_are_all_dead_has_figures(world):
    labels, x = world
    dead = replace(planted_sae(), encoder_bias=torch.full((LATENTS,), -1e6))
    figures = measured(labels, x, sae=dead).figures
    assert figures["auroc_residues_k16"] == 0.5
    assert figures["absorbed"] == 0
    assert figures["missed"] == 1
