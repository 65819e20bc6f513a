"""Codes read back by cluster, and labels that change hands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from antibody_sae.concepts import codes
from concept_world import ANTIBODIES


def test_codes_of_any_width_written_in_any_order_come_back_by_antibody_and_by_cluster(world):
    labels, _ = world
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(len(labels.letter), 3000, replace=False))
    dense = rng.random((len(ids), 9), np.float32) * (rng.random((len(ids), 9)) < 0.2)
    file = codes.CodeFile(ids, labels)
    dense[np.isin(ids, file.residues(5))] = 0
    for part in np.array_split(rng.permutation(len(ids)), 7):
        width = int((dense[part] > 0).sum(1).max())
        indices, values = np.zeros((len(part), width), np.int32), np.zeros((len(part), width), np.float32)
        for i, row in enumerate(dense[part]):
            at = np.flatnonzero(row)
            indices[i, : len(at)], values[i, : len(at)] = at, row[at]
        file.write(ids[part], indices, values)

    def whole(code):
        out = np.zeros((code.rows, 9), np.float32)
        out[np.repeat(np.arange(code.rows), np.diff(code.ptr)), code.idx] = code.val
        return out

    for a in range(ANTIBODIES):
        np.testing.assert_array_equal(whole(file.read(a)), dense[np.isin(ids, file.residues(a))])
    seen = 0
    for split in range(3):
        for block in file.blocks(split):
            np.testing.assert_array_equal(whole(block.codes), dense[np.searchsorted(ids, block.ids)])
            seen += len(block.ids)
    assert seen == len(ids)


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
