"""Choose features and thresholds on validation, read their figures from test: the same for latents and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from antibody_sae.concepts.scoring import Floats, Ints, Tally

SIMPLE = ("neuron", "pca", "untrained", "position", "residue", "shuffled")
"""Baselines that a latent must beat on test to count as interpretable."""


class Choice(NamedTuple):
    """Best threshold of every feature x label, from validation."""

    threshold: Ints
    """[features, labels] index of the threshold."""
    f1: Floats
    """[features, labels] validation F1 at it."""


def choose(validation: Tally, complement: bool = False) -> Choice:
    """The threshold with the largest validation F1 (the lowest of equals)."""
    f1 = validation.f1(complement)
    best = f1.argmax(1)
    return Choice(best, np.take_along_axis(f1, best[:, None], 1)[:, 0])


def at_choice(test: Tally, choice: Choice, complement: bool = False) -> dict[str, Floats]:
    """f1, precision and recall [features, labels] on test at the choice; precision is NaN without a prediction."""
    tp = np.take_along_axis(test.true_positives(), choice.threshold[:, None], 1)[:, 0].astype(float)
    predicted = np.take_along_axis(test.predicted(), choice.threshold, 1).astype(float)
    if complement:
        tp, predicted = test.positives - tp, test.rows - predicted
    none = np.full(tp.shape, np.nan)
    return {
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
        choice = choose(validation, negated)
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
                    **{k: v[best, columns] for k, v in figures.items()},
                }
            )
        )
    return keep_best(pd.concat(frames))


def keep_best(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each baseline and concept the row with the largest validation F1 (the first of equals)."""
    order = rows.sort_values("f1_validation", ascending=False, kind="stable")
    return order.drop_duplicates(["baseline", "concept"]).sort_index(kind="stable").reset_index(drop=True)
