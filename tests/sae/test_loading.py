"""Dictionaries that other libraries saved give the codes and reconstructions that they give there, or are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from antibody_sae.io import InputError, write_safetensors
from antibody_sae.sae import loading
from antibody_sae.sae.checkpoints import recognise
from antibody_sae.sae.evaluation import evaluate
from antibody_sae.sae.model import SAE
from sae_world import D, data, make_store

K, LATENTS = 5, 40
NAMES = ["stub", "/models/stub-checkpoint"]


@dataclass(frozen=True)
class Dictionary:
    """A dictionary by its definition, in float64; decoder rows are of any length."""

    seed: int = 0
    k: int | None = K
    threshold: torch.Tensor | None = None
    centred: bool = True
    by_length: bool = False
    unit: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)
        shape = (LATENTS, D)
        weight, decoder = torch.randn(shape, generator=g) / 4, torch.randn(shape, generator=g)
        if self.unit:
            decoder /= decoder.norm(dim=1, keepdim=True)
        drawn = {"weight": weight, "bias": torch.randn(LATENTS, generator=g) / 4, "decoder": decoder,
                 "offset": torch.randn(D, generator=g)}  # fmt: skip
        for name, value in drawn.items():
            object.__setattr__(self, name, value)

    def code(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([n, latents] code times the decoder's lengths, [n, d_model] reconstruction)."""
        weight, decoder, offset = self.weight.double(), self.decoder.double(), self.offset.double()
        length = decoder.norm(dim=1)
        h = (x.double() - offset * self.centred) @ weight.T + self.bias
        h = h * length if self.by_length else h
        if self.threshold is None:
            top = (h.abs() if self.signed else h.relu()).topk(self.k).indices
            z = torch.zeros_like(h).scatter(1, top, h.gather(1, top) if self.signed else h.relu().gather(1, top))
        else:
            z = h.relu() * (h > self.threshold)
        z = z / length if self.by_length else z
        code = z * length
        if self.signed:
            code = torch.stack([code.relu(), (-code).relu()], 2).flatten(1)
        return code, offset + z @ decoder


