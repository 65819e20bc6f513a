"""Fixtures that the tests of sae share."""

from __future__ import annotations

import numpy as np
import pytest
from antibody_sae.activations import Store
from sae_world import data, make_store


@pytest.fixture
def store(tmp_path) -> Store:
    return make_store(tmp_path / "store", data(2000))


@pytest.fixture
def keep() -> np.ndarray:
    return np.arange(2000) % 5 != 0
