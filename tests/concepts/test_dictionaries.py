"""Dictionaries side by side: each with its own figures, and beside the next narrower one of its kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from antibody_sae.concepts import dictionaries
from antibody_sae.concepts.dictionaries import Dictionary

D = 8


def unit(*coordinates: float) -> np.ndarray:
    row = np.zeros(D)
    row[: len(coordinates)] = coordinates
    return row / np.linalg.norm(row)


def dictionary(sae: str, directions: list[np.ndarray], latents: list[int], takes: int, seed: int = 0, **settings):
    concepts = pd.DataFrame({
        "concept": ["j-gene=IGHJ6", "region=H-FR4"], "level": ["antibody", "residue"], "pool": ["max", "none"],
        "positives": [30, 90], "latents": [latents, latents[::-1]], "takes": [takes, 1], "f1_k1": [0.7, 0.9],
    })  # fmt: skip
    config = {"architecture": "topk", "k": 4, "tokens": 100, "latents": len(directions), "sha256": sae, **settings}
    metrics = {"fvu": 0.1, "l0": 4.0, "dead": 1}
    return Dictionary(
        2, sae, seed, config, metrics, {"absorbed": 0.2, "f1_residues_k1": 0.9}, concepts, np.stack(directions)
    )


NARROW = dictionary("narrow", [unit(1), unit(0, 1)], [0, 1], 1)
WIDE = dictionary("wide", [unit(1, 0.1), unit(1, 0, 0.9), unit(0, 0, 0, 1), unit(0, 1)], [1, 2, 0], 2)
OTHER = dictionary("other", [unit(1), unit(0, 1), unit(0, 0, 1)], [0, 1], 1, k=8)


def test_a_wider_dictionary_stands_beside_the_next_narrower_one():
    rows = dictionaries.by_concept([WIDE, OTHER, NARROW]).set_index(["sae", "concept"])
    row = rows.loc["wide", "j-gene=IGHJ6"]
    assert (row["narrower"], row["narrower_latent"], row["own_latents"]) == ("narrow", 0, "1;2")
    assert row["own_cosine"] == pytest.approx(1 / np.sqrt(1.81), abs=1e-6)
    assert row["nearest_cosine"] == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    assert row["alike"] == 2, "it was split into two of its direction"
    assert rows.loc["wide", "region=H-FR4"]["narrower_latent"] == 1
    assert rows.loc["wide", "region=H-FR4"]["alike"] == 1
    assert rows.loc[["narrow", "other"], "narrower"].isna().all(), "another k is another kind"


def test_figures_stand_beside_settings_and_the_agreement_of_seeds():
    again = dictionary("narrow", [unit(1), unit(0, 1)], [0, 1], 1, seed=1)
    pairs = [
        {"seeds": [0, 1], "latents": [1, 2], "stability": [0.9, 0.6], "orderedness": [0.1, 0.2]},
        {"seeds": [0, 2], "latents": [1, 2], "stability": [0.9, 0.8], "orderedness": [0.1, 0.4]},
    ]
    table = dictionaries.side_by_side([NARROW, again, WIDE], {(2, "narrow"): pairs}).set_index(["sae", "seed"])
    assert table.loc[("narrow", 0), "stability"] == pytest.approx(0.7)
    assert table.loc[("narrow", 1), "orderedness"] == pytest.approx(0.2)
    assert np.isnan(table.loc[("wide", 0), "stability"])
    assert table.loc[("wide", 0), ["layer", "latents", "k", "fvu", "dead", "absorbed"]].tolist() == [
        2,
        4,
        4,
        0.1,
        1,
        0.2,
    ]


def test_a_run_of_one_width_has_no_narrower_one():
    table = dictionaries.by_concept([NARROW])
    assert "narrower" not in table
    assert table["own_latents"].tolist() == ["0", "1"]
