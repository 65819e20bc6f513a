"""The prefix-weighted loss and its gradients in batched matrix products: what a GPU trains with.

With T_i = P(l >= i), z a token's code and d_i the decoder's rows, the sum over all prefixes is a quadratic form,

    sum over l of p(l) ||D Lambda_l z - x||^2 = sum_ts T_max(t,s) z_t z_s <d_t, d_s>,

because the prefixes that hold two latents are those that hold the later one; the target x is in all of them, as a
latent before the first whose row is x and whose activation is -1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Walk(NamedTuple):
    """What a walk along the code gives, on the device of its input."""

    loss: Tensor
    """Prefix-weighted squared error, summed over the batch; a scalar."""
    full: Tensor
    """That of the full code; a scalar."""
    residual_BD: Tensor
    """Target less the full reconstruction."""
    d_values_BM: Tensor
    """weight * gradient of the loss by the activations, those that are 0 too."""
    d_decoder_KD: Tensor
    """weight * gradient by the decoder."""
    d_target_D: Tensor
    """weight * gradient by what is added to every target."""


@torch.no_grad()
def walk(
    target_BD: Tensor, decoder_KD: Tensor, indices_BM: Tensor, values_BM: Tensor, survival_K: Tensor, weight: float
) -> Walk:
    """Loss and gradients of codes (values 0 where inactive) against target_BD; survival_K: T, which falls with the
    index from 1 on. Memory: three times [B, M + 1, D]."""
    n = len(target_BD)
    own_B1 = torch.arange(n, device=target_BD.device)[:, None]
    at_BM = torch.cat([own_B1, n + indices_BM], 1)
    code_BM = torch.cat([-torch.ones_like(values_BM[:, :1]), values_BM], 1)
    held_BM = torch.cat([torch.ones_like(values_BM[:, :1]), survival_K[indices_BM]], 1)
    joint_JD = torch.cat([target_BD, decoder_KD])
    rows_BMD = joint_JD[at_BM]
    pull_BMM = torch.minimum(held_BM[:, :, None], held_BM[:, None]) * code_BM[:, None]
    reach_BM = (pull_BMM * (rows_BMD @ rows_BMD.mT)).sum(-1)
    d_rows_BMD = (2 * weight * code_BM[:, :, None] * pull_BMM) @ rows_BMD
    d_joint_JD = torch.zeros_like(joint_JD).index_add_(0, at_BM.flatten(), d_rows_BMD.flatten(0, 1))
    residual_BD = -(code_BM[:, None] @ rows_BMD)[:, 0]
    return Walk(
        loss=(code_BM * reach_BM).sum(),
        full=residual_BD.square().sum(),
        residual_BD=residual_BD,
        d_values_BM=2 * weight * reach_BM[:, 1:],
        d_decoder_KD=d_joint_JD[n:],
        d_target_D=d_joint_JD[:n].sum(0),
    )
