"""Which residues and antibodies have which concepts, as integers: what the statistics read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.antibody import RESIDUES, SPLITS
from antibody_sae.concepts.rows import Csr, Ints, take_rows
from antibody_sae.io import InputError


def owners(labels: Labels, residue_id: Ints) -> Ints:
    """[n] antibody of each residue. Raises InputError for a residue outside the splits' antibodies."""
    owner = np.searchsorted(labels.first, residue_id, side="right") - 1
    if len(owner) and ((owner < 0).any() or (residue_id >= (labels.first + labels.length)[owner]).any()):
        raise InputError(
            "activations hold residues that are in no split: they belong to other antibodies; delete and harvest again"
        )
    return owner


def residues_of(labels: Labels, antibodies: Ints) -> Ints:
    """residue_ids of some antibodies, one after the other."""
    length = labels.length[antibodies]
    starts = np.cumsum(length) - length
    ids: Ints = np.arange(length.sum()) + np.repeat(labels.first[antibodies] - starts, length)
    return ids


def chain_residues(labels: Labels, antibody: int) -> tuple[Ints, Ints]:
    """residue_ids of an antibody's heavy and of its light chain."""
    ids = labels.first[antibody] + np.arange(labels.length[antibody])
    ids = ids[labels.letter[ids] >= 0]
    light = labels.light[ids] == 1
    return ids[~light], ids[light]


def text_of(labels: Labels, residue_ids: Ints) -> str:
    """The residues, as letters."""
    return "".join(RESIDUES[letter] for letter in labels.letter[residue_ids])


@dataclass(frozen=True)
class Labels:
    """Which residues and antibodies have which concepts, and what the statistics need to know about each."""

    ids: np.ndarray
    """[antibodies] antibody_id, in the order of numbering/residues.parquet; every array by antibody follows it."""
    residue_names: list[str]
    antibody_names: list[str]
    positions: list[str]
    """IMGT positions found, such as H111A, in sequence order."""
    residue: Csr
    """[residues] concepts of each row of numbering/residues.parquet; rows of antibodies in no split are empty."""
    antibody: Csr
    """[antibodies] concepts of each antibody."""
    first: Ints
    """[antibodies] residue_id of the antibody's first residue."""
    length: Ints
    """[antibodies] its number of residues."""
    split: Ints
    """[antibodies] index into SPLITS."""
    cluster: Ints
    """[antibodies] cluster_id."""
    position: Ints
    """[residues] index into `positions`, -1 outside the domain."""
    region: Ints
    """[residues] index into SIDED_REGIONS, -1 outside the domain."""
    letter: Ints
    """[residues] index into RESIDUES."""
    light: Ints
    """[residues] 1 in the light chain."""

    def names(self, level: str) -> list[str]:
        """Concept names in the order of that level's label columns."""
        return self.residue_names if level == "residue" else self.antibody_names

    def having(self, concept: str) -> np.ndarray:
        """[antibodies] bool: has the antibody-level concept, or any residue with the residue-level one."""
        if concept in self.antibody_names:
            rows = np.repeat(np.arange(len(self.first)), np.diff(self.antibody.ptr))
            return (
                np.bincount(rows[self.antibody.idx == self.antibody_names.index(concept)], minlength=len(self.first))
                > 0
            )
        hit = self.residue.idx == self.residue_names.index(concept)
        rows = np.repeat(np.arange(self.residue.rows), np.diff(self.residue.ptr))[hit]
        owner = np.searchsorted(self.first, rows, side="right") - 1
        return np.bincount(owner, minlength=len(self.first)) > 0

    def support(self, min_clusters: int) -> pd.DataFrame:
        """One row a concept: positives and clusters with positives in each split, and whether it can be tested.

        A concept with too few positive (or negative) clusters in validation or test is *untestable*, with the reason;
        it has no figures, which is not the same as figures of 0.
        """
        rows = []
        of_residue = np.repeat(np.arange(len(self.first)), self.length)
        kept = np.concatenate([np.arange(f, f + n) for f, n in zip(self.first, self.length, strict=True)])
        residue = take_rows(self.residue, kept)
        for level, matrix, owner in (
            ("residue", residue, of_residue),
            ("antibody", self.antibody, np.arange(len(self.first))),
        ):
            entry_owner = np.repeat(owner, np.diff(matrix.ptr))
            names = self.names(level)
            counts, clusters = np.zeros((3, len(names)), np.int64), np.zeros((3, len(names)), np.int64)
            total = np.bincount(self.split[owner], minlength=3)
            for s in range(3):
                here = self.split[entry_owner] == s
                counts[s] = np.bincount(matrix.idx[here], minlength=len(names))
                seen = np.unique(matrix.idx[here].astype(np.int64) << 40 | _dense(self.cluster)[entry_owner[here]])
                clusters[s] = np.bincount(seen >> 40, minlength=len(names))
            for c, name in enumerate(names):
                status = "ok"
                for s in (1, 2):
                    if counts[s, c] == 0:
                        status = f"untestable: no positives in {SPLITS[s]}"
                    elif counts[s, c] == total[s]:
                        status = f"untestable: no negatives in {SPLITS[s]}"
                    elif clusters[s, c] < min_clusters:
                        status = (
                            f"untestable: positives in {clusters[s, c]} clusters of {SPLITS[s]}, {min_clusters} needed"
                        )
                    if status != "ok":
                        break
                row: dict[str, Any] = {
                    "concept": name,
                    "level": level,
                    "group": name.partition("=")[0],
                    "status": status,
                }
                row |= {f"positives_{split}": int(counts[s, c]) for s, split in enumerate(SPLITS)}
                row |= {f"clusters_{split}": int(clusters[s, c]) for s, split in enumerate(SPLITS)}
                rows.append(row)
        return pd.DataFrame(rows)


def _dense(ids: Ints) -> Ints:
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)
