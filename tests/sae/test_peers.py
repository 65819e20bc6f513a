"""Loading what the other libraries themselves save: skipped where they are not installed (envs/peers.txt)."""

from __future__ import annotations

import json

import pytest
import torch
from antibody_sae.sae import loading
from antibody_sae.sae.checkpoints import recognise
from sae_world import D, data

K, LATENTS = 5, 40
WHY = "install envs/peers.txt in an environment of its own"


@pytest.fixture
def x() -> torch.Tensor:
    return data(400, seed=2)


def shaken(module: torch.nn.Module, unit: bool) -> torch.nn.Module:
    """With biases that matter and, unless `unit`, decoder rows of different lengths."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 and name != "threshold":
                parameter += torch.randn(parameter.shape, generator=g) / 3
            if name == "W_dec" and not unit:
                parameter *= 0.5 + torch.rand((len(parameter), 1), generator=g)
    return module


def agrees(folder, x: torch.Tensor, code: torch.Tensor, reconstruction: torch.Tensor, length: torch.Tensor) -> None:
    sae = loading.read(recognise(folder))
    codes = sae.encode(x)
    ours = torch.zeros(len(x), sae.latents).scatter_add(1, codes.indices.long(), codes.values)
    assert 0 < (code > 0).sum() < code.numel()
    torch.testing.assert_close(ours, (code * length).float(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), reconstruction, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "rescale"),
    [("standard", False), ("topk", False), ("topk", True), ("abstopk", True), ("jumprelu", False)],
)
@torch.no_grad()
def test_saelens(architecture, rescale, tmp_path, x):
    sae_lens = pytest.importorskip("sae_lens", reason=WHY)
    keys = {"k": K, "rescale_acts_by_decoder_norm": rescale} if "topk" in architecture else {}
    sae, config = sae_lens.registry.get_sae_class(architecture)
    theirs = shaken(sae(config(d_in=D, d_sae=LATENTS, **keys)), unit=architecture == "topk" and not rescale)
    if architecture == "topk" and not rescale:
        theirs.W_dec /= theirs.W_dec.norm(dim=1, keepdim=True)
    if architecture == "jumprelu":
        theirs.threshold += 0.5
    theirs.save_model(tmp_path)
    length = torch.ones(LATENTS) if rescale else theirs.W_dec.norm(dim=1)
    code = theirs.encode(x)
    if architecture == "abstopk":
        code = torch.stack([code.relu(), (-code).relu()], 2).flatten(1)
        length = torch.ones(2 * LATENTS)
    agrees(tmp_path, x, code, theirs(x), length)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@torch.no_grad()
def test_saelens_in_training_is_what_it_publishes(architecture, tmp_path, x):
    sae_lens = pytest.importorskip("sae_lens", reason=WHY)
    sae, config = sae_lens.registry.get_sae_training_class(architecture)
    keys = {"matryoshka_widths": [LATENTS // 2, LATENTS]} if architecture.startswith("matryoshka") else {}
    training = shaken(sae(config(d_in=D, d_sae=LATENTS, k=K, **keys)), unit=False)
    training.topk_threshold = torch.tensor(0.1, dtype=torch.double)
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "published")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "published")
    for folder in ("training", "published"):
        agrees(tmp_path / folder, x, theirs.encode(x), theirs(x), theirs.W_dec.norm(dim=1))


@torch.no_grad()
def test_sparsify(tmp_path, x):
    sparsify = pytest.importorskip("sparsify", reason=WHY)
    theirs = shaken(sparsify.SparseCoder(D, sparsify.SparseCoderConfig(num_latents=LATENTS, k=K)), unit=True)
    theirs.save_to_disk(tmp_path)
    values, indices, _ = theirs.encode(x)
    code = torch.zeros(len(x), LATENTS).scatter(1, indices, values)
    agrees(tmp_path, x, code, theirs.decode(values, indices), torch.ones(LATENTS))


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "JumpReluAutoEncoder",
    ],
)
@torch.no_grad()
def test_dictionary_learning(name, tmp_path, x):
    pytest.importorskip("dictionary_learning", reason=WHY)
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    homes = {
        "AutoEncoderTopK": top_k,
        "BatchTopKSAE": batch_top_k,
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k,
    }
    kind = getattr(homes.get(name, dictionary), name)
    more = (K,) * (name in homes) + ([LATENTS // 2, LATENTS // 2],) * name.startswith("Matryoshka")
    theirs = shaken(kind(D, LATENTS, *more), unit=name == "AutoEncoderTopK")
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        theirs.threshold.fill_(0.6)
    if name == "JumpReluAutoEncoder":
        theirs.threshold += 0.5
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}}))
    rows = theirs.W_dec if hasattr(theirs, "W_dec") else theirs.decoder.weight.T
    code = theirs.encode(x)
    agrees(tmp_path, x, code, theirs.decode(code), rows.norm(dim=1))
