"""Arms: one intervention each, and how many sequences are written under it. Nothing is written or measured here.

There are two stages. *Exploration* tries every arm at every length with few sequences; from them the length of each
target and kind of arm is chosen (`doses`). *Confirmation* writes fresh sequences under what was chosen, and every
reported figure comes from those. All kinds go through both, the random ones too.

A *kind* is what is pushed. Without an SAE: the layer's directions (difference_of_means, probe, rate_derivative and what
else is handed over) and random_direction. With one: latent (chosen by a criterion), matched_latent, random_latent,
shuffled_sign, and what else is handed over.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.sae.model import SAE
from antibody_sae.steering.arms import COLUMNS, RANDOM, pairs
from antibody_sae.steering.criteria import ASSOCIATED, Known
from antibody_sae.steering.directions import typical_length

if TYPE_CHECKING:
    from antibody_sae.sections import SteeringSection
    from antibody_sae.steering.trained import Place


class Plan(NamedTuple):
    """Arms and their vectors."""

    table: pd.DataFrame
    """COLUMNS, a row an arm."""
    vectors: Tensor
    """[arms, d_model], raw units."""


class _Arms:
    """Collects arms at every length of the settings."""

    def __init__(self, settings: SteeringSection, rms: float) -> None:
        self.settings, self.rms = settings, rms
        self.rows: list[dict[str, Any]] = []
        self.vectors: list[Tensor] = []

    def add(
        self, kind: str, direction: Tensor, tries: int = 1, unit: float = float("nan"), share: float = 1.0, **about: Any
    ) -> None:
        """Arms along `direction`; `tries` arms of this kind share the `explore_n` sequences that choose a target's
        length; `unit` is the norm of strength 1; `share` of the positions is acted on."""
        n = -(-self.settings["explore_n"] // tries)
        for length in self.settings["norms"]:
            norm = length * self.rms / share**0.5
            self.vectors.append(norm * direction / direction.norm().clamp(min=1e-12))
            strength = norm / unit
            self.rows.append({"kind": kind, "length": length, "strength": strength, "n": n, **about})

    def plan(self) -> Plan:
        table = pd.DataFrame(self.rows).reindex(columns=list(COLUMNS))
        return _numbered(table, torch.stack(self.vectors))


def _numbered(table: pd.DataFrame, vectors: Tensor) -> Plan:
    table = table.assign(arm=np.arange(len(table)), norm=vectors.norm(dim=1).numpy().astype(float))
    table = table.astype({"latent": "Int64", "n": "int64", "length": float, "strength": float})
    for column in ("concept", "selected_by", "where"):
        table[column] = table[column].astype("object").where(table[column].notna(), None)
    return Plan(table, vectors)


def explore_layer(
    directions: Mapping[str, Tensor], targets: Mapping[str, str], settings: SteeringSection, store: Store,
    places: Mapping[str, Place] = {},
) -> Plan:  # fmt: skip
    """Exploration without an SAE: no steering, the directions ({kind: [targets, d_model]}), random directions.

    `targets`: target -> chains; `places`: where the targets of the kind `located` are pushed, the others are not. What
    no target is chosen by, no steering and the random arms, is written once for each of these chains.
    """
    arms = _Arms(settings, typical_length(store))
    for chains in dict.fromkeys(targets.values()):
        arms.rows.append({"kind": "none", "chains": chains, "length": 0.0, "n": settings["baseline"]})
        arms.vectors.append(torch.zeros(store.d_model))
    for kind, rows in directions.items():
        for (target, chains), direction in zip(targets.items(), rows, strict=True):
            if kind != "located":
                arms.add(kind, direction, chains=chains, concept=target)
            elif place := places.get(target):
                arms.add(kind, direction, share=place["share"], chains=chains, concept=target, where=place["region"])
    generator = torch.Generator().manual_seed(int(settings["seed"]))
    for direction in torch.randn(settings["random_latents"], store.d_model, generator=generator):
        for chains in dict.fromkeys(targets.values()):
            arms.add("random_direction", direction, settings["random_latents"], chains=chains)
    return arms.plan()


def explore_sae(
    sae: SAE,
    known: Known,
    chosen: Sequence[Sequence[tuple[str, int]]],
    levers: Mapping[str, Tensor],
    targets: Mapping[str, str],
    settings: SteeringSection,
    rms: float,
    seed: int,
) -> Plan:
    """Exploration of an SAE: candidates, matched latents, shuffled signs, random latents, and further `levers` ({kind:
    [targets, d_model]}) made of its latents.

    `targets`: target -> chains. `chosen` are the (criterion, latent) pairs of each target; `rms` is the store's
    `typical_length`. A latent chosen for several targets of the same chains or by several criteria is one arm. Matched
    latents are as dense and as large as the target's candidate and go with it least, as many as each criterion's
    `candidates`; shuffled signs turn that candidate's direction.
    """
    rng = np.random.default_rng([seed, zlib.crc32(sae.config["architecture"].encode())])
    arms = _Arms(settings, rms)
    one = (sae.max_activation * sae.scale)[:, None] * sae.directions  # the vector of strength 1
    size = one.norm(dim=1).numpy()
    wanted: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for (target, chains), best in zip(targets.items(), chosen, strict=True):
        for criterion, latent in best:
            wanted.setdefault((latent, chains), []).append((target, criterion))
    tries = len(settings["criteria"]) * settings["candidates"]
    for (latent, chains), reasons in wanted.items():
        names: dict[str, Any] = {"concept": ";".join(t for t, _ in reasons)}
        names["selected_by"] = ";".join(c for _, c in reasons)
        arms.add("latent", one[latent], tries, size[latent], chains=chains, latent=latent, **names)
    steered = {latent for latent, _ in wanted}
    others = np.array([i for i in np.flatnonzero(known.alive) if i not in steered], dtype=np.int64)
    for latent in rng.permutation(others)[: settings["random_latents"]].tolist():
        for chains in dict.fromkeys(targets.values()):
            arms.add(
                "random_latent", one[latent], settings["random_latents"], size[latent], chains=chains, latent=latent
            )
    look = np.log([known.density + 1e-6, size + 1e-12])
    for j, ((target, chains), best) in enumerate(zip(targets.items(), chosen, strict=True)):
        if not best:
            continue
        of: dict[str, Any] = {"chains": chains, "concept": target}
        like = best[0][1]
        r = np.abs(np.nan_to_num(known.r[others, j]))
        unrelated = others[r <= max(ASSOCIATED / 2, np.quantile(r, 0.25))] if len(others) else others
        near = np.abs(look[:, unrelated] - look[:, [like]]).sum(0).argsort(kind="stable")[: settings["candidates"]]
        for twin in unrelated[near].tolist():
            arms.add("matched_latent", one[twin], settings["candidates"], size[twin], latent=twin, **of)
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], sae.d_model).astype(np.float32))
        arms.add("shuffled_sign", signs * one[like], 1, size[like], latent=like, **of)
    for kind, rows in levers.items():
        for (target, chains), direction in zip(targets.items(), rows, strict=True):
            if direction.any():  # a lever that nothing could be made of
                arms.add(kind, direction, chains=chains, concept=target)
    return arms.plan()


def confirm(plan: Plan, doses: pd.DataFrame, settings: SteeringSection) -> Plan:
    """Of the explored arms those at the length that was chosen for their target and kind, and the random arms at every
    length that anything of their chains is confirmed at, so that nothing is compared with another length."""
    table = plan.table
    taken = doses[doses["chosen"]]
    wanted = set(zip(taken["concept"], taken["kind"], taken["length"], strict=True))
    found = pairs(table)
    at = found["row"].to_numpy()
    keys = zip(found["concept"], table["kind"].to_numpy()[at], table["length"].to_numpy()[at], strict=True)
    found = found[np.array([key in wanted for key in keys], bool)]
    names = found.groupby("row").agg(
        concept=("concept", ";".join), selected_by=("criterion", lambda c: ";".join(c) if c.notna().all() else None)
    )
    used = pd.MultiIndex.from_frame(taken[["chains", "length"]])
    random = table["kind"].isin(RANDOM) & pd.MultiIndex.from_frame(table[["chains", "length"]]).isin(used)
    keep = np.flatnonzero(random | table.index.isin(names.index))
    out = table.iloc[keep].assign(
        n=np.where(random.iloc[keep], settings["random_n"], settings["n"]),
        concept=names["concept"].reindex(keep).to_numpy(),
        selected_by=names["selected_by"].reindex(keep).to_numpy(),
    )
    return _numbered(out.reset_index(drop=True), plan.vectors[torch.from_numpy(keep)])
