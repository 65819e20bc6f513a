"""What others get of an SAE: SAELens's files with all that they must know, and a folder whose card holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml
from antibody_sae.activations import Store
from antibody_sae.models.presets import PRESETS, ModelSpec
from antibody_sae.sae import exchange, loading
from antibody_sae.sae.checkpoints import OWN, SAELENS, recognise
from antibody_sae.sae.evaluation import evaluate
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.training import train
from sae_world import SMALL, D, data, make_store

PEERS = "install envs/peers.txt in an environment of its own"
IGLM = ModelSpec("iglm-s", "/x/IgLM-S", {}, packaged=True, licence=PRESETS["iglm-s"]["licence"])
KINDS = ("largest", "thresholds")


@pytest.fixture
def store(tmp_path) -> Store:
    return make_store(tmp_path / "store", data(2000), model="iglm-s")


@pytest.fixture
def make(store, keep, tmp_path):
    """make(kind): a trained SAE whose k largest latents are active, or those above their thresholds."""

    def made(kind: str) -> SAE:
        sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "checkpoint")
        g = torch.Generator().manual_seed(0)
        return sae if kind == "largest" else replace(sae, threshold=torch.rand(sae.latents, generator=g))

    return made


@pytest.fixture
def x() -> torch.Tensor:
    return data(300, seed=1)


def scattered(codes, latents):
    return torch.zeros(len(codes.values), latents).scatter_add(1, codes.indices.long(), codes.values)


@pytest.mark.parametrize("kind", KINDS)
def test_sae_lens_reads_the_export_and_agrees(kind, make, tmp_path, x):
    sae_lens = pytest.importorskip("sae_lens", reason=PEERS)
    sae = make(kind)
    exchange.export_saelens(sae, tmp_path / "it")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "it")
    codes = sae.encode(x)
    torch.testing.assert_close(theirs.encode(x), scattered(codes, sae.latents), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(x), sae.decode(codes), atol=1e-5, rtol=1e-5)
    for key, value in exchange.metadata(sae).items():
        assert theirs.cfg.metadata[key] == value, "SAELens keeps the metadata"


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_comes_back_as_the_same_dictionary(kind, make, tmp_path, x):
    sae = make(kind)
    exchange.export_saelens(sae, tmp_path / "it")
    found = recognise(tmp_path / "it")
    assert found.format is SAELENS
    back = loading.check(found, {"layer": 2, "weights_sha256": "w"}, [], D)
    codes = sae.encode(x)
    torch.testing.assert_close(scattered(back.encode(x), sae.latents), scattered(codes, sae.latents) * sae.scale)
    torch.testing.assert_close(back.decode(back.encode(x)), sae.decode(codes), atol=1e-5, rtol=1e-5)


def test_the_export_says_what_it_reads(make, tmp_path):
    sae = make("largest")
    exchange.export_saelens(sae, tmp_path)
    said = json.loads((tmp_path / "cfg.json").read_text())
    assert (said["architecture"], said["k"], said["d_in"], said["d_sae"]) == ("topk", 4, D, 48)
    about = said["metadata"]
    assert (
        about.pop("scaling")
        == f"reads raw activations; the scale {sae.scale:.6g} of training is folded into the weights"
    )
    assert about.pop("sae_lens_version").startswith("6.")
    assert about == {
        "sae_lens_training_version": None, "model_name": "iglm-s", "hook_name": "h.1", "layer": 2, "revision": None,
        "weights_sha256": "w", "tokenizer_sha256": "t", "model_dtype": "float32", "architecture": "topk",
        "activation": "topk", "tokens_seen": 64 * 60,
        "licence": "IgLM's weights are licensed for non-commercial, academic use only",
    }  # fmt: skip
    for name, licence in (("p-iggen", "BSD-3-Clause"), ("mine", "not known; that of the model's weights applies")):
        assert exchange.metadata(replace(sae, config={**sae.config, "model": name}))["licence"] == licence
    assert exchange.tokens_seen({"batch_size": 64, "tokens": 0}) == 0, "the untrained control"
    assert exchange.tokens_seen({}) is None


@pytest.fixture(params=KINDS)
def published(request, make, store, keep, tmp_path):
    sae = make(request.param)
    metrics = evaluate(sae, store, ~keep) | {"loss_recovered_zero": 0.987}
    folder = tmp_path / "layer2" / "topk-seed0"
    exchange.publish(sae, metrics, IGLM, folder)
    return folder, sae, metrics, (folder / "README.md").read_text()


def test_a_card_has_the_front_matter_that_the_hub_reads(published):
    _, _, _, text = published
    head = yaml.safe_load(re.match(r"---\n(.*?)---\n\n# ", text, re.DOTALL)[1])
    assert head.pop("tags")[0] == "sparse-autoencoder"
    assert head == {
        "library_name": "saelens", "license": "other", "license_name": "terms-of-the-model", "base_model": "iglm-s",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "base", "licence"),
    [
        (ModelSpec("p-iggen", "a-hub/p-IgGen", {}, licence="BSD-3-Clause"), "a-hub/p-IgGen", "bsd-3-clause"),
        (ModelSpec("mine", "/", {}), "mine", "unknown"),
    ],
)  # fmt: skip
def test_a_card_names_the_hubs_model_and_its_licence(spec, base, licence, make, store, keep):
    sae = make("largest")
    text = exchange.card(sae, evaluate(sae, store, ~keep), spec, "topk-seed0")
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["base_model"], head["license"]) == (base, licence)


def test_a_card_tells_what_it_reads_and_its_metrics(published):
    _, sae, metrics, text = published
    for row in (
        "| model | iglm-s, in float32 |",
        "| place | residual stream after block 2, the output of `h.1`, at residues |",
        "| tokens of training | 3,840 |",
        "| licence of the model | IgLM's weights are licensed for non-commercial, academic use only |",
        f"| fraction of variance unexplained | {metrics['fvu']:.4f} |",
        "| loss recovered against zero ablation | 98.7% |",
        "| active latents | " + ("those above their" if sae.threshold is not None else "the 4 largest of a residue |"),
    ):
        assert row in text
    assert "cross-entropy" not in text, "what was not measured is left out"


def test_the_code_on_the_card_runs_in_its_folder(published, monkeypatch):
    folder, sae, _, text = published
    monkeypatch.chdir(folder)
    setup, theirs, ours = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(setup + ours, "README.md", "exec"), names)
    assert names["reconstruction"].shape == names["activations"].shape == (8, D)
    assert torch.equal(names["codes"].values, sae.encode(names["activations"]).values)
    assert torch.equal(names["sae"].max_activation, sae.max_activation)
    pytest.importorskip("sae_lens", reason=PEERS)
    exec(compile(theirs, "README.md", "exec"), names)
    torch.testing.assert_close(names["dense"], scattered(names["codes"], sae.latents), atol=1e-5, rtol=1e-5)


def test_a_published_folder_is_loaded_with_all_that_it_holds(published):
    folder, sae, _, _ = published
    found = recognise(folder)
    assert found.format is OWN
    assert torch.equal(loading.read(found).density, sae.density)
