"""The arms of a steering evaluation: one intervention each, and how many sequences it writes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.sae.model import SAE
from antibody_sae.steering.candidates import ASSOCIATED, Associations, choose
from antibody_sae.steering.directions import SUPERVISED, typical_length, unit

PLAN = ("arm", "kind", "concept", "latent", "selected_by", "method", "strength", "norm", "n")


def plan_controls(
    known: Mapping[str, Tensor], targets: Sequence[str], settings: Mapping[str, Any], store: Store
) -> tuple[pd.DataFrame, Tensor]:
    """Arms that need no SAE: none, supervised directions, random directions; (plan, vectors [arms, d_model])."""
    length = typical_length(store)
    generator = torch.Generator().manual_seed(int(settings["seed"]))
    rows: list[dict[str, Any]] = [{"kind": "none", "strength": 0.0, "n": settings["baseline"]}]
    vectors = [torch.zeros(store.d_model)]
    gaussian = unit(torch.randn(settings["random_latents"], store.d_model, generator=generator))
    for share in settings["norms"]:
        for kind in SUPERVISED:
            for j, target in enumerate(targets):
                rows.append({"kind": kind, "concept": target, "strength": np.nan})
                vectors.append(share * length * unit(known[kind][j]))
        for direction in gaussian:
            rows.append({"kind": "random_direction", "strength": np.nan, "n": settings["random_n"]})
            vectors.append(share * length * direction)
    return _plan(rows, vectors, settings)


def _plan(
    rows: list[dict[str, Any]], vectors: list[Tensor], settings: Mapping[str, Any]
) -> tuple[pd.DataFrame, Tensor]:
    stacked = torch.stack(vectors)
    plan = pd.DataFrame(rows).reindex(columns=list(PLAN))
    plan["arm"] = np.arange(len(plan))
    plan["method"] = plan["method"].astype("object").fillna("add")
    plan["norm"] = stacked.norm(dim=1).numpy().astype(float)
    plan["n"] = plan["n"].fillna(settings["n"]).astype("int64")
    plan["latent"] = plan["latent"].astype("Int64")
    for column in ("concept", "selected_by"):
        plan[column] = plan[column].astype("object")
    return plan, stacked


def plan_sae(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], targets: Sequence[str], settings: Mapping[str, Any],
    length: float, seed: int,
) -> tuple[pd.DataFrame, Tensor]:  # fmt: skip
    """An SAE's arms: candidates, random latents, matched latents, shuffled signs; (plan, vectors [arms, d_model]).

    `length` is the store's `typical_length`.

    A latent chosen for several targets or by several criteria is steered once: its arm's `concept` and `selected_by`
    are joined by ";" in pairs. `strength` is in multiples of the latent's largest activation in every arm of a latent;
    `norm` is the length of the added vector (of a clamp: where the latent was inactive).
    """
    rng = np.random.default_rng([seed, zlib.crc32(sae.config["architecture"].encode())])
    chosen = choose(sae, found, known, settings["criteria"], settings["candidates"], seed)
    wanted: dict[int, list[tuple[str, str]]] = {}
    for target, pairs in zip(targets, chosen, strict=True):
        for criterion, latent in pairs:
            wanted.setdefault(latent, []).append((target, criterion))
    rows: list[dict[str, Any]] = []
    vectors: list[Tensor] = []
    one = (sae.max_activation * sae.scale)[:, None] * sae.directions  # the vector of strength 1

    def add(kind: str, latent: int, strength: float, about: Mapping[str, Any], vector: Tensor | None = None) -> None:
        rows.append({"kind": kind, "latent": latent, "strength": strength, **about})
        vectors.append(strength * (one[latent] if vector is None else vector))

    def at_norms(latent: int) -> list[float]:
        return [share * length / float(one[latent].norm()) for share in settings["norms"]]

    for latent, reasons in wanted.items():
        names = {"concept": ";".join(t for t, _ in reasons), "selected_by": ";".join(c for _, c in reasons)}
        for method in settings["methods"]:
            for strength in settings["strengths"]:
                add("latent", latent, strength, {**names, "method": method})
        for strength in at_norms(latent):
            add("latent", latent, strength, names)
    density = sae.density.numpy()
    others = np.array([i for i in np.flatnonzero(sae.max_activation.numpy() > 0) if i not in wanted])
    for latent in rng.permutation(others)[: settings["random_latents"]].tolist():
        for strength in at_norms(latent):
            add("random_latent", latent, strength, {"n": settings["random_n"]})
    for j, (target, pairs) in enumerate(zip(targets, chosen, strict=True)):
        latent = next((i for criterion, i in pairs if criterion == "output_score"), pairs[0][1])
        r = np.abs(found.r[others, j])
        unrelated = others[r <= max(ASSOCIATED / 2, np.quantile(r, 0.25))] if len(others) else others
        look = np.log([density + 1e-6, one.norm(dim=1).numpy() + 1e-12])
        for twin in unrelated[np.abs(look[:, unrelated] - look[:, [latent]]).sum(0).argsort()[:1]].tolist():
            for strength in at_norms(twin):
                add("matched_latent", twin, strength, {"concept": target})
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], sae.d_model).astype(np.float32))
        for strength in at_norms(latent):
            add("shuffled_sign", latent, strength, {"concept": target}, signs * one[latent])
    return _plan(rows, vectors, settings)
