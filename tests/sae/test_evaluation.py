"""An SAE's figures are their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.io import InputError
from antibody_sae.models.model import Encoded
from antibody_sae.sae import evaluation
from antibody_sae.sae.evaluation import evaluate, splice
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.stream import statistics
from antibody_sae.sae.training import train
from antibody_sae.steering.candidates import energy_rank
from sae_world import ARCHITECTURES, SMALL, data, make_store


def test_a_mean_predictor_has_fvu_one(store, keep, tmp_path):
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    sae.encoder_bias -= 1e6
    sae.pre_bias = data(2000)[~keep].mean(0)
    metrics = evaluate(sae, store, ~keep)
    assert metrics["fvu"] == pytest.approx(1, abs=1e-5)
    assert metrics["dead"] == 48
    assert metrics["l0"] == 0
    np.testing.assert_allclose(metrics["prefixes"]["explained_variance"], 0, atol=1e-5)


def test_sorting_by_energy_is_a_permutation(store, keep, tmp_path, monkeypatch):
    """What TopK's first latents explain once sorted: the same whatever order they were in, and more than unsorted."""
    monkeypatch.setattr(evaluation, "EARLY", 6)
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    found = evaluate(sae, store, ~keep)
    order = np.random.default_rng(0).permutation(48)
    turned = evaluate(evaluation.reordered(sae, order), store, ~keep)
    np.testing.assert_allclose(turned["energy"], np.array(found["energy"])[order])
    assert turned["fvu"] == pytest.approx(found["fvu"])
    assert turned["fvu_6_by_energy"] == pytest.approx(found["fvu_6_by_energy"])
    assert found["fvu_6_by_energy"] < min(found["fvu_6"], turned["fvu_6"])
    ranked = evaluate(evaluation.reordered(sae, evaluation.by_energy(found["energy"])), store, ~keep)
    assert ranked["fvu_6"] == pytest.approx(found["fvu_6_by_energy"])


@pytest.mark.parametrize(("key", "value"), [("layer", 3), ("weights_sha256", "another"), ("model_dtype", "bfloat16")])
def test_an_sae_is_refused_on_other_activations_than_its_own(store, keep, tmp_path, key, value):
    """As a user does it: load it for the store, or evaluate, measure or rank it there."""
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    sae.save(tmp_path / "sae")
    other = make_store(tmp_path / "other", data(2000), **{key: value})
    with pytest.raises(InputError, match=f"{key} is .*, this run expects {value!r}"):
        SAE.load(tmp_path / "sae", other.provenance())
    for use in (
        lambda: evaluate(sae, other, ~keep),
        lambda: statistics(sae, other, keep),
        lambda: energy_rank(sae, other),
    ):
        with pytest.raises(InputError, match=f"other: {key} is {value!r}, and this SAE reads activations of {key} "):
            use()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_metrics_are_their_definitions(store, keep, tmp_path, architecture):
    sae, _ = train(store, keep, Settings(**SMALL, architecture=architecture), 0, tmp_path / "c")
    sae.encoder_bias[7] += 50.0  # one dense latent
    sae.encoder_bias[8] -= 1e6  # one dead
    metrics = evaluate(sae, store, ~keep)
    x = data(2000)[~keep]
    codes = sae.encode(x)
    code = torch.zeros(len(x), 48).scatter_add(1, codes.indices.long(), codes.values)
    variance = (x - x.mean(0)).double().square().sum()

    def explained(prefix: int) -> float:
        guess = sae.pre_bias + sae.scale * code[:, :prefix] @ sae.directions[:prefix]
        return float(1 - (x - guess).double().square().sum() / variance)

    assert metrics["fvu"] == pytest.approx(1 - explained(48), rel=1e-4)
    assert metrics["tokens"] == 400
    assert metrics["l0"] == pytest.approx(float((code > 0).sum(1).float().mean()))
    assert metrics["dead"] == int((code.amax(0) == 0).sum()) > 0
    assert metrics["dense"] == int(((code > 0).float().mean(0) > 0.1).sum()) > 0
    assert metrics["cosine"] == pytest.approx(float(torch.cosine_similarity(x, sae.decode(codes)).mean()), rel=1e-4)
    curve = metrics["prefixes"]
    assert curve["latents"][0] == 0
    assert curve["latents"][-1] == 48
    np.testing.assert_allclose(curve["explained_variance"], [explained(n) for n in curve["latents"]], atol=1e-4)


class FakeModel:
    """Its hidden states are a table look-up, its log-likelihood falls with the distance that an edit moves residues."""

    residue_tokens = {"A": 5, "C": 6, "D": 7}  # noqa: RUF012
    device = "cpu"

    def __init__(self) -> None:
        self.table = data(10)
        self.seen: list[torch.Tensor] = []

    def log_likelihood(self, passages, layer=None, edit=None):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(p.tokens) for p in passages], batch_first=True)
        hidden = self.table[tokens]
        edited = hidden if edit is None else edit(hidden, tokens, torch.arange(len(tokens)))
        residues = torch.isin(tokens, torch.tensor([5, 6, 7]))
        assert torch.equal(edited[~residues], hidden[~residues]), "tags and padding stay as they are"
        self.seen.append(edited[residues])
        return -1 - (edited - hidden).square().sum((1, 2)).numpy()


def test_splicing_replaces_residues_only_and_measures_what_is_recovered(store, keep, tmp_path):
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    model = FakeModel()
    passages = [
        Encoded(np.array([1, 2, 5, 6, 7, 3]), np.array([-1, -1, 0, 1, 2, -1])),
        Encoded(np.array([1, 2, 6, 3]), np.array([-1, -1, 0, -1])),
    ]
    mean = data(2000).mean(0)
    metrics = splice(sae, model, passages, 2, mean.tolist())
    x = model.table[[5, 6, 7, 6]]
    reconstruction, zero, replaced, own = model.seen
    torch.testing.assert_close(reconstruction, sae.decode(sae.encode(x)))
    assert not zero.any()
    torch.testing.assert_close(replaced, mean.expand_as(x))
    torch.testing.assert_close(own, x)
    assert metrics["ce_model"] == 1
    assert metrics["ce_model"] < metrics["ce_reconstruction"] < metrics["ce_mean"] < metrics["ce_zero"]
    for name in ("zero", "mean"):
        gap = metrics[f"ce_{name}"] - 1
        assert metrics[f"loss_recovered_{name}"] == pytest.approx(1 - (metrics["ce_reconstruction"] - 1) / gap)
