"""Two runs of one model: what is the same is found to be, what is not is not, and nothing judged was trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.concepts import abroad, tables, transfer
from antibody_sae.concepts.labels import Labels
from antibody_sae.io import InputError, write_json
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.tabs import transfer as tab
from antibody_sae.sae.model import SAE
from concept_world import MemoryStore, csr

ANTIBODIES, LENGTH, K = 150, 12, 8
SETTINGS = {"bootstrap": 200, "seed": 1}
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(K, K)))[0].astype(np.float32)
CONCEPTS = ["motif", "habit"]
"""motif is latent 0 in either run; habit is latent 1 in the first, and latent 2 in the second."""


def side(name, seed, habit, order):
    """A run whose SAE holds the true directions, its latents in some order; 100 antibodies train, 30 test."""
    rng = np.random.default_rng(seed)
    n = ANTIBODIES * LENGTH
    codes = np.where(rng.random((n, K)) < 0.3, rng.uniform(0.5, 1, (n, K)), 0).astype(np.float32)
    directions = torch.from_numpy(TURN[order])
    sae = SAE(directions, torch.zeros(K) - 0.01, directions, torch.zeros(K), 1.0, K, torch.ones(K), torch.ones(K), {})
    split = np.repeat([0, 1, 2], [100, 20, 30]).astype(np.int8)
    ids = np.array([f"{name}{i}" for i in range(ANTIBODIES)])
    labels = Labels(
        ids, CONCEPTS, [], ["H1"], csr(codes[:, [0, habit]] > 0), csr(np.zeros((ANTIBODIES, 0), bool)),
        np.arange(ANTIBODIES) * LENGTH, np.full(ANTIBODIES, LENGTH), split, np.arange(ANTIBODIES),
        np.zeros(n, np.int16), np.zeros(n, np.int8), np.zeros(n, np.int8), np.zeros(n, np.int8),
    )  # fmt: skip
    place = {latent: i for i, latent in enumerate(order)}
    best = pd.DataFrame(
        {
            "concept": CONCEPTS, "level": "residue", "pool": "none", "latent": [place[0], place[habit]],
            "threshold": [0.0, 0.0],
        }
    ).astype({"latent": "Int64"})  # fmt: skip
    clonotypes = pd.DataFrame({"antibody_id": ids, "clonotype": ids})
    held_out = np.repeat(split == 2, LENGTH)
    return transfer.Side(name, seed, MemoryStore(codes @ TURN), sae, labels, best, held_out, clonotypes)


@pytest.fixture(scope="module")
def runs():
    return side("one", 0, 1, list(range(K))), side("two", 1, 2, list(range(K))[::-1])


@pytest.fixture(scope="module")
def found(runs):
    return transfer.transfer(*runs, SETTINGS)


def test_the_same_latents_are_found_whatever_their_order(found):
    assert (found.latents["by_decoder"] == K - 1 - found.latents["latent"]).all()
    assert found.latents["agree"].all()
    assert found.latents["correlation"].min() > 0.99
    assert found.latents["chance"].max() < 0.3
    first = found.summary.iloc[0]
    assert (first["same_by_both"], first["same_index"]) == (1, 0)


def test_what_travels_and_what_does_not(found):
    table = found.concepts.set_index(["found_in", "concept"])
    for run in ("one", "two"):
        assert table.loc[(run, "motif"), "f1_abroad"] == 1
        assert table.loc[(run, "motif"), "correlation"] > 0.99
        habit = table.loc[(run, "habit")]
        assert habit["f1_home"] == 1
        assert habit["f1_native"] == 1
        assert habit["f1_abroad"] < 0.5
        assert habit["difference_high"] < 0, "worse than the latent that was found there, beyond chance"
        assert abs(habit["correlation"]) < 0.2
    assert found.summary["fvu_heavy_abroad"].max() < 0.02, "either dictionary holds every direction"
    assert found.summary["fvu_light_abroad"].isna().all(), "there are no light chains"


def test_what_the_other_run_has_trained_on_is_not_judged_on(runs):
    one, two = runs
    clonotypes = two.clonotypes.copy()
    clonotypes.loc[120:134, "clonotype"] = one.clonotypes["clonotype"].iloc[0]  # half of its test antibodies
    known = transfer.without_seen(replace(two, clonotypes=clonotypes), one)
    assert np.flatnonzero(known.labels.split == transfer.NOWHERE).tolist() == list(range(120, 135))
    assert known.held_out.sum() == 15 * LENGTH
    assert transfer.without_seen(two, one).held_out.sum() == 30 * LENGTH
    everything = replace(two, clonotypes=two.clonotypes.assign(clonotype="one0"))
    with pytest.raises(InputError, match="nothing to judge on"):
        transfer.transfer(one, everything, SETTINGS)


def test_effects_stand_beside_their_latents(found):
    arms = pd.DataFrame(
        {
            "layer": 2, "sae": "topk", "seed": [1, 1, 1, 0], "concept": "motif", "kind": "latent",
            "selected_by": ["f1", "f1", "r", "f1"], "length": [0.2, -0.2, 0.2, 0.2], "delta": [0.3, -0.1, 0.5, 0.7],
            "delta_low": 0.0, "delta_high": 1.0, "steerable": True,
        }
    )  # fmt: skip
    table = tables.with_steering(found.concepts.assign(layer=2, sae="topk"), {"two": arms}).set_index(
        ["found_in", "concept"]
    )
    assert table.loc[("two", "motif"), "delta"] == 0.3
    assert table["delta"].notna().sum() == 1


def finished(folder, seeds, **about):
    """What a finished run's folder has of what is asked for here."""
    write_json({"run": folder.name}, folder / "tables" / "summary.json")
    manifest = {"model": "iglm-s", "weights_sha256": "0", "model_dtype": "float32", **about}
    write_json(manifest, abroad.manifest(folder, 2))
    for seed in seeds:
        (folder / "concepts" / "layer2" / f"topk-seed{seed}").mkdir(parents=True)
        (folder / "concepts" / "layer2" / f"topk-seed{seed}" / "best.parquet").touch()
        write_json({}, folder / "saes" / "layer2" / f"topk-seed{seed}" / "config.json")
    return folder


