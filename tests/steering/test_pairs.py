"""Pairs with a model that writes one chain at a time: every target in its chain, beside that chain's own controls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError, write_json
from antibody_sae.steering import credit, doses, effects, plans, sampling, targets, trained

HEAVY, LIGHT = "j-gene=IGHJ4", "light-locus=L"
TARGETS = {HEAVY: "H", LIGHT: "L"}
BASE = {"H": 0.2, "L": 0.6}
SETTINGS = {"norms": [0.2, 0.4], "explore_n": 200, "n": 400, "random_n": 100, "random_latents": 12, "baseline": 2000,
            "seed": 0}  # fmt: skip
WRITING = {"species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": True, "chains": "HL"}


class _Store:
    manifest = {"scale": 1.0}  # noqa: RUF012
    d_model = 4


def outcomes_of(plan, rng, moved=0.0):
    """Rates are the chain's; what is chosen for the light target adds `moved` to its rate."""
    table = plan.table
    rate = table["chains"].map(BASE) + moved * (table["concept"] == LIGHT)
    hits = rng.binomial(table["n"], rate)
    table = table.assign(n_valid=table["n"], valid=1.0, unique=1.0, scored=table["n"], log_likelihood_sd=0.1)
    table = table.assign(log_likelihood=np.where(table["chains"] == "H", -1.0, -0.5), edit_distance=1.0)
    of = {f"hits:{target}": np.where(table["chains"] == chains, hits, 0) for target, chains in TARGETS.items()}
    return table.assign(**of)


def compared(moved):
    rng = np.random.default_rng(0)
    explored = {"controls": plans.explore_layer({"trained": torch.eye(4)[:2]}, TARGETS, SETTINGS, _Store())}
    looked = {unit: outcomes_of(plan, rng, moved) for unit, plan in explored.items()}
    table = doses.choose(list(looked.values()), TARGETS, 1.2)
    fresh = {unit: outcomes_of(plans.confirm(plan, table, SETTINGS), rng, moved) for unit, plan in explored.items()}
    layer = looked["controls"]
    baseline = doses.baselines(layer, TARGETS)
    pools = {"random_direction": effects._Pool(fresh["controls"], "random_direction", baseline, TARGETS)}
    judged = effects._judged(fresh["controls"], pools, table, baseline, TARGETS, 1.2)
    return explored["controls"].table, table, judged, effects._side_effects(layer, layer[layer["kind"] == "none"])


def test_each_chain_has_its_own_baseline_and_random_arms():
    planned, *_ = compared(0.0)
    arms = planned.groupby(["kind", "chains"]).size()
    assert arms["none"].to_dict() == {"H": 1, "L": 1}
    assert arms["random_direction"].to_dict() == {"H": 24, "L": 24}
    assert set(zip(*planned[planned["kind"] == "trained"][["concept", "chains"]].to_numpy().T, strict=True)) == {
        (HEAVY, "H"),
        (LIGHT, "L"),
    }


def test_an_arm_is_compared_with_its_own_chain():
    """Light chains have the light target three times as often and twice the likelihood: against heavy ones, every arm
    would look like an effect."""
    _, lengths, judged, side = compared(0.0)
    assert lengths.set_index("concept")["chains"].to_dict() == TARGETS
    own = judged[judged["kind"] == "trained"].set_index("concept")
    assert own["baseline_rate"].round(1).to_dict() == {HEAVY: 0.2, LIGHT: 0.6}
    assert (own["delta"].abs() < 0.1).all()
    assert not own["steerable"].any()
    assert (own["perplexity_ratio"].round(6) == 1).all()
    assert own["p_value"].notna().all(), "there are random arms of this chain and length"
    random = judged[judged["kind"] == "random_direction"]
    assert set(zip(random["chains"], random["concept"], strict=True)) == {("H", HEAVY), ("L", LIGHT)}
    assert set(side["concept"]) == set(TARGETS)
    assert (side.set_index("concept")["delta"].abs() < 0.15).all(), "no heavy arm stands beside a light target"


