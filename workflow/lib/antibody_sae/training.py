"""Train a sparse autoencoder on stored activations: streaming, exact gradients, resumable to the bit, evaluated.

What depends on chance (the decoder's start, the order of the rows) is drawn from counters: (seed, epoch, window). So a
run's position is its step number, and a checkpoint holds weights, optimizer moments and counters, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from antibody_sae import kernels
from antibody_sae.activations import Store
from antibody_sae.io import InputError, progress, read_safetensors, write_safetensors
from antibody_sae.sae import (
    ARCHITECTURES,
    LAWS,
    SAE,
    TILE,
    preactivations,
    prefix_errors,
    select,
    sort_keys,
    survival,
)

if TYPE_CHECKING:
    from antibody_sae.models import AntibodyModel, Encoded

BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8
"""Of Adam (arXiv:1412.6980). Its usual 0.999 remembers the large gradients of the first steps for a thousand more, and
that is all the steps that a run of this size has."""
CHUNK = 8192
"""Rows read from a shard at a time."""
WINDOW = 16
"""Chunks, drawn from all shards, whose rows are shuffled together: 131,072 rows in memory, whatever the data's size."""
DENSE = 0.1
"""A latent active on more than this share of tokens counts as dense."""
_PARAMETERS = ("encoder", "bias", "decoder", "pre_bias")
HISTORY = ("step", "tokens", "loss", "fvu", "aux_loss", "dead", "k", "lr")


@dataclass(frozen=True)
class Settings:
    """How one SAE is trained; the keys of `saes.shared` and `saes.train.<name>`."""

    architecture: str = "topk"
    """topk, ordered or matryoshka; they differ in the weights of the prefixes only."""
    latents: int = 2048
    """Width of the dictionary."""
    k: int = 32
    """Active latents of a token."""
    tokens: int = 2_400_000
    """Tokens of training, in as many passes over the training split as it takes."""
    batch_size: int = 2048
    """Tokens of a step."""
    learning_rate: float = 6e-3
    """Adam's, at its peak."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises linearly."""
    decay: float = 0.3
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    k_start: int | None = None
    """k at the first step, annealed geometrically to k; null: 4 k."""
    k_warmup: float = 0.2
    """Share of the run over which k is annealed; 0 turns it off."""
    law: str = "harmonic"
    """Prefix law of the Ordered SAE: harmonic, zipf, geometric or uniform; see sae.survival."""
    exponent: float = 1.0
    """Of the zipf and geometric laws."""
    full_mass: float = 0.75
    """Share of the prefix law that is put on the full code."""
    groups: int = 5
    """Nested groups of the Matryoshka SAE."""
    sort_every: int = 50
    """Ordered: steps after which the latents are put in order of their energy (sum of squared values since the last
    time); 0: never. A permutation leaves the full reconstruction alone, and gradients hardly ever find one."""
    sweep: float = 0.0
    """Ordered: share of the run, at its end, over which latents freeze one by one, lowest index first; 0: none do."""
    aux_k: int = 256
    """Dead latents a token that AuxK lets explain the residual (at most)."""
    aux_weight: float = 1 / 32
    """Weight of the AuxK loss."""
    dead_after: int = 200_000
    """Tokens without activity after which a latent counts as dead."""
    pre_bias: str = "geometric_median"
    """Start of the bias that is taken from the activations: geometric_median or mean of a sample of all shards."""
    loss: str = "log"
    """What is minimised: log, the logarithm of the batch's prefix-weighted error (so that Adam's moments do not hold
    the large gradients of the first steps against the later ones); mean, that error over the store's variance; fvu,
    over the batch's own variance."""
    encoder_dtype: str = "auto"
    """Of the product that chooses the active latents: float32, bfloat16, or auto (bfloat16 where the processor
    multiplies it in hardware). The values of the active latents are float32 in any case."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints."""

    def __post_init__(self) -> None:
        if self.k > self.latents:
            raise InputError(f"saes: k {self.k} > latents {self.latents}; lower k or widen the dictionary")
        if self.architecture == "matryoshka" and 2 ** (self.groups - 1) > self.latents:
            raise InputError(f"saes: {self.latents} latents are too few for {self.groups} groups; lower groups")
        choices: dict[str, Sequence[str]] = {
            "architecture": ARCHITECTURES,
            "law": LAWS,
            "pre_bias": ("geometric_median", "mean"),
            "loss": ("log", "mean", "fvu"),
            "encoder_dtype": ("auto", "float32", "bfloat16"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"saes: {key} {getattr(self, key)!r} is none of {', '.join(allowed)}")

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch_size)

    def k_at(self, step: int) -> int:
        """Active latents at a step: geometric from k_start to k (arXiv:2512.02194 anneals k from large to k)."""
        annealed = self.k_warmup * self.steps
        if step >= annealed:
            return self.k
        start = min(self.latents, self.k_start or 4 * self.k)
        return round(self.k * (start / self.k) ** (1 - step / annealed))

    def rate_at(self, step: int) -> float:
        """Learning rate at a step: linear rise, plateau, linear fall to zero at the end of the run."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * min(rise, fall)

    def frozen_at(self, step: int) -> int:
        """Latents frozen by unit sweeping at a step (Rippel et al., arXiv:1402.0915)."""
        if self.sweep == 0 or self.architecture != "ordered":
            return 0
        return int(self.latents * max(0.0, 1 - (self.steps - step) / (self.sweep * self.steps)))

    def survival(self) -> np.ndarray:
        """[latents] weights of the latents' prefixes; see sae.survival."""
        return survival(self.architecture, self.latents, self.law, self.exponent, self.full_mass, self.groups)


