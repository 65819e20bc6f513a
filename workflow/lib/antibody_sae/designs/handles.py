"""What pushes a library: levers of a run, one a concept, joined into one vector; the cheapest of several by trial.

A lever is a direction in the residual stream that raises a concept's rate: a latent's decoder row, a sparse sum of
latents, or a trained vector. Several concepts at once add their unit directions (minus where a concept is to be
absent), and the sum is brought to one overall length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.interventions import Intervention, Where
from antibody_sae.io import InputError

LENGTHS = (0.15, 0.3)
"""Overall lengths tried where a design names none, in root mean square lengths of the centred residual stream."""
SIGNS = {"high": 1.0, "none": -1.0}


@dataclass(frozen=True)
class Handle:
    """One way to push."""

    kind: str
    """none, given, or a lever of the run: trained, "sparse ordered-seed0", "latent topk-seed0"."""
    intervention: Intervention
    length: float | None = None
    """In root mean square lengths; None where nothing is added, or latents are named by the user."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Concept -> the target whose lever pushes it; concepts without one are only filtered."""

    def about(self) -> dict[str, Any]:
        """For the recipe."""
        return {"kind": self.kind, "length": self.length, "targets": dict(self.targets), "norm": self.norm}

    @property
    def norm(self) -> float | None:
        """Length of the added vector in raw units; None for a clamp."""
        norm = self.intervention.norm
        return None if norm != norm else norm


NONE = Handle("none", Intervention())

_COMPARED = re.compile(r"(?P<side>[HL]:)?(?P<than>>=|<)(?P<x>-?[0-9.]+)")


def target_for(concept: str, targets: Iterable[str]) -> str | None:
    """The target whose lever pushes a concept: itself, else the nearest threshold on the same side of the same group.

    >>> target_for("cdr3-length=H:>=16", ["j-gene=IGHJ6", "cdr3-length=H:>=22"])
    'cdr3-length=H:>=22'
    """
    targets = list(targets)
    if concept in targets:
        return concept
    group, _, value = concept.partition("=")
    asked = _COMPARED.fullmatch(value)
    if asked is None:
        return None
    near = []
    for target in targets:
        found = _COMPARED.fullmatch(target.partition("=")[2])
        if target.partition("=")[0] == group and found and found.group("side", "than") == asked.group("side", "than"):
            near.append((abs(float(found["x"]) - float(asked["x"])), target))
    return min(near)[1] if near else None


def joint(
    kind: str, known: Mapping[str, Tensor], wanted: Mapping[str, str], length: float, unit: float, where: Where
) -> Handle | None:
    """The levers of several concepts as one: unit directions added, the sum `length` times `unit` long.

    `known`: target -> direction [d_model]; `wanted`: concept -> high or none; `unit`: raw length of one rms. None where
    no concept has a lever.
    """
    found = {concept: target for concept in wanted if (target := target_for(concept, known))}
    if not found:
        return None
    vector = torch.zeros_like(next(iter(known.values())))
    for concept, target in found.items():
        vector = vector + SIGNS[wanted[concept]] * known[target] / known[target].norm()
    if float(vector.norm()) < 1e-6:
        raise InputError(f"designs: the levers of {', '.join(found)} cancel each other; steer fewer concepts at once")
    return Handle(kind, Intervention(vector=vector * (length * unit / vector.norm()), where=where), length, found)


def cheapest(handles: Iterable[Handle], price: Callable[[Handle], float]) -> tuple[Handle, list[dict[str, Any]]]:
    """The handle with the lowest price, the first of equals; and what each cost."""
    best: tuple[float, Handle] | None = None
    tried = []
    for handle in handles:
        cost = price(handle)
        tried.append({**handle.about(), "tokens_per_design": cost if cost < float("inf") else None})
        if best is None or cost < best[0]:
            best = cost, handle
    assert best is not None
    return best[1], tried


def best_latent(effects: pd.DataFrame, concept: str, selected_by: str | None = None) -> tuple[int, float]:
    """(latent, strength) that moved a concept most while its sequences stayed acceptable, steerable ones first.

    `effects` is an SAE's effects.parquet. Raises InputError where no arm qualifies, or the concept was not steered.
    """
    known = sorted(effects["concept"].dropna().unique())
    if concept not in known:
        raise InputError(f"designs: concept {concept!r} was not steered; steering.targets has {', '.join(known)}")
    confirmed = effects[(effects["stage"] == "confirm") & (effects["length"] > 0)]
    rows = confirmed[(confirmed["concept"] == concept) & (confirmed["kind"] == "latent") & confirmed["acceptable"]]
    if selected_by is not None:
        rows = rows[np.array([selected_by in str(why).split(";") for why in rows["selected_by"]], bool)]
    rows = rows.sort_values(["steerable", "delta"], ascending=False)
    if rows.empty or rows["delta"].iloc[0] <= 0:
        raise InputError(f"designs: no latent raised {concept} at acceptable quality; name `latents` yourself")
    return int(rows["latent"].iloc[0]), float(rows["strength"].iloc[0])