def test_an_effect_in_light_chains_is_found():
    _, _, judged, _ = compared(0.25)
    own = judged[judged["kind"] == "trained"].set_index("concept")
    assert own["steerable"].to_dict() == {HEAVY: False, LIGHT: True}


def test_targets_know_their_chain(tmp_path):
    names = [HEAVY, LIGHT, "v-family=IGKV3", "cdr3-length=L:>=10", "position=H107:G"]
    assert list(targets.chains_of(names, ["H", "L"]).values()) == ["H", "L", "L", "L", "H"]
    assert set(targets.chains_of(names, ["HL"]).values()) == {"HL"}
    assert targets.by_chains(TARGETS) == {"H": [HEAVY], "L": [LIGHT]}
    write_json({"targets": list(TARGETS)[::-1], "chains": ["L", "H"]}, tmp_path / "targets.json")
    assert list(targets.read(tmp_path / "targets.json").items()) == [(LIGHT, "L"), (HEAVY, "H")]


def test_vectors_of_both_chains_come_together_in_the_order_of_the_targets():
    parts = [(["a", "c"], {"trained": torch.tensor([[1.0], [3.0]])}), (["b"], {"trained": torch.tensor([[2.0]])})]
    assert trained.together(parts, ["a", "b", "c"])["trained"].ravel().tolist() == [1, 2, 3]


def test_a_plan_is_written_in_the_chains_of_its_arms(iglm_s):
    plan = pd.DataFrame(
        {"arm": [0, 1, 2], "chains": ["H", "L", "H"], "kind": ["none", "none", "latent"], "n": [4, 4, 4]}
    )
    arms = [Intervention()] * 3
    options = (WRITING, [1])
    found = sampling.write(iglm_s, 2, plan, arms, *options, 0, 1).set_index(["arm", "row"])
    assert found["chains"].groupby("arm").first().tolist() == ["H", "L", "H"]
    light = found.loc[1]
    assert found["log_likelihood"].notna().all()
    expected = iglm_s.log_likelihood(iglm_s.encode(None, light["text"].iloc[0]))[0]
    assert light["log_likelihood"].iloc[0] == pytest.approx(expected, rel=1e-4)
    alone = sampling.generate(iglm_s, 2, [Intervention()], [4], {**WRITING, "chains": "L"}, [1])
    assert light["text"].tolist() == alone["text"].tolist()


def test_reliability_counts_light_regions():
    """Region 13 is L-FR4; regions are int8, and ten bins of it are more than that holds."""
    read = [np.full((4, 1), 0.5)] * 40
    values = credit.Values(np.array([0.5]), read, np.arange(40)[:, None] % 2)
    found = credit.reliability(values, [np.full(4, 13, np.int8)] * 40, 14)
    assert found["n"][13, 0] == 160
    assert found["calibration"][13, 0] == pytest.approx(0)


def test_a_target_of_neither_chain_is_refused_before_any_job():
    from antibody_sae import config

    pairs = {"sequences": {"source": "file", "chains": "HL", "paths": ["x.csv"]}}
    assert config.passages(config.complete(pairs)) == ["H", "L"]
    for change, message in (
        ({"steering": {"targets": ["motif=N-glycosylation"]}}, "motif=N-glycosylation may lie in either"),
        ({"steering": {"targets": ["isotype=IGHG"]}}, "is a column of the input"),
        ({"steering": {"targets": ["cdr3-length=>=18"]}}, "names no chain"),
        ({"sequences": {**pairs["sequences"], "prompt": "EVQ"}}, "a prompt starts one of them"),
        ({"designs": {"d": {"concepts": {HEAVY: "high"}}}}, "in a run of its own, with sequences.chains: H or L"),
    ):
        with pytest.raises(InputError, match=r"one chain of a pair at a time|config:") as raised:
            config.complete({**pairs, **change})
        assert message in str(raised.value)
