"""The control of claim 1: the same antibodies, read by the model with its weights drawn anew."""

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae import activations
from antibody_sae.activations import Store
from antibody_sae.io import InputError
from antibody_sae.models import model as models
from antibody_sae.models import presets
from antibody_sae.sae import training
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings

SECTION = {"name": "iglm-s", "dtype": "float32"}


@pytest.fixture(scope="module")
def drawn():
    return models.load(presets.drawn(SECTION, 3))


@pytest.fixture(scope="module")
def stores(iglm_s, drawn, tmp_path_factory):
    """Layer 2 of 24 chains that IgLM-S wrote, under the trained weights and under drawn ones."""
    texts = [one.text for one in iglm_s.generate(24, seed=1, complete=True)]
    first = np.concatenate([[0], np.cumsum([len(text) for text in texts])[:-1]])
    table = pd.DataFrame({"antibody_id": texts, "heavy": texts, "light": None, "species": "human"})
    table = table.assign(first_heavy=first, first_light=-1)
    out = {}
    for name, model in (("trained", iglm_s), ("drawn", drawn)):
        folder = tmp_path_factory.mktemp(name)
        activations.harvest(model, table, [2], [folder / "shard-0.safetensors"], "float32")
        activations.write_manifest([folder / "shard-0.safetensors"], folder / "manifest.json")
        out[name] = Store(folder, {**model.provenance, "layer": 2})
    return out


def test_every_weight_is_drawn_anew_from_the_architectures_own_initialisation(iglm_s, drawn):
    own, other = iglm_s.hf.state_dict(), drawn.hf.state_dict()
    assert own.keys() == other.keys()
    config = drawn.hf.config
    for name, value in other.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "ln_" in name:
            assert (value == 1).all(), name
        else:  # embeddings of tokens and positions and the head, too
            assert not torch.equal(value, own[name]), name
            spread = config.initializer_range * ((2 * config.n_layer) ** -0.5 if "c_proj" in name else 1)
            assert float(value.std()) == pytest.approx(spread, rel=0.1), name
    again, next_seed = (models.load(presets.drawn(SECTION, seed)) for seed in (3, 4))
    assert again.provenance == drawn.provenance
    assert next_seed.provenance["weights_sha256"] != drawn.provenance["weights_sha256"]
    assert models.load(SECTION).provenance == iglm_s.provenance, "drawing leaves nothing behind"


def test_what_comes_of_drawn_weights_says_so_and_mixes_with_nothing(stores, drawn, tmp_path):
    assert stores["drawn"].manifest["model"] == "iglm-s with random weights, seed 3"
    ids = {name: np.sort(np.concatenate([ids for _, ids in store.blocks()])) for name, store in stores.items()}
    np.testing.assert_array_equal(ids["trained"], ids["drawn"])
    settings = Settings(latents=32, k=4, tokens=4096, batch_size=256, random_model=True)
    keep = np.ones(stores["drawn"].n, bool)
    sae, _ = training.train(stores["drawn"], keep, settings, 0, tmp_path / "checkpoint.safetensors", 1, "cpu")
    sae.save(tmp_path)
    assert SAE.load(tmp_path, stores["drawn"].provenance()).config["random_model"]
    with pytest.raises(InputError, match="iglm-s with random weights, seed 3"):
        SAE.load(tmp_path, stores["trained"].provenance())
    for name in ("model", "weights_sha256"):
        with pytest.raises(InputError, match=name):
            Store(stores["trained"].folder, {name: drawn.provenance[name], "layer": 2})
