"""Concept statistics: planted truths are found with the computed figures, chance is not, test data decide nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.concepts import association, baselines, codes, phases
from antibody_sae.concepts import rows as sparse_rows
from antibody_sae.concepts import tables as concepts_tables
from antibody_sae.io import InputError
from concept_world import ANTIBODIES, LATENTS, LENGTH, SETTINGS, K, csr_column, planted_sae, run, store_of
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score


def pair(found, latent: int, concept: str, how: str = "none") -> pd.Series:
    rows = found.pairs.query("latent == @latent and concept == @concept and pool == @how")
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_latent_that_equals_a_concept_scores_one(found):
    row = pair(found, 0, "motif=planted")
    assert row[["f1", "precision", "recall", "element_recall", "auroc", "f1_validation"]].tolist() == [1] * 6
    assert row["r"] > 0.95
    assert row["q_value"] < 1e-6
    assert row["support"] == 5 * 100
    best = found.best.set_index("concept").loc["motif=planted"]
    assert best["latent"] == 0
    assert best["beats_simple"]
    assert best["f1_low"] == best["f1_high"] == 1


def test_a_noisy_latent_scores_what_it_should(world, found):
    labels, x = world
    row = pair(found, 1, "motif=planted")
    test, truth = np.repeat(labels.split == 2, LENGTH), csr_column(labels.residue, 0)
    train = np.repeat(labels.split == 0, LENGTH)
    positive = x[test, 1] / x[train, 1].max() > row["threshold"]
    assert row["f1"] == pytest.approx(f1_score(truth[test], positive))
    assert row["precision"] == pytest.approx(precision_score(truth[test], positive))
    assert row["recall"] == pytest.approx(recall_score(truth[test], positive))
    assert row["auroc"] == pytest.approx(roc_auc_score(truth[test], x[test, 1]), abs=1e-3)
    assert row["r"] == pytest.approx(np.corrcoef(truth[test], x[test, 1])[0, 1])
    assert 0.6 < row["f1"] < 0.9
    assert row["q_value"] < 1e-6


def test_an_antibody_level_concept_is_found_by_its_pool(world, found):
    best = found.best.set_index("concept").loc["j-gene=IGHJ4"]
    assert (best["latent"], best["f1"], best["level"]) == (2, 1, "antibody")
    assert best["q_value"] < 1e-3  # 50 clusters in test
    assert best["f1_position"] == pytest.approx(2 * 0.4 / 1.4, abs=0.12)  # knows nothing: calls all positive


def test_unrelated_latents_are_no_discoveries(found):
    unrelated = found.pairs[found.pairs["latent"].isin([3, *range(5, LATENTS)])]
    assert len(unrelated) > 20  # kept for each concept although below the floor
    assert (unrelated["q_value"] > 0.05).all()
    chance = found.pairs.query("concept == 'random=yes'")["q_value"]
    assert not (chance < 0.05).any()
    assert chance.isna().sum() < len(chance) / 4  # null: nothing to test, such as a maximum that is the same everywhere


def test_interpretable_means_better_than_every_simple_explanation(found):
    latents = found.latents.set_index("latent")
    assert latents.loc[0, "interpretable_strict"]
    assert latents.loc[0, "concept"] == "motif=planted"
    assert (latents.loc[2, "concept"], latents.loc[2, "f1"]) == ("j-gene=IGHJ4", 1)
    assert not latents.loc[2, "interpretable"]  # a principal component says as much
    assert not latents.loc[[3, *range(5, LATENTS)], "interpretable"].any()
    assert not latents.loc[4, "interpretable"]  # its concept is a range of positions: the position alone says it
    best = found.best.set_index("concept").loc["region=fixed"]
    assert (best["latent"], best["f1"], best["f1_position"]) == (4, 1, 1)
    assert not best["beats_simple"]


def test_a_concept_without_positives_is_untestable_and_not_zero(world, found):
    support = world[0].support(5).set_index("concept")["status"]
    assert support["motif=absent"] == "untestable: no positives in test"
    assert support["species=human"] == "untestable: no negatives in validation"
    assert support["motif=planted"] == "ok"
    assert "untestable: positives in" in world[0].support(1000).set_index("concept")["status"]["motif=planted"]
    assert not found.pairs["concept"].isin(["motif=absent", "species=human"]).any()
    rows = found.best.set_index("concept").loc[["motif=absent", "species=human"]]
    figures = ["f1", "f1_validation", "auroc", "f1_neuron", "f1_simple", "latent", "beats_simple"]
    assert rows[figures].isna().all(axis=None)


def test_no_test_residue_touches_a_choice(world, found):
    """Other labels and other codes in test: the same latents, thresholds and validation figures."""
    labels, x = world
    test = np.repeat(labels.split == 2, LENGTH)
    rng = np.random.default_rng(0)
    changed = x.copy()
    changed[test] = (rng.random((test.sum(), LATENTS)) < 0.2) * rng.uniform(0, 9, (test.sum(), LATENTS))
    changed[test] *= np.cumsum(changed[test] > 0, 1) <= K
    rows = np.arange(len(x))
    rows[test] = rng.permutation(rows[test])
    owners = np.arange(ANTIBODIES)
    owners[labels.split == 2] = rng.permutation(owners[labels.split == 2])
    residue, antibody = sparse_rows.take_rows(labels.residue, rows), sparse_rows.take_rows(labels.antibody, owners)
    other = replace(labels, residue=residue, antibody=antibody)
    again = run(other, changed)
    chosen = ["concept", "level", "pool", "latent", "threshold", "f1_validation", "r_validation"]
    pd.testing.assert_frame_equal(again.best[chosen], found.best[chosen], rtol=1e-5)
    assert (again.best["f1"].dropna() != found.best["f1"].dropna()).any()
    own = ["concept", "level", "pool"]
    pd.testing.assert_frame_equal(again.latents[own], found.latents[own])


def test_order_blocks_and_threads_change_nothing(world, found, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(codes, "_BLOCK", 7 * LENGTH)
    monkeypatch.setattr(phases, "ENCODE", 1000)
    again = run(*world, order=np.random.default_rng(3).permutation(len(world[1])))
    for name in ("pairs", "best", "latents"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name), rtol=1e-5, atol=1e-9)
    for name, scores in found.scores.items():
        np.testing.assert_allclose(again.scores[name], scores, rtol=1e-5, atol=1e-6)


def test_latents_are_described(world, found):
    labels, x = world
    latents = found.latents.set_index("latent")
    row = latents.loc[0]
    assert row["density"] == pytest.approx((x[:, 0] > 0).mean())
    assert (row["antibodies"], row["span"], row["extent"]) == (1, 5, 5)
    assert latents.loc[2, "span"] == 1
    assert latents.loc[4, "profile_positions"] == [f"H{i}" for i in range(11, 16)]
    np.testing.assert_allclose(latents.loc[4, "profile_values"], 1.5)
    assert 4 < row["entropy_residue"] <= np.log2(20)
    top = list(row["top_antibodies"])
    numbers = [int(t.removeprefix("antibody")) for t in top]
    assert len(top) == 10
    assert (labels.split[numbers] > 0).all()  # held out
    assert len({a // 2 for a in numbers}) == 10  # one a cluster
    peaks = x[:, 0].reshape(ANTIBODIES, LENGTH).max(1)
    assert row["top_values"][0] == pytest.approx(peaks[labels.split > 0].max())
    assert (np.diff(row["top_values"]) <= 0).all()
    for a, places, values in zip(numbers, row["top_residues"], row["top_activations"], strict=True):
        np.testing.assert_allclose(x[a * LENGTH + np.array(places), 0], values, atol=1e-4)
        assert len(places) == 5
    listed = json.loads(row["best_concepts"])
    assert listed[0]["concept"] == "motif=planted"
    assert row["n_concepts"] == len(listed) >= 1
    assert latents.loc[5, "n_concepts"] == 0


def test_tables_over_saes(found):
    tables = [found.latents.assign(layer=2, sae=name, seed=0) for name in ("topk", "ordered")]
    count = concepts_tables.interpretable(tables)
    assert count["sae"].tolist() == ["ordered", "topk"]
    assert (count["interpretable"] == found.latents["interpretable"].sum()).all()
    assert (count["alive"] == LATENTS).all()
    hard = concepts_tables.complexity(tables)
    assert set(hard["subset"]) == {"all", "first 64", "others", "matched density"}
    assert hard.query("subset == 'all'")["density_mean"].iloc[0] == pytest.approx(found.latents["density"].mean())
    control = found.latents.assign(layer=2, sae="untrained", seed=0, density=1e-5)
    beside = concepts_tables.complexity([*tables, control], ["untrained"])
    assert "untrained" in set(beside["sae"])
    matched = "subset == 'matched density'"
    pd.testing.assert_frame_equal(
        beside.query(matched).reset_index(drop=True), hard.query(matched).reset_index(drop=True)
    )  # a control leaves the others' matched latents alone
    assert {"layer", "sae", "seed", "concept", "f1", "f1_neuron", "f1_probe_raw"} <= set(
        concepts_tables.best_latents([found.best.assign(layer=2, sae="topk", seed=0)])
    )
    assert set(concepts_tables.LATENT_COLUMNS) <= set(tables[0])


def test_activations_that_do_not_belong_are_refused(world):
    labels, x = world
    twice = store_of(np.vstack([x, x[:1]]), np.append(np.arange(len(x)), 0))
    with pytest.raises(InputError, match="twice"):
        association.associate(twice, planted_sae(), labels, labels.support(5), pd.DataFrame(), SETTINGS)
    elsewhere = replace(planted_sae(), config={"model": "another"})
    store, support = store_of(x, np.arange(len(x))), labels.support(5)
    for use in (
        lambda: association.associate(store, elsewhere, labels, support, pd.DataFrame(), SETTINGS),
        lambda: codes.encode(elsewhere, store, labels, np.ones(len(x), bool)),
    ):
        with pytest.raises(InputError, match="model is 'planted', and this SAE reads activations of model 'another'"):
            use()
    foreign = store_of(x, np.arange(len(x)) + 1)
    with pytest.raises(InputError, match="in no split"):
        baselines.compute(foreign, labels, SETTINGS["thresholds"])
    held_out = np.arange(len(x))[np.repeat(labels.split > 0, LENGTH)]
    with pytest.raises(InputError, match="no training residue"):
        baselines.compute(store_of(x[held_out], held_out), labels, SETTINGS["thresholds"])


def test_part_of_the_residues_is_enough(world):
    """max_tokens keeps a share of the residues; what is not there is not counted."""
    labels, x = world
    ids = np.flatnonzero(np.random.default_rng(0).random(len(x)) < 0.6)
    store = store_of(x[ids], ids)
    simple = baselines.compute(store, labels, SETTINGS["thresholds"]).table
    result = association.associate(store, planted_sae(), labels, labels.support(5), simple, SETTINGS)
    row = pair(result, 0, "motif=planted")
    assert row["f1"] == 1
    motif = np.zeros(len(x), bool)
    motif[x[:, 0] > 0] = True
    assert row["support"] == motif[ids[np.repeat(labels.split == 2, LENGTH)[ids]]].sum()
