"""The best handle of a library."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.designs import handles
from antibody_sae.interventions import Intervention, Where
from antibody_sae.io import InputError


def test_joint_levers_add_unit_directions():
    known = {"j-gene=IGHJ6": torch.tensor([3.0, 0, 0]), "cdr3-length=H:>=22": torch.tensor([0, 5.0, 0]),
             "motif=N-glycosylation": torch.tensor([0, 0, 1.0])}  # fmt: skip
    wanted = {"j-gene=IGHJ6": "high", "cdr3-length=H:>=16": "high", "motif=N-glycosylation": "none",
              "v-family=IGHV1": "high"}  # fmt: skip
    handle = handles.joint("trained", known, wanted, 0.3, 10.0, Where())
    assert handle is not None
    vector = handle.intervention.vector
    assert torch.allclose(vector, 3.0 * torch.tensor([1.0, 1, -1]) / 3**0.5)
    assert handle.targets == {"j-gene=IGHJ6": "j-gene=IGHJ6", "cdr3-length=H:>=16": "cdr3-length=H:>=22",
                              "motif=N-glycosylation": "motif=N-glycosylation"}  # fmt: skip
    assert handles.joint("trained", known, {"v-family=IGHV1": "high"}, 0.3, 10.0, Where()) is None
    assert handles.target_for("cdr3-length=H:<10", known) is None  # the other way
    two = {"a=1": torch.ones(2), "b=1": torch.ones(2)}
    with pytest.raises(InputError, match="cancel"):
        handles.joint("trained", two, {"a=1": "high", "b=1": "none"}, 0.3, 1.0, Where())


def test_the_cheapest_handle_wins_and_all_are_reported():
    prices = {0.15: 400.0, 0.3: 250.0, 0.45: float("inf")}
    tried = [handles.Handle("trained", Intervention(), length) for length in prices]
    best, report = handles.cheapest(tried, lambda handle: prices[handle.length])
    assert best.length == 0.3
    assert [row["tokens_per_design"] for row in report] == [400.0, 250.0, None]


def test_best_latent_prefers_steerable_arms_of_acceptable_quality():
    rows = [
        ("latent", 5, 1.0, 0.5, False, False, "f1"),  # moved most, but its sequences fell apart
        ("latent", 7, 2.0, 0.3, True, False, "r"),
        ("latent", 8, 0.5, 0.2, True, True, "output_score;r"),
        ("random_latent", 9, 1.0, 0.9, True, False, None),
    ]
    columns = ["kind", "latent", "strength", "delta", "acceptable", "steerable", "selected_by"]
    effects = pd.DataFrame(rows, columns=columns).assign(concept="j-gene=IGHJ4", stage="confirm", length=0.3)
    assert handles.best_latent(effects, "j-gene=IGHJ4") == (8, 0.5)
    assert handles.best_latent(effects, "j-gene=IGHJ4", "r") == (8, 0.5)
    with pytest.raises(InputError, match="no latent raised"):
        handles.best_latent(effects, "j-gene=IGHJ4", "f1")
    with pytest.raises(InputError, match="was not steered"):
        handles.best_latent(effects, "j-gene=IGHJ9")


def test_a_vector_may_be_an_array():
    assert torch.equal(Intervention(vector=np.array([1.0, 2.0])).vector, torch.tensor([1.0, 2.0]))
