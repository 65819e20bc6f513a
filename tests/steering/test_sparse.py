"""Few latents together: what they can say of a vector, and how many do half of what it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.steering import sparse


def test_the_derivative_splits_into_the_decoders_span_and_the_rest():
    directions = torch.eye(6)[:4]
    inside, outside = sparse.share_in_span(directions, torch.arange(6.0))
    assert inside.tolist() == [0, 1, 2, 3, 0, 0]
    assert outside.tolist() == [0, 0, 0, 0, 4, 5]


def test_half_size_is_between_the_sizes_that_fall_short_and_reach_it():
    assert sparse.half_size({1: 0.0, 4: 1.0}, 1.0) == pytest.approx(2.0)
    assert sparse.half_size({1: 0.6, 4: 1.0}, 1.0) == 1
    assert sparse.half_size({1: 0.1, 4: 0.2}, 1.0) == np.inf
    assert np.isnan(sparse.half_size({1: 0.1}, 0.0))
