"""The prefix laws: how much each prefix of the dictionary weighs in the loss; three architectures follow."""

from __future__ import annotations

import numpy as np

ARCHITECTURES = ("topk", "ordered", "matryoshka")
LAWS = ("zipf", "geometric", "uniform")


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
    steps = np.arange(1, latents + 1, dtype=np.float64)
    p = np.zeros(latents)
    if architecture == "topk":
        p[-1] = 1.0
    elif architecture == "matryoshka":
        edges = np.maximum(1, np.round(latents / 2.0 ** np.arange(groups - 1, -1, -1))).astype(int)
        np.add.at(p, edges - 1, 1.0 / groups)
    else:
        p = {
            "zipf": lambda: steps**-exponent,
            "geometric": lambda: np.exp(-exponent * steps / latents),
            "uniform": lambda: np.ones(latents),
        }[law]()
        p *= (1 - full_mass) / p.sum()
        p[-1] += full_mass
    return np.minimum(np.cumsum(p[::-1])[::-1], 1.0)
