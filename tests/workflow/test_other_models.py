"""The whole workflow on models whose weights no package ships: p-IgGen's exact shape (pairs) and a generic model."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from antibody_sae.sae import SAE
from conftest import copy_project

pytestmark = pytest.mark.slow


def pairs(n: int) -> pd.DataFrame:
    """Human pairs from ANARCI's own germlines with random CDR3s: V, 9 to 14 residues, J."""
    from anarci.germlines import all_germlines

    rng = np.random.default_rng(0)

    def chains(kind: str) -> list[str]:
        v = [s[:104].replace("-", "") for s in all_germlines["V"][kind]["human"].values()]
        j = [s[117:].replace("-", "") for s in all_germlines["J"][kind]["human"].values()]
        middle = ["".join(rng.choice(list("ADGRSTYWFV"), rng.integers(9, 15))) for _ in range(n)]
        return [v[rng.integers(len(v))] + m + j[rng.integers(len(j))] for m in middle]

    return pd.DataFrame({"id": [f"pair{i}" for i in range(n)], "vh": chains("H"), "vl": chains("K"), "isotype": "IgG"})


SMALL = {
    "numbering": {"chunks": 1},
    "activations": {"layers": [2], "shards": 2},
    "saes": {"shared": {"latents": 64, "k": 8, "batch_size": 512, "tokens": 60_000}},
    "concepts": {"position_pairs": 10, "min_clusters": 2, "bootstrap": 100},
    "steering": {
        "criteria": ["f1"], "n": 8, "baseline": 16, "random_latents": 3, "random_n": 8, "scored": 4,
        "gradient_antibodies": 16, "chunks": 1,
    },
}  # fmt: skip


def run(project, settings):
    (project.folder / "my.yaml").write_text(yaml.safe_dump(settings))
    done = project.snakemake(config="my.yaml")
    assert done.returncode == 0, done.stdout[-6000:]
    return project.folder / "results" / settings["run"]


def test_p_iggen_pairs_and_every_activation_run_the_whole_workflow(root, tmp_path, p_iggen_stub):
    project = copy_project(root, tmp_path)
    pairs(150).to_csv(tmp_path / "pairs.csv", index=False)
    out = run(project, {
        **SMALL,
        "run": "pairs",
        "model": {"name": "p-iggen", "path": str(p_iggen_stub), "dtype": "float32"},
        "saes": {**SMALL["saes"], "train": {"topk": None, "ordered": {"activation": "batchtopk"},
                                            "abstopk": {"activation": "abstopk"},
                                            "jumprelu": {"activation": "jumprelu"}}},
        "sequences": {"source": "file", "paths": ["pairs.csv"], "chains": "HL", "chunks": 1,
                      "columns": {"heavy": "vh", "light": "vl"}},
        "steering": {**SMALL["steering"], "targets": ["j-gene=IGHJ4"], "lever_trained": [2], "lever_rounds": 1},
    })  # fmt: skip
    chains = pd.read_parquet(out / "numbering" / "chains.parquet")
    good = chains[chains.status == "ok"]
    assert set(good.chain) == {"H", "K"}
    labels = json.loads((out / "concepts" / "labels.json").read_text())
    names = {*labels["residue"], *labels["antibody"]}
    assert "region=H-CDR3" in names, "concepts know the heavy chain"
    assert "region=L-CDR3" in names, "and the light one"
    effects = pd.concat(pd.read_parquet(p) for p in out.glob("steering/layer2/*/effects.parquet"))
    steps = pd.read_parquet(out / "steering" / "layer2" / "ordered-seed0" / "trained_levers-history.parquet")
    assert steps[["m", "rate"]].to_numpy().tolist() == [[2, 0]], "coefficients are trained, to no avail"
    assert not effects.kind.str.contains("sparse").any(), "of nothing no lever is made"
    assert (effects[effects.kind == "none"].n > 0).all(), "random weights write nothing numberable, and that is said"
    kinds = {"ordered": "ordered-batchtopk", "abstopk": "abstopk", "jumprelu": "jumprelu"}
    saes = json.loads((out / "tables" / "summary.json").read_text())["saes"]
    assert {sae["sae"]: sae["architecture"] for sae in saes} == kinds
    for sae in saes:
        trained = SAE.load(out / "saes" / "layer2" / f"{sae['sae']}-seed0")
        assert trained.latents == sae["latents"] == (128 if sae["sae"] == "abstopk" else 64)
        assert (trained.threshold is None) == (sae["sae"] == "abstopk")
        assert sae["l0"] == pytest.approx(8, rel=0.5), "few steps, and still about as many as were asked for"
        assert 0 < sae["fvu"] < 0.9
    assert (out / "report" / "index.html").is_file()


def variants(n: int) -> pd.DataFrame:
    """Heavy chains that differ from one parent by some residues of CDR3 and by the J gene: a few clusters in all."""
    from anarci.germlines import all_germlines

    rng = np.random.default_rng(0)
    v = all_germlines["V"]["H"]["human"]["IGHV3-23*01"][:104].replace("-", "")
    j = [all_germlines["J"]["H"]["human"][name].replace("-", "") for name in ("IGHJ4*01", "IGHJ6*01")]
    loops = ["ARDGSTSGTA"] * n
    for i, at in enumerate(rng.integers(2, 10, (n, 2))):
        for place in at:
            loops[i] = loops[i][:place] + rng.choice(list("ADGRSTYWFV")) + loops[i][place + 1 :]
    chains = [v + loop[:6] + "G" * (i % 4) + loop[6:] + j[i % 3 == 0] for i, loop in enumerate(loops)]
    return pd.DataFrame({"id": [f"v{i}" for i in range(n)], "vh": chains, "binder": rng.choice(["yes", "no"], n)})


def test_a_generic_model_and_one_parents_variants_run_the_whole_workflow(root, tmp_path, generic_stub):
    """Nothing can be tested in so few clusters, and one SAE compares nothing: the run says so and ends."""
    project = copy_project(root, tmp_path)
    variants(80).to_csv(tmp_path / "heavy.csv", index=False)
    out = run(project, {
        **SMALL,
        "run": "generic",
        "model": {"name": "mine", "path": str(generic_stub), "template": {"H": "<{heavy}>"}, "dtype": "float32"},
        "saes": {**SMALL["saes"], "train": {"topk": None}},
        "sequences": {"source": "file", "paths": ["heavy.csv"], "chains": "H", "chunks": 1,
                      "columns": {"heavy": "vh"}},
        "concepts": {**SMALL["concepts"], "min_clusters": 10, "metadata": {"binder": {}}},
        "steering": {**SMALL["steering"], "targets": ["j-gene=IGHJ4"]},
    })  # fmt: skip
    concepts = pd.read_parquet(out / "concepts" / "concepts.parquet")
    assert set(concepts[concepts.group == "binder"].concept) == {"binder=yes", "binder=no"}
    assert concepts.status.str.startswith("untestable").all()
    assert pd.read_csv(out / "tables" / "best_latents.csv").f1.isna().all()
    assert (out / "tables" / "summary.json").is_file()
    assert (out / "report" / "index.html").is_file()
