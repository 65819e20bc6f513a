"""Steering on a model with a planted control direction, and the statistics by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from antibody_sae import activations, interventions, significance
from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.scoring import Csr
from antibody_sae.interventions import Edit, Intervention, Where
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE
from antibody_sae.steering import candidates, effects, outcomes, plans, sampling, targets
from antibody_sae.steering import claims as effects_claims
from antibody_sae.steering import directions as steering_directions
from planted import planted_model, tiny_model

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": False}
TARGET = "v-gene=IGHV-W"
SETTINGS = {
    "criteria": ["f1", "r", "output_score", "decoder_alignment", "earliest"], "candidates": 2, "strengths": [1.0],
    "norms": [0.9], "methods": ["add"], "n": 200, "baseline": 500, "random_latents": 8, "random_n": 200, "seed": 1,
    "perplexity_bound": 2.0, "scored": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model, 600 sequences that it wrote, their activations, labels, and an SAE with a cause (0) and its twin (1)."""
    model = planted_model()
    texts = [g.text for g in model.generate(600, seed=5, max_residues=40)]
    texts = list(dict.fromkeys(text for text in texts if text))
    lengths = np.array([len(text) for text in texts])
    first = np.cumsum(lengths) - lengths
    table = pd.DataFrame({"antibody_id": [f"a{i}" for i in range(len(texts))], "heavy": texts, "light": None})
    table = table.assign(species="human", first_heavy=first, first_light=-1)
    folder = tmp_path_factory.mktemp("planted") / "layer1"
    activations.harvest(model, table, [1], [folder / "shard-0.safetensors"], "float32")
    activations.write_manifest([folder / "shard-0.safetensors"], folder / "manifest.json")
    store = activations.Store(folder, {**model.provenance, "layer": 1})
    has = np.array(["W" in text for text in texts])
    none = np.empty(0, np.float32)
    region = SIDED_REGIONS.index("H-FR1")
    labels = Labels(
        ids=table["antibody_id"].to_numpy(), residue_names=[], antibody_names=[TARGET], positions=[],
        residue=Csr(np.zeros(lengths.sum() + 1, np.int64), np.empty(0, np.int16), none),
        antibody=Csr(np.concatenate([[0], np.cumsum(has)]), np.zeros(has.sum(), np.int16), none),
        first=first, length=lengths, split=np.arange(len(texts)) % 3, cluster=np.arange(len(texts)),
        position=np.full(lengths.sum(), -1), region=np.full(lengths.sum(), region, np.int8),
        letter=np.zeros(lengths.sum(), np.int8), light=np.zeros(lengths.sum(), np.int8),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    directions = torch.zeros(30, 16)
    directions[0, 0] = directions[1, 1] = 1.0
    directions[2:, 2:-1] = torch.nn.functional.normalize(torch.randn(28, 13, generator=generator), dim=1)
    sae = SAE(
        encoder_weight=directions, encoder_bias=torch.zeros(30), directions=directions, pre_bias=torch.zeros(16),
        scale=1.0, k=30, max_activation=torch.full((30,), 2.0), density=torch.full((30,), 0.1),
        config={"architecture": "ordered"},
    )  # fmt: skip
    panel = targets.panel(labels, [TARGET])
    known = steering_directions.directions(store, labels, panel)
    known["rate_gradient"] = steering_directions.rate_gradient(model, 1, table, labels, panel, Where(), 400)
    return {"model": model, "store": store, "labels": labels, "sae": sae, "panel": panel, "known": known}


def outcomes_of(model, plan, vectors, unit):
    written = sampling.generate(
        model, 1, sampling.to_interventions(plan, vectors, Where()), plan["n"].tolist(), WRITING, [1, unit]
    )
    written["log_likelihood"] = sampling.log_likelihoods(model, written, WRITING, ["human"], SETTINGS["scored"])
    has = written["text"].str.contains("W")
    rows = written.assign(valid=True, heavy=written["text"], light=None, edit_distance=0.0, **{TARGET: has})
    return effects.measure(rows.drop(columns="text"))


@pytest.fixture(scope="module")
def compared(planted):
    length = steering_directions.typical_length(planted["store"])
    found = candidates.associate(planted["sae"], planted["store"], planted["labels"], planted["panel"])
    plan, vectors = plans.plan_sae(planted["sae"], found, planted["known"], [TARGET], SETTINGS, length, 0)
    controls_plan, controls_vectors = plans.plan_controls(planted["known"], [TARGET], SETTINGS, planted["store"])
    latents = plan["latent"].dropna().astype(int).tolist()
    tested = candidates.tested_latents(planted["sae"], found, planted["known"], [TARGET], latents)
    table, side = effects.effects(
        plan, outcomes_of(planted["model"], plan, vectors, 0),
        controls_plan, outcomes_of(planted["model"], controls_plan, controls_vectors, 1), tested, SETTINGS,
    )  # fmt: skip
    return {"plan": plan, "vectors": vectors, "found": found, "effects": table, "side": side, "tested": tested}


def test_a_model_whose_sequences_cannot_be_numbered_gives_no_effect(planted, compared):
    """Its rates are shares of nothing: nan, and nothing is steerable."""
    controls, _ = plans.plan_controls(planted["known"], [TARGET], SETTINGS, planted["store"])

    def nothing_valid(plan):
        rows = pd.DataFrame({"arm": np.repeat(plan["arm"], 4), "row": np.tile(np.arange(4), len(plan))})
        rows = rows.assign(valid=False, ended=False, heavy="X", light=None, log_likelihood=-2.0, edit_distance=np.nan)
        return effects.measure(rows.assign(**{TARGET: False}))

    plan = compared["plan"]
    table, _ = effects.effects(
        plan, nothing_valid(plan), controls, nothing_valid(controls), compared["tested"], SETTINGS
    )
    assert table[["rate", "delta"]].isna().all(axis=None)
    assert not table["steerable"].any()
    about = {"sae": "topk", "architecture": "topk", "seed": 0, "layer": 2}
    by = effects_claims.by_criterion(table.assign(**about))
    assert by["delta"].isna().all()
    assert not effects_claims.mapping_table(by)["steerable"].any()


def test_cause_and_twin_correlate_alike_but_only_the_cause_steers(compared):
    found, table = compared["found"], compared["effects"]
    assert found.test_r[0, 0] > 0.95
    assert found.test_r[1, 0] > 0.95
    assert found.test_f1[0, 0] == found.test_f1[1, 0] == 1.0
    arms = table[table["kind"] == "latent"]
    assert arms.loc[arms["latent"] == 0, "steerable"].all()
    assert (arms["latent"] == 1).sum() >= 2
    assert not arms.loc[arms["latent"] == 1, "steerable"].any()
    assert (arms.loc[arms["latent"] == 0, "delta_low"] > 0.1).all()
    assert (arms.loc[arms["latent"] == 1, "delta"].abs() < 0.1).all()
    controls = table["kind"].isin(["random_latent", "random_direction", "matched_latent", "none"])
    assert not table.loc[controls, "steerable"].any()
    assert table.loc[~table["kind"].isin(["random_latent", "random_direction", "none"]), "p_control"].notna().all()
    assert table.loc[table["kind"] == "rate_gradient", "steerable"].all()


def test_output_score_sees_the_cause_and_not_the_twin(planted):
    score = planted["sae"].directions @ planted["known"]["rate_gradient"][0]
    assert score.argmax() == 0
    assert score[0] > 5 * score[1].abs()


def test_the_cause_is_chosen_by_output_score_the_pair_by_association(planted, compared):
    chosen = candidates.choose(planted["sae"], compared["found"], planted["known"], SETTINGS["criteria"], 2, 0)[0]
    by = {c: [latent for criterion, latent in chosen if criterion == c] for c, _ in chosen}
    assert by["output_score"][0] == 0
    assert sorted(by["f1"]) == sorted(by["r"]) == [0, 1]
    assert by["earliest"] == [0, 1]
    topk = SAE(**{**vars(planted["sae"]), "config": {"architecture": "topk"}})
    names = {c for c, _ in candidates.choose(topk, compared["found"], planted["known"], SETTINGS["criteria"], 2, 0)[0]}
    assert "shuffled_index" in names
    assert "earliest" not in names


def test_every_arm_of_a_norm_is_equally_long(compared, planted):
    plan, vectors = compared["plan"], compared["vectors"]
    np.testing.assert_allclose(plan["norm"], vectors.norm(dim=1), rtol=1e-6)
    length = 0.9 * steering_directions.typical_length(planted["store"])
    for kind in ("latent", "random_latent", "matched_latent", "shuffled_sign"):
        assert np.isclose(plan.loc[plan["kind"] == kind, "norm"], length, rtol=1e-5).any()
    strengths = plan[(plan["kind"] == "latent") & (plan["strength"] == 1.0)]
    np.testing.assert_allclose(strengths["norm"], 2.0, rtol=1e-6)  # largest activation 2, scale 1
    by_kind = {kind: set(rows["latent"]) for kind, rows in plan.groupby("kind")}
    assert by_kind["random_latent"].isdisjoint(by_kind["latent"])


def test_tables_put_association_beside_effect(compared):
    about = {"sae": "x", "architecture": "ordered", "seed": 0, "layer": 1}
    criteria = effects_claims.by_criterion(compared["effects"].assign(**about))
    (row,) = effects_claims.mapping_table(criteria).to_dict("records")
    assert row["steerable"]
    assert row["steered_latent"] == 0
    assert {"f1", "r", "output_score"} <= set(row["steerable_by"].split(";"))
    assert row["random_low"] <= row["random_high"] < row["steered_delta"]
    claims = effects_claims.claims(
        criteria, *(compared[name].assign(**about) for name in ("effects", "side", "tested"))
    )
    assert claims["ordered"]["chance"]["arms"] >= 8
    assert claims["ordered"]["chance"]["passed"] <= 2
    assert claims["ordered"]["by_criterion"]["output_score"]["share"] == 1.0
    assert -1 <= claims["ordered"]["spearman_r"]["low"] <= claims["ordered"]["spearman_r"]["high"] <= 1
    assert claims["ordered"]["spearman_signed_output_score"]["rho"] > 0.3  # known before anything is generated


def test_correlations_take_each_layer_at_its_own_length(compared):
    """Lengths are shares of a layer's activations, so the longest of one layer is not that of another."""
    about = {"sae": "x", "architecture": "ordered", "seed": 0}
    layers = {
        name: pd.concat([compared[name].assign(**about, layer=layer) for layer in (1, 2)])
        for name in ("effects", "side", "tested")
    }
    layers["side"].loc[layers["side"]["layer"] == 2, "norm"] *= 1.5
    both = effects_claims.claims(effects_claims.by_criterion(layers["effects"]), *layers.values())
    one = [table[table["layer"] == 1] for table in layers.values()]
    single = effects_claims.claims(effects_claims.by_criterion(one[0]), *one)
    assert both["ordered"]["spearman_f1"]["pairs"] == 2 * single["ordered"]["spearman_f1"]["pairs"]


def test_likelihood_gradient_is_the_finite_difference():
    model = tiny_model(seed=2)
    texts = ["ACDWFGH", "WWKLMNPQ", "RSTVWYAC"]
    passages = [model.encode(text)[0] for text in texts]
    width = max(len(p.tokens) for p in passages)
    tokens = torch.zeros(3, width, dtype=torch.long)
    for row, p in enumerate(passages):
        tokens[row, : len(p.tokens)] = torch.from_numpy(p.tokens)
    weight = torch.zeros(3, width)
    for row, p in enumerate(passages):
        weight[row, np.flatnonzero(p.residue >= 0)] = 1.0
    acted = Where(start=2).mask(tokens, 2, model.residue_tokens).float()
    (gradient,) = model.likelihood_gradients(1, tokens, acted, [weight])
    probe = torch.randn(24, generator=torch.Generator().manual_seed(0))
    step = 1e-2

    def total(sign, row):
        edit = Edit(model, [Intervention(vector=sign * step * probe, where=Where(start=2))])
        (_, logits), *_ = model.next_token_logits([passages[row]], 1, edit)
        at = np.flatnonzero(passages[row].residue >= 0)
        return float(logits.log_softmax(-1)[at - 1, passages[row].tokens[at]].sum())

    for row in range(3):
        slope = (total(1, row) - total(-1, row)) / (2 * step)
        assert slope == pytest.approx(float(gradient[row] @ probe), rel=0.02, abs=0.01)


def test_sequences_do_not_depend_on_the_number_of_chunks(planted, monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 16)
    arms = [Intervention(), interventions.push(planted["sae"], {0: 1.0})]
    whole = sampling.generate(planted["model"], 1, arms, [40, 30], WRITING, [3])
    parts = [sampling.generate(planted["model"], 1, arms, [40, 30], WRITING, [3], chunk, 3) for chunk in range(3)]
    joined = pd.concat(parts).sort_values(["arm", "row"], ignore_index=True)
    pd.testing.assert_frame_equal(whole, joined)
    other = sampling.generate(planted["model"], 1, arms, [40, 30], WRITING, [4])
    assert (whole["text"] != other["text"]).any()


def test_negative_strengths_suppress(planted):
    sae, model = planted["sae"], planted["model"]
    arms = [Intervention(), interventions.push(sae, {0: -2.0}), interventions.push(sae, {0: 1.0})]
    written = sampling.generate(model, 1, arms, [300] * 3, WRITING, [8])
    rate = written["text"].str.contains("W").groupby(written["arm"]).mean()
    assert rate[1] < rate[0] - 0.1 < rate[2] - 0.2


def test_a_target_that_is_no_concept_is_refused(planted):
    with pytest.raises(InputError, match="no concept of this run"):
        targets.panel(planted["labels"], ["j-gene=IGHJ9"])


def test_where_a_target_is_read_and_decided():
    def names(indices):
        return [SIDED_REGIONS[i] for i in indices]

    assert names(targets.context("j-gene=IGHJ4")[0]) == ["H-CDR3"]
    assert names(targets.context("j-gene=IGHJ4")[1]) == ["H-CDR3", "H-FR4"]
    assert names(targets.context("v-family=IGHV3")[0]) == ["H-FR1"]
    assert names(targets.context("v-family=IGKV1")[0]) == ["L-FR1"]
    assert names(targets.context("cdr3-length=H:>=22")[0]) == ["H-CDR3"]
    assert names(targets.context("cdr3-length=L:>=10")[0]) == ["L-CDR3"]
    assert names(targets.context("position=H110:Y")[0]) == ["H-CDR3"]
    assert names(targets.context("position=H26:S")[0]) == ["H-FR1"]
    assert names(targets.context("light-locus=K")[0]) == ["L-FR1"]
    assert names(targets.context("conserved=C104")[0]) == ["H-FR1", "L-FR1"]
    assert names(targets.context("residue=L")[0]) == list(SIDED_REGIONS), "leucine is of either chain"
    with pytest.raises(InputError, match="isotype is a column of the input"):
        targets.context("isotype=IgG")
    with pytest.raises(InputError, match="names no chain"):
        targets.context("cdr3-length=>=22")


# --- statistics by simulation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_wilson_covers(p):
    n = 120
    hits = np.random.default_rng(0).binomial(n, p, 20000)
    low, high = significance.wilson(hits, n)
    assert 0.93 < ((low <= p) & (p <= high)).mean() < 0.98
    assert significance.wilson(0, 0) == (0.0, 1.0)


def test_wilson_and_newcombe_give_the_published_figures():
    # Newcombe 1998, Stat. Med. 17:857 (single proportion, 81/263) and 17:873, table II, method 10 (56/70 - 48/80)
    assert np.round(significance.wilson(81, 263), 4).tolist() == [0.2553, 0.3662]
    assert np.round(significance.difference_interval(56, 70, 48, 80), 4).tolist() == [0.0524, 0.3339]


@pytest.mark.parametrize(("p", "p0"), [(0.35, 0.35), (0.5, 0.3), (0.06, 0.02)])
def test_difference_interval_covers(p, p0):
    rng = np.random.default_rng(1)
    hits, hits0 = rng.binomial(160, p, 20000), rng.binomial(1000, p0, 20000)
    low, high = significance.difference_interval(hits, 160, hits0, 1000)
    assert 0.93 < ((low <= p - p0) & (p - p0 <= high)).mean() < 0.98


def test_two_proportions_keeps_its_level_and_agrees_with_scipy():
    rng = np.random.default_rng(2)
    p = significance.two_proportions(rng.binomial(160, 0.3, 20000), 160, rng.binomial(1000, 0.3, 20000), 1000)
    assert 0.04 < (p < 0.05).mean() < 0.06
    # the pooled z-test squared is Pearson's chi-squared of the two-by-two table
    chi2 = scipy.stats.chi2_contingency([[30, 70], [250, 750]], correction=False)
    assert significance.two_proportions(30, 100, 250, 1000) == pytest.approx(chi2.pvalue)
    assert significance.two_proportions(0, 50, 0, 70) == 1.0


@pytest.mark.parametrize("n", [160, 512])
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.08])
def test_beyond_controls_keeps_its_level_when_any_push_moves_the_rate(spread, n):
    """The arm is one more random direction: it may be called different in 5 % (1 %) of the cases, however they spread
    and however many more sequences it holds than the controls."""
    rng = np.random.default_rng(3)
    p, powerful = [], []
    for _ in range(1000):
        rates = np.clip(0.35 + spread * rng.standard_normal(33), 0.02, 0.98)
        controls = pd.DataFrame({"rate": rng.binomial(40, rates[:32]) / 40, "n": 40, "norm": 3.0, "baseline": 0.35})
        p.append(effects.beyond_controls(rng.binomial(n, rates[32]) / n, n, 3.0, controls, 1.0))
        powerful.append(effects.beyond_controls(0.75, n, 3.0, controls, 1.0) < 0.01)
    assert np.mean(np.array(p) < 0.05) < 0.065
    assert np.mean(np.array(p) < 0.01) < 0.02
    assert np.mean(np.array(p) < 0.5) > 0.4, "not by never calling anything"
    assert np.mean(powerful) > 0.95


