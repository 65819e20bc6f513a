"""The settings of one SAE."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from antibody_sae.io import InputError
from antibody_sae.sae.prefixes import ARCHITECTURES, LAWS, survival

if TYPE_CHECKING:
    from antibody_sae.sections import SAESection


ACTIVATIONS = {"topk": "TopK", "batchtopk": "BatchTopK", "abstopk": "AbsTopK", "jumprelu": "JumpReLU"}
"""What decides which latents are active: name -> title in the report."""


@dataclass(frozen=True)
class Settings:
    """How one SAE is trained; the keys of `saes.shared` and `saes.train.<name>`."""

    architecture: str = "topk"
    """One of ARCHITECTURES; they differ in the weights of the prefixes only."""
    activation: str = "topk"
    """One of ACTIVATIONS, with any architecture. topk: the k largest positive pre-activations of a token. batchtopk
    (arXiv:2412.06410): the batch_size k largest positive ones of the batch; afterwards those above one threshold.
    abstopk (arXiv:2510.00404): the k largest by absolute value, with their sign. jumprelu (arXiv:2407.14435): those
    above the latent's own threshold, learned under the constraint that their mean is k."""
    latents: int = 2048
    """Width of the dictionary."""
    k: int = 32
    """Active latents of a token; with batchtopk and jumprelu their mean."""
    tokens: int = 2_400_000
    """Tokens of training, in as many passes over the training split as it takes."""
    random_model: bool = False
    """Whether the activations are those of the model with its weights drawn anew: the control of claim 1."""
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
    law: str = "zipf"
    """Prefix law of the Ordered SAE: zipf, geometric or uniform; see sae.survival."""
    exponent: float = 1.0
    """Of the zipf and geometric laws; zipf with 1 is the harmonic law."""
    full_mass: float = 0.75
    """Share of the prefix law that is put on the full code. Above 0 the law no longer falls to its end: it has a spike
    there, which buys reconstruction."""
    groups: int = 5
    """Nested groups of the Matryoshka SAE."""
    sort_every: int | None = None
    """Steps after which the latents are put in order of their energy (sum of squared values since the last time); 0:
    never; null: 50 where the architecture is ordered, else never. A permutation leaves the full reconstruction alone,
    and gradients hardly ever find one. A TopK SAE is the same with or without, but for the order of its latents."""
    sweep: float = 0.0
    """Ordered: share of the run, at its end, over which latents freeze one by one, lowest index first; 0: none do."""
    bandwidth: float = 0.2
    """jumprelu: width of the rectangle, about a threshold, whose pre-activations say where the threshold should go; in
    units of the activations' root mean square."""
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
        choices: dict[str, Collection[str]] = {
            "architecture": ARCHITECTURES,
            "activation": ACTIVATIONS,
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
        return max(1, self.tokens // self.batch_size) if self.tokens else 0  # none: the untrained control

    def k_at(self, step: int) -> int:
        """Active latents at a step: geometric from k_start to k (arXiv:2512.02194 anneals k from large to k)."""
        annealed = self.k_warmup * self.steps
        if step >= annealed:
            return self.k
        start = min(self.latents, self.k_start or 4 * self.k)
        return round(float(self.k * (start / self.k) ** (1 - step / annealed)))

    def rate_at(self, step: int) -> float:
        """Learning rate at a step: linear rise, plateau, linear fall to zero at the end of the run."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * min(rise, fall)

    def sorts_after(self, step: int) -> bool:
        """Whether the latents are sorted by energy after a step."""
        every = ARCHITECTURES[self.architecture].sort_every if self.sort_every is None else self.sort_every
        return every > 0 and (step + 1) % every == 0

    def frozen_at(self, step: int) -> int:
        """Latents frozen by unit sweeping at a step (Rippel et al., arXiv:1402.0915)."""
        if self.sweep == 0 or not ARCHITECTURES[self.architecture].sort_every:
            return 0
        return int(self.latents * max(0.0, 1 - (self.steps - step) / (self.sweep * self.steps)))

    def survival(self) -> np.ndarray:
        """[latents] weights of the latents' prefixes; see sae.survival."""
        return survival(self.architecture, self.latents, self.law, self.exponent, self.full_mass, self.groups)


def settings_from(section: SAESection) -> Settings:
    """Settings from a merged entry of `saes`. Raises InputError for an unknown key or a bad value."""
    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(section) - known)
    if unknown:
        raise InputError(f"saes: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    return Settings(**section)
