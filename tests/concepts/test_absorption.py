"""Absorption is counted where it was planted: the parent is silent, and a child speaks for it."""

from __future__ import annotations

import numpy as np
from antibody_sae.concepts import absorption
from scipy import sparse

PARENT, CHILD, OTHER, PIECE, TWIN = range(5)
D = 6
DIRECTIONS = np.zeros((5, D), np.float32)
DIRECTIONS[PARENT, 0] = 1
DIRECTIONS[CHILD, :2] = 1 / np.sqrt(2)
DIRECTIONS[OTHER, 2] = 1  # knows nothing of the concept
DIRECTIONS[PIECE, [0, 3]] = 0.6, 0.8
DIRECTIONS[TWIN, [0, 4]] = 0.6, 0.8
PROBE = np.eye(D, 1, dtype=np.float32)  # the concept is along the first coordinate


def judged(codes: list[dict[int, float]], evidence: list[float], scale: float = 1.0) -> absorption.Absorbed:
    """Residues of one concept, all of which have it; two clusters, taken in turns."""
    x = np.zeros((len(codes), len(DIRECTIONS)), np.float32)
    for i, code in enumerate(codes):
        for j, value in code.items():
            x[i, j] = value
    labels = sparse.csr_array(np.ones((len(codes), 1), np.float32))
    own = np.zeros((1, len(DIRECTIONS)), bool)
    own[0, PARENT] = True
    cluster = np.arange(len(codes)) % 2
    return absorption.absorbed(
        sparse.csr_array(x), labels, np.array(evidence), cluster, 2, own, DIRECTIONS, PROBE, scale
    )


def test_the_planted_share_is_found():
    """Of 20 residues the parent holds 13, the child stands in on 6, and on one nobody speaks."""
    found = judged([{PARENT: 2.0}] * 13 + [{CHILD: 2.0, OTHER: 3.0}] * 6 + [{OTHER: 3.0}], [1.0] * 20)
    assert found.called.sum() == 20
    assert found.missed.sum() == 7
    assert found.absorbed.sum() == 6
    assert found.by == [{CHILD: 6}]
    assert found.absorbed.tolist() == [[3, 3]]


def test_a_parent_that_is_active_is_not_absorbed():
    found = judged([{PARENT: 0.01, CHILD: 5.0}], [3.0])
    assert (found.missed.sum(), found.absorbed.sum()) == (0, 0)


def test_what_the_probe_does_not_see_does_not_count():
    found = judged([{CHILD: 2.0}, {CHILD: 2.0}], [np.nan, 1.0])
    assert (found.called.sum(), found.absorbed.sum()) == (1, 1)


def test_one_latent_must_speak_for_most_of_it():
    assert judged([{CHILD: 2.0}], [2.0 / np.sqrt(2) / 0.41]).absorbed.sum() == 1
    assert judged([{CHILD: 2.0}], [2.0 / np.sqrt(2) / 0.39]).absorbed.sum() == 0, "the activation says far more"
    shared = {CHILD: 1.0, PIECE: 1.0, TWIN: 1.0}  # .71, .6 and .6 of what they say together: no one has 40 %
    assert judged([shared], [0.1]).absorbed.sum() == 0
    assert judged([{CHILD: 2.0, PIECE: 0.1}], [0.1]).by == [{CHILD: 1}]


def test_what_a_latent_adds_is_in_the_units_of_the_activations():
    assert judged([{CHILD: 2.0}], [14.0]).absorbed.sum() == 0
    assert judged([{CHILD: 2.0}], [14.0], scale=10.0).absorbed.sum() == 1
