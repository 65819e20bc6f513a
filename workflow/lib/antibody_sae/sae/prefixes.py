"""The architectures: each is a prefix law, how much each prefix of the dictionary weighs in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LAWS = ("zipf", "geometric", "uniform")


@dataclass(frozen=True)
class Architecture:
    """One type of SAE; a new one that is a prefix law is one entry of ARCHITECTURES."""

    name: str
    title: str
    """In the report."""
    ordered: bool
    """Whether a latent's index means something: a low one serves more prefixes."""
    sort_every: int
    """Steps after which training puts the latents in order of their energy where the setting is null; 0: never."""
    prefix_law: Callable[..., np.ndarray]
    """(latents, law, exponent, full_mass, groups) -> [latents] p(l), the weight of the first l latents; sums to 1."""


def _full_code(latents: int, **_: object) -> np.ndarray:
    p = np.zeros(latents)
    p[-1] = 1.0
    return p


def _one_law(latents: int, law: str, exponent: float, full_mass: float, **_: object) -> np.ndarray:
    steps = np.arange(1, latents + 1, dtype=np.float64)
    p: np.ndarray = {
        "zipf": steps**-exponent,
        "geometric": np.exp(-exponent * steps / latents),
        "uniform": np.ones(latents),
    }[law]
    p *= (1 - full_mass) / p.sum()
    p[-1] += full_mass
    return p


def _nested_groups(latents: int, groups: int, **_: object) -> np.ndarray:
    p = np.zeros(latents)
    edges = np.maximum(1, np.round(latents / 2.0 ** np.arange(groups - 1, -1, -1))).astype(int)
    np.add.at(p, edges - 1, 1.0 / groups)
    return p


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("topk", "TopK", ordered=False, sort_every=0, prefix_law=_full_code),
        Architecture("ordered", "Ordered", ordered=True, sort_every=50, prefix_law=_one_law),
        Architecture("matryoshka", "Matryoshka", ordered=True, sort_every=0, prefix_law=_nested_groups),
    )
}


def survival(
    architecture: str,
    latents: int,
    law: str = "zipf",
    exponent: float = 1.0,
    full_mass: float = 0.0,
    groups: int = 5,
) -> np.ndarray:
    """[latents] float64: P(l >= i) for latents i = 1, 2, ..., the weight of all prefixes that hold latent i.

    The Ordered prefix law is (1 - full_mass) q(l) + full_mass [l = latents], where q(l) is proportional to l^-exponent
    (zipf), exp(-exponent l / latents) (geometric) or 1 (uniform). With full_mass 0 it is a law that falls with l, or is
    even (arXiv:2512.02194); otherwise it falls up to the last prefix and holds a spike there: a TopK loss of weight
    full_mass beside the ordered one. Matryoshka: equal shares on the edges of `groups` nested groups, each twice as
    wide as the one before. TopK: all on the full code.
    """
    p = ARCHITECTURES[architecture].prefix_law(latents, law=law, exponent=exponent, full_mass=full_mass, groups=groups)
    held: np.ndarray = np.minimum(np.cumsum(p[::-1])[::-1], 1.0)
    return held


def kind_of(sae: Mapping[str, Any]) -> str:
    """An SAE's type, which figures are pooled by: its architecture and, but for topk, its activation; `loaded` of one
    that was trained elsewhere. `sae`: a merged entry of `saes`, or config.json."""
    if sae.get("load"):
        return "loaded"
    parts = [part for part in (sae["architecture"], sae.get("activation", "topk")) if part != "topk"]
    return "-".join(parts) or "topk"
