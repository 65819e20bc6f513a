"""Which latents of an SAE are steered: the criteria that choose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.concepts.labels import Labels
from antibody_sae.sae.model import SAE
from antibody_sae.steering.targets import Panel, panel_blocks

CRITERIA = ("f1", "r", "output_score", "decoder_alignment", "earliest")
ASSOCIATED = 0.2
"""Correlation from which on a latent counts as associated for the criterion `earliest`."""
THRESHOLDS = np.arange(10) / 10
"""Shares of a latent's largest activation that F1 is tried at; 0 means active at all."""


@dataclass(frozen=True)
class Associations:
    """How each latent's largest activation over an antibody goes with each target; [latents, targets] each."""

    f1: np.ndarray
    """On train and validation antibodies, at the best of THRESHOLDS there; candidates are chosen by it."""
    r: np.ndarray
    """Point-biserial correlation there."""
    test_f1: np.ndarray
    """On test antibodies, at that same threshold."""
    test_r: np.ndarray


def associate(sae: SAE, store: Store, labels: Labels, panel: Panel) -> Associations:
    """Associations of every latent with every target, by max-pooling over the antibody."""
    n = len(panel.rows)
    pooled = torch.zeros(n * sae.latents)
    for x, place, _ in panel_blocks(store, labels, panel):
        codes = sae.encode(x)
        cell = torch.from_numpy(place)[:, None] * sae.latents + codes.indices.long()
        pooled.scatter_reduce_(0, cell.flatten(), codes.values.flatten(), "amax")
    a = pooled.view(n, sae.latents).numpy()
    figures = []
    thresholds = np.zeros((sae.latents, len(panel.targets)))
    for test in (False, True):
        use = panel.test == test
        figures.append((_f1(a[use], panel.has[use], sae.max_activation.numpy()), _correlation(a[use], panel.has[use])))
    chosen, tested = figures
    best = np.nan_to_num(chosen[0]).argmax(0)
    thresholds = np.take_along_axis(chosen[0], best[None], 0)[0]
    return Associations(thresholds, chosen[1], np.take_along_axis(tested[0], best[None], 0)[0], tested[1])


def _f1(a: np.ndarray, y: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """[thresholds, latents, targets] F1 of a > threshold * largest for a [n, latents], y [n, targets]."""
    out = np.empty((len(THRESHOLDS), a.shape[1], y.shape[1]))
    labels = y.astype(np.float32)
    for t, share in enumerate(THRESHOLDS):
        positive = (a > share * largest).astype(np.float32)
        hits = positive.T @ labels
        out[t] = 2 * hits / np.maximum(positive.sum(0)[:, None] + labels.sum(0), 1)
    return out


def _correlation(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[latents, targets] Pearson correlation; 0 where a column does not vary."""
    if not len(a):
        return np.zeros((a.shape[1], y.shape[1]))
    a, y = a - a.mean(0), y - y.mean(0)
    norm = np.sqrt((a**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    return np.divide(a.T @ y, norm, out=np.zeros((a.shape[1], y.shape[1])), where=norm > 0)


def choose(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], criteria: Sequence[str], candidates: int, seed: int
) -> list[list[tuple[str, int]]]:
    """For each target, (criterion, latent) pairs, `candidates` a criterion, best first.

    f1, r: association on train and validation. output_score: derivative of the target's rate along the latent's unit
    direction (`rate_gradient`). decoder_alignment: cosine with the difference of means. earliest: the lowest indices
    among the latents that correlate by at least ASSOCIATED (or by half of the best, where none does); for TopK, whose
    order means nothing, the indices are shuffled first and the criterion is called shuffled_index.
    """
    alive = sae.max_activation.numpy() > 0
    unit = sae.directions.numpy()
    ordered = sae.config["architecture"] != "topk"
    rank = np.arange(sae.latents) if ordered else np.random.default_rng(seed).permutation(sae.latents)
    output = unit @ known["rate_gradient"].numpy().T
    aligned = unit @ known["difference_of_means"].numpy().T
    chosen = []
    for j in range(found.r.shape[1]):
        associated = found.r[:, j] >= min(ASSOCIATED, found.r[alive, j].max() / 2)
        scores = {
            "f1": found.f1[:, j],
            "r": found.r[:, j],
            "output_score": output[:, j],
            "decoder_alignment": aligned[:, j],
            "earliest": np.where(associated, -rank, -np.inf),
        }
        pairs = []
        for criterion in criteria:
            score = np.where(alive, scores[criterion], -np.inf)
            best = [int(i) for i in np.argsort(-score, kind="stable")[:candidates] if np.isfinite(score[i])]
            name = "shuffled_index" if criterion == "earliest" and not ordered else criterion
            pairs += [(name, latent) for latent in best]
        chosen.append(pairs)
    return chosen


def tested_latents(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], targets: Sequence[str], latents: Sequence[int]
) -> pd.DataFrame:
    """What is known of each planned latent and target before it is steered: latent, concept, f1 and r (train and
    validation), test_f1, test_r, output_score, decoder_alignment, density."""
    rows = np.array(sorted(set(latents)))
    figures = {
        "f1": found.f1, "r": found.r, "test_f1": found.test_f1, "test_r": found.test_r,
        "output_score": sae.directions.numpy() @ known["rate_gradient"].numpy().T,
        "decoder_alignment": sae.directions.numpy() @ known["difference_of_means"].numpy().T,
    }  # fmt: skip
    table = pd.DataFrame({"latent": np.repeat(rows, len(targets)), "concept": list(targets) * len(rows)})
    for name, values in figures.items():
        table[name] = values[rows].ravel().astype(float)
    return table.assign(
        density=np.repeat(sae.density.numpy()[rows], len(targets)), latent=table["latent"].astype("Int64")
    )
