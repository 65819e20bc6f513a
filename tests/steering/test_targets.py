"""The rule that chooses targets takes one of each group of concepts that exclude each other."""

from __future__ import annotations

import numpy as np
import pytest
from antibody_sae.io import InputError
from antibody_sae.steering import targets

SHARES = {
    "v-family=IGHV1": 0.2, "v-family=IGHV3": 0.45, "v-gene=IGHV1-2": 0.25, "j-gene=IGHJ4": 0.48, "j-gene=IGHJ6": 0.27,
    "j-gene=IGKJ1": 0.25, "cdr3-length=H:>=22": 0.1, "cdr3-length=L:>=10": 0.25, "cdr3-charge=H:0": 0.3,
    "cdr3-hydropathy=H:<-1.5": 0.02, "v-identity=H:0.9..0.95": 0.6, "motif=deamidation": 0.3, "position=H107:G": 0.2,
    "position=H111A:Y": 0.24, "position=H23:C": 1.0, "position=H50:S": 0.4, "species=human": 0.25,
}  # fmt: skip


class Made:
    """Labels with made-up shares."""

    def __init__(self, shares):
        self.shares = shares
        self.residue_names = [name for name in shares if name.startswith(("position", "motif"))]
        self.antibody_names = [name for name in shares if name not in self.residue_names]

    def having(self, concept):
        return np.arange(1000) < round(1000 * self.shares[concept])


def test_of_each_group_the_value_nearest_to_a_quarter():
    found = targets.automatic(Made(SHARES), "H")
    assert set(found) == {
        "v-family=IGHV1", "j-gene=IGHJ6", "cdr3-length=H:>=22", "cdr3-charge=H:0", "motif=deamidation",
        "position=H111A:Y", "position=H50:S",
    }  # fmt: skip
    assert found["j-gene=IGHJ6"] == pytest.approx(0.27)
    assert "cdr3-length=L:>=10" in targets.automatic(Made(SHARES), "L")


def test_a_run_without_such_a_concept_says_so():
    with pytest.raises(InputError, match="5 to 50 %"):
        targets.automatic(Made({"j-gene=IGHJ4": 0.9, "motif=integrin": 0.01}), "H")
