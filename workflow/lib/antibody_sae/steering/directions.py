"""Directions that need labels or gradients, but no SAE."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.concepts.labels import Labels
from antibody_sae.io import InputError
from antibody_sae.steering.targets import Panel, context


def directions(store: Store, labels: Labels, panel: Panel) -> dict[str, Tensor]:
    """Supervised directions of each target, [targets, d_model] float32, unit length.

    `difference_of_means`: mean activation of antibodies with the concept minus that of the others, each antibody its
    mean over the target's context (Marks & Tegmark 2023, arXiv:2310.06824). `probe`: the weights of an L2-regularised
    logistic regression on the same means. Train and validation antibodies only.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import, and nothing else here needs it

    contexts = [tuple(context(target)[0]) for target in panel.targets]
    distinct = sorted(set(contexts))
    sums = {c: torch.zeros(len(panel.rows), store.d_model) for c in distinct}
    counts = {c: torch.zeros(len(panel.rows)) for c in distinct}
    for x, place, residue_id in panel_blocks(store, labels, panel):
        region = labels.region[residue_id]
        for c in distinct:
            inside = np.isin(region, c)
            at = torch.from_numpy(place[inside])
            sums[c].index_add_(0, at, x[torch.from_numpy(inside)])
            counts[c].index_add_(0, at, torch.ones(len(at)))
    means, probes = [], []
    for j, c in enumerate(contexts):
        use = ~panel.test & (counts[c] > 0).numpy()
        mean = (sums[c] / counts[c].clamp(min=1)[:, None]).numpy()[use]
        y = panel.has[use, j]
        if y.all() or not y.any():
            raise InputError(
                f"steering.targets: {panel.targets[j]}: no chain with the regions it is read in has it, or all"
            )
        means.append(mean[y].mean(0) - mean[~y].mean(0))
        scale = store.manifest["scale"]
        fitted = LogisticRegression(C=1.0, max_iter=300).fit((mean - mean.mean(0)) / scale, y)
        probes.append(fitted.coef_[0])
    return {
        "difference_of_means": unit(torch.tensor(np.array(means), dtype=torch.float32)),
        "probe": unit(torch.tensor(np.array(probes), dtype=torch.float32)),
    }


def panel_blocks(store: Store, labels: Labels, panel: Panel) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Activations of the panel's residues: (x [m, d] float32, place in the panel [m], residue_id [m])."""
    first, length = labels.first[panel.rows], labels.length[panel.rows]
    order = np.argsort(first)
    starts = first[order]
    for acts, residue_id in store.blocks():
        place = order[np.maximum(np.searchsorted(starts, residue_id, side="right") - 1, 0)]
        mine = (residue_id >= first[place]) & (residue_id < first[place] + length[place])
        if mine.any():
            yield acts[torch.from_numpy(mine)].float(), place[mine], residue_id[mine]


def unit(rows: Tensor) -> Tensor:
    length: Tensor = rows.norm(dim=-1, keepdim=True)
    return rows / length.clamp(min=1e-12)


def typical_length(store: Store) -> float:
    """Root mean square length of the centred residual stream, which `norms` are multiples of."""
    return float(store.manifest["scale"] * store.d_model**0.5)
