"""The tab on levers: what is chosen, where sizes are compared, what is paid, and runs that lack the tables."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae.io import write_json, write_parquet
from antibody_sae.report import build as report
from antibody_sae.report import summary as tables_summary
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.run import Run
from antibody_sae.report.tabs import levers
from antibody_sae.steering import claims
from antibody_sae.steering.price import price


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic_run.make(tmp_path_factory.mktemp("run"), synthetic_run.configuration())


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run, to take things out of."""
    shutil.copytree(run.folder, tmp_path / "run")
    return Run(tmp_path / "run", run.config)


def arms(run):
    return levers._levers(run)


def test_a_layers_levers_count_once_and_controls_not_at_all(run):
    table = arms(run)
    assert not set(table["kind"]) & {"none", "random_latent", "random_direction", "matched_latent", "shuffled_sign"}
    trained = table[(table["kind"] == "trained") & (table["stage"] == "confirm")]
    assert len(trained) == len(synthetic_run.TARGETS)
    assert set(trained["sae"]) == {""}


def test_the_best_handle_is_chosen_in_exploration_alone(run):
    table = arms(run)
    best = levers.best_handles(run, table).set_index("concept")
    assert list(best.index) == synthetic_run.TARGETS
    turned = table["stage"] == "confirm"
    other = table.assign(log_odds_low=table["log_odds_low"].where(~turned, -table["log_odds_low"]))
    again = levers.best_handles(run, other).set_index("concept")
    assert again["lever"].equals(best["lever"]), "the confirming figures choose nothing"
    for target, row in best.iterrows():
        shown = table[turned & (table["concept"] == target) & (table["kind"] == row["kind"])]
        assert np.isclose(shown["rate"], row["rate"]).any(), "what is shown is confirmed"
    single = (table["stage"] == "explore") & (table["kind"] == "latent")
    lucky = table.assign(
        log_odds=table["log_odds"].mask(single, 9.0), log_odds_low=table["log_odds_low"].mask(single, -9)
    )
    assert "latent" not in set(levers.best_handles(run, lucky)["kind"]), "one sequence with the target is no handle"


def test_sizes_are_compared_at_the_trained_vectors_length(run):
    few, whole = levers.sizes(arms(run))
    assert set(few["m"]) == set(synthetic_run.SIZES)
    assert few["found"].value_counts().to_dict() == {
        levers.NEAREST: len(synthetic_run.TARGETS) * 2 * len(synthetic_run.SIZES),
        levers.TRAINED: len(synthetic_run.TARGETS) * 2,
    }
    length = whole.set_index("concept")["length"]
    assert (few["length"] == few["concept"].map(length)).all()


def test_latents_for_half_of_the_effect(run):
    table = arms(run)
    table.loc[table["kind"] == "trained", ["log_odds", "log_odds_low"]] = [2.0, 1.0]
    table.loc[table["kind"] == "sparse_1", "log_odds"] = 0.5
    table.loc[(table["kind"] == "sparse_8") & (table["sae"] == "TopK"), "log_odds"] = 0.6
    table.loc[(table["kind"] == "sparse_8") & (table["sae"] == "Ordered"), "log_odds"] = 1.5
    section = levers._sizes(run, table, Palette(["TopK", "Ordered"]), [])
    half, both = section.tables
    assert half.data["TopK"].tolist() == ["more than 8"] * 2
    assert half.data["Ordered"].astype(float).tolist() == pytest.approx([8**0.5] * 2, abs=0.05), "midway in log m"
    _, whole = levers.sizes(table)
    trained = table[(table["kind"] == "trained_sparse_8") & (table["stage"] == "confirm")]
    trained = trained[trained["length"] == trained["concept"].map(whole.set_index("concept")["length"])]
    assert sorted(both.data["log_odds"]) == pytest.approx(sorted(trained["log_odds"]))
    assert both.data.set_index("sae")["log_odds_near"].to_dict() == {"TopK": 0.6, "Ordered": 1.5}
    found = levers.halves(*levers.sizes(table)).set_index("sae")["m_half"]
    assert np.isinf(found["TopK"]).all(), "what was trained in its coefficients does not count"
    table.loc[table["kind"] == "trained", "log_odds_low"] = -0.1
    section = levers._sizes(run, table, Palette(["TopK", "Ordered"]), [])
    assert section.tables[0].data["TopK"].tolist() == [None, None], "there is nothing to halve"