def test_another_seed_is_taken_where_there_is_one(tmp_path):
    other = finished(tmp_path / "other", [0, 3])
    own = ["layer2/topk-seed0", "layer2/topk-seed3", "layer2/ordered-seed0"]
    found = abroad.namesakes(other, tmp_path / "own", [2], own)
    assert found == {"layer2/topk-seed0": "layer2/topk-seed3", "layer2/topk-seed3": "layer2/topk-seed0"}
    one = finished(tmp_path / "one", [0])
    assert abroad.namesakes(one, tmp_path / "own", [2], own[:1]) == {own[0]: own[0]}


def test_a_run_that_does_not_fit_is_refused_with_the_reason(tmp_path):
    other = finished(tmp_path / "other", [0])
    sae = ["layer2/topk-seed0"]
    with pytest.raises(InputError, match="this run itself"):
        abroad.namesakes(other, tmp_path / "own" / ".." / "other", [2], sae)
    with pytest.raises(InputError, match=r"no finished run.*there are .*other"):
        abroad.namesakes(tmp_path / "none", tmp_path / "own", [2], sae)
    with pytest.raises(InputError, match=r"has layer2, and activations\.layers asks for 3"):
        abroad.namesakes(other, tmp_path / "own", [2, 3], sae)
    with pytest.raises(InputError, match=r"it has layer2/topk-seed0"):
        abroad.namesakes(other, tmp_path / "own", [2], ["layer2/ordered-seed0"])
    abroad.check_names(other, [2], {"name": "iglm-s", "dtype": "auto"})
    with pytest.raises(InputError, match="model: 'iglm-s' there, 'iglm' here"):
        abroad.check_names(other, [2], {"name": "iglm", "dtype": "auto"})
    with pytest.raises(InputError, match="model_dtype: 'float32' there, 'bfloat16' here"):
        abroad.check_names(other, [2], {"name": "iglm-s", "dtype": "bfloat16"})
    with pytest.raises(InputError, match="weights_sha256"):
        abroad.check({"weights_sha256": "0"}, {"weights_sha256": "1"}, other)


class Tables:
    """A run as the report's tab reads it."""

    def __init__(self, **tables):
        self.tables, self.config = tables, {"run": "one"}

    def csv(self, name):
        return self.tables.get(name, pd.DataFrame())


def test_the_report_shows_both_ways(found):
    about = {"layer": 2, "sae": "TopK"}
    effects = {"delta": [0.3, np.nan, np.nan, np.nan], "delta_low": 0.1, "delta_high": 0.5, "steerable": True}
    concepts = found.concepts.assign(**about, **effects)
    (section,) = tab.sections(Tables(transfer=found.summary.assign(**about), transfer_concepts=concepts), Palette([]))
    assert section.title == "one and two"
    assert "share their seed" not in section.text
    both, steered = section.tables
    assert [row[2]["text"] for row in both.cells] == ["one", "two"]
    assert not any("light" in column.key for column in both.columns), "there are no light chains"
    assert [cell["text"] for cell in steered.cells[0]][-2:] == ["+30", "yes"]
    assert len(section.figures[0].data) == 4
    assert tab.sections(Tables(), Palette([])) is None
