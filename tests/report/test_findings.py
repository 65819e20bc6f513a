"""Verdicts on the claims, from tables."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae.report import findings
from antibody_sae.report import summary as tables_summary
from antibody_sae.steering import claims
from antibody_sae.steering.criteria import CRITERIA, MEASURES


def _claims(rows, seeds=3):
    """claims.json of made-up confirmed arms: rows (sae, criterion or kind, concept, log odds, steerable), in each
    seed."""
    known = dict.fromkeys(claims._FIGURES, 0.0)
    table = pd.DataFrame([
        {**known, "sae": sae, "architecture": sae, "layer": 2, "seed": seed, "concept": concept, "log_odds": odds,
         "delta": odds / 5, "steerable": steers, "length": 0.3, "kind": "latent" if way in CRITERIA else way,
         "selected_by": way if way in CRITERIA else None, "random_low": -0.1, "random_high": 0.1}
        for sae, way, concept, odds, steers in rows for seed in range(seeds)
    ])  # fmt: skip
    arms = table.assign(stage="confirm", **dict.fromkeys(MEASURES, np.nan))
    return claims.claims(table, arms)


TARGETS = [f"v-gene={i}" for i in range(8)]


@pytest.mark.parametrize(
    ("best_f1", "trained", "seeds", "verdict"),
    [(1, 8, 3, "confirmed"), (8, 8, 3, "not confirmed"), (7, 8, 3, "undecided"), (0, 0, 3, "undecided"),
     (1, 8, 1, findings.ONE_SEED), (0, None, 3, "not tested")],
)  # fmt: skip
def test_association_is_judged_where_the_trained_vector_steers(run, best_f1, trained, seeds, verdict):
    rows = [("topk", "f1", t, 0.1, i < best_f1) for i, t in enumerate(TARGETS)]
    if trained is not None:
        rows += [("topk", "trained", t, 2.0, i < trained) for i, t in enumerate(TARGETS)]
    finding = findings.selection(run, _claims(rows, seeds))
    assert finding["verdict"] == verdict
    if trained:
        assert f"Of 8 targets the trained vector steers {trained};" in finding["text"]
        assert f"{best_f1 * seeds} of {8 * seeds} do" in finding["text"]


@pytest.mark.parametrize(
    ("gain", "seeds", "verdict"),
    [(1.0, 3, "confirmed"), (-1.0, 3, "not confirmed"), (0.0, 3, "undecided"), (1.0, 1, findings.ONE_SEED)],
)
def test_ordered_is_compared_over_targets_and_not_over_arms(run, gain, seeds, verdict):
    rng = np.random.default_rng(0)
    rows = [("topk", "f1", t, rng.normal(0.2, 0.5), False) for t in TARGETS]
    noise = [0.3, -0.3] * 4  # no single target decides
    rows += [("ordered", "f1", t, row[3] + gain + e, True) for t, row, e in zip(TARGETS, rows, noise, strict=True)]
    finding = findings.orderedness(run, _claims(rows, seeds))[0]
    assert finding["verdict"] == verdict
    assert f"0 of {8 * seeds} with TopK" in finding["text"]
    figures = dict(finding["figures"])
    assert figures["Ordered less TopK, same target and length, log odds ratio"].startswith(f"{gain:+.2f} [")


def test_a_latent_is_followed_across_seeds():
    """Seed 1 chose seed 0's counterpart, seed 2 another latent."""
    known = dict.fromkeys(claims._FIGURES, 0.0)
    rows = [(seed, latent) for seed, latent in enumerate((3, 7, 1))]
    table = pd.DataFrame([
        {**known, "sae": "topk", "architecture": "topk", "layer": 2, "seed": seed, "concept": "j-gene=IGHJ6",
         "kind": "latent", "selected_by": "earliest", "latent": latent, "length": 0.3, "log_odds": 1.0 + seed}
        for seed, latent in rows
    ])  # fmt: skip
    pairs = [(0, 1, 3, 7, 2), (0, 2, 3, 5, 1), (1, 2, 7, 5, 6), (0, 1, 4, 9, 8)]
    matches = pd.DataFrame(pairs, columns=["seed", "other_seed", "latent", "match", "like"])
    matches = matches.assign(sae="topk", layer=2, cosine=0.8, cosine_like=0.1)
    found = claims.across_seeds(table, matches).set_index(["seed", "other_seed"])
    assert found["same"].to_dict() == {(0, 1): True, (0, 2): False, (1, 2): False}
    assert found["same_like"].to_dict() == {(0, 1): False, (0, 2): True, (1, 2): False}
    assert found.loc[(0, 2), ["log_odds", "other_log_odds"]].tolist() == [1.0, 3.0]
    assert not len(claims.across_seeds(table, pd.DataFrame())), "one seed"


