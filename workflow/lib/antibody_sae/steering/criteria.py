"""The ways of choosing which latent to steer, each declared once, over what is known before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from antibody_sae.significance import Floats

ASSOCIATED = 0.2
"""Correlation from which on a latent counts as associated, for criteria that know nothing of the target."""


@dataclass(frozen=True)
class Known:
    """What is known of an SAE's latents: [latents, targets] where it depends on the target, else [latents]."""

    alive: np.ndarray
    """Active somewhere in the training split."""
    density: Floats
    f1: Floats
    """On validation antibodies, at the threshold (and pool) that is best there."""
    r: Floats
    """On validation antibodies; nan where a latent is constant."""
    test_f1: Floats
    test_r: Floats
    rate_derivative: Floats
    """Derivative of the target's rate along the latent's unit direction."""
    decoder_alignment: Floats
    """Cosine with the difference of means."""
    output_score: Floats
    delta_token_confidence: Floats
    """Both of `output.measures`; of a target they know its chains alone."""
    rank: Floats
    """0 = earliest: the index of an SAE whose latents are ordered, the rank by energy of a TopK SAE."""

    def associated(self, score: Floats) -> Floats:
        """[latents, targets] `score` of the latents that correlate with the target by at least ASSOCIATED (or half of
        the best, where none does), -inf for the others."""
        r = np.where(self.alive[:, None], np.nan_to_num(self.r), 0)
        return np.where(r >= np.minimum(ASSOCIATED, r.max(0) / 2), score.reshape(len(score), -1), -np.inf)


@dataclass(frozen=True)
class Criterion:
    """A way of choosing a latent for a target."""

    name: str
    title: str
    """In words."""
    short: str
    """Beside a line of a chart."""
    score: Callable[[Known], Floats]
    """[latents, targets]; the largest is chosen."""


CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion("f1", "best F1", "F1", lambda known: known.f1),
        Criterion("r", "best r", "r", lambda known: known.r),
        Criterion("rate_derivative", "rate derivative", "derivative", lambda known: known.rate_derivative),
        Criterion(
            "output_score",
            "output score, of the associated",
            "output",
            lambda known: known.associated(known.output_score),
        ),
        Criterion(
            "delta_token_confidence",
            "Delta Token Confidence, of the associated",
            "confidence",
            lambda known: known.associated(known.delta_token_confidence),
        ),
        Criterion(
            "decoder_alignment",
            "alignment with difference of means",
            "aligned",
            lambda known: known.decoder_alignment,
        ),
        Criterion("earliest", "earliest of the associated", "early", lambda known: known.associated(-known.rank)),
    )
}


def choose(known: Known, criteria: Sequence[str], candidates: int) -> list[list[tuple[str, int]]]:
    """For each target, (criterion, latent) pairs, `candidates` a criterion, best first."""
    chosen: list[list[tuple[str, int]]] = [[] for _ in range(known.f1.shape[1])]
    for criterion in criteria:
        scores = np.where(known.alive[:, None], CRITERIA[criterion].score(known), -np.inf)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        for j, pairs in enumerate(chosen):
            order = np.argsort(-scores[:, j], kind="stable")[:candidates]
            pairs += [(criterion, int(latent)) for latent in order if np.isfinite(scores[latent, j])]
    return chosen


def tested(known: Known, targets: Sequence[str], latents: Sequence[int]) -> pd.DataFrame:
    """What is known of each planned latent and target before it is steered: latent, concept, f1 and r (test), and the
    other measures; a row each."""
    rows = np.array(sorted(set(latents)), int)
    table = pd.DataFrame({"latent": np.repeat(rows, len(targets)), "concept": list(targets) * len(rows)})
    for name, values in (
        ("f1", known.test_f1), ("r", known.test_r), ("rate_derivative", known.rate_derivative),
        ("decoder_alignment", known.decoder_alignment), ("output_score", known.output_score),
        ("delta_token_confidence", known.delta_token_confidence), ("density", known.density),
    ):  # fmt: skip
        wide = values if values.ndim == 2 else np.repeat(values[:, None], len(targets), 1)
        table[name] = wide[rows].ravel().astype(float)
    return table.astype({"latent": "Int64"})


MEASURES = (
    "f1", "r", "rate_derivative", "decoder_alignment", "output_score", "delta_token_confidence", "consistency"
)  # fmt: skip
"""What is known of a latent before it is steered, that the effects are held against: columns of tested.parquet, of
`tested` and `consistency.of_latents`."""
