"""The two stages of steering, from plan to verdict, on made-up rates: what a sceptic would try first."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.sae.model import SAE
from antibody_sae.steering import criteria, doses, effects, plans, sampling
from antibody_sae.steering.arms import RANDOM

TARGETS = {f"v-gene={letter}": "H" for letter in "abcdefgh"}
SETTINGS = {"criteria": ["f1", "earliest"], "candidates": 1, "norms": [0.15, 0.3, 0.45], "explore_n": 16, "n": 96,
            "random_n": 24, "random_latents": 12, "baseline": 1000, "seed": 0}  # fmt: skip
LATENTS, WIDTH = 80, 8
BASE = 0.3


def make_sae(seed, architecture="topk"):
    rows = torch.nn.functional.normalize(
        torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    return SAE(
        encoder_weight=rows, encoder_bias=torch.zeros(LATENTS), directions=rows, pre_bias=torch.zeros(WIDTH), scale=1.0,
        k=4, max_activation=torch.full((LATENTS,), 2.0), density=torch.full((LATENTS,), 0.1),
        config={"architecture": architecture},
    )  # fmt: skip


def make_known(rng):
    figures = {name: rng.random((LATENTS, len(TARGETS))) for name in ("f1", "r", "test_f1", "test_r", "rate_derivative",
                                                                      "decoder_alignment")}  # fmt: skip
    return criteria.Known(
        alive=np.ones(LATENTS, bool), density=np.full(LATENTS, 0.1), output_score=rng.random(LATENTS),
        delta_token_confidence=rng.random(LATENTS), rank=rng.permutation(LATENTS).astype(float), **figures,
    )  # fmt: skip


def outcomes_of(plan, effect, rng):
    """Arms with outcomes as `measured.joined` gives them; effect(kind, latent, length) is the change of each target's
    log odds, [targets]."""
    table = plan.table.copy()
    logit = np.log(BASE / (1 - BASE)) + np.stack([
        effect(kind, latent, length)
        for kind, latent, length in zip(table["kind"], table["latent"], table["length"], strict=True)
    ])  # fmt: skip
    hits = rng.binomial(table["n"].to_numpy()[:, None], 1 / (1 + np.exp(-logit)))
    table = table.assign(n_valid=table["n"], valid=1.0, unique=1.0, scored=table["n"], log_likelihood=-0.6,
                         log_likelihood_sd=0.2, edit_distance=20.0)  # fmt: skip
    return pd.concat([table, pd.DataFrame(hits, columns=[f"hits:{t}" for t in TARGETS])], axis=1)


class _Store:
    manifest = {"scale": 1.0}  # noqa: RUF012
    d_model = WIDTH


def run(rng, effect, levers=1, saes=("topk-seed0",), settings=SETTINGS):
    """(effects by SAE, doses) of a made-up layer."""
    directions = {"trained": torch.eye(WIDTH)[: len(TARGETS)]} if levers else {}
    explored = {"controls": plans.explore_layer(directions, TARGETS, settings, _Store())}
    tested = {}
    for i, unit in enumerate(saes):
        sae, known = make_sae(i, unit.partition("-")[0]), make_known(rng)
        chosen = criteria.choose(known, settings["criteria"], settings["candidates"])
        explored[unit] = plans.explore_sae(sae, known, chosen, {}, TARGETS, settings, WIDTH**0.5, i)
        tested[unit] = criteria.tested(known, TARGETS, explored[unit].table["latent"].dropna().astype(int).tolist())
    looked = {unit: outcomes_of(plan, effect(unit), rng) for unit, plan in explored.items()}
    table = doses.choose(list(looked.values()), TARGETS, 1.2)
    confirmed = {unit: plans.confirm(plan, table, settings) for unit, plan in explored.items()}
    fresh = {unit: outcomes_of(plan, effect(unit), rng) for unit, plan in confirmed.items()}
    return effects.effects(fresh, looked, table, tested, TARGETS, 1.2), table


def alike(rng, spread, power):
    """Every vector moves every target by chance, the further the longer: nothing tells a candidate from a random
    one."""
    own = {}

    def of(unit):
        def effect(kind, latent, length):
            key = (unit, kind, latent, rng.random() if latent is pd.NA or pd.isna(latent) else 0)
            if pd.isna(latent):
                return spread * rng.standard_normal(len(TARGETS)) * (abs(length) / 0.3) ** power
            drawn = own.setdefault((*key[:1], latent), rng.standard_normal(len(TARGETS)))
            return spread * drawn * np.sign(length) * (abs(length) / 0.3) ** power

        return effect

    return of


@pytest.mark.parametrize(("spread", "power"), [(0.0, 1), (0.4, 2)])
def test_a_candidate_that_is_a_random_latent_passes_one_time_in_twenty(spread, power):
    """Though its length was chosen, and though effects grow with the square of the length."""
    p, odds = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        ((table, _),) = run(rng, alike(rng, spread, power))[0].values()
        arms = table[(table["kind"] == "latent") & (table["stage"] == "confirm")]
        p += arms["p_value"].tolist()
        odds += arms["log_odds"].tolist()
    assert len(p) > 80
    assert np.isfinite(p).all(), "there are random arms of every confirmed length"
    independent = len(p) / 2  # the arms of a run share their random arms, so they pass and fail together
    assert np.mean(np.array(p) < 0.05) < 0.05 + 2 * (0.05 * 0.95 / independent) ** 0.5
    if spread == 0:
        assert abs(np.mean(odds)) < 0.06, "nothing was there, and the confirmed figures say so, whatever was chosen"


@pytest.fixture(scope="module")
def planted():
    """Candidates and the trained vector move their targets by chance and by 1.5 nats at 0.3; two SAEs of a layer."""
    rng = np.random.default_rng(1)

    def of(unit):
        chance = alike(rng, 0.2, 1)(unit)

        def effect(kind, latent, length):
            moved = chance(kind, latent, length)
            return moved + 1.5 * length / 0.3 if kind in ("latent", "trained") else moved

        return effect

    return run(rng, of, saes=("topk-seed0", "ordered-seed0"))


def test_a_planted_effect_is_found(planted):
    for table, _ in planted[0].values():
        arms = table[(table["stage"] == "confirm") & table["kind"].isin(["latent", "trained"])]
        assert arms["steerable"].mean() > 0.9
        assert (arms["effect_sd"] > 2).mean() > 0.9
        assert (arms["detectable"] < 0.35).all()
        assert arms["p_common"].where(arms["kind"] == "latent").dropna().max() < 0.05
        assert not table.loc[table["kind"].isin([*RANDOM, "matched_latent", "shuffled_sign"]), "steerable"].any()


def test_what_is_compared_is_equally_long(planted):
    """A target's latents have one length, whatever the criterion and the SAE."""
    tables, lengths = planted
    arms = pd.concat([table for table, _ in tables.values()])
    arms = arms[(arms["stage"] == "confirm") & (arms["kind"] == "latent")]
    assert (arms.groupby("concept")["length"].nunique() == 1).all()
    assert lengths.groupby(["concept", "kind"])["chosen"].sum().eq(1).all()


