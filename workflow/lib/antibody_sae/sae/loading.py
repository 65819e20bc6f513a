"""A saved dictionary of this or another library as an SAE of this one.

A dictionary that is linear up to its selection reads raw activations x [d_model] as h = W (x - b) + c, decides by h
which latents are active, and writes x' = b + sum over the active j of h_j d_j. With unit rows d_j / |d_j| the code of
latent j is |d_j| h_j: lengths go into the encoder and the threshold, and every reconstruction stays. What is not of
this form is refused by name.

>>> sae = read(recognise("sae_lens/checkpoint"))
>>> codes = sae.encode(x)  # x [n, d_model], as the checkpoint's own library encodes them, times the decoder's lengths
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.io import InputError, sha256_file
from antibody_sae.sae import checkpoints
from antibody_sae.sae.checkpoints import DICTIONARY_LEARNING, OWN, SAELENS, SPARSIFY, Checkpoint, recognise
from antibody_sae.sae.model import SAE, finite
from antibody_sae.sae.prefixes import kind_of
from antibody_sae.sae.stream import statistics

SPREAD = 1.01
"""Longest to shortest decoder row up to which they count as equally long: bfloat16 rounds a length by 0.2 %."""


class Parts(NamedTuple):
    """A dictionary of another library in the terms of this module's head; tensors are float32."""

    kind: str
    """Its architecture, as its library calls it."""
    encoder: Tensor
    """W [latents, d_model]"""
    bias: Tensor
    """c [latents]"""
    decoder: Tensor
    """d [latents, d_model], of any length."""
    pre_bias: Tensor
    """b [d_model]"""
    k: int | None = None
    """Active latents of a token, the largest; None: those above `threshold`."""
    threshold: Tensor | None = None
    """[latents], of h, or of h times the decoder row's length where `by_length`."""
    centred: bool = True
    """Whether b is taken off x; if not, h = W x + c."""
    by_length: bool = False
    """Whether latents are chosen by h times the decoder row's length, rather than by h."""
    architecture: str = "topk"
    """Of this library: whether the order of its latents means something."""


