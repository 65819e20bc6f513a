"""Where control lies, on a planted model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.interventions import Where
from antibody_sae.steering import control_map, credit

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


def test_the_map_of_control_agrees_with_the_derivative_and_finds_the_layer(drawn, monkeypatch):
    model, texts, passages, known = drawn
    given = credit.differences(known)
    region = [np.zeros(len(text), np.int8) for text in texts]
    asked = model, 1, Where(start=0), passages, given, region, ["early-W"], WRITING
    monkeypatch.setattr(control_map, "MAPPED", 1)
    terms, table = control_map.control_map(*asked)
    assert set(table["layer"]) == {1, 2}
    assert set(table["region"]) == {"H-FR1"}
    want = credit.derivatives(model, 1, passages, given, Where(start=0), WRITING)
    torch.testing.assert_close(terms, want, atol=1e-6, rtol=1e-4)
    _, square = credit.mean_norm(want)
    assert table["derivative"].iloc[0] == pytest.approx(float(square[0]) ** 0.5, rel=0.05)
    monkeypatch.setattr(control_map, "MAPPED", 2)  # half of the batches make the map, all the terms
    half_terms, half = control_map.control_map(*asked)
    torch.testing.assert_close(half_terms, terms, atol=1e-6, rtol=1e-4)
    assert half["derivative"].iloc[0] == pytest.approx(table["derivative"].iloc[0], rel=0.3)
    assert half["noise"].iloc[0] == pytest.approx(2**0.5 * table["noise"].iloc[0], rel=0.2)


def test_a_target_is_placed_where_nearly_all_of_its_derivative_is_and_surely():
    regions = ["H-FR1", "H-CDR3"]
    rows = {  # derivative in the two regions, noise
        "decided": (0.9, 0.1, 0.1),
        "spread": (0.6, 0.5, 0.1),
        "uncertain": (0.2, 0.0, 0.1),
        "nothing": (0.0, 0.0, 0.1),
    }
    mapped = pd.DataFrame([
        {"concept": name, "layer": layer, "region": region, "derivative": d if layer == 2 else 0.5, "noise": noise}
        for name, (*both, noise) in rows.items() for layer in (1, 2) for region, d in zip(regions, both, strict=True)
    ])  # fmt: skip
    assert control_map.places(mapped, 2) == {"decided": "H-FR1"}
    assert control_map.places(mapped, 1) == {}
