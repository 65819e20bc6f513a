"""What the germline alone says of a concept that comes from a column of the input, such as a binder's target.

Binders of one target are related and share genes, so V gene, J gene, CDR lengths and distance from the germline explain
most of what seems to go with a binder. A latent is worth something where it says more than these.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from antibody_sae.concepts import catalogue
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.probes import RIDGES, Moments, Scores, best_ridge
from antibody_sae.concepts.rows import Csr, Floats, Ints, take_rows
from antibody_sae.concepts.scoring import Tally, densify
from antibody_sae.concepts.selection import best_rows, keep_best

BASELINE = "germline"
GERMLINE = ("v-gene", "v-family", "j-gene", "light-locus", "cdr1-length", "cdr2-length", "cdr3-length", "v-identity")
"""Groups of concepts that stand for the germline and the distance from it."""
_ROWS = 20_000


def columns(labels: Labels) -> tuple[Ints, Ints]:
    """(columns of the input, what the germline says): antibody-level concepts by number."""
    groups = [name.partition("=")[0] for name in labels.antibody_names]
    own = [i for i, group in enumerate(groups) if group not in catalogue.BY_NAME]
    return np.array(own, np.int64), np.array([i for i, group in enumerate(groups) if group in GERMLINE], np.int64)


def dense(labels: Labels, antibodies: Ints, wanted: Ints) -> Floats:
    """[antibodies, wanted] float: whether each has the antibody-level concept."""
    return densify(take_rows(labels.antibody, antibodies), len(labels.antibody_names))[:, wanted]


def _csr(values: Floats) -> Csr:
    rows, found = np.nonzero(values)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(values)))]).astype(np.int64)
    return Csr(ptr, found.astype(np.int32), np.ones(len(found), np.float32))


def rows(labels: Labels) -> pd.DataFrame:
    """The baseline "germline" of each concept from a column of the input, in the columns of baselines.parquet: the best
    single value (V gene IGHV3-53, or not), or all of them in a ridge regression on train, whichever validation prefers.
    Empty where the run has no such concept."""
    asked, given = columns(labels)
    if not len(asked) or not len(given):
        return pd.DataFrame()
    concepts = [labels.antibody_names[i] for i in asked]
    details = [labels.antibody_names[i] for i in given]
    moments = Moments(len(given), len(asked))
    for antibodies in _blocks(labels, 0):
        moments.add(dense(labels, antibodies, given), _csr(dense(labels, antibodies, asked)))
    probes = [moments.ridge(strength) for strength in RIDGES]
    tallies = [Tally(len(given), len(asked), np.zeros(1, np.float32), moments=False) for _ in range(2)]
    scores = [Scores(len(asked)) for _ in RIDGES]
    for split in (1, 2):
        for antibodies in _blocks(labels, split):
            x, y = dense(labels, antibodies, given), _csr(dense(labels, antibodies, asked))
            tallies[split - 1].add(_csr(x), y, np.ones(len(given)))
            for histogram, (weight, intercept) in zip(scores, probes, strict=True):
                histogram.add(split == 2, x @ weight + intercept, y)
    single = best_rows(BASELINE, "antibody", "max", tallies, concepts, details, complement=True)
    return keep_best(pd.concat([single, best_ridge(BASELINE, scores, concepts)]))


def _blocks(labels: Labels, split: int) -> list[Ints]:
    found = np.flatnonzero(labels.split == split)
    return [found[start : start + _ROWS] for start in range(0, len(found), _ROWS)]
