"""Where control lies, on a planted model."""

from __future__ import annotations

import numpy as np
import pytest
from antibody_sae.interventions import Where
from antibody_sae.steering import control_map, credit

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": ""}


def test_the_map_of_control_agrees_with_the_derivative_and_finds_the_layer(drawn):
    model, texts, passages, known = drawn
    given = credit.differences(known)
    region = [np.zeros(len(text), np.int8) for text in texts]
    table = control_map.control_map(model, passages, given, region, ["early-W"], WRITING)
    assert set(table["layer"]) == {1, 2}
    assert set(table["region"]) == {"H-FR1"}
    terms = credit.derivatives(model, 1, passages, given, Where(start=0), WRITING)
    _, square = credit.mean_norm(terms)
    assert table["derivative"].iloc[0] == pytest.approx(float(square[0]) ** 0.5, rel=0.05)
