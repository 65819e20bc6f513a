"""Write the sequences of every arm, and score them under the unsteered model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from antibody_sae.interventions import Edit, Intervention, Where, parse_where
from antibody_sae.io import progress
from antibody_sae.models.generation import BATCH, side_by_side
from antibody_sae.numbering.anarci import split_chains

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded
    from antibody_sae.sections import Writing


def wheres(plan: pd.DataFrame, common: Any, counts: Mapping[str, Mapping[str, Any]]) -> list[Where]:
    """Where each arm acts: in its own region, else in the `common` one of the configuration; `counts`: residues of the
    regions of each kind of chains."""
    each = zip(plan["where"], plan["chains"], strict=True)
    return [parse_where(own if isinstance(own, str) else common, counts[chains]) for own, chains in each]


def write(
    model: AntibodyModel,
    layer: int,
    plan: pd.DataFrame,
    arms: Sequence[Intervention],
    writing: Writing,
    seed: Sequence[int],
    chunk: int,
    chunks: int,
) -> pd.DataFrame:
    """Sequences of a plan's arms, each of the arm's own chains: columns chains, and those of `generate`."""
    tables = []
    for chains, own in plan.groupby("chains", sort=False):
        how: Writing = {**writing, "chains": str(chains)}
        numbers = own["arm"].to_numpy()
        mine = [arms[a] for a in numbers]
        written = generate(model, layer, mine, own["n"].tolist(), how, seed, chunk, chunks)
        tables.append(written.assign(arm=numbers[written["arm"].to_numpy(int)], chains=chains))
    return pd.concat(tables, ignore_index=True)


def generate(
    model: AntibodyModel,
    layer: int,
    arms: Sequence[Intervention],
    counts: Sequence[int],
    writing: Writing,
    seed: Sequence[int],
    chunk: int = 0,
    chunks: int = 1,
) -> pd.DataFrame:
    """Sequences of all arms: columns arm, row (within the arm), text, ended, and log_likelihood (mean, nats a residue)
    under the unsteered model, nan for texts without residues.

    Arms lie end to end in batches of BATCH rows; chunk c takes every chunks-th batch from the c-th on. A row's random
    numbers depend on `seed`, its batch and its place there, so the sequences do not depend on the number of chunks.
    `writing`: chains, species, temperature, top_p, prompt, complete of the `sequences` section.
    """
    arm = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.empty(0, np.int64)
    mine = range(chunk, -(-len(arm) // BATCH), chunks)
    width = side_by_side(model, batch_size=BATCH)
    tables = []
    groups = range(0, len(mine), width)
    for start in progress(groups, len(groups), f"writing {len(arm)} sequences in {len(counts)} arms"):
        batches = mine[start : start + width]
        rows = np.concatenate([np.arange(b * BATCH, min((b + 1) * BATCH, len(arm))) for b in batches])
        edit = Edit(model, [arms[a] for a in arm[rows]], writing["chains"], writing["species"])
        options = {"seed": seed, "batches": batches, "batch_size": BATCH, "layer": layer, "edit": edit}
        written = model.generate(len(arm), **options, **writing)
        columns = {"text": [w.text for w in written], "ended": [w.ended for w in written]}
        columns["log_likelihood"] = np.array([w.log_likelihood for w in written], float)
        tables.append(pd.DataFrame({"arm": arm[rows], "row": row[rows], **columns}))
    none = pd.DataFrame(columns=["arm", "row", "text", "ended", "log_likelihood"])
    return pd.concat(tables, ignore_index=True) if tables else none


def log_likelihoods(model: AntibodyModel, texts: Sequence[str], writing: Writing, species: Sequence[str]) -> np.ndarray:
    """[texts] mean log-likelihood (nats a residue) under the unsteered model of texts that it did not write itself; nan
    for those without residues. Pairs count both chains, by residues.
    """
    passages: list[Encoded] = []
    owners: list[int] = []
    rows = [i for i, text in enumerate(texts) if text]
    for i, (heavy, light) in zip(rows, split_chains([texts[i] for i in rows], writing["chains"], species), strict=True):
        encoded = model.encode(heavy, light, writing["species"], writing["chains"])
        passages += encoded
        owners += [i] * len(encoded)
    value = np.full(len(texts), np.nan)
    if passages:
        sizes = np.array([(p.residue >= 0).sum() + 1 for p in passages])
        total = np.bincount(owners, model.log_likelihood(passages) * sizes, len(texts))
        value[rows] = (total / np.maximum(np.bincount(owners, sizes, len(texts)), 1))[rows]
    return value
