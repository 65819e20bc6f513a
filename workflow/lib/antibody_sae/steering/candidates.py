"""What is known of an SAE's latents before anything is written.

Associations are those of the concepts stage: there is one latent with the best F1. Choosing looks at validation
figures; the test figures stand beside the effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from antibody_sae.activations import Store
from antibody_sae.concepts.labels import Labels
from antibody_sae.sae.model import SAE
from antibody_sae.sae.prefixes import ARCHITECTURES
from antibody_sae.significance import Floats
from antibody_sae.steering.criteria import Known

_SAMPLE = 20_000
"""Residues that the energies are summed over."""


def gather(
    sae: SAE,
    store: Store,
    labels: Labels,
    targets: Sequence[str],
    scores: Mapping[str, Tensor],
    best: pd.DataFrame,
    directions: Mapping[str, Tensor],
    output: Mapping[str, Floats],
) -> Known:
    """Everything that the criteria look at.

    scores, best: the concepts stage's scores.safetensors ([latents, concepts], residue-level ones first) and
    best.parquet; directions: the layer's, [targets, d_model]; output: `output.measures`.
    """
    names = [*labels.residue_names, *labels.antibody_names]
    columns = [names.index(target) for target in targets]
    figures = {name: values[:, columns].numpy().astype(float) for name, values in scores.items()}
    first = best.dropna(subset=["latent"]).drop_duplicates("concept").set_index("concept")["latent"]
    for j, target in enumerate(targets):
        if target in first.index:  # of equals, the concepts stage's is taken
            figures["f1_validation"][int(first[target]), j] += 1e-9
    unit = sae.directions.numpy().astype(float)
    means = directions["difference_of_means"].numpy().astype(float)
    ordered = ARCHITECTURES[sae.config["architecture"]].ordered
    return Known(
        alive=sae.max_activation.numpy() > 0,
        density=sae.density.numpy(),
        f1=figures["f1_validation"],
        r=figures["r_validation"],
        test_f1=figures["f1"],
        test_r=figures["r"],
        rate_derivative=unit @ directions["rate_derivative"].numpy().astype(float).T,
        decoder_alignment=unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T,
        output_score=output["output_score"],
        delta_token_confidence=output["delta_token_confidence"],
        rank=np.arange(sae.latents, dtype=float) if ordered else energy_rank(sae, store),
    )


def energy_rank(sae: SAE, store: Store) -> Floats:
    """[latents] rank by the sum of squared activations, 0 = largest: the order that an Ordered SAE is sorted into.
    Raises InputError where the store is not the SAE's."""
    sae.check(store.provenance(), store.folder)
    energy, seen = np.zeros(sae.latents), 0
    for acts, _ in store.blocks():
        codes = sae.encode(acts.float()[: _SAMPLE - seen])
        energy += np.bincount(
            codes.indices.numpy().ravel(), codes.values.numpy().astype(float).ravel() ** 2, sae.latents
        )
        seen += len(codes.indices)
        if seen >= _SAMPLE:
            break
    rank = np.empty(sae.latents)
    rank[np.argsort(-energy, kind="stable")] = np.arange(sae.latents)
    return rank
