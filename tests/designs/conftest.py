"""Fixtures that the tests of designs share."""

from __future__ import annotations

import pytest
import torch
from antibody_sae.designs import library
from antibody_sae.designs.constraints import Constraints
from antibody_sae.interventions import Intervention
from antibody_sae.steering import sampling
from designs_world import BATCH, CONCEPTS, TRASTUZUMAB


@pytest.fixture(scope="module")
def direction(iglm_s):
    direction = torch.randn(iglm_s.d_model, generator=torch.Generator().manual_seed(0))
    return 0.5 * direction / direction.norm()


@pytest.fixture(scope="module")
def made(iglm_s, direction):
    limits = Constraints(
        max_perplexity=3.5,
        liabilities={"N-glycosylation": "all"},
        rates={"cdr3-length=H:>=12": (1, 1), "v-family=IGHV4": (0, 0), "j-gene=IGHJ4": (0.25, 0.75)},
    )
    training = {TRASTUZUMAB: "trastuzumab"}
    with pytest.MonkeyPatch.context() as patch:
        for module in (sampling, library):
            patch.setattr(module, "BATCH", BATCH)
        return library.design(
            iglm_s, 2, Intervention(vector=direction), 8, limits, name="lib", seed=3, writing=library.WRITING,
            concepts=CONCEPTS, training=training,
        )  # fmt: skip
