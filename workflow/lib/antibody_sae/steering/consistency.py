"""Does a latent do the same everywhere? The share of its effects on the next residue that one direction explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import RESIDUES, SPLITS
from antibody_sae.concepts.labels import Labels, chain_residues, text_of
from antibody_sae.interventions import Edit, Intervention
from antibody_sae.sae.model import SAE
from antibody_sae.significance import Floats

if TYPE_CHECKING:  # transformers takes seconds to import
    from antibody_sae.models.model import AntibodyModel

CONTEXTS = 4
"""Antibodies whose positions are the contexts: about 500 of them, and 0.2 s a latent."""
_TOGETHER = 4
"""Vectors of one pass."""


Chains = tuple[str | None, str | None]
"""Heavy and light chain, the one that is not read None."""


def contexts(labels: Labels, chains: str) -> list[Chains]:
    """CONTEXTS validation antibodies that have these chains ("H", "L" or "HL"), evenly spaced over the run's."""
    found: list[Chains] = []
    rows = np.flatnonzero(labels.split == SPLITS.index("validation"))
    for row in rows[:: max(1, len(rows) // (16 * CONTEXTS))].tolist():
        sides = zip("HL", chain_residues(labels, row), strict=True)
        heavy, light = (text_of(labels, ids) if side in chains else None for side, ids in sides)
        if "" not in (heavy, light):
            found.append((heavy, light))
    return [found[i * len(found) // CONTEXTS] for i in range(min(CONTEXTS, len(found)))]


def of_latents(
    model: AntibodyModel,
    layer: int,
    sae: SAE,
    latents: Sequence[int],
    labels: Labels,
    targets: Mapping[str, str],
    species: str,
    norm: float,
) -> pd.DataFrame:
    """`consistency` of latents pushed to a length (`norm`, raw units), a row a latent and target (target -> chains):
    columns latent, concept, consistency."""
    rows = np.array(sorted(set(latents)), int)
    vectors = norm * sae.directions[torch.from_numpy(rows)]
    of = {
        chains: consistency(model, layer, vectors, contexts(labels, chains), chains, species)
        for chains in dict.fromkeys(targets.values())
    }
    parts = [
        pd.DataFrame({"latent": rows, "concept": target, "consistency": of[chains]})
        for target, chains in targets.items()
    ]
    return pd.concat(parts, ignore_index=True).astype({"latent": "Int64"})


def consistency(
    model: AntibodyModel, layer: int, vectors: Tensor, texts: Sequence[Chains], chains: str, species: str
) -> Floats:
    """[vectors] share of the first direction in each vector's effects.

    An effect: what the vector [d_model], added after block `layer` at every position, does to the log-probabilities of
    the 20 residues at one position of `texts`, less its mean over residues. Over all positions the effects [positions,
    20] have singular values; the share is that of the first one's square. 1: the same residues are raised everywhere;
    an effect that depends on the context alone has about 1 / 19. nan where a vector does nothing.
    """
    ids = torch.tensor([model.residue_tokens[residue] for residue in RESIDUES])
    if not texts:
        return np.full(len(vectors), np.nan)
    passages = [model.encode(heavy, light, species, chains)[0] for heavy, light in texts]

    def log_p(edit: Edit | None, times: int) -> Tensor:
        """[times, positions, 20]"""
        found: dict[int, Tensor] = {}
        for i, logits in model.next_token_logits(passages * times, layer, edit):
            at = np.flatnonzero(passages[i % len(passages)].residue >= 0) - 1
            found[i] = logits[torch.from_numpy(at)].cpu()[:, ids].log_softmax(-1)
        rows = [torch.cat([found[t * len(passages) + i] for i in range(len(passages))]) for t in range(times)]
        return torch.stack(rows)

    before = log_p(None, 1)
    shares = np.full(len(vectors), np.nan)
    for start in range(0, len(vectors), _TOGETHER):
        part = vectors[start : start + _TOGETHER]
        arms = [Intervention(vector=vector) for vector in part for _ in passages]
        effect = log_p(Edit(model, arms, chains, species), len(part)) - before
        effect = effect - effect.mean(-1, keepdim=True)
        squares = torch.linalg.svdvals(effect).square()
        total = squares.sum(1)
        shares[start : start + len(part)] = torch.where(total > 0, squares[:, 0] / total, torch.nan).numpy()
    return shares
