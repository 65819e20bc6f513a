"""What a latent does to the next residue, whatever it stands for: two measures that need no labels.

Both push one latent at the last position of one neutral prefix, the model's tags alone, and look at the next residue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from antibody_sae.antibody import RESIDUES
from antibody_sae.sae.model import SAE
from antibody_sae.significance import Floats

if TYPE_CHECKING:  # transformers takes seconds to import
    from antibody_sae.models.model import AntibodyModel

AMPLIFIED = 10.0
"""Both papers' factor."""
LENS = 3
"""Residues that a latent is said to promote, of 20 (the papers: 20 tokens of their models' 256,000)."""
_ROWS = 512


def by_target(
    model: AntibodyModel, layer: int, sae: SAE, targets: Mapping[str, str], species: str
) -> dict[str, Floats]:
    """`measures`, [latents, targets], of the chains that each target is steered in (`targets`: target -> chains)."""
    of = {chains: measures(model, layer, sae, chains, species) for chains in dict.fromkeys(targets.values())}
    names = ("output_score", "delta_token_confidence")
    return {name: np.stack([of[chains][name] for chains in targets.values()], 1) for name in names}


def measures(model: AntibodyModel, layer: int, sae: SAE, chains: str, species: str) -> dict[str, Floats]:
    """output_score and delta_token_confidence, [latents] each.

    output_score (Arad et al. 2025, arXiv:2505.20063): with AMPLIFIED times the largest activation at that position
    added to the latent, (1 - rank / 20) p, of the best rank and the largest probability among the LENS residues that
    the latent's logit lens puts first. delta_token_confidence (arXiv:2510.03659): |C' - C| with C = -log p of the
    most likely residue and C' the same where the code holds that latent alone, at AMPLIFIED times its largest
    training activation. Probabilities are of the 20 residues.
    """
    ids = torch.tensor([model.residue_tokens[residue] for residue in RESIDUES])
    seen: list[Tensor] = []

    def look(hidden: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        seen.append(hidden[:, -1].float().cpu())
        return hidden

    confidence = -_next(model, layer, look, 1, chains, species, ids).max(1).values
    largest = float(sae.encode(seen[0]).values.max()) or float(sae.max_activation.median())
    vectors = sae.scale * sae.directions
    favourites = model.logit_lens(vectors).topk(LENS).indices
    output, delta = np.zeros(sae.latents), np.zeros(sae.latents)
    for start in range(0, sae.latents, _ROWS):
        part = slice(start, min(start + _ROWS, sae.latents))
        pushed = (AMPLIFIED * largest * vectors[part]).to(model.device)
        alone = (sae.pre_bias + AMPLIFIED * sae.max_activation[part, None] * vectors[part]).to(model.device)

        def add(hidden: Tensor, tokens: Tensor, rows: Tensor, change: Tensor = pushed) -> Tensor:
            out = hidden.clone()
            out[:, -1] = (hidden[:, -1].float() + change).to(hidden.dtype)
            return out

        def replace(hidden: Tensor, tokens: Tensor, rows: Tensor, state: Tensor = alone) -> Tensor:
            out = hidden.clone()
            out[:, -1] = state.to(hidden.dtype)
            return out

        p = _next(model, layer, add, len(pushed), chains, species, ids).exp()
        rank = (-p).argsort(1).argsort(1)
        best, share = rank.gather(1, favourites[part]).min(1).values, p.gather(1, favourites[part]).max(1).values
        output[part] = ((1 - best / len(ids)) * share).numpy()
        sure = -_next(model, layer, replace, len(alone), chains, species, ids).max(1).values
        delta[part] = (sure - confidence).abs().numpy()
    return {"output_score": output, "delta_token_confidence": delta}


def _next(model: AntibodyModel, layer: int, edit: object, rows: int, chains: str, species: str, ids: Tensor) -> Tensor:
    """[rows, 20] log-probabilities of the residue after the tags, with `edit` applied to `rows` equal prefixes."""
    from antibody_sae.models.model import Encoded

    prefix = np.array(model.prefix(chains, species))
    passages = [Encoded(prefix, np.full(len(prefix), -1))] * rows
    logits = torch.stack([logits[-1] for _, logits in model.next_token_logits(passages, layer, edit)])  # type: ignore[arg-type]
    return logits.cpu()[:, ids].log_softmax(-1)
