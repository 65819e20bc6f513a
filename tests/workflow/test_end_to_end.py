"""The quick run, whole, on IgLM-S's real weights: every file of the contract, consistent with one another."""

import json
import shutil
import zipfile

import pandas as pd
import pytest
import yaml
from antibody_sae import activations
from antibody_sae.models import model as models
from antibody_sae.models import presets
from antibody_sae.sae.model import SAE


@pytest.fixture
def run(quick_run):
    return quick_run[0].folder / "results" / "quick"


def test_counts_agree_from_stage_to_stage(run):
    antibodies = pd.read_parquet(run / "sequences" / "antibodies.parquet")
    rejected = pd.read_parquet(run / "sequences" / "rejected.parquet")
    chains = pd.read_parquet(run / "numbering" / "chains.parquet")
    residues = pd.read_parquet(run / "numbering" / "residues.parquet")
    splits = pd.read_parquet(run / "splits" / "antibodies.parquet")
    store = activations.Store(run / "activations" / "layer2")
    assert len(antibodies) + len(rejected) == 400
    assert set(chains.antibody_id) == set(antibodies.antibody_id)
    good = chains[chains.status == "ok"]
    assert len(good) > 0.95 * len(antibodies), "ANARCI numbers nearly all that IgLM-S writes"
    assert good.length.sum() == len(residues) == store.n
    assert set(splits.antibody_id) == set(good.antibody_id)
    assert splits.groupby("cluster_id").split.nunique().max() == 1, "no cluster is on two sides"
    assert set(splits.split) == {"train", "validation", "test"}


def test_labels_and_activations_are_of_the_same_residue(run):
    """The residue at a stored residue_id is what the model read there."""
    residues = pd.read_parquet(run / "numbering" / "residues.parquet")
    model = models.load({"name": "iglm-s", "dtype": "float32"})
    store = activations.Store(run / "activations" / "layer2", model.provenance)
    antibodies = pd.read_parquet(run / "sequences" / "antibodies.parquet").set_index("antibody_id")
    acts, ids = store.read(0)
    row = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    first = residues[residues.antibody_id == residues.antibody_id[0]]
    assert "".join(first.residue) == antibodies.heavy[first.antibody_id.iloc[0]]
    (passage,) = model.encode("".join(first.residue))
    ((_, states),) = model.hidden([passage], [2])
    stored = acts[[row[i] for i in first.index]].float()
    assert (stored - states[2]).abs().max() < 0.05 * states[2].abs().max(), "bfloat16 storage of the same vectors"


@pytest.mark.parametrize("name", ["topk", "ordered"])
def test_both_saes_are_there_and_say_where_they_come_from(run, name):
    folder = run / "saes" / "layer2" / f"{name}-seed0"
    sae = SAE.load(folder)
    acts, _ = activations.Store(run / "activations" / "layer2").read(0, 0, 100)
    codes = sae.encode(acts.float())
    assert codes.indices.shape == (100, 16)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["fvu"] < 0.6
    assert json.loads((folder / "config.json").read_text())["architecture"] == name