def test_the_dictionaries_are_compared_on_the_first_page(run, monkeypatch):
    table = arms(run)
    table.loc[table["kind"] == "trained", ["log_odds", "log_odds_low"]] = [2.0, 1.0]
    table.loc[table["kind"].str.startswith("sparse"), "log_odds"] = 0.6
    table.loc[(table["kind"] == "sparse_8") & (table["sae"] == "Ordered"), "log_odds"] = 1.5
    monkeypatch.setattr(levers, "_levers", lambda run: table)
    card = levers.usefulness(run, Palette(["TopK", "Ordered"]))
    assert re.search(r"TopK more than 8 \(2\), Ordered [23]\.\d \(2\)\.$", card.text)
    table["log_odds_low"] = -1.0
    assert levers.usefulness(run, Palette(["TopK", "Ordered"])) is None, "nothing is moved, so there is no half"


def test_the_price_counts_what_was_written(run):
    best = levers.best_handles(run, arms(run))
    plan = run.table("steering/layer2/controls/explore/plan.parquet")
    written = run.table("steering/layer2/controls/explore/outcomes.parquet")
    none = written[written["arm"] == plan.loc[plan["kind"] == "none", "arm"].iloc[0]]
    for row in best.itertuples():
        assert row.tokens_none == pytest.approx(price(none["heavy"].tolist(), none["valid"] & none[row.concept]))
        assert np.isfinite(row.tokens)


def built(run, monkeypatch):
    monkeypatch.setattr(report, "_write", lambda figure, folder: None)
    report.build(run, tables_summary.summary(run), run.folder / "index.html", run.folder / "figures")
    return (run.folder / "index.html").read_text(encoding="utf-8")


def test_a_run_without_vectors_or_few_latents(copied, monkeypatch):
    layer = copied.folder / "steering/layer2"
    shutil.rmtree(layer / "levers")
    for sae in copied.saes:
        place = copied.folder / "steering" / sae.folder
        for file in place.glob("*levers*.parquet"):
            file.unlink()
        table = pd.read_parquet(place / "effects.parquet")
        gone = table["kind"].eq("trained") | table["kind"].str.contains("sparse")
        write_parquet(table[~gone].reset_index(drop=True), place / "effects.parquet")
    html = built(copied, monkeypatch)
    assert "What moves each target" in html
    assert "How few latents it takes" not in html
    assert "Where control lies" not in html


def test_a_run_whose_rule_found_no_target(copied, monkeypatch):
    empty = copied.effects.head(0)
    kept = [c for c in empty.columns if c not in ("sae", "layer", "seed")]
    frames = []
    for sae in copied.saes:
        place = copied.folder / "steering" / sae.folder
        write_parquet(empty[kept], place / "effects.parquet")
        frames.append(empty[kept].assign(sae=sae.name, architecture=sae.name, seed=sae.seed, layer=sae.layer))
    for name in ("control_map", "reliability", "training"):
        file = copied.folder / f"steering/layer2/levers/{name}.parquet"
        write_parquet(pd.read_parquet(file).head(0), file)
    for sae in copied.saes:
        for file in (copied.folder / "steering" / sae.folder).glob("*levers*.parquet"):
            write_parquet(pd.read_parquet(file).head(0), file)
    every = pd.concat(frames, ignore_index=True)
    criteria = claims.by_criterion(every)
    criteria.to_csv(copied.folder / "tables/steering_by_criterion.csv", index=False)
    claims.mapping_table(criteria).to_csv(copied.folder / "tables/mapping_vs_steering.csv", index=False)
    write_json(claims.claims(criteria, every), copied.folder / "tables/claims.json")
    write_json({"targets": []}, copied.folder / "steering/targets.json")
    html = built(Run(copied.folder, copied.config), monkeypatch)
    assert "No latent was steered in this run" in html
    assert 'id="tab-levers"' not in html
    assert html.count('<p class="verdict ">not tested</p>') == 2


def test_a_run_whose_saes_met_no_concepts(copied, monkeypatch):
    shutil.rmtree(copied.folder / "latents")
    html = built(copied, monkeypatch)
    assert re.search(r'<select id="which"></select>', html)
    assert "No latent to show." in html


def test_the_map_shows_no_noise(copied):
    file = copied.folder / "steering/layer2/levers/control_map.parquet"
    table = pd.read_parquet(file)
    write_parquet(table.assign(noise=table["derivative"] / 1.5), file)
    where, _ = levers._maps(copied, levers.Pick("target", "Target", []))
    assert [figure.name for figure in where.figures] == [f"levers-map-{t}" for t in ("j-gene-ighj4", "v-family-ighv4")]
    assert all((figure.data["value"] == 0).all() for figure in where.figures)