def write(folder: Path, about: tuple[str, dict], weights: str, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name, values = about
    (folder / name).write_text(json.dumps(values))
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    torch.save(tensors, folder / weights) if weights.endswith(".pt") else write_safetensors(tensors, folder / weights)
    return folder


def saelens(folder: Path, of: Dictionary, architecture: str, **cfg) -> Path:
    tensors = {"W_enc": of.weight.T, "b_enc": of.bias, "W_dec": of.decoder, "b_dec": of.offset}
    if architecture == "jumprelu":
        tensors["threshold"] = of.threshold
    if "batchtopk" in architecture:
        tensors["topk_threshold"] = of.threshold.double()
    about = {"architecture": architecture, "d_in": D, "d_sae": LATENTS, "apply_b_dec_to_input": of.centred,
             "normalize_activations": "none", "metadata": {"sae_lens_version": "6.54.12"}, **cfg}  # fmt: skip
    if architecture in ("topk", "abstopk"):
        about["k"] = of.k
    return write(folder, ("cfg.json", about), "sae_weights.safetensors", tensors)


def sparsify(folder: Path, of: Dictionary, **cfg) -> Path:
    tensors = {"encoder.weight": of.weight, "encoder.bias": of.bias, "W_dec": of.decoder, "b_dec": of.offset}
    about = {"activation": "topk", "k": of.k, "d_in": D, "transcode": False, "skip_connection": False, **cfg}
    return write(folder, ("cfg.json", about), "sae.safetensors", tensors)


def dictionary_learning(folder: Path, of: Dictionary, name: str, **trainer) -> Path:
    if name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        tensors = {"W_enc": of.weight.T, "b_enc": of.bias, "W_dec": of.decoder}
    else:
        tensors = {"encoder.weight": of.weight, "encoder.bias": of.bias, "decoder.weight": of.decoder.T}
    tensors[{"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")] = of.offset
    if of.threshold is not None and not name.startswith("AutoEncoder"):
        tensors["threshold"] = of.threshold
    about = {"trainer": {"dict_class": name, "k": K, **trainer}, "buffer": {}}
    return write(folder, ("config.json", about), "ae.pt", tensors)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(600, D, generator=torch.Generator().manual_seed(5)) * 2 + 1


EACH = torch.rand(LATENTS, generator=torch.Generator().manual_seed(3)) - 0.2  # some below 0: a code is positive anyhow
ALL, RELU = torch.tensor(0.7), torch.zeros(LATENTS)
CASES = {
    "SAELens topk": (saelens, Dictionary(unit=True), "topk"),
    "SAELens topk by length": (saelens, Dictionary(by_length=True), "topk", {"rescale_acts_by_decoder_norm": True}),
    "SAELens topk, input not centred": (saelens, Dictionary(unit=True, centred=False), "topk"),
    "SAELens abstopk": (
        saelens, Dictionary(by_length=True, signed=True), "abstopk", {"rescale_acts_by_decoder_norm": True},
    ),
    "SAELens standard": (saelens, Dictionary(threshold=RELU), "standard"),
    "SAELens jumprelu": (saelens, Dictionary(threshold=EACH, centred=False), "jumprelu"),
    "SAELens batchtopk": (
        saelens, Dictionary(threshold=ALL, by_length=True), "batchtopk", {"rescale_acts_by_decoder_norm": True},
    ),
    "SAELens matryoshka_batchtopk": (saelens, Dictionary(threshold=ALL), "matryoshka_batchtopk"),
    "sparsify topk": (sparsify, Dictionary(unit=True)),
    "dictionary_learning topk": (dictionary_learning, Dictionary(unit=True), "AutoEncoderTopK"),
    "dictionary_learning batchtopk": (dictionary_learning, Dictionary(threshold=ALL), "BatchTopKSAE"),
    "dictionary_learning matryoshka": (dictionary_learning, Dictionary(threshold=ALL), "MatryoshkaBatchTopKSAE"),
    "dictionary_learning jumprelu": (
        dictionary_learning, Dictionary(threshold=EACH, centred=False), "JumpReluAutoEncoder",
    ),
    "dictionary_learning standard": (dictionary_learning, Dictionary(threshold=RELU), "AutoEncoder"),
    "dictionary_learning standard, April": (
        dictionary_learning, Dictionary(threshold=RELU, centred=False), "AutoEncoderNew",
    ),
}  # fmt: skip


def saved(case: str, folder: Path) -> tuple[Path, Dictionary]:
    writer, of, *more = CASES[case]
    keys = more.pop() if more and isinstance(more[-1], dict) else {}
    return writer(folder, of, *more, **keys), of


def scattered(codes, latents: int = LATENTS) -> torch.Tensor:
    return torch.zeros(len(codes.values), latents).scatter_add(1, codes.indices.long(), codes.values)


@pytest.mark.parametrize("case", CASES)
def test_codes_and_reconstructions_are_those_of_the_library(case, tmp_path, x):
    folder, of = saved(case, tmp_path / "it")
    sae = loading.read(recognise(folder))
    code, reconstruction = of.code(x)
    codes = sae.encode(x)
    assert 0 < (code > 0).sum() < code.numel()
    torch.testing.assert_close(scattered(codes, sae.latents), code.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), reconstruction.float(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(sae.latents))
    loaded = sae.config["loaded"]
    assert case.startswith(f"{loaded['library']} {loaded['kind']}")
    assert (sae.config["architecture"] == "matryoshka") == ("matryoshka" in case), "the order means something"
    assert sae.max_activation.isnan().all(), "nothing is known of training data"


def test_an_sae_of_before_saelens_6_is_read(tmp_path, x):
    of = Dictionary(unit=True)
    folder = saelens(tmp_path, of, "topk")
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "hook_name": "blocks.1.hook_resid_post",
           "model_name": "stub", "normalize_activations": False}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(old))
    sae = loading.check(recognise(folder), {"layer": 2}, NAMES, D)
    torch.testing.assert_close(scattered(sae.encode(x)), of.code(x)[0].float(), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"after block 2 \(blocks\.1\.hook_resid_post\), this run's is after block 1"):
        loading.check(recognise(folder), {"layer": 1}, NAMES, D)


