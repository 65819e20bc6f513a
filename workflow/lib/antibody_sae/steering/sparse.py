"""Levers of few latents: how much of a vector's control a dictionary can express.

A lever of m latents is v = sum over at most m latents of a_j d_j, d_j the dictionary's unit directions. Found greedily
towards a vector (orthogonal matching pursuit; Pati et al. 1993), or trained (`train`): each step of the coefficients
keeps the hard limit on their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.optimize
import torch
from torch import Tensor

from antibody_sae.sae.model import SAE
from antibody_sae.steering.directions import unit

if TYPE_CHECKING:  # transformers takes seconds to import, and what is found greedily needs no model
    from antibody_sae.sections import SteeringSection
    from antibody_sae.steering.trained import Unsteered, Workbench

SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Lever:
    """Few latents in place of a vector."""

    latents: list[int]
    """In the order in which they came in."""
    weights: list[float]
    """a_j of each."""
    vector: Tensor
    """[d_model] sum of a_j d_j."""


def pursue(
    directions: Tensor,
    vector: Tensor,
    sizes: Sequence[int] = SIZES,
    positive: bool = False,
    usable: Tensor | None = None,
) -> dict[int, Lever]:
    """m -> the lever of at most m latents nearest to `vector` [d_model], for each m in `sizes`.

    directions: [latents, d_model], unit rows. Greedy: the latent along which most is left comes in, all coefficients
    are fitted again by least squares; with `positive`, by non-negative least squares. usable: [latents] bool, False for
    latents never active in training. Ends early where no latent brings anything.
    """
    unit, target = directions.double().numpy(), vector.double().numpy()
    open_ = np.ones(len(unit), bool) if usable is None else usable.numpy().copy()
    chosen: list[int] = []
    weights, left = np.empty(0), target.copy()
    levers = {}
    for m in range(1, max(sizes) + 1):
        gain = unit @ left if positive else np.abs(unit @ left)
        gain[~open_] = -np.inf
        latent = int(gain.argmax()) if len(gain) else -1
        if latent >= 0 and gain[latent] > 1e-9 * np.linalg.norm(target):
            chosen.append(latent)
            open_[latent] = False
            basis = unit[chosen].T
            weights = scipy.optimize.nnls(basis, target)[0] if positive else np.linalg.lstsq(basis, target)[0]
            left = target - basis @ weights
        if m in sizes:
            made = torch.from_numpy(target - left).float() if chosen else torch.zeros_like(vector)
            levers[m] = Lever(list(chosen), weights.tolist(), made)
    return levers


def share_in_span(directions: Tensor, vector: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(part of `vector` [d_model] in the span of the directions [latents, d_model], part orthogonal to it)."""
    rows = directions if usable is None else directions[usable]
    _, values, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    basis = basis[values > 1e-6 * values.max()] if len(values) else basis
    inside = (basis.T @ (basis @ vector.double())).to(vector.dtype)
    return inside, vector - inside


def half_size(effects: Mapping[int, float], whole: float) -> float:
    """m_half: the number of latents at which the effect reaches half of `whole`, linear in log m between the sizes
    tried; inf where none of them does, nan where there is nothing to halve. Effects: log odds ratios at one length."""
    if not whole > 0:
        return float("nan")
    before: tuple[int, float] | None = None
    for m, effect in sorted(effects.items()):
        if effect >= whole / 2:
            if before is None or before[1] >= effect:
                return float(m)
            share = (whole / 2 - before[1]) / (effect - before[1])
            return float(np.exp(np.log(before[0]) + share * (np.log(m) - np.log(before[0]))))
        before = (m, effect)
    return float("inf")


def levers_table(levers: Mapping[str, Mapping[int, Lever]], vectors: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row a latent of a lever: concept, m, latent, weight, cosine (of the whole lever with the vector it stands
    for)."""
    rows = [
        {
            "concept": target, "m": m, "latent": latent, "weight": weight,
            "cosine": float(torch.cosine_similarity(lever.vector, vectors[target], dim=0)),
        }
        for target, by_size in levers.items()
        for m, lever in by_size.items()
        for latent, weight in zip(lever.latents, lever.weights, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["concept", "m", "latent", "weight", "cosine"])


def levers(
    sae: SAE, known: Mapping[str, Tensor], targets: Sequence[str], settings: SteeringSection
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """(kind -> [targets, d_model] of unit directions, `levers_table`): `sparse_<m>` towards the trained vectors, and
    the parts `in_span` and `out_of_span` of the rate derivative. A part that is nothing stays 0."""
    usable, sizes = sae.max_activation > 0, settings["lever_sizes"]
    trained, derivative = known["trained"], known["rate_derivative"]
    found = {t: _nearest(sae, trained[j], sizes, settings) for j, t in enumerate(targets)}
    vectors = {f"sparse_{m}": unit(torch.stack([found[t][m].vector for t in targets])) for m in sizes}
    parts = [share_in_span(sae.directions, d, usable) for d in derivative]
    for i, name in enumerate(("in_span", "out_of_span")):
        rows = torch.stack([p[i] for p in parts])
        vectors[name] = unit(rows) * (rows.norm(dim=1, keepdim=True) > 1e-4)
    return vectors, levers_table(found, dict(zip(targets, trained, strict=True)))


def train(
    bench: Workbench, base: Unsteered, sae: SAE, vectors: Tensor, settings: SteeringSection, typical_length: float
) -> tuple[dict[str, Tensor], pd.DataFrame, pd.DataFrame]:
    """(kind -> [targets, d_model] of unit directions, `levers_table`, history): `trained_sparse_<m>` of each size m of
    `lever_trained`, trained in its coefficients from the lever that is nearest to the target's trained vector
    (`vectors` [targets, d_model]).

    A round draws sequences under the lever, turns it towards the derivative there, and takes the lever of m latents
    nearest to that (iterative hard thresholding; Blumensath & Davies 2008, with the pursuit's choice of latents). The
    greedy lever is the first that is tried, so it stays where no round has a better rate or none was good enough.
    History: concept, m and columns of `TrainedVector`.
    """
    found, parts, histories = {}, [], []
    length = settings["lever_length"] * typical_length
    options = {"rounds": settings["lever_rounds"], "perplexity_bound": settings["perplexity_bound"]}
    for m in settings["lever_trained"]:
        made = bench.train(
            base, dict(enumerate(vectors)), length, settings["n"], settings["seed"], **options,
            project=lambda aim, m=m: _nearest(sae, aim, [m], settings)[m].vector,
        )  # fmt: skip
        own = {t: _nearest(sae, made[j].aim, [m], settings) for j, t in enumerate(bench.targets)}
        found[f"trained_sparse_{m}"] = unit(torch.stack([own[t][m].vector for t in bench.targets]))
        parts.append(levers_table(own, dict(zip(bench.targets, vectors, strict=True))))
        histories += [made[j].history.assign(concept=t, m=m) for j, t in enumerate(bench.targets)]
    return found, pd.concat(parts, ignore_index=True), pd.concat(histories, ignore_index=True)


def _nearest(sae: SAE, vector: Tensor, sizes: Sequence[int], settings: SteeringSection) -> dict[int, Lever]:
    """`pursue` with the settings' signs, among the latents that were ever active in training."""
    positive = settings["lever_signs"] == "positive"
    return pursue(sae.directions, vector, sizes, positive, sae.max_activation > 0)