def _rows(shares):
    """summary.json's SAEs from {(architecture, control): shares by seed}."""
    return [
        {"sae": f"{kind}_{control}", "architecture": kind, "control": control, "seed": seed, "layer": 2, "alive": 1000,
         "interpretable": 0, "interpretable_strict": int(1000 * share), "share_strict": share}
        for (kind, control), of_seeds in shares.items() for seed, share in enumerate(of_seeds)
    ]  # fmt: skip


def test_matching_is_judged_against_controls_and_on_topk_alone():
    shares = {("topk", None): [0.2, 0.22, 0.21, 0.2], ("ordered", None): [0.0] * 4}
    assert findings.matching(_rows(shares), [])["verdict"] == "undecided", "without its controls nothing is judged"
    shares |= {("topk", "untrained"): [0.01, 0.02, 0.01, 0.01], ("topk", "random_model"): [0.05, 0.04, 0.06, 0.05]}
    assert findings.matching(_rows(shares), [])["verdict"] == "confirmed"
    shares[("topk", "random_model")] = [0.3, 0.32, 0.35, 0.3]
    assert findings.matching(_rows(shares), [])["verdict"] == "not confirmed"
    one = {key: values[:1] for key, values in shares.items()}
    assert findings.matching(_rows(one), [])["verdict"] == findings.ONE_SEED


@pytest.mark.parametrize(("random_model", "verdict"), [(0.02, "confirmed"), (0.4, "not confirmed")])
def test_the_verdict_follows_from_the_control_on_random_weights(tmp_path, random_model, verdict):
    """From a run's own configuration and tables: which SAE is which control, and what it does to claim 1."""
    controls = {"topk_untrained": {"tokens": 0}, "topk_random_model": {"random_model": True}}
    config = synthetic_run.configuration(saes={"seeds": [0, 1, 2], "train": {"topk": {}, **controls}})
    run = synthetic_run.make(tmp_path, config, steered=False)
    path = run.folder / "tables" / "interpretable.csv"
    table = pd.read_csv(path)
    shares = {"topk": 0.2, "topk_untrained": 0.01, "topk_random_model": random_model}
    assert set(table["sae"]) == set(shares)
    table["share_strict"] = table["sae"].map(shares) + 0.01 * table["seed"] * (table["sae"] == "topk")
    table.to_csv(path, index=False)
    finding = tables_summary.summary(run)["findings"][0]
    assert finding["verdict"] == verdict
    assert {"TopK's share less an untrained SAE's", "TopK's share less that on random weights"} <= dict(
        finding["figures"]
    ).keys()


def test_a_finding_is_one_sentence_with_its_figures_apart(summary):
    for finding in summary["findings"]:
        assert finding["verdict"] == findings.ONE_SEED
        assert finding["text"].endswith(".")
        assert finding["text"].count(". ") == 0, "one sentence"
        assert all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in finding["figures"])
        assert finding["figures"]
        assert "confirmed where" in finding["rule"]


def test_points_of_a_change():
    assert [findings.points(x) for x in (0.104, -0.004, -0.25, math.nan, None)] == ["+10", "0", "-25", "–", "–"]
