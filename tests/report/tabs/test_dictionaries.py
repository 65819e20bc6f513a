"""The tab that compares dictionaries: every figure of the tables, over widths and layers where a run has them."""

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.tabs import dictionaries

SWEEP = {
    "activations": {"layers": [2, 3]},
    "saes": {
        "shared": {"k": 4},
        "train": {
            "narrow": {"architecture": "topk", "latents": 32, "layers": [2]},
            "topk": {"architecture": "topk", "latents": 64},
            "wide": {"architecture": "topk", "latents": 128, "layers": [2]},
        },
    },
}


def shown(run):
    sections = dictionaries.sections(run, Palette(list(dict.fromkeys(sae.title for sae in run.saes))))
    return {section.title: section for section in sections}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return synthetic_run.make(tmp_path_factory.mktemp("sweep"), synthetic_run.configuration(**SWEEP))


def test_one_row_a_dictionary_with_its_figures_and_intervals(sweep):
    reconstruction, table = shown(sweep)["The dictionaries side by side"].tables
    figures = pd.read_csv(sweep.folder / "tables/dictionaries.csv")
    assert len(table.cells) == len(figures) == 4
    first = [column.key for column in reconstruction.columns]
    assert {"fvu", "l0", "dead", "loss_recovered_mean"} <= set(first)
    assert "stability" not in first, "no seeds to agree"
    keys = [column.key for column in table.columns]
    assert {"auroc_residues_k1", "takes_residues", "absorbed"} <= set(keys)
    assert [row[keys.index("title")]["text"] for row in table.cells] == [
        "narrow, layer 2", "TopK, layer 2", "wide, layer 2", "TopK, layer 3",
    ]  # fmt: skip
    cell = table.cells[1][keys.index("auroc_residues_k1")]
    assert cell["sort"] == pytest.approx(figures["auroc_residues_k1"][1])
    assert cell["note"] == f"{cell['sort'] - 0.02:.2f} to {cell['sort'] + 0.02:.2f}"


def test_widths_and_layers_are_compared_where_the_run_has_them(sweep, tmp_path):
    section = shown(sweep)["Over widths and layers"]
    names = {figure.name: figure for figure in section.figures}
    assert {"over-widths-absorbed-layer2", "over-layers-absorbed", "over-widths-fvu-layer2"} <= set(names)
    assert "over-widths-absorbed-layer3" not in names
    assert sorted(names["over-widths-fvu-layer2"].data["latents"]) == [32, 64, 128]
    assert names["over-widths-fvu-layer2"].data["line"].nunique() == 1, "one kind, so one line"
    assert {option for option, _ in section.picks[0].options} == {figure.pick["measure"] for figure in section.figures}
    plain = synthetic_run.make(tmp_path, synthetic_run.configuration(), steered=False)
    assert "Over widths and layers" not in shown(plain)


def test_curves_over_the_latents_of_a_probe(sweep):
    section = shown(sweep)["Concepts from few latents"]
    figures = pd.read_csv(sweep.folder / "tables/dictionaries.csv")
    chart = next(f for f in section.figures if f.name == "sparse-probes-f1-residues-layer2")
    assert len(chart.data) == 3 * 5
    own = chart.data[(chart.data["sae"] == "wide") & (chart.data["k"] == 8)].iloc[0]
    np.testing.assert_allclose(own["value"], figures.set_index("sae").loc["wide", "f1_residues_k8"])
    assert [pick.key for pick in section.picks] == ["level", "figure", "layer"]
    assert chart.pick == {"layer": "2", "level": "residues", "figure": "f1"}


def test_each_target_beside_the_narrower_dictionary(sweep):
    chosen, every = shown(sweep)["One concept over the dictionaries"].tables
    labels = list(dict.fromkeys(row[0]["text"] for row in chosen.cells))
    assert labels == ["IGHJ4", "IGHV4", "IGHJ6"], "the targets, and IGHJ6"
    keys = [column.key for column in chosen.columns]
    rows = {(row[0]["text"], row[1]["text"], row[2]["text"]): row for row in chosen.cells}
    assert rows["IGHJ6", "wide", "2"][keys.index("narrower")]["text"] == "TopK"
    assert rows["IGHJ6", "narrow", "2"][keys.index("narrower")]["text"] == "–"
    own = rows["IGHJ6", "wide", "2"][keys.index("own")]["text"]
    assert "(H-" in own, "where the latent is active"
    assert len(every.cells) == 4 * len(synthetic_run.CONCEPTS)
    assert every.folded


def test_a_run_without_the_comparison_has_no_tab(tmp_path):
    run = synthetic_run.make(tmp_path, synthetic_run.configuration(), steered=False)
    (run.folder / "tables/dictionaries.csv").unlink()
    assert dictionaries.sections(run, Palette(["TopK"])) is None
