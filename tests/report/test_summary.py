"""The headline figures are those of the tables, and the verdicts follow their rules."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae.concepts import catalogue
from antibody_sae.io import InputError
from antibody_sae.report import costs, findings
from antibody_sae.report import summary as tables_summary
from antibody_sae.report.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic_run.make(tmp_path_factory.mktemp("run"), synthetic_run.configuration())


@pytest.fixture(scope="module")
def summary(run):
    return tables_summary.summary(run)


@pytest.mark.parametrize(
    ("concept", "label"),
    [
        ("j-gene=IGHJ4", "IGHJ4"),
        ("region=H-CDR3", "H-CDR3"),
        ("residue=Y", "residue Y"),
        ("position=H111A:G", "G at H111A"),
        ("cdr3-length=H:>=22", "CDR-H3 length ≥ 22"),
        ("cdr3-charge=L:<-1", "CDR-L3 charge < -1"),
        ("cdr3-hydropathy=H:-0.75..0", "CDR-H3 hydropathy -0.75 to 0"),
        ("v-identity=H:0.85..0.9", "V identity 0.85 to 0.9"),
        ("isotype=IGHG", "isotype IGHG"),
    ],
)
def test_concepts_in_words(concept, label):
    assert catalogue.concept_label(concept) == label


def test_summary_repeats_the_tables(run, summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["counts"]["residues"] == 40 * 120
    assert summary["counts"]["rejected"] == {"stop codon": 2}
    assert summary["counts"]["not_numbered"] == {"no domain found": 1}
    criteria = pd.read_csv(run.folder / "tables" / "steering_by_criterion.csv")
    for row in summary["saes"]:
        own = criteria[(criteria["sae"] == row["sae"]) & (criteria["selected_by"] == "any")]
        best = own.loc[own["delta"].idxmax()]
        assert row["largest_change"]["delta"] == pytest.approx(best["delta"])
        assert (
            row["largest_change"]["delta_low"] <= row["largest_change"]["delta"] <= row["largest_change"]["delta_high"]
        )
        assert row["largest_change"]["random_high"] == pytest.approx(best["random_high"])
        assert row["steerable_targets"] == own["steerable"].sum()
        found = pd.read_parquet(run.folder / f"concepts/layer2/{row['sae']}-seed0/best.parquet").set_index("concept")
        assert row["best_f1"].keys() == set(synthetic_run.TARGETS)
        for target, best in row["best_f1"].items():
            assert best["f1"] == pytest.approx(found.loc[target, "f1"])
            assert best["latent"] == found.loc[target, "latent"]


def test_summary_is_the_same_twice(run, summary):
    assert tables_summary.summary(Run(run.folder, run.config)) == summary


def test_headline_has_every_sae_with_its_figures_and_the_controls(summary):
    text = tables_summary.headline(summary)
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["SAE", "FVU", "dead"]
    for row, line in zip(summary["saes"], lines[2:], strict=False):
        arm = row["largest_change"]
        assert line.startswith(f"{row['title']}, layer 2")
        assert f"{row['fvu']:.3f}" in line
        for best in row["best_f1"].values():
            assert f"{best['f1']:.2f}" in line
        assert f"{findings.points(arm['delta'])} points [{findings.points(arm['delta_low'])}" in line
        assert f"{findings.points(arm['random_low'])} to {findings.points(arm['random_high'])}" in line
    assert sum(finding["claim"] in text for finding in summary["findings"]) == 3


def _criteria(run, monkeypatch, rows):
    """Replace the steering table by rows (sae, criterion, concept, steerable)."""
    columns = ["sae", "selected_by", "concept", "steerable"]
    table = pd.DataFrame(rows, columns=columns).assign(layer=2, seed=0, latent=5, f1=0.9, r=0.8)
    table["delta"] = table["steerable"] * 0.3
    table = table.assign(delta_low=table["delta"] - 0.1, delta_high=table["delta"] + 0.1)
    table = table.assign(random_low=-0.1, random_high=0.1, architecture=table["sae"].str.lower())
    other = Run(run.folder, run.config)
    monkeypatch.setitem(other.__dict__, "criteria", table)
    return other


@pytest.mark.parametrize(
    ("by_f1", "by_output", "verdict"),
    [(False, True, "confirmed"), (True, True, "not confirmed"), (False, False, "undecided")],
)
def test_selection_is_judged_only_where_something_steers(run, monkeypatch, by_f1, by_output, verdict):
    rows = [("TopK", "f1", f"j-gene=IGHJ{i}", by_f1) for i in range(4)]
    rows += [("TopK", "output_score", f"j-gene=IGHJ{i}", by_output) for i in range(4)]
    rows += [("TopK", "matched_latent", f"j-gene=IGHJ{i}", False) for i in range(4)]
    claims = {"topk": {"chance": {"arms": 64, "passed": 3}}}
    finding = findings.selection(_criteria(run, monkeypatch, rows), claims)
    assert finding["verdict"] == verdict
    assert "So do 0 of 4 matched latents" in finding["text"]
    assert "3 of 64 random latents pass" in finding["text"]
    assert f"Of the 4 latents chosen for the best F1 or r (median F1 0.90), {4 * by_f1} move" in finding["text"]


@pytest.mark.parametrize(
    ("ordered", "topk", "verdict"), [(8, 1, "confirmed"), (5, 4, "undecided"), (0, 8, "not confirmed")]
)
def test_ordered_wins_only_beyond_chance(run, monkeypatch, ordered, topk, verdict):
    rows = [("Ordered", "any", f"v-gene={i}", i < ordered) for i in range(8)]
    rows += [("TopK", "any", f"v-gene={i}", i < topk) for i in range(8)]
    rows += [("Ordered", "f1", f"v-gene={i}", i < 7) for i in range(8)]
    rows += [("TopK", "f1", f"v-gene={i}", i < 2) for i in range(8)]
    finding = findings.orderedness(_criteria(run, monkeypatch, rows))
    assert finding["verdict"] == verdict
    assert "the best F1 steers: 7 of 8 with Ordered and 2 of 8 with TopK" in finding["text"]
    assert f"{ordered} of 8 with Ordered and {topk} of 8 with TopK" in finding["text"]
    assert "+30 points [+20, +40]" in finding["text"]
    assert f"{findings.points((ordered - topk) * 0.3 / 8)} points [" in finding["text"]
    assert "3.1 concepts (2.0)" in finding["text"]


def test_ordered_confirms_only_a_part_where_its_patterns_are_not_the_more_complex(run, monkeypatch):
    rows = [("Ordered", "any", f"v-gene={i}", True) for i in range(8)]
    rows += [("TopK", "any", f"v-gene={i}", False) for i in range(8)]
    other = _criteria(run, monkeypatch, rows)
    complexity = other.csv("complexity").assign(n_concepts_mean=2.0, entropy_region_mean=1.0)
    monkeypatch.setattr(other, "csv", lambda name: complexity, raising=True)
    assert findings.orderedness(other)["verdict"] == "in part"


def test_a_run_that_leaves_stages_out_says_so(tmp_path):
    config = synthetic_run.configuration(saes={"train": {"topk": {"architecture": "topk"}}})
    found = tables_summary.summary(synthetic_run.make(tmp_path, config, steered=False))
    assert [finding["verdict"] for finding in found["findings"]][1:] == ["not tested", "not tested"]
    assert "largest_change" not in found["saes"][0]
    assert tables_summary.headline(found).splitlines()[2].rstrip().endswith("-")


def test_points_of_a_change():
    assert [findings.points(x) for x in (0.104, -0.004, -0.25, math.nan, None)] == ["+10", "0", "-25", "–", "–"]


def test_costs_are_summed_by_stage(run):
    spent = costs.costs(run).set_index("stage")
    assert spent["minutes"].to_dict() == pytest.approx(
        {"sequences": 1.5, "numbering": 1 / 3, "SAEs": 1.0, "steering": 2.0}
    )
    assert spent["jobs"].tolist() == [1, 1, 1, 1]


def test_a_broken_table_is_named(run, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "complexity.csv").write_bytes(b"a,b\n1,2,3,4\n\xff")
    with pytest.raises(InputError, match=r"complexity\.csv: not readable as CSV"):
        Run(tmp_path, run.config).csv("complexity")


def test_layers_and_seeds_are_told_apart(tmp_path):
    config = synthetic_run.configuration(activations={"layers": [1, 2]}, saes={"seeds": [0, 1]})
    run = synthetic_run.make(tmp_path, config)
    found = tables_summary.summary(run)
    assert len({row["title"] for row in found["saes"]}) == len(found["saes"]) == 8
    assert found["saes"][0]["title"] == "TopK, layer 1, seed 0"
    deltas = [row["largest_change"]["delta"] for row in found["saes"]]
    assert len(np.unique(deltas)) > 4, "each SAE has its own arms"