def test_beyond_controls_asks_more_of_a_longer_vector():
    rates = np.array([0.30, 0.40, 0.33, 0.42, 0.28, 0.37, 0.31, 0.41])
    controls = pd.DataFrame({"rate": rates, "n": 2000, "norm": 2.0, "baseline": 0.35})
    p = [effects.beyond_controls(0.55, 500, norm, controls, 1.0) for norm in (1.0, 2.0, 4.0, 8.0)]
    assert p[0] == p[1] < p[2] < p[3]
    assert np.isnan(effects.beyond_controls(0.5, 100, 2.0, controls.head(2), 1.0))


def test_matched_quality_is_measured_on_rows_that_did_not_choose():
    rng = np.random.default_rng(4)
    deltas = []
    for _ in range(300):
        half, rest = rng.binomial(80, 0.3, 30) / 80, rng.binomial(80, 0.3, 30) / 80
        rows = pd.DataFrame({"acceptable": True, "delta_first": half - 0.3, "delta_second": rest - 0.3, "n_valid": 160,
                             "n_half": 80, "baseline_rate": 0.3})  # fmt: skip
        best = effects.matched_quality(rows, pd.Series({"n_valid": 1000}))
        deltas.append(best["delta"])
        assert best["delta_low"] < best["delta"] < best["delta_high"]
    assert abs(np.mean(deltas)) < 0.01  # nothing was there, and nothing is found, though 30 arms were searched
    none = effects.matched_quality(rows.assign(acceptable=False), pd.Series({"n_valid": 1000}))
    assert np.isnan(none["delta"])


