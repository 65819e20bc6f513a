"""How good a trained SAE is: reconstruction, prefixes, loss recovered, agreement between seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.io import InputError
from antibody_sae.sae import kernels
from antibody_sae.sae.model import SAE, Codes
from antibody_sae.sae.stream import kept

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded


def prefix_errors(sae: SAE, x: Tensor, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """([latents + 1] summed squared error, in units of scale^2, of the prefixes 0, 1, ..., latents; [n] cosines).

    A running sum of one change a latent and token: the whole curve costs no more than one reconstruction. The cosine
    is that of x and its reconstruction, both in raw units.
    """
    y = sae.center(x).cpu().numpy()
    changes, cosines = np.zeros(sae.latents + 1), np.empty(len(y))
    kernels.prefix_errors(
        y, sae.directions.cpu().numpy(), codes.indices.cpu().numpy(), codes.values.cpu().numpy(),
        changes, (sae.pre_bias / sae.scale).cpu().numpy(), cosines,
    )  # fmt: skip
    return np.cumsum(changes), cosines


class Agreement(NamedTuple):
    """How far two dictionaries hold the same directions."""

    stability: float
    """Mean cosine of matched rows under the best one-to-one matching."""
    orderedness: float
    """Spearman correlation of the matched indices; nan for fewer than two rows."""


def agreement(directions: np.ndarray, other: np.ndarray) -> Agreement:
    """Stability and orderedness of two dictionaries [K, d] and [K', d] with unit rows (arXiv:2512.02194).

    The smaller one's rows are matched, one to one, to maximise the sum of cosines (Hungarian method).
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import rankdata

    cosine = directions @ other.T
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    spearman = float(np.corrcoef(rankdata(rows), rankdata(columns))[0, 1]) if len(rows) > 1 else float("nan")
    return Agreement(float(cosine[rows, columns].mean()), spearman)


def compare(
    sae: SAE, other: SAE, energy: Sequence[float] | np.ndarray, other_energy: Sequence[float] | np.ndarray
) -> dict[str, list[Any]]:
    """Agreement of two SAEs' first l latents, for l = 64, 128, ... up to all.

    Keys: latents (l), stability and orderedness as the SAEs are, stability_by_energy and orderedness_by_energy once
    both are sorted by the energy of their latents ([latents], see `evaluate`): what any SAE gets by sorting alone.
    """
    smaller = min(sae.latents, other.latents)
    lengths = [*(2**i for i in range(6, smaller.bit_length()) if 2**i < smaller), smaller]
    one, two = sae.directions.numpy(), other.directions.numpy()
    both = {"": (one, two), "_by_energy": (one[by_energy(energy)], two[by_energy(other_energy)])}
    result: dict[str, list[Any]] = {"latents": lengths}
    for suffix, (a, b) in both.items():
        found = [agreement(a[:n], b[:n]) for n in lengths]
        result |= {f"{name}{suffix}": [getattr(each, name) for each in found] for name in Agreement._fields}
    return result


LIKE = 16
"""Latents of about a latent's density, of which one is drawn as a control."""


def matches(sae: SAE, other: SAE, seed: int = 0) -> pd.DataFrame:
    """Each latent of `sae` beside its counterpart in `other`, one to one (as in `agreement`).

    Columns latent, match, cosine (of the two directions), and as a control the same of one latent of `other` drawn from
    the LIKE whose density is nearest: like, cosine_like.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = sae.directions.numpy() @ other.directions.numpy().T
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    apart = np.abs(np.log(other.density.numpy() + 1e-6)[None] - np.log(sae.density.numpy() + 1e-6)[rows, None])
    near = apart.argsort(axis=1, kind="stable")[:, :LIKE]
    like = near[np.arange(len(rows)), np.random.default_rng(seed).integers(0, near.shape[1], len(rows))]
    return pd.DataFrame(
        {"latent": rows, "match": columns, "cosine": cosine[rows, columns], "like": like,
         "cosine_like": cosine[rows, like]}
    )  # fmt: skip


def by_energy(energy: Sequence[float] | np.ndarray) -> np.ndarray:
    """[latents] indices, the largest energy first; ties by index."""
    return np.argsort(-np.asarray(energy), kind="stable")


def reordered(sae: SAE, order: np.ndarray) -> SAE:
    """The same SAE with its latents in another order ([latents], which comes first, second, ...)."""
    rows = torch.from_numpy(order)
    by_latent = ("encoder_weight", "encoder_bias", "directions", "max_activation", "density")
    threshold = None if sae.threshold is None else sae.threshold[rows]
    return replace(sae, threshold=threshold, **{name: getattr(sae, name)[rows] for name in by_latent})


EARLY = 64
"""Latents of the prefix whose FVU is reported by itself."""
DENSE = 0.1
"""A latent active on more than this share of tokens counts as dense."""


# -- held-out evaluation -----------------------------------------------------------------------------------------


def evaluate(sae: SAE, store: Store, keep: np.ndarray) -> dict[str, Any]:
    """Metrics on the rows that `keep` allows (a split that training has not seen), for metrics.json.

    fvu: squared error over the variance about these rows' own mean (so a mean predictor has exactly 1, and
    explained variance is 1 - fvu); prefixes: the explained variance of the first l latents of the code; fvu_64: the
    FVU of the first 64, fvu_64_by_energy: once the latents are sorted by energy, what any SAE gets by sorting alone;
    energy [latents]: mean squared value over tokens; l0, cosine (of x and its reconstruction): means over tokens; dead:
    latents that never fire; dense: on more than 10 % of tokens. Raises InputError where the store is not the SAE's.
    """
    sae.check(store.provenance(), store.folder)
    n, l0 = 0, 0
    total, squares, cosine = np.zeros(sae.d_model), 0.0, 0.0
    errors, active = np.zeros(sae.latents + 1), np.zeros(sae.latents, dtype=np.int64)
    energy = np.zeros(sae.latents)
    for x in kept(store, keep):
        codes = sae.encode(x)
        error, cosines = prefix_errors(sae, x, codes)
        errors += error
        cosine += cosines.sum()
        on = codes.values > 0
        l0 += int(on.sum())
        active += np.bincount(codes.indices[on].numpy(), minlength=sae.latents)
        energy += np.bincount(codes.indices[on].numpy(), codes.values[on].double().square().numpy(), sae.latents)
        y = sae.center(x).double().numpy()
        total += y.sum(0)
        squares += float(np.square(y).sum())
        n += len(x)
    if n == 0:
        raise InputError(f"{store.folder}: no residue is held out; raise splits.validation")
    variance = squares - float(total @ total) / n
    order, early = by_energy(energy), min(EARLY, sae.latents)
    ranked, by_rank = reordered(sae, order), 0.0
    for x in kept(store, keep):
        by_rank += float(prefix_errors(ranked, x, ranked.encode(x))[0][early])
    lengths = np.unique(np.r_[0, np.round(np.geomspace(1, sae.latents, 40)).astype(int), sae.latents])
    return {
        "tokens": n,
        "fvu": float(errors[-1] / variance),
        f"fvu_{EARLY}": float(errors[early] / variance),
        f"fvu_{EARLY}_by_energy": by_rank / variance,
        "explained_variance": float(1 - errors[-1] / variance),
        "prefixes": {
            "latents": lengths.tolist(),
            "explained_variance": (1 - errors[lengths] / variance).tolist(),
        },
        "l0": l0 / n,
        "cosine": cosine / n,
        "energy": (energy / n).tolist(),
        "dead": int((active == 0).sum()),
        "dense": int((active > DENSE * n).sum()),
    }


@torch.no_grad()
def splice(
    sae: SAE, model: AntibodyModel, passages: Sequence[Encoded], layer: int, mean: Sequence[float]
) -> dict[str, float]:
    """Cross-entropy (nats a token, mean over passages) with the residues' hidden states replaced after `layer`.

    By their reconstruction, by zero, and by `mean` [d_model] (the store's); tags and padding stay as they are.
    loss_recovered_zero = (ce_zero - ce_reconstruction) / (ce_zero - ce_model), and likewise for the mean.
    """
    residues = torch.tensor(list(model.residue_tokens.values()), device=model.device)

    def replacing(new: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def edit(hidden: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
            at = torch.isin(tokens[:, -hidden.shape[1] :], residues)
            changed = hidden.clone()
            changed[at] = new(hidden[at]).to(hidden)
            return changed

        return edit

    edits = {
        "reconstruction": lambda x: sae.decode(sae.encode(x.cpu())),
        "zero": torch.zeros_like,
        "mean": lambda x: torch.tensor(mean).expand_as(x),
    }
    ce = {name: float(-model.log_likelihood(passages, layer, replacing(new)).mean()) for name, new in edits.items()}
    own = float(-model.log_likelihood(passages).mean())
    metrics = {"ce_model": own, **{f"ce_{name}": value for name, value in ce.items()}}
    for name in ("zero", "mean"):
        metrics[f"loss_recovered_{name}"] = (ce[name] - ce["reconstruction"]) / (ce[name] - own)
    return metrics
