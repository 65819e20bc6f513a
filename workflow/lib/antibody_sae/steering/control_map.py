"""Where in the model and in the sequence a property is decided: the rate derivative by layer and region of the push."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.io import InputError
from antibody_sae.steering.credit import allowed_tokens, batches, log_probabilities

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded
    from antibody_sae.sections import Writing


def control_map(
    model: AntibodyModel,
    passages: Sequence[Encoded],
    credit: Sequence[np.ndarray],
    region: Sequence[np.ndarray],
    targets: Sequence[str],
    writing: Writing,
) -> pd.DataFrame:
    """One row a target, layer and region: `derivative`, the change of the target's rate per unit length of the best
    push after that block while that region is written, and `noise`, its standard error where nothing is to be found.

    credit: a passage [residues + 1, targets]; region: a passage [residues] index into SIDED_REGIONS, empty where not
    known. One forward pass a batch, one backward pass a target; nothing is generated. The derivative is the length of
    a mean of n noisy vectors, from the products of different sequences' terms: its square is unbiased, and 0 where it
    is negative.
    """
    before = len(model.prefix(writing["chains"], writing["species"]))
    allowed = allowed_tokens(model, writing["chains"], writing["species"])
    shape = (len(targets), model.n_layers, len(SIDED_REGIONS))
    total = torch.zeros(*shape, model.d_model, dtype=torch.float64)
    squares = torch.zeros(*shape, dtype=torch.float64)
    for batch in batches(model, passages, credit, before):
        writes = _written(batch.rows, batch.tokens.shape[1], passages, region).to(model.device)
        with torch.enable_grad():
            logits, states = model.logits_and_states(batch.tokens)
            log_p = log_probabilities(
                logits[:, :-1], batch.tokens[:, 1:], allowed, writing["temperature"], writing["top_p"]
            )
            for j in range(len(targets)):
                if batch.credit[..., j].any():
                    loss = (log_p * batch.credit[:, 1:, j]).sum()
                    gradients = torch.autograd.grad(loss, states, retain_graph=True)
                    terms = torch.stack([torch.einsum("btr,btd->brd", writes, g.float()) for g in gradients], 1)
                    total[j] += terms.double().sum(0).cpu()
                    squares[j] += (terms.double() ** 2).sum((0, -1)).cpu()
    n = len(passages)
    square = ((total**2).sum(-1) - squares) / max(1, n * (n - 1))
    noise = squares / n**2  # of the squared length of the mean, were there nothing
    rows = [
        {"concept": target, "layer": layer + 1, "region": name,
         "derivative": float(square[j, layer, r].clamp(min=0) ** 0.5), "noise": float(noise[j, layer, r] ** 0.5)}
        for j, target in enumerate(targets)
        for layer in range(model.n_layers)
        for r, name in enumerate(SIDED_REGIONS)
        if noise[j, layer, r] > 0
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["concept", "layer", "region", "derivative", "noise"])


def _written(rows: Sequence[int], width: int, passages: Sequence[Encoded], region: Sequence[np.ndarray]) -> Tensor:
    """[batch, T, regions] 1 where the token that a position decides lies in a region; the stop belongs to the last."""
    out = torch.zeros(len(rows), width, len(SIDED_REGIONS))
    for b, i in enumerate(rows):
        at = np.flatnonzero(passages[i].residue >= 0)
        if len(region[i]) == 0:
            continue
        if len(region[i]) != len(at):
            raise InputError(f"control map: {len(region[i])} regions for a sequence of {len(at)} residues")
        inside = region[i] >= 0
        out[b, at[inside] - 1, region[i][inside]] = 1.0
        if inside[-1]:
            out[b, at[-1], region[i][-1]] = 1.0
    return out
