"""What a push moves beside its target: concepts that other residues decide than the target's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from antibody_sae.concepts import catalogue


def decided(concept: str) -> set[tuple[str, str]]:
    """(chain, region) of the residues that decide a concept; of both chains where its value names none."""
    group, value = catalogue.group_of(concept), concept.partition("=")[2]
    regions = group.decided(value) if callable(group.decided) else group.decided
    sides = catalogue.side_of(value) if group.sided else ""
    return {(side, region) for side in sides or "HL" for region in regions}


def off_target(arms: pd.DataFrame, baseline: pd.DataFrame, targets: Mapping[str, str]) -> np.ndarray:
    """[arms, targets] root mean square change of the shares of concepts that other residues decide than the target's
    (of a J gene those of V; of a V family those of CDR3 and J), beyond what sampling alone gives; nan where there are
    none, or no sequences.

    arms: `measured.joined`; baseline: `doses.baselines`, no steering of each target's chains. From the mean square of
    the changes their sampling variance is taken (of equal shares, as in a test of two proportions); below 0 is 0.
    """
    concepts = [str(column).removeprefix("hits:") for column in arms if str(column).startswith("hits:")]
    where = {concept: decided(concept) for concept in [*concepts, *targets]}
    n = arms["n_valid"].to_numpy(float)[:, None]
    out = np.full((len(arms), len(targets)), np.nan)
    for j, target in enumerate(targets):
        columns = [f"hits:{concept}" for concept in concepts if not where[concept] & where[target]]
        none = baseline.loc[[target]]
        hits, hits0 = arms[columns].to_numpy(float), none[columns].to_numpy(float)[0]
        n0 = none["n_valid"].to_numpy(float)
        seen = (hits.sum(0) > 0) | (hits0 > 0)  # the other chain's concepts never are
        if not seen.any():
            continue
        hits, hits0 = hits[:, seen], hits0[seen]
        with np.errstate(divide="ignore", invalid="ignore"):
            both = (hits + hits0) / (n + n0)
            beyond = np.square(hits / n - hits0 / n0) - both * (1 - both) * (1 / n + 1 / n0)
            out[:, j] = np.sqrt(np.maximum(beyond.mean(1), 0.0))
    return out