def test_a_latent_without_a_decoder_row_is_never_active(tmp_path, x):
    of = Dictionary(threshold=EACH)
    of.decoder[3] = 0
    sae = loading.read(recognise(saelens(tmp_path, of, "jumprelu")))
    code, reconstruction = of.code(x)
    codes = sae.encode(x)
    assert not scattered(codes)[:, 3].any()
    torch.testing.assert_close(scattered(codes), code.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), reconstruction.float(), atol=1e-4, rtol=1e-5)


UNIT = Dictionary(unit=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: saelens(f, UNIT, "gated"), "architecture is 'gated', and standard, topk, abstopk"),
        (lambda f: saelens(f, replace(UNIT, k=None), "topk"), "k is None, and the number of active latents is wanted"),
        (lambda f: saelens(f, replace(UNIT, k=LATENTS + 1), "topk"), r"cfg\.json: k is 41, .* 1 to 40"),
        (lambda f: saelens(f, UNIT, "topk", normalize_activations="layer_norm"), "normalize_activations is 'layer_n"),
        (
            lambda f: saelens(f, UNIT, "topk", normalize_activations="expected_average_only_in"),
            "'expected_average_only_in', and only SAEs of raw activations .* fold the scaling",
        ),
        (lambda f: saelens(f, UNIT, "topk", reshape_activations="hook_z"), "reshape_activations is 'hook_z'"),
        (lambda f: saelens(f, UNIT, "topk", finetuning_scaling_factor=True), "finetuning_scaling_factor is True"),
        (lambda f: saelens(f, UNIT, "standard", activation_fn="tanh-relu"), "activation_fn is 'tanh-relu'"),
        (lambda f: saelens(f, Dictionary(), "topk"), r"decoder rows are .* long, .* rescale_acts_by_decoder_norm"),
        (lambda f: sparsify(f, Dictionary()), r"sae\.safetensors: its decoder rows are"),
        (lambda f: sparsify(f, UNIT, activation="groupmax"), "activation is 'groupmax'"),
        (lambda f: sparsify(f, UNIT, transcode=True), "transcode is True"),
        (lambda f: sparsify(f, UNIT, skip_connection=True), "skip_connection is True"),
        (lambda f: dictionary_learning(f, UNIT, "GatedAutoEncoder"), "trainer.dict_class is 'GatedAutoEncoder'"),
        (
            lambda f: dictionary_learning(f, Dictionary(threshold=torch.tensor(-1.0)), "BatchTopKSAE"),
            r"ae\.pt: threshold is -1: training ended before it was set",
        ),
        (lambda f: write(f, ("config.json", {}), "ae.pt", {}), r"config\.json: `trainer` is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_refused_by_name(make, message, tmp_path):
    with pytest.raises(InputError, match=message):
        loading.read(recognise(make(tmp_path)))


@pytest.mark.parametrize("case", CASES)
def test_each_missing_misshapen_or_broken_tensor_is_named(case, tmp_path):
    folder, _ = saved(case, tmp_path / "it")
    weights = recognise(folder).weights
    pt = weights.suffix == ".pt"
    tensors = torch.load(weights, weights_only=True) if pt else loading.load_file(weights)

    def put(changed):
        torch.save(changed, weights) if pt else write_safetensors(changed, weights)

    for name, value in tensors.items():
        put({key: each for key, each in tensors.items() if key != name})
        with pytest.raises(InputError, match=f"{weights.name}: holds no tensor '{name}', only "):
            loading.read(recognise(folder))
        put({**tensors, name: value[None].contiguous()})
        with pytest.raises(InputError, match=f"{weights.name}: {name} has shape"):
            loading.read(recognise(folder))
        put({**tensors, name: torch.full_like(value, torch.nan)})
        with pytest.raises(InputError, match=f"{weights.name}: {name} holds NaN"):
            loading.read(recognise(folder))
    weights.write_bytes(b"not tensors at all")
    with pytest.raises(InputError, match=f"{weights.name}: not readable"):
        loading.read(recognise(folder))


def test_nothing_is_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    folder = dictionary_learning(tmp_path / "it", UNIT, "AutoEncoderTopK")
    torch.save({"encoder.weight": Hostile()}, folder / "ae.pt")
    with pytest.raises(InputError, match=r"ae\.pt: not readable"):
        loading.read(recognise(folder))
    assert not (tmp_path / "ran").exists()


# -- as an SAE of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["SAELens topk", "SAELens jumprelu", "sparsify topk", "dictionary_learning matryoshka"]
)
def test_a_loaded_sae_is_one_of_the_run(case, tmp_path, store, keep):
    folder, of = saved(case, tmp_path / "it")
    loading.load(folder, store, keep, NAMES).save(tmp_path / "saved")
    sae = SAE.load(tmp_path / "saved", store.provenance())
    code, _ = of.code(data(2000)[keep])
    torch.testing.assert_close(sae.max_activation, code.amax(0).float(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae.density, (code > 0).float().mean(0), atol=1e-3, rtol=0)
    active = float((code > 0).sum(1).double().mean())
    assert sae.k == (K if of.threshold is None else round(active))
    assert evaluate(sae, store, ~keep)["l0"] == pytest.approx(active, rel=0.2)


def test_an_sae_of_this_project_is_loaded_as_it_is_and_measured_anew(tmp_path, store, keep, x):
    folder, _ = saved("SAELens jumprelu", tmp_path / "it")
    first = loading.load(folder, store, keep, NAMES)
    replace(first, k=3, config={**first.config, "architecture": "ordered"}).save(tmp_path / "own")
    again = loading.load(tmp_path / "own", store, ~keep, NAMES)
    assert torch.equal(again.encode(x).values, first.encode(x).values)
    assert again.k == 3
    assert again.config["loaded"]["library"] == "antibody-sae"
    assert again.config["loaded"]["kind"] == again.config["architecture"] == "ordered"
    assert not torch.equal(again.density, first.density)
    other = make_store(tmp_path / "other", data(2000), weights_sha256="another")
    with pytest.raises(InputError, match="weights_sha256 is 'w', this run's model has 'another'"):
        loading.load(tmp_path / "own", other, keep, NAMES)
    with pytest.raises(InputError, match=r"after block 2 .*, this run's is after block 3"):
        loading.load(tmp_path / "own", make_store(tmp_path / "next", data(2000), layer=3), keep, NAMES)


def test_a_width_or_split_that_does_not_fit_is_said(tmp_path, store, keep):
    folder, _ = saved("SAELens topk", tmp_path / "it")
    with pytest.raises(InputError, match=r"sae_weights\.safetensors: it reads activations of width 16, .* has 512"):
        loading.check(recognise(folder), {"layer": 2}, NAMES, 512)
    with pytest.raises(InputError, match="none of its residues is in the training split"):
        loading.load(folder, store, np.zeros(2000, bool), NAMES)


def test_a_checkpoint_that_does_not_say_where_it_belongs_is_taken_with_a_word(tmp_path, store, keep, capsys):
    folder, _ = saved("sparsify topk", tmp_path / "it")
    loading.load(folder, store, keep, NAMES)
    assert "cfg.json: says no model and no layer; taken to be this run's" in capsys.readouterr().err
