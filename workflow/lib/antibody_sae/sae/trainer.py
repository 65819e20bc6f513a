"""One training step after another: weights, moments, dead latents, exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from antibody_sae import hardware
from antibody_sae.io import InputError
from antibody_sae.sae import dense, kernels
from antibody_sae.sae.choosing import Chooser
from antibody_sae.sae.model import SAE, preactivations, select
from antibody_sae.sae.settings import Settings

BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8
"""Of Adam (arXiv:1412.6980). Its usual 0.999 remembers the large gradients of the first steps for a thousand more, and
that is all the steps that a run of this size has."""
SETTLING = 0.1
"""Share of the run, at its end, over which BatchTopK's threshold is averaged: the weights hardly move any more."""
GAIN = 0.1
"""By how much the logarithms of JumpReLU's thresholds rise in a step, all alike, for each unit of log(active latents /
wanted ones). That logarithm falls by 3 to 10 for a unit of theirs, so the number settles within some ten steps."""


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


class Trainer:
    """The parameters, the optimizer and one training step.

    Parameters, in units of `scale`: encoder [K, d], bias [K], decoder [K, d], pre_bias [d], and with JumpReLU threshold
    [K], the logarithms of the thresholds. On the CPU the step runs in the kernels, on `threads` threads: each takes its
    own tokens, then its own bands of dimensions, then its own latents. On a GPU plain torch takes the same steps
    without materialising [batch, k, d].

    BatchTopK's threshold is the least value chosen, averaged over the batches of the last SETTLING of the run
    (arXiv:2412.06410). JumpReLU is held to B k active latents a batch as the decoder is held to unit rows. Its gradient
    loses its part along the number of active latents, which is the paper's penalty with the Lagrange multiplier for a
    weight: so thresholds move against each other, to where a latent more is worth most. Then all thresholds are scaled
    alike towards the wanted number.

    Suffixes of names are dimensions: B tokens of the batch, D d_model, K latents, M columns of the codes (the code's,
    then AuxK's), G bands of W of the model's dimensions, T threads.
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
        if settings.activation == "jumprelu":
            self.parameters["threshold"] = self._first_threshold(points[:512] - center)
        self.parameters = {k: v.to(self.device) for k, v in self.parameters.items()}
        self.first = {k: torch.zeros_like(v) for k, v in self.parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in self.parameters.items()}
        self.silence = np.zeros(latents, dtype=np.int64)
        self.energy = np.zeros(latents)
        self.position = 0
        self.least = torch.zeros(2, dtype=torch.float64)
        """BatchTopK: sum of the least values chosen while the run settles, and of how many batches."""
        self._survival = settings.survival().astype(np.float32)
        dtype = settings.encoder_dtype
        if dtype == "auto":
            dtype = hardware.fast_dtype(self.device)
        self._half = dtype == "bfloat16"
        if self.device.type == "cpu":
            self._prepare_cpu()

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        groups = {"parameter": self.parameters, "first": self.first, "second": self.second}
        tensors = {f"{group}.{k}": v.cpu() for group, values in groups.items() for k, v in values.items()}
        counters = {"silence": torch.from_numpy(self.silence), "energy": torch.from_numpy(self.energy)}
        return {**tensors, **counters, "position": torch.tensor(self.position), "least": self.least}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`."""
        groups = {"parameter": self.parameters, "first": self.first, "second": self.second}
        for group, values in groups.items():
            for k, v in values.items():
                v.copy_(state[f"{group}.{k}"])
        self.silence[:] = state["silence"].numpy()
        self.energy[:] = state["energy"].numpy()
        self.position = int(state["position"])
        self.least.copy_(state["least"])
        self._refresh()

    def sae(
        self, config: Mapping[str, Any], max_activation: Tensor | None = None, density: Tensor | None = None
    ) -> SAE:
        """The SAE as it is now, on the CPU; `config` goes into its config.json."""
        activation, about, threshold = self.settings.activation, dict(config), None
        p = {k: v.detach().cpu().clone() for k, v in self.parameters.items()}
        if (
            activation == "abstopk"
        ):  # the k largest positive pre-activations of these are the k largest by absolute value
            for name in ("encoder", "bias", "decoder"):
                p[name] = torch.stack([p[name], -p[name]], 1).flatten(0, 1)
            about["axes"] = "latents 2 j and 2 j + 1 are the two ends of axis j"
        elif activation == "jumprelu":
            threshold = p["threshold"].exp()
        elif activation == "batchtopk" and self.least[1]:
            threshold = torch.full_like(p["bias"], float(self.least[0] / self.least[1]))
        return SAE(
            encoder_weight=p["encoder"],
            encoder_bias=p["bias"],
            directions=p["decoder"],
            pre_bias=p["pre_bias"] * self.scale,
            scale=self.scale,
            k=self.settings.k,
            max_activation=torch.zeros_like(p["bias"]) if max_activation is None else max_activation,
            density=torch.zeros_like(p["bias"]) if density is None else density,
            config=about,
            threshold=threshold,
        )

    def _first_threshold(self, acts_BD: Tensor) -> Tensor:
        """[K] logarithm of one threshold that as many latents of these tokens exceed as the first step wants."""
        hidden = (acts_BD @ self.parameters["encoder"].T).flatten()
        rank = hidden.numel() - len(acts_BD) * self.settings.k_at(0)
        threshold = hidden.kthvalue(max(1, rank)).values.clamp_min(1e-3)
        return threshold.log().repeat(self.settings.latents)

    # -- a step --------------------------------------------------------------------------------------------------

    def step(self, x: Tensor) -> StepLog:
        """Train on raw activations x [batch, d_model]."""
        if self.device.type != "cpu":
            return self._step(x)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # torch's own threads spin for a while after their work, where ours have theirs to do
        try:
            return self._step(x)
        finally:
            torch.set_num_threads(before)

    def _step(self, x: Tensor) -> StepLog:
        settings, s = self.settings, self.position
        y = x.to(self.device, torch.float32) * (1 / self.scale) - self.parameters["pre_bias"]
        variance = float((y - y.mean(0)).square().sum()) if settings.loss == "fvu" else float(y.numel())
        dead = np.flatnonzero(self.silence >= settings.dead_after)
        run = self._step_cpu if self.device.type == "cpu" else self._step_torch
        self.silence += len(y)
        loss, full, aux = run(y, settings.k_at(s), dead, 1 / variance)
        self.position += 1
        if settings.sorts_after(s):
            self._sort(settings.frozen_at(s))
        return StepLog(loss / variance, full / variance, aux, len(dead))

    def _sort(self, frozen: int) -> None:
        """Put the latents that are not frozen in descending order of energy, with all that belongs to them."""
        order = np.r_[:frozen, frozen + np.argsort(-self.energy[frozen:], kind="stable")]
        rows = torch.from_numpy(order).to(self.device)
        for values in (self.parameters, self.first, self.second):
            for name in sorted(values.keys() - {"pre_bias"}):
                values[name].copy_(values[name][rows])
        self.silence[:] = self.silence[order]
        self.energy[:] = 0
        self._refresh()

    def _rate(self) -> tuple[float, float]:
        """Adam's rate over its first correction, and its second correction, at this step."""
        t = self.position + 1
        return self.settings.rate_at(self.position) / (1 - BETA1**t), 1 - BETA2**t

    def _unit(self, loss: float) -> float:
        """What the gradients of the loss are multiplied by: d log(loss) = d loss / loss."""
        return 1 / max(loss, 1e-30) if self.settings.loss == "log" else 1.0

    def _prepare_cpu(self) -> None:
        """The parameters as the kernels see them, and the step's scratch space."""
        latents, d = self.parameters["encoder"].shape
        bands = -(-d // kernels.WIDTH)
        self._rows = [
            kernels.Rows(*(values[name].numpy() for name in kernels.Rows._fields))
            for values in (self.parameters, self.first, self.second)
        ]
        self._bands = np.zeros((bands, latents, kernels.WIDTH), dtype=np.float32)
        self._d_decoder = np.zeros_like(self._bands)
        self._starts = np.empty(latents + 1, dtype=np.int64)
        self._encoder_half = self.parameters["encoder"].bfloat16() if self._half else torch.empty(0)
        self._half_bits = (
            self._encoder_half.view(torch.uint16).numpy() if self._half else np.empty((0, 0), dtype=np.uint16)
        )
        self._pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        encoder = self._encoder_half if self._half else self.parameters["encoder"]
        self._choose = Chooser(self.settings, self.parameters, encoder, self.threads, self._each_thread)
        self._refresh()

    def _refresh(self) -> None:
        """The copies of the parameters that the kernels read, after a change from outside a step."""
        if self.device.type == "cpu":
            kernels.pack(self.parameters["decoder"].numpy(), self._bands)
            if self._half:
                self._encoder_half.copy_(self.parameters["encoder"])

    def _each_thread(self, work: Callable[[int], Any]) -> list[Any]:
        """work(0), ..., work(threads - 1), side by side; torch keeps to one thread in each."""
        return list(self._pool.map(work, range(self.threads))) if self.threads > 1 else [work(0)]

    def _step_cpu(self, acts_BD: Tensor, k: int, dead: np.ndarray, weight: float) -> tuple[float, float, float]:
        rows, first, second = self._rows
        target_BD = acts_BD.numpy()
        n, d = target_BD.shape
        indices_BM, values_BM, width, least = self._choose(acts_BD, k, dead)
        columns = indices_BM.shape[1]
        d_values_TBM = np.zeros((self.threads, n, columns), dtype=np.float32)
        bands = range(len(self._bands))
        target_GBW, residual_GBW = (np.empty((len(bands), n, kernels.WIDTH), dtype=np.float32) for _ in range(2))
        d_target_GW = np.zeros((len(bands), kernels.WIDTH), dtype=np.float32)
        d_inputs_TD = np.zeros((self.threads, d), dtype=np.float32)

        def pack(thread: int) -> None:
            first, last = (n * i // self.threads for i in (thread, thread + 1))
            kernels.pack(target_BD[first:last], target_GBW[:, first:last])

        def walk(
            of_GBW: np.ndarray, survival_K: np.ndarray, start: int, stop: int, weight: float, d_bias_GW: np.ndarray
        ) -> np.ndarray:
            """The loss of columns start:stop against `of_GBW`; gradients are added to."""

            def part(thread: int) -> np.ndarray:
                sums = np.zeros(2)
                for band in bands[thread :: self.threads]:
                    sums += kernels.walk(
                        of_GBW[band], self._bands[band], survival_K, indices_BM, values_BM, start, stop, weight,
                        d_values_TBM[thread], self._d_decoder[band], d_bias_GW[band], residual_GBW[band],
                    )  # fmt: skip
                return sums

            total: np.ndarray = np.sum(self._each_thread(part), axis=0)
            return total

        self._each_thread(pack)
        loss, full = map(float, walk(target_GBW, self._survival, 0, width, weight, d_target_GW))
        unit, aux = self._unit(loss * weight), 0.0
        if columns > width:
            # AuxK (arXiv:2406.04093, A.2): dead latents reconstruct what is left, which is held fixed
            left_GBW, nowhere_GW = residual_GBW.copy(), np.zeros_like(d_target_GW)
            share = self.settings.aux_weight / max(full, 1e-30) / unit
            even_K = np.ones_like(self._survival)
            aux = float(walk(left_GBW, even_K, width, columns, share, nowhere_GW)[1]) / max(full, 1e-30)
        entries = kernels.Entries(self._starts, *(np.empty(n * columns, dtype=np.int32) for _ in range(2)))
        kernels.by_latent(indices_BM, values_BM, width, entries, self.silence, self.energy)
        d_value_BM = d_values_TBM[0] if self.threads == 1 else d_values_TBM.sum(0)
        step = kernels.Adam(unit, *self._rate(), BETA1, BETA2, EPSILON)
        frozen = self.settings.frozen_at(self.position)

        def change(thread: int) -> None:
            kernels.update(
                thread, self.threads, frozen, target_BD, d_value_BM, entries, self._d_decoder, rows, first, second,
                step, d_inputs_TD[thread], self._bands, self._half_bits,
            )  # fmt: skip

        self._each_thread(change)
        kernels.adam(
            self.parameters["pre_bias"].numpy(), d_target_GW.reshape(-1)[:d] - d_inputs_TD.sum(0),
            self.first["pre_bias"].numpy(), self.second["pre_bias"].numpy(), step,
        )  # fmt: skip
        if self.settings.activation == "jumprelu":
            self._move_thresholds(indices_BM, values_BM, d_value_BM, width, n * k, step)
        elif self.settings.activation == "batchtopk":
            self._settle(least)
        return loss, full, aux

    def _settle(self, least: float) -> None:
        """BatchTopK: count a batch's least value towards the threshold, where the run is near its end."""
        if self.position >= int((1 - SETTLING) * self.settings.steps):
            self.least += torch.tensor([least, 1.0])

    def _move_thresholds(
        self, indices_BM: np.ndarray, values_BM: np.ndarray, d_value_BM: np.ndarray, width: int, wanted: int,
        step: kernels.Adam,
    ) -> None:  # fmt: skip
        """JumpReLU: see the class; `wanted` active latents of the batch."""
        log_K, first_K, second_K = (v["threshold"].numpy() for v in (self.parameters, self.first, self.second))
        d_loss_K, d_number_K = np.zeros((2, len(log_K)), dtype=np.float32)
        bandwidth, frozen = self.settings.bandwidth, self.settings.frozen_at(self.position)
        kernels.threshold_gradient(
            indices_BM, values_BM, d_value_BM, width, np.exp(log_K), bandwidth, d_loss_K, d_number_K
        )
        multiplier = float(d_loss_K @ d_number_K) / max(float(d_number_K @ d_number_K), 1e-30)
        gradient_K = d_loss_K - np.float32(multiplier) * d_number_K
        kernels.adam(log_K[frozen:], gradient_K[frozen:], first_K[frozen:], second_K[frozen:], step)
        active = int(np.count_nonzero(values_BM[:, :width]))
        log_K[frozen:] += np.float32(GAIN * np.log(max(1, active) / wanted))

    @torch.no_grad()
    def _step_torch(self, acts_BD: Tensor, k: int, dead: np.ndarray, weight: float) -> tuple[float, float, float]:
        p = self.parameters
        dtype = torch.bfloat16 if self._half else torch.float32
        hidden_BK = preactivations(acts_BD.to(dtype), p["encoder"].to(dtype), p["bias"].to(dtype))
        g = {name: torch.zeros_like(value) for name, value in p.items()}
        signed = self.settings.activation == "abstopk"
        if self.settings.activation == "batchtopk":
            indices_BM, values_BM, least = self._values_of_batch(acts_BD, hidden_BK.relu(), k)
            self._settle(least)
        elif self.settings.activation == "jumprelu":
            indices_BM, values_BM, near_BM = self._values_above_thresholds(acts_BD, hidden_BK)
        else:
            indices_BM = select(hidden_BK.abs() if signed else hidden_BK, k)
            values_BM = self._values(acts_BD, hidden_BK, indices_BM)
        survival_K = torch.from_numpy(self._survival).to(self.device)
        main = dense.walk(acts_BD, p["decoder"], indices_BM, values_BM, survival_K, weight)
        g["decoder"] += main.d_decoder_KD
        self._encoder_gradients(acts_BD, indices_BM, main.d_values_BM * (values_BM != 0), g)
        full = main.full.clamp(min=1e-30)
        # what the gradients of the loss are multiplied by, as `_unit` says, without waiting for the device
        unit = 1 / (main.loss * weight).clamp(min=1e-30) if self.settings.loss == "log" else torch.ones_like(full)
        aux = torch.zeros_like(full)
        if len(dead) and self.settings.aux_k:
            allowed = torch.from_numpy(dead).to(self.device)
            of_dead_BK = hidden_BK[:, allowed].abs() if signed else hidden_BK[:, allowed]
            dead_BM = allowed[select(of_dead_BK, min(self.settings.aux_k, len(dead)))]
            of_dead_BM = self._values(acts_BD, hidden_BK, dead_BM)
            even_K = torch.ones_like(survival_K)
            left = dense.walk(main.residual_BD, p["decoder"], dead_BM, of_dead_BM, even_K, 1.0)
            share = self.settings.aux_weight / full / unit
            g["decoder"] += share * left.d_decoder_KD
            self._encoder_gradients(acts_BD, dead_BM, share * left.d_values_BM * (of_dead_BM != 0), g)
            aux = left.full / full
        g["pre_bias"] -= main.d_target_D + g["bias"] @ p["encoder"]
        if self.settings.activation == "jumprelu":
            g["threshold"] = self._threshold_gradient(indices_BM, values_BM, main.d_values_BM, near_BM)
        active = indices_BM.flatten(), values_BM.flatten().double().square()
        counted = torch.zeros(len(survival_K), dtype=torch.float64, device=self.device).index_add_(0, *active)
        figures = torch.stack([main.loss, main.full, aux]).double()
        on_cpu = torch.cat([figures, counted]).cpu().numpy()  # the step's one wait for the device
        loss, full_loss, aux_loss = map(float, on_cpu[:3])
        self.silence[on_cpu[3:] > 0] = 0
        self.energy += on_cpu[3:]
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
        if self.settings.activation == "jumprelu":
            active_share = torch.count_nonzero(values_BM).clamp(min=1) / (len(acts_BD) * k)
            p["threshold"][frozen:] += GAIN * active_share.log()
        return loss, full_loss, aux_loss

    def _values(self, acts_BD: Tensor, hidden_BK: Tensor, indices_BM: Tensor) -> Tensor:
        """[B, M] float32 activations of the chosen latents."""
        p = self.parameters
        if self._half:
            values_BM = (p["encoder"][indices_BM] @ acts_BD[:, :, None])[..., 0] + p["bias"][indices_BM]
        else:
            values_BM = hidden_BK.gather(1, indices_BM)
        return values_BM if self.settings.activation == "abstopk" else values_BM.relu()

    def _encoder_gradients(
        self, acts_BD: Tensor, indices_BM: Tensor, d_values_BM: Tensor, g: dict[str, Tensor]
    ) -> None:
        """Add those of the encoder and its bias."""
        d_hidden_BK = torch.zeros(len(acts_BD), len(g["bias"]), device=self.device)
        d_hidden_BK.scatter_add_(1, indices_BM, d_values_BM)
        g["encoder"] += d_hidden_BK.T @ acts_BD
        g["bias"] += d_hidden_BK.sum(0)

    def _values_of_batch(self, acts_BD: Tensor, hidden_BK: Tensor, k: int) -> tuple[Tensor, Tensor, float]:
        """(indices [B, M], values [B, M], the least one) of the B k largest of the batch's hidden_BK >= 0."""
        largest = hidden_BK.flatten().topk(len(acts_BD) * k)
        kept_BK = torch.zeros_like(hidden_BK, dtype=torch.bool)
        kept_BK.view(-1)[largest.indices] = largest.values > 0
        indices_BM = select(torch.where(kept_BK, hidden_BK, 0), int(kept_BK.sum(1).max()))
        values_BM = self._values(acts_BD, hidden_BK, indices_BM) * kept_BK.gather(1, indices_BM)
        return indices_BM, values_BM, float(largest.values[-1])

    def _values_above_thresholds(self, acts_BD: Tensor, hidden_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """JumpReLU: (indices, values, whether about the threshold) [B, M] of all that kernels.threshold_gradient reads;
        M fits the fullest token, what others have beyond theirs is 0 and not about a threshold."""
        theta_K, half = self.parameters["threshold"].exp(), self.settings.bandwidth / 2
        over_BK = hidden_BK - (theta_K - half)
        indices_BM = select(over_BK, max(1, int((over_BK > 0).sum(1).max())))
        values_BM, theta_BM = self._values(acts_BD, hidden_BK, indices_BM), theta_K[indices_BM]
        values_BM = values_BM * (values_BM > theta_BM)
        return indices_BM, values_BM, (over_BK.gather(1, indices_BM) > 0) & (values_BM < theta_BM + half)

    def _threshold_gradient(
        self, indices_BM: Tensor, values_BM: Tensor, d_values_BM: Tensor, near_BM: Tensor
    ) -> Tensor:
        """[K] of the loss by JumpReLU's log thresholds as in kernels.threshold_gradient, less its part along the number
        of active latents."""
        theta_K = self.parameters["threshold"].exp()
        slope_BM = near_BM * theta_K[indices_BM] / -self.settings.bandwidth
        d_number_K = torch.zeros_like(theta_K).index_add_(0, indices_BM.flatten(), slope_BM.flatten())
        d_loss_BM = slope_BM * theta_K[indices_BM] * d_values_BM
        d_loss_K = torch.zeros_like(theta_K).index_add_(0, indices_BM.flatten(), d_loss_BM.flatten())
        return d_loss_K - (d_loss_K @ d_number_K) / (d_number_K @ d_number_K).clamp(min=1e-30) * d_number_K
