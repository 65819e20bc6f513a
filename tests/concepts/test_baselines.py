"""What uses only positions and residues says what it can, and no more."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from antibody_sae.antibody import RESIDUES
from antibody_sae.concepts import baselines
from antibody_sae.concepts.labels import Labels
from concept_world import LENGTH, csr, csr_column
from sklearn.metrics import f1_score


def test_position_and_residue_predictors(world):
    labels, _ = world
    rows = baselines.predictors(labels).set_index(["baseline", "concept"])
    assert rows.loc[("position", "region=fixed"), "f1"] == 1
    assert rows.loc[("residue", "region=fixed"), "f1"] < 0.5
    # the residue alone, by hand: the training shares ranked, the cut with the best validation F1, applied to test
    by_letter = pd.DataFrame({"letter": labels.letter, "y": csr_column(labels.residue, 1)})
    by_letter["split"] = np.repeat(labels.split, LENGTH)
    share = by_letter[by_letter["split"] == 0].groupby("letter")["y"].mean().sort_values(ascending=False, kind="stable")
    validation, test = (by_letter[by_letter["split"] == s] for s in (1, 2))
    scores = [f1_score(validation["y"], validation["letter"].isin(share.index[:n])) for n in range(1, 21)]
    row = rows.loc[("residue", "motif=rare")]
    assert row["f1_validation"] == pytest.approx(max(scores))
    assert row["f1"] == pytest.approx(f1_score(test["y"], test["letter"].isin(share.index[: np.argmax(scores) + 1])))


def test_antibody_predictors_use_frequency_and_presence():
    """An antibody-level label that is "more than a fifth tryptophan" is read off the residue's frequency."""
    rng = np.random.default_rng(0)
    label = np.arange(120) % 2 == 0
    letter = rng.integers(0, 18, (120, 20)).astype(np.int8)
    letter[:, 0] = RESIDUES.index("W")
    letter[label, 1:6] = RESIDUES.index("W")
    labels = Labels(
        ids=np.arange(120).astype(str), residue_names=["a=b"], antibody_names=["tryptophan=much"], positions=["H1"],
        residue=csr(np.zeros((2400, 1), bool)), antibody=csr(label[:, None]), first=np.arange(120) * 20,
        length=np.full(120, 20), split=np.repeat([0, 1, 2], 40).astype(np.int8), cluster=np.arange(120),
        position=np.zeros(2400, np.int16), region=np.zeros(2400, np.int8), letter=letter.ravel(),
        light=np.zeros(2400, np.int8),
    )  # fmt: skip
    rows = baselines.predictors(labels).query("level == 'antibody'").set_index("baseline")
    assert (rows.loc["residue", "f1"], rows.loc["residue", "detail"]) == (1, "W")
    assert rows.loc["position", "f1"] == pytest.approx(2 / 3)
