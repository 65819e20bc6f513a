"""Codes read back by cluster, and labels that change hands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from antibody_sae.concepts import codes
from concept_world import ANTIBODIES


def test_shuffled_labels_come_from_another_antibody_of_the_split(world):
    labels, _ = world
    partner = codes.shuffled_partners(labels, seed=3)
    assert (partner != np.arange(ANTIBODIES)).all()
    assert (labels.split[partner] == labels.split).all()
    assert sorted(partner) == list(range(ANTIBODIES))
    assert (partner == codes.shuffled_partners(labels, seed=3)).all()
    # heavy 3 + light 2 residues against heavy 2 + light 4
    light = np.array([0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    paired = replace(labels, first=np.array([0, 5]), length=np.array([5, 6]), light=light)
    heavy = codes.heavy_lengths(paired)
    assert heavy.tolist() == [3, 2]
    ids, owner = np.arange(11), np.repeat([0, 1], [5, 6])
    taken = codes.partner_residues(paired, ids, owner, np.array([1, 0])[owner], heavy)
    assert taken.tolist() == [5, 6, -1, 7, 8, 0, 1, 3, 4, -1, -1]