class _Tensors:
    """A checkpoint's tensors, each taken by name and shape."""

    def __init__(self, found: Checkpoint) -> None:
        self.path = found.weights
        try:
            if found.weights.suffix == ".pt":
                self._all: dict[str, Tensor] = torch.load(self.path, map_location="cpu", weights_only=True)
            else:
                self._all = load_file(self.path)
        except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f"{self.path}: not readable ({error}); copy the checkpoint again") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor as float32. Raises InputError where it is missing, of another shape, or not finite; a shape of -1
        is any size."""
        value = self._all.get(name)
        if value is None:
            raise InputError(
                f"{self.path}: holds no tensor {name!r}, only {', '.join(sorted(self._all))}; is it whole, and of the "
                "kind that the file beside it says?"
            )
        fits = value.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, value.shape, strict=True))
        if not fits:
            raise InputError(
                f"{self.path}: {name} has shape {list(value.shape)} where {['any' if n < 0 else n for n in shape]} is "
                "wanted; copy the checkpoint again"
            )
        if not finite(value):
            raise InputError(f"{self.path}: {name} holds NaN or Inf; take an earlier checkpoint")
        return value.float()


def _refuse(found: Checkpoint, key: str, value: object, why: str) -> InputError:
    return InputError(f"{found.path}: {key} is {value!r}, and {why}")


def _saelens(found: Checkpoint, tensors: _Tensors) -> Parts:
    about = found.about
    normalized = about.get("normalize_activations") or "none"
    if normalized != "none":
        raise _refuse(
            found, "normalize_activations", normalized,
            "only SAEs of raw activations can be loaded: fold the scaling into the weights, as SAELens does at the end",
        )  # fmt: skip
    if (reshaped := about.get("reshape_activations") or "none") != "none":
        raise _refuse(found, "reshape_activations", reshaped, "the residual stream has no heads to join")
    if about.get("finetuning_scaling_factor"):
        raise _refuse(found, "finetuning_scaling_factor", True, "scaled codes cannot be loaded: fold it into W_dec")
    kind, k = about.get("architecture", "standard"), about.get("k")
    act = about.get("activation_fn") or about.get("activation_fn_str") or "relu"  # before SAELens 6
    if kind in ("standard", "topk") and act == "topk":
        kind, k = "topk", (about.get("activation_fn_kwargs") or {}).get("k", k)
    elif act not in ("relu", "topk"):
        raise _refuse(found, "activation_fn", act, "relu and topk can be loaded")
    encoder = tensors.take("W_enc", -1, -1).T.contiguous()
    latents, d_model = encoder.shape
    threshold = None
    if kind == "standard":
        threshold = torch.zeros(latents)
    elif kind == "jumprelu":
        threshold = tensors.take("threshold", latents)
    elif kind in ("batchtopk", "matryoshka_batchtopk"):  # in training; it is published as jumprelu
        threshold = tensors.take("topk_threshold").expand(latents)
    elif kind not in ("topk", "abstopk"):
        known = "standard, topk, abstopk, batchtopk, matryoshka_batchtopk and jumprelu can be loaded"
        raise _refuse(found, "architecture", kind, known)
    parts = Parts(
        kind,
        encoder,
        tensors.take("b_enc", latents),
        tensors.take("W_dec", latents, d_model),
        tensors.take("b_dec", d_model),
        _count(found, "k", k, latents) if threshold is None else None,
        threshold,
        centred=bool(about.get("apply_b_dec_to_input", True)),
        by_length="topk" in kind and bool(about.get("rescale_acts_by_decoder_norm", False)),
        architecture="matryoshka" if kind.startswith("matryoshka") else "topk",
    )
    if kind == "abstopk":  # latents 2 j and 2 j + 1 are the ends of axis j: the k largest of them are the same code
        encoder, bias, decoder = map(_ends, (parts.encoder, parts.bias, parts.decoder))
        parts = parts._replace(encoder=encoder, bias=bias, decoder=decoder)
    return parts


def _ends(values: Tensor) -> Tensor:
    """[2 n, ...]: each of the n rows, then its negative."""
    return torch.stack([values, -values], dim=1).flatten(0, 1)


def _sparsify(found: Checkpoint, tensors: _Tensors) -> Parts:
    about = found.about
    if (act := about.get("activation", "topk")) != "topk":
        raise _refuse(found, "activation", act, "only topk can be loaded")
    for key in ("transcode", "skip_connection", "signed"):
        if about.get(key):
            raise _refuse(
                found, key, True, "only dictionaries that write what they read, by positive codes, can be loaded"
            )
    encoder = tensors.take("encoder.weight", -1, -1)
    latents, d_model = encoder.shape
    return Parts(
        "topk",
        encoder,
        tensors.take("encoder.bias", latents),
        tensors.take("W_dec", latents, d_model),
        tensors.take("b_dec", d_model),
        _count(found, "k", about.get("k"), latents),
    )


_KINDS = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "JumpReluAutoEncoder": "jumprelu",
}
"""Classes of dictionary_learning that can be loaded."""


def _dictionary_learning(found: Checkpoint, tensors: _Tensors) -> Parts:
    trainer = found.about["trainer"]
    name = trainer.get("dict_class")
    if name not in _KINDS:
        raise _refuse(found, "trainer.dict_class", name, f"{', '.join(_KINDS)} can be loaded")
    kind = _KINDS[name]
    if kind in ("matryoshka", "jumprelu"):
        encoder = tensors.take("W_enc", -1, -1).T.contiguous()
        latents, d_model = encoder.shape
        bias, decoder = tensors.take("b_enc", latents), tensors.take("W_dec", latents, d_model)
    else:
        encoder = tensors.take("encoder.weight", -1, -1)
        latents, d_model = encoder.shape
        bias, decoder = tensors.take("encoder.bias", latents), tensors.take("decoder.weight", d_model, latents).T
    pre_bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")
    k, threshold = None, None
    if kind == "topk":
        k = _count(found, "trainer.k", trainer.get("k"), latents)
    elif kind == "standard":
        threshold = torch.zeros(latents)
    elif kind == "jumprelu":
        threshold = tensors.take("threshold", latents)
    else:
        threshold = tensors.take("threshold").expand(latents)
        if threshold[0] < 0:  # it starts at -1
            raise InputError(
                f"{found.weights}: threshold is {threshold[0]:g}: training ended before it was set "
                "(threshold_start_step); train longer"
            )
    return Parts(
        kind, encoder, bias, decoder.contiguous(), tensors.take(pre_bias, d_model), k, threshold,
        centred=name not in ("AutoEncoderNew", "JumpReluAutoEncoder"),
        architecture="matryoshka" if kind == "matryoshka" else "topk",
    )  # fmt: skip


_READERS = {SAELENS: _saelens, SPARSIFY: _sparsify, DICTIONARY_LEARNING: _dictionary_learning}


def _count(found: Checkpoint, key: str, k: object, latents: int) -> int:
    if not isinstance(k, int) or not 1 <= k <= latents:
        raise _refuse(found, key, k, f"the number of active latents is wanted, 1 to {latents}")
    return k


def read(found: Checkpoint) -> SAE:
    """A checkpoint as an SAE.

    Another library's has scale 1, so its codes are in raw units; nothing is known of training data, so its largest
    activations and densities are NaN, and k is the number of latents where thresholds decide. Raises InputError for a
    kind that cannot be loaded, and a tensor that is missing, of the wrong shape or not finite.
    """
    said = {"library": found.format.library, "sha256": sha256_file(found.weights)}
    if found.format is OWN:
        sae = SAE.load(found.folder)
        return replace(sae, config={**sae.config, "loaded": {**said, "kind": kind_of(sae.config)}})
    origin = checkpoints.origin(found)
    parts = _READERS[found.format](found, _Tensors(found))
    length = parts.decoder.norm(dim=1)
    if parts.threshold is None and not parts.by_length and length.max() > SPREAD * length.min():
        raise InputError(
            f"{found.weights}: its decoder rows are {length.min():.3g} to {length.max():.3g} long, and its k largest "
            "latents are chosen regardless: with rows of length 1 they would be others. Train it with rows of one "
            "length (SAELens: rescale_acts_by_decoder_norm, sparsify: normalize_decoder)"
        )
    bias = parts.bias
    if not parts.centred:
        bias = (bias + parts.encoder.double() @ parts.pre_bias.double()).float()
    threshold = parts.threshold
    if threshold is not None:  # a code is positive whatever the threshold
        threshold = threshold.clamp(min=0) * (1 if parts.by_length else length)
    unknown = torch.full((len(bias),), torch.nan)
    return SAE(
        encoder_weight=parts.encoder * length[:, None],
        encoder_bias=bias * length,
        directions=F.normalize(parts.decoder, dim=1),
        pre_bias=parts.pre_bias,
        scale=1.0,
        k=parts.k or len(bias),
        max_activation=unknown,
        density=unknown.clone(),
        config={
            "architecture": parts.architecture,
            "model": origin.model,
            "layer": origin.layer,
            "hook": origin.hook,
            "loaded": {**said, "kind": parts.kind},
        },
        threshold=threshold,
    )


def check(found: Checkpoint, expected: Mapping[str, Any], names: Iterable[str], d_model: int) -> SAE:
    """The checkpoint as an SAE that reads activations of `expected` (a manifest, or what is known of it), d_model wide.

    Raises InputError where it cannot be loaded, says that it belongs elsewhere (`checkpoints.check`), or has another
    width.
    """
    checkpoints.check(found, expected, names)
    sae = read(found)
    if sae.d_model != d_model:
        raise InputError(
            f"{found.weights}: it reads activations of width {sae.d_model}, this run's model has {d_model}; load an "
            "SAE of this model, or run with that one"
        )
    return sae


def load(folder: str | Path, store: Store, keep: np.ndarray, names: Iterable[str]) -> SAE:
    """A checkpoint as an SAE of a run: `check` against the store, the largest activation and density of its latents
    measured on the rows that `keep` allows (the training split), and the store's provenance as its own.

    Where thresholds decide, k becomes the mean number of active latents, rounded.
    """
    found = recognise(folder)
    sae = check(found, store.manifest, names, store.d_model)
    origin = checkpoints.origin(found)
    if silent := [key for key in ("model", "layer") if getattr(origin, key) is None]:
        print(f"{found.path}: says no {' and no '.join(silent)}; taken to be this run's", file=sys.stderr)
    sae = replace(sae, config={**sae.config, **store.provenance()})
    largest, density = statistics(sae, store, keep)
    k = sae.k
    if sae.threshold is not None and found.format is not OWN:
        k = max(1, round(float(density.sum())))
    return replace(sae, k=k, max_activation=largest, density=density)
