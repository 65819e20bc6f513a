"""The headline figures are those of the tables, and the verdicts follow their rules."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae.report import findings
from antibody_sae.report import summary as tables_summary
from antibody_sae.report.run import Run


def test_summary_repeats_the_tables(run, summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["counts"]["residues"] == 40 * 120
    assert summary["counts"]["rejected"] == {"stop codon": 2}
    assert summary["counts"]["not_numbered"] == {"no domain found": 1}
    assert (summary["counts"]["domains"], summary["counts"]["truncated"], summary["counts"]["low_identity"]) == (
        40,
        8,
        2,
    )
    assert summary["model"]["dtype"] == "float32"
    criteria = pd.read_csv(run.folder / "tables" / "steering_by_criterion.csv")
    for row in summary["saes"]:
        own = criteria[(criteria["sae"] == row["sae"]) & (criteria["selected_by"] == "f1")]
        assert row["change"]["mean"] == pytest.approx(own["delta"].mean())
        assert row["change"]["low"] is None, "two targets have no interval"
        assert row["change"]["random_high"] == pytest.approx(own["random_high"].mean())
        assert row["steerable_targets"] == own["steerable"].sum()
        assert own[["off_target", "random_off_target"]].notna().all(axis=None), "J gene and V family watch each other"
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
        change = row["change"]
        assert line.startswith(f"{row['title']}, layer 2")
        assert f"{row['fvu']:.3f}" in line
        for best in row["best_f1"].values():
            assert f"{best['f1']:.2f}" in line
        assert f"{row['steerable_targets']} of 2" in line
        assert f"{findings.points(change['mean'])} points" in line
        assert f"{findings.points(change['random_low'])} to {findings.points(change['random_high'])}" in line
    assert sum(finding["claim"] in text for finding in summary["findings"]) == 4


def test_a_run_that_leaves_stages_out_says_so(tmp_path):
    config = synthetic_run.configuration(saes={"train": {"topk": {"architecture": "topk"}}})
    found = tables_summary.summary(synthetic_run.make(tmp_path, config, steered=False))
    assert [finding["verdict"] for finding in found["findings"]][1:] == ["not tested"] * 3
    assert "change" not in found["saes"][0]
    assert tables_summary.headline(found).splitlines()[2].rstrip().endswith("-")


def test_layers_and_seeds_are_told_apart(tmp_path):
    config = synthetic_run.configuration(activations={"layers": [1, 2]}, saes={"seeds": [0, 1]})
    run = synthetic_run.make(tmp_path, config)
    found = tables_summary.summary(run)
    assert len({row["title"] for row in found["saes"]}) == len(found["saes"]) == 8
    assert found["saes"][0]["title"] == "TopK, layer 1, seed 0"
    deltas = [row["change"]["mean"] for row in found["saes"]]
    assert len(np.unique(deltas)) > 4, "each SAE has its own arms"
