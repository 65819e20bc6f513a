"""Steering on a model with a planted control direction, from the choice of latents to the tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from antibody_sae import activations, interventions
from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Csr
from antibody_sae.interventions import Edit, Intervention, Where
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE
from antibody_sae.steering import candidates, claims, criteria, doses, effects, measured, outcomes, plans, sampling
from antibody_sae.steering import directions as steering_directions
from antibody_sae.steering import targets as steering_targets
from planted import planted_model, tiny_model
from reference import rate_gradient

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": False}
TARGET = "v-gene=IGHV-W"
TARGETS = {TARGET: "H"}
SETTINGS = {
    "criteria": ["f1", "r", "rate_derivative", "decoder_alignment", "earliest"], "candidates": 2, "norms": [-0.9, 0.9],
    "explore_n": 60, "n": 200, "baseline": 500, "random_latents": 8, "random_n": 100, "seed": 1,
}  # fmt: skip
ABOUT = {"sae": "x", "architecture": "topk", "seed": 0, "layer": 1}


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
    panel = steering_targets.panel(labels, [TARGET])
    known = steering_directions.directions(store, labels, panel)
    known["rate_derivative"] = rate_gradient(model, 1, table, labels, panel, Where(), 400)
    return {"model": model, "store": store, "labels": labels, "sae": sae, "panel": panel, "known": known}


def known_of(planted):
    """What the concepts stage and the directions say of the latents, on max-pooled activations."""
    sae, store, labels = planted["sae"], planted["store"], planted["labels"]
    pooled = np.zeros((len(labels.first), sae.latents))
    for acts, ids in store.blocks():
        codes = sae.encode(acts.float())
        owner = np.searchsorted(labels.first, ids, side="right") - 1
        np.maximum.at(pooled, (owner[:, None], codes.indices.numpy()), codes.values.numpy())
    has = labels.having(TARGET)
    positive = pooled > 1.0
    f1 = 2 * (positive & has[:, None]).sum(0) / np.maximum(positive.sum(0) + has.sum(), 1)
    r = np.nan_to_num([np.corrcoef(pooled[:, j], has)[0, 1] for j in range(sae.latents)])
    scores = {name: torch.tensor(values, dtype=torch.float32)[:, None]
              for name, values in (("f1", f1), ("f1_validation", f1), ("r", r), ("r_validation", r))}  # fmt: skip
    best = pd.DataFrame({"concept": [TARGET], "latent": [1]})  # of the equals 0 and 1 the concepts stage reports 1
    none = {"output_score": np.zeros(30), "delta_token_confidence": np.zeros(30)}
    return candidates.gather(sae, store, labels, [TARGET], scores, best, planted["known"], none)


def outcomes_of(model, plan, seed, valid=True):
    arms = [Intervention(vector=vector) for vector in plan.vectors]
    written = sampling.generate(model, 1, arms, plan.table["n"].tolist(), WRITING, [1, seed])
    has = written["text"].str.contains("W")
    rows = written.assign(valid=valid, heavy=written["text"], light=None, edit_distance=0.0, **{TARGET: has})
    return measured.joined(plan.table, rows.drop(columns="text"))


@pytest.fixture(scope="module")
def compared(planted):
    known = known_of(planted)
    chosen = criteria.choose(known, SETTINGS["criteria"], SETTINGS["candidates"])
    rms = steering_directions.typical_length(planted["store"])
    lever = {"sparse_2": planted["sae"].directions[[0]] + planted["sae"].directions[[5]]}
    explored = {
        "controls": plans.explore_layer(planted["known"], TARGETS, SETTINGS, planted["store"]),
        "x": plans.explore_sae(planted["sae"], known, chosen, lever, TARGETS, SETTINGS, rms, 0),
    }
    looked = {unit: outcomes_of(planted["model"], plan, i) for i, (unit, plan) in enumerate(explored.items())}
    lengths = doses.choose(list(looked.values()), TARGETS, 2.0)
    confirmed = {unit: plans.confirm(plan, lengths, SETTINGS) for unit, plan in explored.items()}
    fresh = {unit: outcomes_of(planted["model"], plan, 2 + i) for i, (unit, plan) in enumerate(confirmed.items())}
    tested = {"x": criteria.tested(known, [TARGET], explored["x"].table["latent"].dropna().astype(int).tolist())}
    ((table, side),) = effects.effects(fresh, looked, lengths, tested, TARGETS, 2.0).values()
    return {"known": known, "chosen": chosen[0], "explored": explored, "looked": looked, "lengths": lengths,
            "confirmed": confirmed, "tested": tested, "effects": table, "side": side}  # fmt: skip


def test_a_model_whose_sequences_cannot_be_numbered_gives_no_effect(planted, compared):
    """Its rates are shares of nothing: nan, and nothing is steerable."""
    nothing = {unit: arms.assign(valid=0.0, n_valid=0, **{f"hits:{TARGET}": 0}) for unit, arms in
               compared["looked"].items()}  # fmt: skip
    lengths = doses.choose(list(nothing.values()), TARGETS, 2.0)
    assert not lengths["acceptable"].any()
    ((table, _),) = effects.effects(nothing, nothing, lengths, compared["tested"], TARGETS, 2.0).values()
    assert table[["rate", "delta", "log_odds"]].isna().all(axis=None)
    assert not table["steerable"].any()
    by = claims.by_criterion(table.assign(**ABOUT))
    assert by["delta"].isna().all()
    assert not claims.mapping_table(by)["best_f1_steerable"].any()


def test_a_run_that_does_not_ask_for_the_best_f1_has_claims_that_are_not_tested(compared):
    table = compared["effects"].assign(**ABOUT)
    by = claims.by_criterion(table)
    found = claims.claims(by[by["selected_by"] != "f1"], table)
    assert found["control"]["best_f1"] == 0
    assert found["control"]["difference"]["mean"] is None


def test_of_twelve_explored_sequences_one_may_be_incomplete(compared):
    """Two are too many, whatever the effect."""
    arms = compared["looked"]["controls"]
    ours = arms["kind"] == "rate_derivative"
    for n_valid, able in ((11, True), (10, False)):
        looked = arms.copy()
        looked.loc[ours, ["n", "n_valid", f"hits:{TARGET}"]] = 12, n_valid, n_valid
        lengths = doses.choose([looked], TARGETS, 9.0).query("kind == 'rate_derivative'")
        assert (lengths["acceptable"] == able).all()


def test_few_latents_are_written_at_the_trained_vectors_length_too(compared):
    """And at the one that is best for them."""
    looked = [compared["looked"][unit] for unit in ("controls", "x")]
    halves = [arms[arms["kind"] != "none"].assign(length=lambda t: t["length"] / 2) for arms in looked]
    arms = [pd.concat(pair, ignore_index=True) for pair in zip(looked, halves, strict=True)]
    arms[0]["kind"] = arms[0]["kind"].replace("rate_derivative", "trained")
    shortest, longest = (getattr(arms[0].loc[arms[0]["length"] > 0, "length"], end)() for end in ("min", "max"))
    for table, kind, best in zip(arms, ("trained", "sparse_2"), (shortest, longest), strict=True):
        own = table["kind"] == kind
        table.loc[own, ["n", "n_valid", f"hits:{TARGET}"]] = 20, 20, 2
        table.loc[own & (table["length"] == best), f"hits:{TARGET}"] = 18
    lengths = doses.choose(arms, TARGETS, 9.0).query("chosen and length > 0")
    assert lengths.loc[lengths["kind"] == "trained", "length"].tolist() == [shortest]
    assert sorted(lengths.loc[lengths["kind"] == "sparse_2", "length"]) == [shortest, longest]


def test_cause_and_twin_correlate_alike_but_only_the_cause_steers(compared):
    known, table = compared["known"], compared["effects"]
    assert known.test_r[0, 0] > 0.95
    assert known.test_r[1, 0] > 0.95
    assert known.test_f1[0, 0] == known.test_f1[1, 0] == 1.0
    arms = table[(table["kind"] == "latent") & (table["stage"] == "confirm") & (table["length"] > 0)]
    assert arms.loc[arms["latent"] == 0, "steerable"].all()
    assert (arms["latent"] == 1).any()
    assert not arms.loc[arms["latent"] == 1, "steerable"].any()
    assert (arms.loc[arms["latent"] == 0, "log_odds_low"] > 0.5).all()
    assert (arms.loc[arms["latent"] == 0, "effect_sd"] > 2).all()
    assert (arms.loc[arms["latent"] == 1, "delta"].abs() < 0.12).all()
    controls = table["kind"].isin(["random_latent", "random_direction", "matched_latent", "none"])
    assert not table.loc[controls, "steerable"].any()
    levers = table[table["kind"].isin(["rate_derivative", "sparse_2"]) & (table["stage"] == "confirm")]
    assert levers["p_value"].notna().all(), "there are random arms of every confirmed length"
    assert levers.loc[levers["length"] > 0, "steerable"].all()


def test_suppression_is_chosen_and_judged_in_its_own_direction(compared):
    """Pushed away from the target the cause lowers its rate, and that is what steers there."""
    table = compared["effects"]
    down = table[(table["kind"] == "latent") & (table["stage"] == "confirm") & (table["length"] < 0)]
    cause = down[down["latent"] == 0]
    assert (cause["log_odds"] < 0).all()
    assert cause["steerable"].all()
    raised = table.assign(log_odds_high=table["log_odds_high"].abs() + 1)  # the same arms, had they raised it
    again = claims.by_criterion(raised.assign(**ABOUT))
    assert not again.loc[again["length"] < 0, "steerable"].any()
    assert set(claims.mapping_table(claims.by_criterion(table.assign(**ABOUT)))["best_f1_length"]) == {0.9}


def test_rate_derivative_sees_the_cause_and_not_the_twin(planted):
    score = planted["sae"].directions @ planted["known"]["rate_derivative"][0]
    assert score.argmax() == 0
    assert score[0] > 5 * score[1].abs()


def test_the_cause_is_chosen_by_its_derivative_the_pair_by_association(planted, compared):
    by = {c: [latent for criterion, latent in compared["chosen"] if criterion == c] for c in SETTINGS["criteria"]}
    assert by["rate_derivative"][0] == 0
    assert by["f1"] == [1, 0], "of equals the one that the concepts stage reports"
    assert sorted(by["r"]) == [0, 1]
    assert by["earliest"] == [0, 1]


def test_earliest_of_a_topk_sae_is_its_rank_by_energy(planted):
    sae = SAE(**{**vars(planted["sae"]), "config": {"architecture": "topk"}})
    rank = candidates.energy_rank(sae, planted["store"])
    acts = next(iter(planted["store"].blocks()))[0].float()
    energy = (acts @ sae.directions.T).clamp(min=0).square().sum(0)  # k is all 30, so the code is the whole product
    assert sorted(rank) == list(range(30))
    assert scipy.stats.spearmanr(rank, -energy).statistic > 0.95


def test_a_dictionary_whose_one_active_latent_is_chosen_has_none_to_compare_it_with(compared, planted):
    known = replace(compared["known"], alive=np.arange(30) == 0)
    plan = plans.explore_sae(planted["sae"], known, [[("f1", 0)]], {}, TARGETS, SETTINGS, 1.0, 0)
    assert set(plan.table["kind"]) == {"latent", "shuffled_sign"}


def test_every_arm_of_a_length_is_equally_long(compared, planted):
    rms = steering_directions.typical_length(planted["store"])
    for stage in ("explored", "confirmed"):
        for plan in compared[stage].values():
            np.testing.assert_allclose(plan.table["norm"], plan.vectors.norm(dim=1), rtol=1e-6)
            np.testing.assert_allclose(plan.table["norm"], plan.table["length"].abs() * rms, rtol=1e-5)
    table = compared["explored"]["x"].table
    latents = table[table["kind"] == "latent"]
    np.testing.assert_allclose(latents["norm"], 2.0 * latents["strength"].abs(), rtol=1e-5)  # largest activation 2
    by_kind = {kind: set(rows["latent"]) for kind, rows in table.groupby("kind")}
    assert by_kind["random_latent"].isdisjoint(by_kind["latent"])
    assert len(by_kind["matched_latent"]) == SETTINGS["candidates"], "as many as each criterion has"
    other = compared["explored"]["controls"]
    assert compared["confirmed"]["x"].table["n"].isin([200, 100]).all()
    assert (other.table["kind"] == "none").sum() == 1
    assert not (compared["confirmed"]["controls"].table["kind"] == "none").any()


def test_tables_put_association_beside_effect(compared):
    by = claims.by_criterion(compared["effects"].assign(**ABOUT))
    (row,) = claims.mapping_table(by).to_dict("records")
    assert row["best_f1_latent"] in (0, 1)
    assert "rate_derivative" in row["steerable_by"].split(";")
    assert row["random_low"] <= row["random_high"]
    found = claims.claims(by, compared["effects"].assign(**ABOUT))
    entry = found["by_sae"]["x"]
    assert entry["chance"]["arms"] >= 8
    assert entry["chance"]["passed"] <= 2
    assert entry["by_criterion"]["rate_derivative"]["steerable"] >= 1
    assert entry["spearman"]["rate_derivative"]["mean"] > 0.3  # known before anything is written
    assert found["seeds"] == 1


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
        steering_targets.panel(planted["labels"], ["j-gene=IGHJ9"])


def test_where_a_target_is_read_and_decided():
    def names(indices):
        return [SIDED_REGIONS[i] for i in indices]

    assert names(steering_targets.context("j-gene=IGHJ4")[0]) == ["H-CDR3"]
    assert names(steering_targets.context("j-gene=IGHJ4")[1]) == ["H-CDR3", "H-FR4"]
    assert names(steering_targets.context("v-family=IGHV3")[0]) == ["H-FR1"]
    assert names(steering_targets.context("v-family=IGKV1")[0]) == ["L-FR1"]
    assert names(steering_targets.context("cdr3-length=H:>=22")[0]) == ["H-CDR3"]
    assert names(steering_targets.context("cdr3-length=L:>=10")[0]) == ["L-CDR3"]
    assert names(steering_targets.context("position=H110:Y")[0]) == ["H-CDR3"]
    assert names(steering_targets.context("position=H26:S")[0]) == ["H-FR1"]
    assert names(steering_targets.context("light-locus=K")[0]) == ["L-FR1"]
    assert names(steering_targets.context("conserved=C104")[0]) == ["H-FR1", "L-FR1"]
    assert names(steering_targets.context("residue=L")[0]) == list(SIDED_REGIONS), "leucine is of either chain"
    with pytest.raises(InputError, match="isotype is a column of the input"):
        steering_targets.context("isotype=IgG")
    with pytest.raises(InputError, match="names no chain"):
        steering_targets.context("cdr3-length=>=22")


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
    found = sampling.log_likelihoods(iglm_s, ["EVQLVESGGG", "", "QVQLQQSG"], WRITING, ["human"])
    expected = iglm_s.log_likelihood([*iglm_s.encode("EVQLVESGGG"), *iglm_s.encode("QVQLQQSG")])
    assert found[[0, 2]] == pytest.approx(expected)
    assert np.isnan(found[1])


def test_a_sequence_that_did_not_end_is_not_whole():
    written = pd.DataFrame({"arm": 0, "row": range(2), "heavy": ["A", "B"], "light": None, "log_likelihood": -1.0,
                            "valid": [True, False], "edit_distance": 1.0, "x=y": [True, True]})  # fmt: skip
    (row,) = measured.measure(written).to_dict("records")
    assert (row["n_valid"], row["hits:x=y"]) == (1, 1)