def test_random_arms_are_in_no_family_and_supervised_ones_in_their_own(planted):
    table = next(iter(planted[0].values()))[0]
    confirmed = table[table["stage"] == "confirm"]
    assert confirmed.loc[confirmed["kind"].isin([*RANDOM, "none"]), "q_value"].isna().all()
    found = effects.families(confirmed)
    sizes = {name or "".join(sorted(set(confirmed.loc[rows, "kind"]))): len(rows) for name, rows in found}
    assert sizes == {"f1": 8, "earliest": 8, "matched_latent": 8, "shuffled_sign": 8, "trained": 8}
    assert table.loc[table["stage"] == "explore", ["p_value", "q_value"]].isna().all(axis=None), (
        "explored: never judged"
    )


def test_located_arms_are_pushed_in_their_region_and_as_long_over_the_sequence(tmp_path):
    directions = {"trained": torch.eye(WIDTH), "located": torch.eye(WIDTH)}
    places = {"v-gene=c": {"region": "FR1", "share": 0.25}}
    plan = plans.explore_layer(directions, TARGETS, SETTINGS, _Store(), places)
    own = plan.table[plan.table["kind"] == "located"]
    assert own[["concept", "where"]].drop_duplicates().to_numpy().tolist() == [["v-gene=c", "FR1"]]
    assert own["length"].tolist() == SETTINGS["norms"]
    assert own["norm"].to_numpy() == pytest.approx(2 * WIDTH**0.5 * np.array(SETTINGS["norms"]))
    assert plan.table.loc[plan.table["kind"] != "located", "where"].isna().all()
    write_parquet(plan.table, tmp_path / "plan.parquet")
    where = sampling.wheres(read_parquet(tmp_path / "plan.parquet"), "all", {"H": {"FR1": [0, 25]}})
    assert [w.region for w in where] == ["FR1" if kind == "located" else None for kind in plan.table["kind"]]
    lengths = pd.DataFrame({"concept": ["v-gene=c"], "kind": ["located"], "length": [0.3], "chains": ["H"]})
    taken = plans.confirm(plan, lengths.assign(chosen=True), SETTINGS).table
    assert taken.loc[taken["kind"] == "located", ["where", "n"]].to_numpy().tolist() == [["FR1", SETTINGS["n"]]]
