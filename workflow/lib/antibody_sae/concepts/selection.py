"""Choose features and thresholds on validation, read their figures from test: the same for latents and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from antibody_sae.concepts.rows import Floats, Ints
from antibody_sae.concepts.scoring import Tally

SIMPLE = ("neuron", "pca", "untrained", "position", "residue", "shuffled", "germline")
"""Baselines that a latent must beat on test to count as interpretable; germline: of input columns alone."""


class Choice(NamedTuple):
    """Best threshold of every feature x label, from validation."""

    threshold: Ints
    """[features, labels] index of the threshold."""
    f1: Floats
    """[features, labels] validation F1 at it."""


def choose_thresholds(validation: Tally, complement: bool = False) -> Choice:
    """The threshold with the largest validation F1 (the lowest of equals)."""
    f1 = validation.f1(complement)
    best = f1.argmax(1)
    return Choice(best, np.take_along_axis(f1, best[:, None], 1)[:, 0])


CALIBRATED_PREVALENCE = 0.001
"""That the calibrated F1 is read at, whatever a concept's own."""


def always_yes(test: Tally) -> Floats:
    """[labels] F1 on test of predicting every row: 2 p / (1 + p) of the prevalence p."""
    return 2 * test.positives / np.maximum(test.positives + test.rows, 1)


def at_choice(test: Tally, choice: Choice, complement: bool = False) -> dict[str, Floats]:
    """f1, f1_calibrated, precision and recall [features, labels] on test at the choice; precision is NaN without a
    prediction.

    f1_calibrated is the F1 at a prevalence of CALIBRATED_PREVALENCE (pi0), so that common concepts have no head start
    (Siblini et al. 2020, arXiv:1909.02827): 2 TP / (2 TP + c FP + FN), c = pi (1 - pi0) / (pi0 (1 - pi)) of the
    prevalence pi.
    """
    tp = np.take_along_axis(test.true_positives(), choice.threshold[:, None], 1)[:, 0].astype(float)
    predicted = np.take_along_axis(test.predicted(), choice.threshold, 1).astype(float)
    if complement:
        tp, predicted = test.positives - tp, test.rows - predicted
    none = np.full(tp.shape, np.nan)
    positives, negatives = test.positives.astype(float), float(test.rows) - test.positives
    odds = np.divide(positives, negatives, out=np.zeros_like(positives), where=negatives > 0)
    false = (predicted - tp) * odds * (1 - CALIBRATED_PREVALENCE) / CALIBRATED_PREVALENCE
    weighed = 2 * tp + false + positives - tp
    return {
        "f1_calibrated": np.divide(2 * tp, weighed, out=none.copy(), where=weighed > 0),
        "f1": np.divide(2 * tp, predicted + test.positives, out=none.copy(), where=predicted + test.positives > 0),
        "precision": np.divide(tp, predicted, out=none.copy(), where=predicted > 0),
        "recall": np.divide(tp, test.positives[None], out=none.copy(), where=test.positives[None] > 0),
    }


def best_rows(
    baseline: str, level: str, pool_name: str, tallies: Sequence[Tally], concepts: list[str], details: list[str],
    complement: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """One row a concept, its best feature: detail (which one), threshold, f1_validation, f1, precision, recall.

    tallies = (validation, test); `complement` lets features predict by their absence.
    """
    validation, test = tallies
    frames = []
    for negated in (False, True) if complement else (False,):
        choice = choose_thresholds(validation, negated)
        figures = at_choice(test, choice, negated)
        best, columns = choice.f1.argmax(0), np.arange(len(concepts))
        frames.append(
            pd.DataFrame(
                {
                    "baseline": baseline,
                    "detail": [("not " if negated else "") + details[i] for i in best],
                    "concept": concepts,
                    "level": level,
                    "pool": pool_name,
                    "threshold": test.thresholds[choice.threshold[best, columns]],
                    "f1_validation": choice.f1[best, columns],
                    **{name: values[best, columns] for name, values in figures.items()},
                }
            )
        )
    return keep_best(pd.concat(frames))


def keep_best(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each baseline and concept the row with the largest validation F1 (the first of equals)."""
    order = rows.sort_values("f1_validation", ascending=False, kind="stable")
    return order.drop_duplicates(["baseline", "concept"]).sort_index(kind="stable").reset_index(drop=True)
