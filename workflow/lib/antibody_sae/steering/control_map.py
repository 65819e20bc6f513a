"""Where in the model and in the sequence a property is decided: the rate derivative by layer and region of the push."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.interventions import Where
from antibody_sae.io import InputError
from antibody_sae.steering.credit import allowed_tokens, batches, log_probabilities

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded
    from antibody_sae.sections import Writing


MAPPED = 4
"""Of so many batches one is followed back through all blocks, for the map; the others as far as the derivative needs,
which at the middle layer is half the work."""


DECIDED = 0.75
"""Share of a target's squared derivatives that one region has where the target is decided in it."""
CERTAIN = 3
"""Times its noise that the derivative there must be."""


def places(mapped: pd.DataFrame, layer: int) -> dict[str, str]:
    """Target -> the region (as SIDED_REGIONS) in which it is decided, by the map after block `layer`; a target that is
    decided in several, or that is too uncertain, is left out."""
    own = mapped[mapped["layer"] == layer]
    square = own["derivative"] ** 2
    share = square / square.groupby(own["concept"]).transform("sum")
    found = own[(share >= DECIDED) & (own["derivative"] >= CERTAIN * own["noise"])]
    return dict(zip(found["concept"], found["region"], strict=True))


def control_map(
    model: AntibodyModel,
    layer: int,
    where: Where,
    passages: Sequence[Encoded],
    credit: Sequence[np.ndarray],
    region: Sequence[np.ndarray],
    targets: Sequence[str],
    writing: Writing,
) -> tuple[Tensor, pd.DataFrame]:
    """(terms [passages, targets, d_model] of the rate derivative after block `layer` where `where` acts, as
    `credit.derivatives` gives them at 0; the map).

    The map has a row a target, layer and region: `derivative`, the change of the target's rate per unit length of the
    best push after that block while that region is written, and `noise`, its standard error where nothing is to be
    found. credit: a passage [residues + 1, targets]; region: a passage [residues] index into SIDED_REGIONS, empty where
    not known. One forward pass a batch, one backward pass a target; nothing is generated. The map's derivative is the
    length of a mean of n noisy vectors, from the products of different sequences' terms: its square is unbiased, and 0
    where it is negative.
    """
    before = len(model.prefix(writing["chains"], writing["species"]))
    allowed = allowed_tokens(model, writing["chains"], writing["species"])
    terms = torch.zeros(len(passages), len(targets), model.d_model)
    shape = (len(targets), model.n_layers, len(SIDED_REGIONS))
    total = torch.zeros(*shape, model.d_model, dtype=torch.float64)
    squares = torch.zeros(*shape, dtype=torch.float64)
    read = mapped = 0
    for number, batch in enumerate(batches(model, passages, credit, before)):
        through_all = number % MAPPED == 0
        read, mapped = read + len(batch.rows), mapped + len(batch.rows) * through_all
        writes = _written(batch.rows, batch.tokens.shape[1], passages, region).to(model.device)
        acted = where.mask(batch.tokens, before, model.residue_tokens).float()
        with torch.enable_grad():
            logits, states = model.logits_and_states(batch.tokens)
            log_p = log_probabilities(
                logits[:, :-1], batch.tokens[:, 1:], allowed, writing["temperature"], writing["top_p"]
            )
            after = states if through_all else states[layer - 1 : layer]
            for j in range(len(targets)):
                if batch.credit[..., j].any():
                    loss = (log_p * batch.credit[:, 1:, j]).sum()
                    gradients = torch.autograd.grad(loss, after, retain_graph=True)
                    own = gradients[layer - 1 if through_all else 0]
                    terms[batch.rows, j] = torch.einsum("bt,btd->bd", acted, own.float()).cpu()
                    if through_all:
                        parts = torch.stack([torch.einsum("btr,btd->brd", writes, g.float()) for g in gradients], 1)
                        total[j] += parts.double().sum(0).cpu()
                        squares[j] += (parts.double() ** 2).sum((0, -1)).cpu()
    n = len(passages) * mapped / max(1, read)  # those without credit, whose terms are 0, count in proportion
    square = ((total**2).sum(-1) - squares) / max(1.0, n * (n - 1))
    noise = squares / max(1.0, n) ** 2  # of the squared length of the mean, were there nothing
    rows = [
        {"concept": target, "layer": block + 1, "region": name,
         "derivative": float(square[j, block, r].clamp(min=0) ** 0.5), "noise": float(noise[j, block, r] ** 0.5)}
        for j, target in enumerate(targets)
        for block in range(model.n_layers)
        for r, name in enumerate(SIDED_REGIONS)
        if noise[j, block, r] > 0
    ]  # fmt: skip
    return terms, pd.DataFrame(rows, columns=["concept", "layer", "region", "derivative", "noise"])


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