@pytest.mark.slow  # it runs a workflow of its own
def test_a_dictionary_goes_out_and_comes_back(quick_run, run):
    metrics, best = (f"results/quick/{n}" for n in ("saes/layer2/{}/metrics.json", "concepts/layer2/{}/best.parquet"))
    project, _ = quick_run
    done = project.snakemake("export")
    assert done.returncode == 0, done.stdout[-3000:]
    folders = sorted(path.parent for path in run.glob("export/layer2/*/README.md"))
    assert [folder.name for folder in folders] == ["ordered-seed0", "topk-seed0"]
    assert SAE.load(folders[1]).latents == 256
    mine = project.folder / "mine"
    mine.mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        shutil.copy(folders[1] / name, mine)
    config = yaml.safe_load((project.folder / "tests" / "config" / "quick.yaml").read_text())
    config["saes"]["train"] = {"mine": {"load": "mine"}}
    (project.folder / "loaded.yaml").write_text(yaml.safe_dump(config))
    metrics, best = (
        f"results/quick/{name}" for name in ("saes/layer2/{}/metrics.json", "concepts/layer2/{}/best.parquet")
    )
    done = project.snakemake(*(name.format("mine-seed0") for name in (metrics, best)), config="loaded.yaml")
    assert done.returncode == 0, done.stdout[-3000:]
    one, other = (json.loads((project.folder / metrics.format(f"{sae}-seed0")).read_text()) for sae in ("topk", "mine"))
    for figure in ("fvu", "l0", "cosine", "ce_reconstruction"):
        assert other[figure] == pytest.approx(one[figure], rel=1e-3), figure
    one, other = (pd.read_parquet(project.folder / best.format(f"{sae}-seed0")) for sae in ("topk", "mine"))
    assert (one["latent"].fillna(-1) == other["latent"].fillna(-1)).mean() > 0.9, "the same latents stand for concepts"


def test_tables_and_report(run):
    summary = json.loads((run / "tables" / "summary.json").read_text())
    assert summary
    claims = pd.read_csv(run / "tables" / "mapping_vs_steering.csv")
    assert {"topk", "ordered"} <= set(claims.sae)
    effects = pd.concat(pd.read_parquet(p) for p in run.glob("steering/layer2/*/effects.parquet"))
    arms = effects[effects.kind == "latent"]
    assert ((arms.rate_low <= arms.rate) & (arms.rate <= arms.rate_high)).all()
    page = (run / "report" / "index.html").read_text()
    assert "antibody-sae" in page
    assert not [line for line in page.splitlines() if 'src="http' in line], "self-contained"


def test_the_plain_ways_stand_beside_steering(run):
    table = pd.read_csv(run / "tables/alternatives.csv").set_index(["concept", "way"])
    for target in ("j-gene=IGHJ4", "v-family=IGHV3"):
        assert set(table.loc[target].index) >= {"rejection", "prompt", "logit_bias"}
    given = table.loc[("v-family=IGHV3", "prompt")]
    assert given["rate"] > table.loc[("v-family=IGHV3", "rejection"), "rate"], "a germline's start decides its family"
    assert given["tokens"] < table.loc[("v-family=IGHV3", "rejection"), "tokens"]
    shown = pd.read_csv(run / "report/figures/levers-price.csv")
    assert {"prompt", "logit bias", "best handle"} <= set(shown["way"])


def test_every_rule_left_a_log_and_a_benchmark(run):
    benchmarks = {p.stem.split("-")[0] for p in (run / "benchmarks").iterdir()}
    logs = {p.stem.split("-")[0] for p in (run / "logs").iterdir()}
    assert {"generate", "number", "split", "harvest", "train_sae", "associate", "report"} <= benchmarks & logs


def test_snakemakes_own_report_has_the_categories_and_captions(quick_run):
    project, _ = quick_run
    done = project.snakemake("--report", "out.zip")
    assert done.returncode == 0, done.stdout[-3000:]
    with zipfile.ZipFile(project.folder / "out.zip") as packed:
        names = packed.namelist()
        (page,) = [name for name in names if name.endswith("report.html")]
        html = packed.read(page).decode()
    assert {"mapping_vs_steering.csv", "best_latents.csv", "saes.csv", "dictionaries.csv", "index.html"} <= {
        n.split("/")[-1] for n in names
    }
    for said in ('"Tables"', '"Figures"', '"Report"', "Sparse autoencoders on iglm-s", "Association beside effect"):
        assert said in html, said


def test_it_takes_minutes_not_hours(quick_run):
    """Not a benchmark: the promise is two minutes on two idle cores, and a busy machine gets slack."""
    assert quick_run[1] < 600


def test_the_licence_is_said():
    assert "non-commercial" in presets.resolve({"name": "iglm"}).licence
