"""Tables that set the dictionaries of a run side by side: a row an SAE, and a row an SAE and a concept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

SETTINGS = ("architecture", "activation", "latents", "k", "tokens")
"""Of config.json."""
METRICS = (
    "l0", "fvu", "fvu_64", "dead", "dense", "cosine", "ce_model", "ce_reconstruction", "loss_recovered_zero",
    "loss_recovered_mean",
)  # fmt: skip
"""Of metrics.json."""
ALIKE = 0.7
"""Cosine, or correlation of activations, from which on a latent counts as that of another dictionary or run."""


@dataclass(frozen=True)
class Dictionary:
    """What is known of one SAE."""

    layer: int
    sae: str
    seed: int
    config: Mapping[str, Any]
    """config.json"""
    metrics: Mapping[str, Any]
    """metrics.json"""
    figures: Mapping[str, float]
    """quality.json"""
    concepts: pd.DataFrame
    """quality.parquet"""
    directions: np.ndarray
    """[latents, d_model], unit rows."""

    @property
    def name(self) -> dict[str, Any]:
        return {"layer": self.layer, "sae": self.sae, "seed": self.seed}


def side_by_side(
    dictionaries: Iterable[Dictionary], stability: Mapping[tuple[int, str], Sequence[Mapping[str, Any]]]
) -> pd.DataFrame:
    """tables/dictionaries.csv: settings, reconstruction, agreement of seeds, and what `quality.measure` says.

    stability: (layer, sae) -> the pairs of its stability.json. `stability` and `orderedness` are of all latents, means
    over the pairs that the seed is in.
    """
    rows = []
    for each in dictionaries:
        row = {**each.name, **{key: each.config.get(key) for key in SETTINGS}}
        row |= {key: each.metrics.get(key) for key in METRICS}
        pairs = [pair for pair in stability.get((each.layer, each.sae), ()) if each.seed in pair["seeds"]]
        for key in ("stability", "orderedness"):
            row[key] = np.mean([pair[key][-1] for pair in pairs]) if pairs else None
        rows.append({**row, **each.figures})
    return pd.DataFrame(rows)


def by_concept(dictionaries: Sequence[Dictionary]) -> pd.DataFrame:
    """tables/dictionary_concepts.csv: every SAE's quality.parquet, with the next narrower dictionary beside it.

    own_latents: those that the concept takes, best first. Where the run has a dictionary that differs in `latents`
    alone, the widest of those that are narrower: narrower, its name; narrower_latent, its first latent for the concept;
    own_cosine, the largest cosine of that latent's direction with those of own_latents; nearest_cosine, with any
    latent's of this dictionary; alike, the latents of this dictionary whose cosine is ALIKE or more.
    """
    narrower = {id(wide): narrow for narrow, wide in _widened(dictionaries)}
    frames = []
    for each in dictionaries:
        own = [latents[:n] for latents, n in zip(each.concepts["latents"], each.concepts["takes"], strict=True)]
        frame = each.concepts.drop(columns="latents").assign(
            **each.name, own_latents=[";".join(map(str, latents)) for latents in own]
        )
        if id(each) in narrower:
            frame = frame.merge(_beside(each, own, narrower[id(each)]), on=["level", "concept"], how="left")
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    first = ["layer", "sae", "seed", "concept", "level", "pool", "positives", "own_latents"]
    return table[[*first, *(column for column in table if column not in first)]]


def _widened(dictionaries: Sequence[Dictionary]) -> Iterator[tuple[Dictionary, Dictionary]]:
    """(narrower, wider) neighbours among dictionaries that differ in nothing but the number of latents."""
    families: dict[str, list[Dictionary]] = {}
    for each in dictionaries:
        same = {key: value for key, value in each.config.items() if key not in ("latents", "sha256")}
        families.setdefault(json.dumps([each.layer, each.seed, same], sort_keys=True), []).append(each)
    for family in families.values():
        ranked = sorted(family, key=lambda each: len(each.directions))
        for narrow, wide in pairwise(ranked):
            if len(narrow.directions) < len(wide.directions):
                yield narrow, wide


def _latents(dictionary: Dictionary) -> dict[tuple[str, str], Sequence[int]]:
    """(level, concept) -> its latents, best first."""
    table = dictionary.concepts
    return dict(zip(zip(table["level"], table["concept"], strict=True), table["latents"], strict=True))


def _beside(wide: Dictionary, own: Sequence[Sequence[int]], narrow: Dictionary) -> pd.DataFrame:
    first = {key: int(latents[0]) for key, latents in _latents(narrow).items() if len(latents)}
    rows = []
    for (level, concept), latents in zip(_latents(wide), own, strict=True):
        if (level, concept) not in first:
            continue
        j = first[level, concept]
        cosine = wide.directions @ narrow.directions[j]
        rows.append(
            {
                "level": level, "concept": concept, "narrower": narrow.sae, "narrower_latent": j,
                "own_cosine": cosine[list(latents)].max() if len(latents) else None,
                "nearest_cosine": cosine.max(), "alike": int((cosine >= ALIKE).sum()),
            }
        )  # fmt: skip
    columns = ["level", "concept", "narrower", "narrower_latent", "own_cosine", "nearest_cosine", "alike"]
    return pd.DataFrame(rows, columns=columns)