def test_spearman_interval_holds_the_truth():
    rng = np.random.default_rng(5)
    x = rng.standard_normal(60)
    rho = significance.spearman(x, x + 0.5 * rng.standard_normal(60), np.arange(60), draws=300)
    assert 0.6 < rho["low"] < rho["rho"] < rho["high"] <= 1
    none = significance.spearman(x, rng.standard_normal(60), np.arange(60), draws=300)
    assert none["low"] < 0 < none["high"]
    assert np.isnan(significance.spearman(x[:3], x[:3], np.arange(3))["rho"])


# --- real antibodies ------------------------------------------------------------------------------------------------


def test_outcomes_number_and_label_what_was_written():
    vh = "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC"
    j4, j6 = vh + "AKDRGYYFDYWGQGTLVTVSS", vh + "AKDRGYYYYGMDVWGQGTTVTVSS"
    texts = [j4, j6, j4, "AAAA", ""]
    written = pd.DataFrame({"arm": [0, 0, 1, 1, 1], "row": [0, 1, 0, 1, 2], "text": texts, "ended": True})
    concepts = {"bins": {"cdr3_length": [12], "cdr3_charge": [1], "cdr3_hydropathy": [0], "v_identity": [0.9]},
                "metadata": {"donor": {}}, "position_pairs": 5}  # fmt: skip
    settings = {"numbering": {"species": ["human"], "scheme": "imgt"}, "concepts": concepts}
    names = ["j-gene=IGHJ4", "j-gene=IGHJ6", "position=H107:D", "position=H107:W", "cdr3-length=H:>=12"]
    rows = outcomes.outcomes(written, names, WRITING, settings, [j4, "AAAT"], 2)
    assert rows["valid"].tolist() == [True, True, True, False, False]
    assert rows["j-gene=IGHJ4"].tolist() == [True, False, True, False, False]
    assert rows["j-gene=IGHJ6"].tolist() == [False, True, False, False, False]
    assert rows["position=H107:D"].tolist() == [True, True, True, False, False]
    assert not rows["position=H107:W"].any()
    assert rows["cdr3-length=H:>=12"].tolist() == [False, True, False, False, False]
    assert rows["cdr3"].tolist()[:2] == ["AKDRGYYFDY", "AKDRGYYYYGMDV"]
    assert rows["fr4"].tolist()[:2] == ["WGQGTLVTVSS", "WGQGTTVTVSS"]
    assert rows["edit_distance"].tolist()[:4] == [0.0, 6.0, 0.0, 1.0]
    assert np.isnan(rows["edit_distance"].iloc[4])


def test_perplexity_is_that_of_the_unsteered_model(iglm_s):
    written = pd.DataFrame({"text": ["EVQLVESGGG", "QVQLQQSG", ""], "row": [0, 1, 2]})
    found = sampling.log_likelihoods(iglm_s, written, WRITING, ["human"], 1)
    expected = iglm_s.log_likelihood(iglm_s.encode("EVQLVESGGG"))[0]
    assert found[0] == pytest.approx(expected)
    assert np.isnan(found[1:]).all()
