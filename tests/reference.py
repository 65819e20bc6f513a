"""Plain references that the fused paths are held against."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from antibody_sae.concepts.labels import Labels
from antibody_sae.interventions import Where
from antibody_sae.models.model import AntibodyModel, Encoded
from antibody_sae.steering.targets import Panel, context
from torch import Tensor


def dense_prefix_loss(y, code, decoder, p):
    """The definition: every prefix decoded densely, in float64."""
    return sum(p[i] * (y - code[:, : i + 1] @ decoder[: i + 1]).square().sum() for i in range(len(p)))


class _Jump(torch.autograd.Function):
    """(h [h > t], [h > t]) with the derivatives of arXiv:2407.14435, equations 11 and 12."""

    @staticmethod
    def forward(ctx, hidden, threshold, bandwidth):
        ctx.save_for_backward(hidden, threshold)
        ctx.bandwidth = bandwidth
        on = (hidden > threshold).to(hidden)
        return hidden * on, on

    @staticmethod
    def backward(ctx, d_value, d_on):
        hidden, threshold = ctx.saved_tensors
        near = ((hidden - threshold) / ctx.bandwidth).abs() < 0.5
        d_threshold = -(near * (threshold * d_value + d_on) / ctx.bandwidth).sum(0)
        return d_value * (hidden > threshold), d_threshold, None


def dense_code(activation, hidden, k, threshold=None, bandwidth=None):
    """(code [n, latents], active latents of the batch) of pre-activations hidden [n, latents]; differentiable."""
    if activation == "jumprelu":
        code, on = _Jump.apply(hidden, threshold, bandwidth)
        return code, on.sum()
    size = hidden.abs() if activation == "abstopk" else hidden.relu()
    mask = torch.zeros_like(hidden)
    if activation == "batchtopk":
        mask.view(-1)[size.flatten().topk(k * len(hidden)).indices] = 1.0
    else:
        mask.scatter_(1, size.topk(k).indices, 1.0)
    code = (hidden if activation == "abstopk" else size) * mask
    return code, (code != 0).sum()


def rate_gradient(
    model: AntibodyModel, layer: int, antibodies: pd.DataFrame, labels: Labels, panel: Panel, where: Where, most: int
) -> Tensor:
    """[targets, d_model] how each target's rate changes with a vector v added to the residual stream, at v = 0.

    For sequences x drawn from the model, d/dv P(c) = E[1(c) d/dv log p_v(x)] = Cov(1(c), d/dv log p_v(x))
    (the score-function identity; Williams 1992), so one backward pass a sequence gives the derivative along every
    latent at once: the output score of latent j is this gradient's product with its direction. Only residues in the
    regions that decide the target count, the others' terms having mean zero. For sequences that the model did not draw
    it is the contrast in log-likelihood between those with the concept and those without.
    `antibodies` has columns heavy, light, species, in the order of the labels; `most` train and validation antibodies
    are used, evenly spaced.
    """
    usable = np.flatnonzero(~panel.test)
    used = usable[np.unique(np.linspace(0, len(usable) - 1, min(most, len(usable))).round().astype(int))]
    spans = [tuple(context(target)[1]) for target in panel.targets]
    distinct = sorted(set(spans))
    passages: list[Encoded] = []
    owners: list[int] = []
    chains: list[str] = []
    for i in used:
        row = antibodies.iloc[panel.rows[i]]
        heavy = row["heavy"] if isinstance(row["heavy"], str) else None
        light = row["light"] if isinstance(row["light"], str) else None
        encoded = model.encode(heavy, light, row["species"])
        passages += encoded
        owners += [int(i)] * len(encoded)
        chains += ["H" if heavy else "L", "L"][: len(encoded)]
    gradients = {span: torch.zeros(len(panel.rows), model.d_model) for span in distinct}
    ids = model.residue_tokens
    order = sorted(range(len(passages)), key=lambda p: len(passages[p].tokens))
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        width = max(len(passages[p].tokens) for p in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        region = np.full((len(batch), width), -1, np.int8)
        before = np.zeros(len(batch), np.int64)
        for b, p in enumerate(batch):
            tokens[b, : len(passages[p].tokens)] = torch.from_numpy(passages[p].tokens)
            at = np.flatnonzero(passages[p].residue >= 0)
            first = labels.first[panel.rows[owners[p]]]
            region[b, at] = labels.region[first + passages[p].residue[at]]
            before[b] = at[0]
        tokens = tokens.to(model.device)
        acted = where.mask(tokens, int(before[0]), ids).float()
        weights = [torch.from_numpy(np.isin(region, span)).to(model.device) for span in distinct]
        for span, gradient in zip(distinct, model.likelihood_gradients(layer, tokens, acted, weights), strict=True):
            gradients[span].index_add_(0, torch.tensor([owners[p] for p in batch]), gradient.cpu())
    out = []
    for j, span in enumerate(spans):
        y = torch.from_numpy(panel.has[used, j]).float()
        g = gradients[span][used]
        out.append(((y - y.mean())[:, None] * g).mean(0))
    return torch.stack(out)
