"""Descriptions of latents."""

from __future__ import annotations

import numpy as np
from antibody_sae.concepts.patterns import entropy


def test_entropy_is_in_bits():
    assert entropy(np.array([2.0, 2, 2, 2, 0])) == 2
    assert entropy(np.array([5.0, 0])) == 0
    assert np.isnan(entropy(np.zeros(3)))
