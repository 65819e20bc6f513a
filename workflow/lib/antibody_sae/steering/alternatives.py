"""What an engineer would do instead of steering, and what each way costs: tokens written for one accepted sequence.

Rejection keeps what the unsteered model happens to write. A prompt fixes the first residues (a germline's N terminus,
the parent's). A logit bias favours residues as such. Infilling writes a span of a parent anew (IgLM alone was made for
it). All are sampled as the model samples, and judged as steered sequences are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from antibody_sae.interventions import Where
from antibody_sae.io import InputError

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel

_EVERYWHERE = Where()


def price(texts: Sequence[str], accepted: Sequence[bool] | np.ndarray, given: int = 0) -> float:
    """Tokens written (residues and stop; the first `given` residues are read, not written) for each distinct accepted
    sequence; inf where none was."""
    kept = {text for text, good in zip(texts, accepted, strict=True) if good}
    written = sum(max(0, len(text) - given) + 1 for text in texts)
    return written / len(kept) if kept else float("inf")


@contextmanager
def logit_bias(
    model: AntibodyModel,
    bias: Mapping[str, float],
    where: Where = _EVERYWHERE,
    chains: str = "H",
    species: str = "human",
) -> Iterator[Any]:
    """Within it, generating with the yielded `edit` (at any layer) adds `bias` (residue -> nats) to the logits where
    `where` acts: the edit leaves the residual stream alone and reads only which tokens were written."""
    added = torch.zeros(model.vocabulary, device=model.device)
    for residue, nats in bias.items():
        if residue not in model.residue_tokens:
            raise InputError(f"logit bias: {residue!r} is no residue; there are {', '.join(model.residue_tokens)}")
        added[model.residue_tokens[residue]] = nats
    before = len(model.prefix(chains, species))
    acted: list[Tensor] = []

    def edit(hidden: Tensor, tokens: Tensor, *rows: Tensor) -> Tensor:
        acted.append(where.mask(tokens, before, model.residue_tokens))
        return hidden

    def change(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if not acted:  # a pass without the edit reads what the model itself would have written
            return output
        return output + acted.pop()[:, -output.shape[1] :, None] * added

    handle = model.head.register_forward_hook(change)
    try:
        yield edit
    finally:
        handle.remove()


def infill(
    model: AntibodyModel,
    parent: str,
    start: int,
    stop: int,
    n: int,
    seed: int,
    species: str = "human",
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[str]:
    """n heavy chains with parent[start:stop] written anew by IgLM's infilling: `left [MASK] right [SEP] span [CLS]`
    (Shuai et al., Cell Systems 14:979, 2023). The parent is read, the span and its end are written.

    Raises InputError for a model without the tokens [MASK] and [CLS], and a span that is none.
    """
    if not 0 <= start < stop <= len(parent):
        raise InputError(f"infilling: residues {start} to {stop} are no span of a parent of {len(parent)}")
    template = f"[HEAVY][{{species}}]{parent[:start]}[MASK]{parent[stop:]}[SEP]{{heavy}}[CLS]"
    if not {"[MASK]", "[CLS]", "[SEP]", "[HEAVY]"} <= set(model._vocabulary):
        raise InputError(f"infilling: model {model.spec.name} was not trained for it; it lacks [MASK] or [CLS]")
    filler = model.under(replace(model.spec, templates={"H": template}))
    spans = filler.generate(n, seed=seed, species=species, temperature=temperature, top_p=top_p, max_residues=60)
    return [parent[:start] + written.text + parent[stop:] if written.ended else "" for written in spans]