def geometric_median(points: Tensor, iterations: int = 50) -> Tensor:
    """[d] geometric median of points [n, d] by Weiszfeld's iteration."""
    guess = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - guess).norm(dim=1).clamp_min(1e-6)
        guess = (weights[:, None] * points).sum(0) / weights.sum()
    return guess


class StepLog(NamedTuple):
    """What a step says about itself; computed at every step, so that looking changes nothing."""

    loss: float
    """Prefix-weighted squared error over the variance."""
    fvu: float
    """Squared error of the full code over the variance."""
    aux_loss: float
    dead: int


def _bfloat16_in_hardware() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Trainer:
    """The parameters, the optimizer and one training step.

    Parameters, in units of `scale`: encoder [K, d], bias [K], decoder [K, d], pre_bias [d]. On the CPU the step runs in
    the kernels, on `threads` threads: each takes its own tokens, then its own latents. On a GPU plain torch takes the
    same steps without materialising [batch, k, d].
    """

    def __init__(
        self,
        settings: Settings,
        sample: Tensor,
        scale: float,
        seed: int = 0,
        threads: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """sample [n, d_model]: raw activations for the start of pre_bias; scale: rms of the centred activations."""
        if not scale > 0:
            raise InputError(
                f"activations: their scale is {scale}; they are constant or not finite, harvest them again"
            )
        self.settings, self.scale, self.threads = settings, float(scale), threads
        self.device = torch.device(device)
        d, latents = sample.shape[1], settings.latents
        points = sample.float() / self.scale
        center = points.mean(0) if settings.pre_bias == "mean" else geometric_median(points)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(latents, d, generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        self.parameters = {
            "encoder": rows.clone(),
            "bias": torch.zeros(latents),
            "decoder": rows,
            "pre_bias": center,
        }
        self.parameters = {k: v.to(self.device) for k, v in self.parameters.items()}
        self.first = {k: torch.zeros_like(v) for k, v in self.parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in self.parameters.items()}
        self.silence = np.zeros(latents, dtype=np.int64)
        self.energy = np.zeros(latents)
        self.position = 0
        self._survival = settings.survival().astype(np.float32)
        dtype = settings.encoder_dtype
        if dtype == "auto":
            fast = self.device.type == "cuda" or _bfloat16_in_hardware()
            dtype = "bfloat16" if fast else "float32"
        self._half = dtype == "bfloat16"
        if self.device.type == "cpu":
            self._prepare_cpu()

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        groups = {"parameter": self.parameters, "first": self.first, "second": self.second}
        tensors = {f"{group}.{k}": v.cpu() for group, values in groups.items() for k, v in values.items()}
        counters = {"silence": torch.from_numpy(self.silence), "energy": torch.from_numpy(self.energy)}
        return {**tensors, **counters, "position": torch.tensor(self.position)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`."""
        groups = {"parameter": self.parameters, "first": self.first, "second": self.second}
        for group, values in groups.items():
            for k, v in values.items():
                v.copy_(state[f"{group}.{k}"])
        self.silence[:] = state["silence"].numpy()
        self.energy[:] = state["energy"].numpy()
        self.position = int(state["position"])
        if self.device.type == "cpu" and self._half:
            self._encoder_half.copy_(self.parameters["encoder"])

    def sae(
        self, config: Mapping[str, Any], max_activation: Tensor | None = None, density: Tensor | None = None
    ) -> SAE:
        """The SAE as it is now, on the CPU; `config` goes into its config.json."""
        latents = self.settings.latents
        p = {k: v.detach().cpu().clone() for k, v in self.parameters.items()}
        return SAE(
            encoder_weight=p["encoder"],
            encoder_bias=p["bias"],
            directions=p["decoder"],
            pre_bias=p["pre_bias"] * self.scale,
            scale=self.scale,
            k=self.settings.k,
            max_activation=torch.zeros(latents) if max_activation is None else max_activation,
            density=torch.zeros(latents) if density is None else density,
            config=dict(config),
        )

    # -- a step --------------------------------------------------------------------------------------------------

    def step(self, x: Tensor) -> StepLog:
        """Train on raw activations x [batch, d_model]."""
        settings, s = self.settings, self.position
        y = x.to(self.device, torch.float32) * (1 / self.scale) - self.parameters["pre_bias"]
        variance = float((y - y.mean(0)).square().sum()) if settings.loss == "fvu" else float(y.numel())
        dead = np.flatnonzero(self.silence >= settings.dead_after)
        run = self._step_cpu if self.device.type == "cpu" else self._step_torch
        self.silence += len(y)
        loss, full, aux = run(y, settings.k_at(s), dead, 1 / variance)
        self.position += 1
        if settings.architecture == "ordered" and settings.sort_every and self.position % settings.sort_every == 0:
            self._sort(settings.frozen_at(s))
        return StepLog(loss / variance, full / variance, aux, len(dead))

    def _sort(self, frozen: int) -> None:
        """Put the latents that are not frozen in descending order of energy, with all that belongs to them."""
        order = np.r_[:frozen, frozen + np.argsort(-self.energy[frozen:], kind="stable")]
        rows = torch.from_numpy(order).to(self.device)
        for values in (self.parameters, self.first, self.second):
            for name in ("encoder", "bias", "decoder"):
                values[name].copy_(values[name][rows])
        self.silence[:] = self.silence[order]
        self.energy[:] = 0
        if self.device.type == "cpu" and self._half:
            self._encoder_half.copy_(self.parameters["encoder"])

    def _rate(self) -> tuple[float, float]:
        """Adam's rate over its first correction, and its second correction, at this step."""
        t = self.position + 1
        return self.settings.rate_at(self.position) / (1 - BETA1**t), 1 - BETA2**t

    def _unit(self, loss: float) -> float:
        """What the gradients of the loss are multiplied by: d log(loss) = d loss / loss."""
        return 1 / max(loss, 1e-30) if self.settings.loss == "log" else 1.0

    def _prepare_cpu(self) -> None:
        latents, d = self.parameters["encoder"].shape
        self._numpy = {k: v.numpy() for k, v in self.parameters.items()}
        self._numpy_first = {k: v.numpy() for k, v in self.first.items()}
        self._numpy_second = {k: v.numpy() for k, v in self.second.items()}
        self._buffers = np.zeros((self.threads, latents, d), dtype=np.float32)
        self._starts = np.empty(latents + 1, dtype=np.int64)
        self._encoder_half = self.parameters["encoder"].bfloat16() if self._half else torch.empty(0)
        self._half_bits = (
            self._encoder_half.view(torch.uint16).numpy() if self._half else np.empty((0, 0), dtype=np.uint16)
        )
        self._pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))

    def _each_thread(self, work: Callable[[int], Any]) -> list[Any]:
        """work(0), ..., work(threads - 1), side by side; torch keeps to one thread in each."""
        if self.threads > 1:
            return list(self._pool.map(work, range(self.threads)))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [work(0)]
        finally:
            torch.set_num_threads(before)

    def _step_cpu(self, y: Tensor, k: int, dead: np.ndarray, weight: float) -> tuple[float, float, float]:
        p, target = self._numpy, y.numpy()
        n, d = target.shape
        columns = k + min(self.settings.aux_k, len(dead))
        indices = np.empty((n, columns), dtype=np.int32)
        values = np.empty((n, columns), dtype=np.float32)
        d_values = np.empty((n, columns), dtype=np.float32)
        residual = np.empty_like(target)
        d_targets = np.zeros((self.threads, d), dtype=np.float32)
        d_inputs = np.zeros((self.threads, d), dtype=np.float32)
        weights = self._encoder_half if self._half else self.parameters["encoder"]
        bias = self.parameters["bias"].to(weights.dtype)

        def tiles(thread: int) -> Iterator[slice]:
            first, last = (n * i // self.threads for i in (thread, thread + 1))
            for start in range(first, last, TILE):
                yield slice(start, min(start + TILE, last))

        def main(thread: int) -> np.ndarray:
            sums = np.zeros(2)
            for tile in tiles(thread):
                keys = sort_keys(preactivations(y[tile].to(weights.dtype), weights, bias))
                kernels.select_topk(keys, k, _ALL_LATENTS, indices[tile])
                if columns > k:
                    kernels.select_topk(keys, columns - k, dead, indices[tile, k:])
                kernels.activations(target[tile], p["encoder"], p["bias"], indices[tile], 0, columns, values[tile])
                sums += kernels.walk(
                    target[tile], p["decoder"], self._survival, indices[tile], values[tile], 0, k, weight,
                    d_values[tile], self._buffers[thread], d_targets[thread], residual[tile],
                )  # fmt: skip
            return sums

        loss, full = map(float, np.sum(self._each_thread(main), axis=0))
        unit, aux = self._unit(loss * weight), 0.0
        if columns > k:
            # AuxK (arXiv:2406.04093, A.2): dead latents reconstruct what is left, which is held fixed
            ones, nowhere = np.ones_like(self._survival), np.zeros((self.threads, d), dtype=np.float32)

            def auxiliary(thread: int) -> float:
                left = 0.0
                for tile in tiles(thread):
                    left += kernels.walk(
                        residual[tile], p["decoder"], ones, indices[tile], values[tile], k, columns,
                        self.settings.aux_weight / max(full, 1e-30) / unit, d_values[tile], self._buffers[thread],
                        nowhere[thread], np.empty_like(target[tile]),
                    )[1]  # fmt: skip
                return left

            aux = sum(self._each_thread(auxiliary)) / max(full, 1e-30)
        tokens, slots = np.empty(n * columns, dtype=np.int32), np.empty(n * columns, dtype=np.int32)
        kernels.by_latent(indices, values, k, self._starts, tokens, slots, self.silence, self.energy)
        rate, correction = self._rate()
        frozen = self.settings.frozen_at(self.position)

        def change(thread: int) -> None:
            kernels.update(
                thread, self.threads, frozen, target, d_values, tokens, slots, self._starts, self._buffers,
                p["encoder"], p["bias"], p["decoder"],
                self._numpy_first["encoder"], self._numpy_second["encoder"],
                self._numpy_first["bias"], self._numpy_second["bias"],
                self._numpy_first["decoder"], self._numpy_second["decoder"],
                unit, rate, correction, BETA1, BETA2, EPSILON, d_inputs[thread], self._half_bits,
            )  # fmt: skip

        self._each_thread(change)
        kernels.adam(
            p["pre_bias"], d_targets.sum(0) - d_inputs.sum(0), unit, self._numpy_first["pre_bias"],
            self._numpy_second["pre_bias"], rate, correction, BETA1, BETA2, EPSILON,
        )  # fmt: skip
        return loss, full, aux

    @torch.no_grad()
    def _step_torch(self, y: Tensor, k: int, dead: np.ndarray, weight: float) -> tuple[float, float, float]:
        p = self.parameters
        dtype = torch.bfloat16 if self._half else torch.float32
        hidden = preactivations(y.to(dtype), p["encoder"].to(dtype), p["bias"].to(dtype)).float()
        g = {name: torch.zeros_like(value) for name, value in p.items()}
        indices = select(hidden, k)
        values = self._values(y, indices)
        weights = torch.from_numpy(self._survival).to(y.device)
        loss, full, residual = self._walk(y, y, indices, values, weights, weight, g)
        unit, aux = self._unit(loss * weight), 0.0
        if len(dead) and self.settings.aux_k:
            allowed = torch.from_numpy(dead).to(y.device)
            some = allowed[select(hidden[:, allowed], min(self.settings.aux_k, len(dead)))]
            target, scale = {**g, "pre_bias": torch.zeros_like(g["pre_bias"])}, max(full, 1e-30)
            _, left, _ = self._walk(
                residual,
                y,
                some,
                self._values(y, some),
                torch.ones_like(weights),
                self.settings.aux_weight / scale / unit,
                target,
            )
            aux = left / scale
        fired = torch.zeros(len(weights), dtype=torch.bool, device=y.device)
        fired[indices[values > 0]] = True
        self.silence[fired.cpu().numpy()] = 0
        squares = values.double().square().flatten().cpu().numpy()
        np.add.at(self.energy, indices.flatten().cpu().numpy(), squares)
        g["pre_bias"] -= g["bias"] @ p["encoder"]
        g["decoder"] -= (g["decoder"] * p["decoder"]).sum(1, keepdim=True) * p["decoder"]
        rate, correction = self._rate()
        frozen = self.settings.frozen_at(self.position)
        for name, value in p.items():
            rows = slice(0 if name == "pre_bias" else frozen, None)
            m, v = self.first[name][rows], self.second[name][rows]
            gradient = unit * g[name][rows]
            m.lerp_(gradient, 1 - BETA1)
            v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            value[rows] -= rate * m / ((v / correction).sqrt() + EPSILON)
        p["decoder"][frozen:] /= p["decoder"][frozen:].norm(dim=1, keepdim=True)
        return loss, full, aux

    def _values(self, y: Tensor, indices: Tensor) -> Tensor:
        """[n, m] float32 activations of the chosen latents, one [n, d] gather at a time."""
        p = self.parameters
        return torch.stack([(p["encoder"][i] * y).sum(1) + p["bias"][i] for i in indices.T], 1).relu()

    def _walk(
        self,
        y: Tensor,
        inputs: Tensor,
        indices: Tensor,
        values: Tensor,
        weights: Tensor,
        weight: float,
        g: dict[str, Tensor],
    ) -> tuple[float, float, Tensor]:
        """kernels.walk in torch, one [n, d] gather at a time; adds to the gradients g of every parameter."""
        decoder = self.parameters["decoder"]
        error, suffix = y.clone(), torch.zeros_like(y)
        norm = error.square().sum(1)
        loss = norm.clone()
        for i, z in zip(indices.T, values.T, strict=True):
            error -= z[:, None] * decoder[i]
            after = error.square().sum(1)
            loss += weights[i] * (after - norm)
            norm = after
        residual = error.clone()
        for i, z in zip(indices.T.flip(0), values.T.flip(0), strict=True):
            rows, share = decoder[i], weights[i][:, None]
            gradient = 2 * weight * (suffix - share * error)
            dz = (gradient * rows).sum(1) * (z > 0)
            g["decoder"].index_add_(0, i, z[:, None] * gradient)
            g["encoder"].index_add_(0, i, dz[:, None] * inputs)
            g["bias"].index_add_(0, i, dz)
            v = z[:, None] * rows
            error += v
            suffix += share * v
        g["pre_bias"] += 2 * weight * (suffix - y).sum(0)
        return float(loss.sum()), float(norm.sum()), residual


_ALL_LATENTS = np.empty(0, dtype=np.int64)


# -- data --------------------------------------------------------------------------------------------------------


class Stream:
    """Endless shuffled batches of the rows of a store that `keep` [residue ids] allows.

    An epoch visits the chunks of all shards in a new order; the rows of WINDOW chunks are shuffled together. The next
    batches are made by a thread of their own. Batch s is the same whether or not the run was interrupted before it.
    """

    def __init__(self, store: Store, keep: np.ndarray, batch_size: int, seed: int) -> None:
        """Raises InputError where no row is kept."""
        self.store, self.keep, self.batch_size, self.seed = store, keep, batch_size, seed
        self._chunks = [
            (shard, start, min(start + CHUNK, size))
            for shard, size in enumerate(store.sizes)
            for start in range(0, size, CHUNK)
        ]
        self._kept = np.array([self._mask(chunk).sum() for chunk in self._chunks])
        self.n = int(self._kept.sum())
        if self.n == 0:
            raise InputError(f"{store.folder}: none of its residues is in the training split; check splits and shards")

    def _mask(self, chunk: tuple[int, int, int]) -> np.ndarray:
        residue_id = self.store.read(*chunk)[1]
        if len(residue_id) and residue_id.max() >= len(self.keep):
            raise InputError(
                f"{self.store.folder}: residue {residue_id.max()} is not in the run's numbering; harvest it again"
            )
        return self.keep[residue_id]

    def _windows(self, skip: int) -> Iterator[Tensor]:
        """Shuffled rows [m, d] of window after window, without the first `skip` rows; whole windows are not read."""
        epoch = 0
        while True:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self._chunks))
            for w in range(0, len(order), WINDOW):
                members = order[w : w + WINDOW]
                size = int(self._kept[members].sum())
                if skip >= size:
                    skip -= size
                    continue
                rows = torch.cat([self._rows(self._chunks[c]) for c in members])
                shuffled = np.random.default_rng([self.seed, 2, epoch, w]).permutation(size)[skip:]
                skip = 0
                for start in range(0, len(shuffled), self.batch_size):
                    yield rows[torch.from_numpy(shuffled[start : start + self.batch_size])].float()
            epoch += 1

    def _rows(self, chunk: tuple[int, int, int]) -> Tensor:
        acts, residue_id = self.store.read(*chunk)
        if not torch.isfinite(acts).all():
            name = self.store.manifest["shards"][chunk[0]]["file"]
            raise InputError(
                f"{self.store.folder / name}, rows {chunk[1]} to {chunk[2]}: NaN or Inf activations; delete the file "
                "and harvest again, in bfloat16 or float32"
            )
        return acts[torch.from_numpy(self.keep[residue_id])]

    def sample(self, n: int) -> Tensor:
        """[<= n, d] rows of the first window."""
        parts, have = [], 0
        for part in self._windows(0):
            parts.append(part[: n - have])
            have += len(parts[-1])
            if have >= min(n, self.n):
                break
        return torch.cat(parts)

    def _batches(self, first: int) -> Iterator[Tensor]:
        pending: list[Tensor] = []
        have = 0
        for part in self._windows(first * self.batch_size):
            pending.append(part)
            have += len(part)
            if have >= self.batch_size:
                rows = torch.cat(pending)
                yield rows[: self.batch_size]
                pending = [rows[self.batch_size :]]
                have -= self.batch_size

    @contextmanager
    def batches(self, first: int = 0) -> Iterator[Iterator[Tensor]]:
        """Batches [batch_size, d] float32 from number `first` on, prefetched by a thread."""
        ready: queue.Queue[Tensor | BaseException] = queue.Queue(maxsize=4)
        done = threading.Event()

        def fill() -> None:
            try:
                for batch in self._batches(first):
                    while not done.is_set():
                        try:
                            ready.put(batch, timeout=0.1)
                            break
                        except queue.Full:
                            continue
                    if done.is_set():
                        return
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        def drain() -> Iterator[Tensor]:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item

        thread = threading.Thread(target=fill, daemon=True, name="prefetch")
        thread.start()
        try:
            yield drain()
        finally:
            done.set()
            thread.join()


# -- a run -------------------------------------------------------------------------------------------------------


@contextmanager
def _noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM only sets a flag (in the main thread; elsewhere Python allows no handlers)."""
    noticed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noticed.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: noticed.set())
    try:
        yield noticed.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _identity(store: Store, keep: np.ndarray, settings: Settings, seed: int) -> dict[str, str]:
    """What a checkpoint must agree on with the run that continues it."""
    about = {k: v for k, v in asdict(settings).items() if k != "checkpoint_seconds"}
    shards = [shard["sha256"] for shard in store.manifest["shards"]]
    return {
        "settings": json.dumps({**about, "seed": seed}, sort_keys=True),
        "activations": hashlib.sha256("".join(shards).encode()).hexdigest(),
        "training split": hashlib.sha256(np.packbits(keep).tobytes()).hexdigest(),
    }


def _resume(trainer: Trainer, path: Path, identity: Mapping[str, str]) -> list[list[float]]:
    """Load a checkpoint if there is one; returns the history so far. Raises InputError if it is another run's."""
    if not path.exists():
        return []
    state = read_safetensors(path)
    with safe_open(path, framework="pt") as handle:
        found = handle.metadata() or {}
    for key, value in identity.items():
        if found.get(key) != value:
            raise InputError(
                f"{path}: a checkpoint of another configuration ({key} {found.get(key)}, this run has {value}); "
                "delete it to train from the start, or restore the configuration to continue it"
            )
    trainer.load_state(state)
    return state["history"].tolist()


def train(
    store: Store,
    keep: np.ndarray,
    settings: Settings,
    seed: int,
    checkpoint: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> tuple[SAE, pd.DataFrame]:
    """Train one SAE on the rows of `store` whose residue id is True in `keep` (the training split).

    `checkpoint` is written every settings.checkpoint_seconds and continued from if it is there; the caller removes it
    once the results are safe. On the CPU a run continued from it ends with the same bits as an uninterrupted one, for
    a given number of threads. On SIGTERM it is written, and SystemExit(143) raised.

    Returns the SAE (largest activation and density of its latents measured on the same rows) and its history
    (columns HISTORY, about 200 rows). Raises InputError for bad activations or a checkpoint of another configuration.
    """
    checkpoint = Path(checkpoint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = Stream(store, keep, settings.batch_size, seed)
    sample = stream.sample(min(65536, 8 * settings.batch_size))
    trainer = Trainer(settings, sample, store.manifest["scale"], seed, threads, device)
    identity = _identity(store, keep, settings, seed)
    history = _resume(trainer, checkpoint, identity)
    if trainer.position:
        print(f"continuing from step {trainer.position} of {settings.steps}", file=sys.stderr)

    def save() -> None:
        table = torch.tensor(history, dtype=torch.float64).reshape(-1, len(HISTORY))
        write_safetensors({**trainer.state(), "history": table}, checkpoint, identity)

    every, saved = max(1, settings.steps // 200), time.monotonic()
    first = trainer.position
    with stream.batches(first) as batches, _noticing_sigterm() as terminated:
        steps = range(first, settings.steps)
        for step, batch in zip(progress(steps, len(steps), "training steps"), batches, strict=False):
            log = trainer.step(batch)
            if step % every == 0 or step == settings.steps - 1:
                rate = settings.rate_at(step)
                history.append(
                    [
                        step,
                        (step + 1) * settings.batch_size,
                        log.loss,
                        log.fvu,
                        log.aux_loss,
                        log.dead,
                        settings.k_at(step),
                        rate,
                    ]
                )
                if not math.isfinite(log.loss):
                    raise InputError(f"saes: the loss is {log.loss} at step {step}; lower learning_rate")
            if terminated():
                save()
                raise SystemExit(143)
            if time.monotonic() - saved >= settings.checkpoint_seconds:
                save()
                saved = time.monotonic()
    config = {
        **asdict(settings),
        **store.provenance(),
        "seed": seed,
        "encoder_dtype": "bfloat16" if trainer._half else "float32",
    }
    sae = trainer.sae(config)
    sae.max_activation, sae.density = _statistics(sae, store, keep)
    table = pd.DataFrame(history, columns=list(HISTORY))
    return sae, table.astype(dict.fromkeys(("step", "tokens", "dead", "k"), "int64"))


def _kept(store: Store, keep: np.ndarray) -> Iterator[Tensor]:
    for acts, residue_id in store.blocks(CHUNK):
        rows = acts[torch.from_numpy(keep[residue_id])]
        if len(rows):
            yield rows.float()


def _statistics(sae: SAE, store: Store, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """([latents] largest activation, [latents] share of active tokens)."""
    largest, active, n = torch.zeros(sae.latents), torch.zeros(sae.latents, dtype=torch.int64), 0
    for x in _kept(store, keep):
        codes = sae.encode(x)
        index, value = codes.indices.flatten().long(), codes.values.flatten()
        largest.scatter_reduce_(0, index, value, "amax")
        active += torch.bincount(index[value > 0], minlength=sae.latents)
        n += len(x)
    return largest, (active / n).float()


# -- held-out evaluation -----------------------------------------------------------------------------------------


def evaluate(sae: SAE, store: Store, keep: np.ndarray) -> dict[str, Any]:
    """Metrics on the rows that `keep` allows (a split that training has not seen), for metrics.json.

    fvu: squared error over the variance about these rows' own mean (so a mean predictor has exactly 1, and
    explained variance is 1 - fvu); prefixes: the explained variance of the first l latents of the code; l0, cosine
    (of x and its reconstruction): means over tokens; dead: latents that never fire; dense: on more than 10 % of tokens.
    """
    n, l0 = 0, 0
    total, squares, cosine = np.zeros(sae.d_model), 0.0, 0.0
    errors, active = np.zeros(sae.latents + 1), np.zeros(sae.latents, dtype=np.int64)
    for x in _kept(store, keep):
        codes = sae.encode(x)
        error, cosines = prefix_errors(sae, x, codes)
        errors += error
        cosine += cosines.sum()
        on = codes.values > 0
        l0 += int(on.sum())
        active += np.bincount(codes.indices[on].numpy(), minlength=sae.latents)
        y = sae.center(x).double().numpy()
        total += y.sum(0)
        squares += float(np.square(y).sum())
        n += len(x)
    if n == 0:
        raise InputError(f"{store.folder}: no residue is held out; raise splits.validation")
    variance = squares - float(total @ total) / n
    lengths = np.unique(np.r_[0, np.round(np.geomspace(1, sae.latents, 40)).astype(int), sae.latents])
    return {
        "tokens": n,
        "fvu": float(errors[-1] / variance),
        "explained_variance": float(1 - errors[-1] / variance),
        "prefixes": {
            "latents": lengths.tolist(),
            "explained_variance": (1 - errors[lengths] / variance).tolist(),
        },
        "l0": l0 / n,
        "cosine": cosine / n,
        "dead": int((active == 0).sum()),
        "dense": int((active > DENSE * n).sum()),
    }


@torch.no_grad()
def splice(
    sae: SAE, model: AntibodyModel, passages: Sequence[Encoded], layer: int, mean: Sequence[float]
) -> dict[str, float]:
    """Cross-entropy (nats a token, mean over passages) with the residues' hidden states replaced after `layer`.

    By their reconstruction, by zero, and by `mean` [d_model] (the store's); tags and padding stay as they are.
    loss_recovered_zero = (ce_zero - ce_reconstruction) / (ce_zero - ce_model), and likewise for the mean.
    """
    residues = torch.tensor(list(model.residue_tokens.values()), device=model.device)

    def replacing(new: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def edit(hidden: Tensor, tokens: Tensor) -> Tensor:
            at = torch.isin(tokens[:, -hidden.shape[1] :], residues)
            changed = hidden.clone()
            changed[at] = new(hidden[at]).to(hidden)
            return changed

        return edit

    edits = {
        "reconstruction": lambda x: sae.decode(sae.encode(x.cpu())),
        "zero": torch.zeros_like,
        "mean": lambda x: torch.tensor(mean).expand_as(x),
    }
    ce = {name: float(-model.log_likelihood(passages, layer, replacing(new)).mean()) for name, new in edits.items()}
    own = float(-model.log_likelihood(passages).mean())
    metrics = {"ce_model": own, **{f"ce_{name}": value for name, value in ce.items()}}
    for name in ("zero", "mean"):
        metrics[f"loss_recovered_{name}"] = (ce[name] - ce["reconstruction"]) / (ce[name] - own)
    return metrics


def settings_from(section: Mapping[str, Any]) -> Settings:
    """Settings from a merged entry of `saes`. Raises InputError for an unknown key or a bad value."""
    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(section) - known)
    if unknown:
        raise InputError(f"saes: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    return Settings(**section)
