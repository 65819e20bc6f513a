"""The picked subset."""

from __future__ import annotations

import numpy as np
from antibody_sae.designs import picking


def test_picking_spreads_and_prefers_the_better():
    points = np.array([0, 1, 2, 10, 11, 20])
    between = np.abs(points[:, None] - points[None])
    assert picking.pick(between, 3) == [0, 5, 3]  # 10 and... the first, the farthest, then the middle
    assert sorted(picking.pick(between, 9)) == list(range(6))
    assert picking.pick(np.zeros((3, 3)), 2) == [0, 1]  # all alike: by rank
    assert picking.WELLS[0] == "A1"
    assert picking.WELLS[12] == "B1"
    assert len(picking.WELLS) == 96
