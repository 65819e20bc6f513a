"""Sparse autoencoders on the residual stream: one prefix-weighted model, whatever decides which latents are active.

With y = (x - pre_bias) / scale, h = W_e y + b_e and unit decoder rows d_i, the reconstruction is
x' = pre_bias + scale * sum_i z_i d_i. The code z holds the k largest positive h_i of each token, or, where the SAE has
thresholds, every h_i above its own. Training minimises sum over l of p(l) ||y - D Lambda_l z||^2, where Lambda_l
keeps latents 1 to l of the code. The architectures differ in p only: TopK puts all of p on the full code
(arXiv:2406.04093), Matryoshka on the edges of a few groups (arXiv:2503.17547), Ordered on every prefix
(arXiv:2512.02194).

Use a trained SAE on your own activations x [n, d_model]:

>>> sae = SAE.load("results/default/saes/layer2/ordered-seed0")
>>> codes = sae.encode(x)  # codes.indices, codes.values [n, m]
>>> reconstruction = sae.decode(codes)  # [n, d_model]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from antibody_sae.io import InputError, check_provenance, read_json, read_safetensors, write_json, write_safetensors
from antibody_sae.sae import selection

TILE = 256
"""Tokens whose pre-activations exist at a time; [TILE, latents] stays in the cache."""
_ALL = np.empty(0, dtype=np.int64)


class Codes(NamedTuple):
    """Sparse codes of n tokens; m is k, or with thresholds the most active latents that a token has (at least 1)."""

    indices: Tensor
    """[n, m] int32, the active latents of each token in ascending order; 0 where the value is 0."""
    values: Tensor
    """[n, m] float32, their activations; 0 = inactive (fewer than m latents are active)."""


def preactivations(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y weight^T + bias. y [n, d], weight [K, d], bias [K].

    On the CPU oneDNN does it, 1.7 times as fast as MKL on AMD in float32; the inductor's operator reaches it.
    """
    fast = y.device.type == "cpu" and torch.backends.mkldnn.is_available() and y.dtype != torch.float64
    if fast and (y.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(y, weight, bias, "none", [], "")
        return product
    return F.linear(y, weight, bias)


def sort_keys(preactivation: Tensor) -> np.ndarray:
    """Bit patterns whose order is that of positive numbers, for selection.select_topk."""
    if preactivation.dtype == torch.bfloat16:
        return preactivation.view(torch.int16).numpy()
    return preactivation.float().view(torch.int32).numpy()


def select(preactivation: Tensor, k: int) -> Tensor:
    """[n, k] int64 indices of the k largest, ascending (any device; the CPU's training path uses kernels)."""
    return preactivation.topk(k, sorted=False).indices.sort(-1).values


def finite(values: Tensor) -> bool:
    """Whether none is NaN or Inf: by the least and the largest, 15 times as fast as torch.isfinite."""
    return not values.numel() or bool(torch.isfinite(torch.stack(values.aminmax())).all())


@dataclass
class SAE:
    """A trained sparse autoencoder; tensors are float32."""

    encoder_weight: Tensor
    """[latents, d_model]"""
    encoder_bias: Tensor
    """[latents]"""
    directions: Tensor
    """[latents, d_model], unit rows: one unit of latent j adds scale * directions[j] to the residual stream."""
    pre_bias: Tensor
    """[d_model], in the units of the raw activations."""
    scale: float
    """Root mean square of the centred training activations; codes and directions live in units of it."""
    k: int
    """Active latents of a token at most; where there are thresholds, the mean number that training aimed at."""
    max_activation: Tensor
    """[latents], largest value on the training split."""
    density: Tensor
    """[latents], share of training tokens on which a latent is active."""
    config: dict[str, Any]
    """What config.json says: architecture, law, training settings, provenance of the activations."""
    threshold: Tensor | None = None
    """[latents], >= 0: latent j is active where its pre-activation exceeds threshold[j]; None: the k largest are."""

    def __post_init__(self) -> None:
        t = self.threshold
        if t is not None and (t.shape != self.encoder_bias.shape or not bool((t >= 0).all())):
            raise InputError(f"an SAE's threshold must be {self.latents} numbers >= 0, one a latent")

    @property
    def latents(self) -> int:
        return self.encoder_weight.shape[0]

    @property
    def d_model(self) -> int:
        return self.encoder_weight.shape[1]

    def to(self, device: str | torch.device) -> SAE:
        """A copy on another device."""
        copy = replace(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(copy, name, value.to(device))
        return copy

    def check(self, provenance: Mapping[str, Any], source: str | Path) -> None:
        """Raise InputError where `source`, activations of this `provenance` (`Store.provenance`), is of another model,
        layer or number format than those that the SAE was trained on."""
        for key, value in provenance.items():
            if key in self.config and self.config[key] != value:
                raise InputError(
                    f"{source}: {key} is {value!r}, and this SAE reads activations of {key} {self.config[key]!r}; give "
                    "it those, or train one on these"
                )

    def center(self, x: Tensor | np.ndarray) -> Tensor:
        """(x - pre_bias) / scale as float32 on the SAE's device. Raises InputError for a wrong shape, NaN or Inf."""
        x = x if isinstance(x, Tensor) else torch.tensor(np.asarray(x, np.float32))
        if x.ndim != 2 or x.shape[1] != self.d_model:
            raise InputError(f"activations of shape {tuple(x.shape)}: this SAE reads [n, {self.d_model}]")
        y = (x.to(self.pre_bias.device, torch.float32) - self.pre_bias) / self.scale
        if not finite(y):
            raise InputError("activations hold NaN or Inf; harvest them again, in bfloat16 or float32")
        return y

    @torch.no_grad()
    def encode(self, x: Tensor | np.ndarray) -> Codes:
        """Codes, on the SAE's device, of raw activations x [n, d_model]: a tensor on any device or an array, of any
        number type. Raises InputError for a wrong shape, NaN or Inf."""
        y = self.center(x)
        if y.device.type != "cpu":
            hidden = preactivations(y, self.encoder_weight, self.encoder_bias).relu()
            width = self.k
            if self.threshold is not None:
                hidden = torch.where(hidden > self.threshold, hidden, 0)
                width = max(1, int((hidden > 0).sum(1).max())) if len(y) else 1
            chosen = select(hidden, width)
            active = hidden.gather(1, chosen)
            return Codes(torch.where(active > 0, chosen, 0).int(), active)
        if self.threshold is not None:
            return self._above(y, self.threshold)
        indices = np.empty((len(y), self.k), dtype=np.int32)
        values = np.empty((len(y), self.k), dtype=np.float32)
        weight, bias = self.encoder_weight.numpy(), self.encoder_bias.numpy()
        for start in range(0, len(y), TILE):
            tile = slice(start, start + TILE)
            keys = sort_keys(preactivations(y[tile], self.encoder_weight, self.encoder_bias))
            selection.select_topk(keys, self.k, _ALL, indices[tile])
            # anew, and not from the product, whose last bits depend on the number of rows
            selection.activations(y[tile].numpy(), weight, bias, indices[tile], 0, values[tile])
        indices[values == 0] = 0
        return Codes(torch.from_numpy(indices), torch.from_numpy(values))

    def _above(self, y: Tensor, threshold: Tensor) -> Codes:
        """Codes of centred activations y [n, d_model] on the CPU by thresholds [latents]."""
        weight, bias = self.encoder_weight.numpy(), self.encoder_bias.numpy()
        # of a float32 sum of d products, at most: Higham, "Accuracy and Stability of Numerical Algorithms", 3.1
        slack = (self.encoder_weight.norm(dim=1) * (self.d_model + 1) * 2.0**-23).numpy()
        counts = np.zeros(len(y), dtype=np.int64)
        size = min(TILE, len(y)) * self.latents
        found = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)
        pieces: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(y), TILE):
            tile = slice(start, start + TILE)
            hidden = preactivations(y[tile], self.encoder_weight, self.encoder_bias).numpy()
            n = selection.above(hidden, slack, y[tile].numpy(), weight, bias, threshold.numpy(), counts[tile], *found)
            pieces.append(tuple(each[:n].copy() for each in found))
        inside = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
        indices, values = np.zeros(inside.shape, dtype=np.int32), np.zeros(inside.shape, dtype=np.float32)
        if pieces:
            indices[inside], values[inside] = (np.concatenate(each) for each in zip(*pieces, strict=True))
        return Codes(torch.from_numpy(indices), torch.from_numpy(values))

    @torch.no_grad()
    def decode(self, codes: Codes) -> Tensor:
        """[n, d_model] reconstruction in raw units."""
        summed = F.embedding_bag(codes.indices.long(), self.directions, per_sample_weights=codes.values, mode="sum")
        return self.pre_bias + self.scale * summed

    def save(self, folder: str | Path) -> None:
        """Write sae.safetensors and config.json; each whole or not at all, config.json (with the hash) last."""
        tensors = {
            "encoder.weight": self.encoder_weight,
            "encoder.bias": self.encoder_bias,
            "decoder.weight": self.directions,
            "pre_bias": self.pre_bias,
            "max_activation": self.max_activation,
            "density": self.density,
        }
        if self.threshold is not None:
            tensors["threshold"] = self.threshold
        digest = write_safetensors(tensors, Path(folder) / "sae.safetensors")
        shape = {"latents": self.latents, "d_model": self.d_model, "k": self.k, "scale": self.scale}
        write_json({**self.config, **shape, "format": 1, "sha256": digest}, Path(folder) / "config.json")

    @classmethod
    def load(cls, folder: str | Path, expected: Mapping[str, Any] | None = None) -> SAE:
        """Read what `save` wrote. `expected` (model, layer, ...) must agree with config.json, else InputError."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            near = sorted(str(p.parent) for p in Path(folder).glob("**/config.json"))[:5]
            raise InputError(
                f"{folder}: holds no SAE (config.json, sae.safetensors); "
                + (
                    f"there are {', '.join(near)}"
                    if near
                    else "trained ones are results/<run>/saes/layer<L>/<name>-seed<S>"
                )
            )
        config = read_json(path)
        if missing := [key for key in ("latents", "d_model", "k", "scale", "sha256") if key not in config]:
            raise InputError(f"{path}: {', '.join(missing)} missing; delete the folder and train the SAE again")
        check_provenance(config, {"format": 1, **(expected or {})}, path)
        tensors = read_safetensors(Path(folder) / "sae.safetensors", config["sha256"])
        own = {key: config.pop(key) for key in ("scale", "k")}
        for key in ("latents", "d_model", "format", "sha256"):
            config.pop(key)
        return cls(
            encoder_weight=tensors["encoder.weight"],
            encoder_bias=tensors["encoder.bias"],
            directions=tensors["decoder.weight"],
            pre_bias=tensors["pre_bias"],
            max_activation=tensors["max_activation"],
            density=tensors["density"],
            config=config,
            threshold=tensors.get("threshold"),
            **own,
        )
