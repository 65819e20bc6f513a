"""Write the sequences of every arm, and score them under the unsteered model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from antibody_sae.interventions import Edit, Intervention
from antibody_sae.io import progress
from antibody_sae.models.generation import BATCH, side_by_side
from antibody_sae.numbering.anarci import split_chains

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded
    from antibody_sae.sections import Writing


def write(
    model: AntibodyModel,
    layer: int,
    plan: pd.DataFrame,
    arms: Sequence[Intervention],
    writing: Writing,
    species: Sequence[str],
    scored: int,
    seed: Sequence[int],
    chunk: int,
    chunks: int,
) -> pd.DataFrame:
    """Sequences of a plan's arms, each of the arm's own chains: columns chains, and those of `generate`, and
    log_likelihood of the first `scored` of an arm, and of all without steering."""
    tables = []
    for chains, own in plan.groupby("chains", sort=False):
        how: Writing = {**writing, "chains": str(chains)}
        numbers = own["arm"].to_numpy()
        mine = [arms[a] for a in numbers]
        written = generate(model, layer, mine, own["n"].tolist(), how, seed, chunk, chunks)
        unsteered = np.flatnonzero(own["kind"] == "none").tolist()
        written["log_likelihood"] = log_likelihoods(model, written, how, species, scored, unsteered)
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
    """Sequences of all arms: columns arm, row (within the arm), text, ended.

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
        tables.append(pd.DataFrame({"arm": arm[rows], "row": row[rows], **columns}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["arm", "row", "text", "ended"])


def log_likelihoods(
    model: AntibodyModel, table: pd.DataFrame, writing: Writing, species: Sequence[str], max_rows: int,
    whole: Collection[int] = (),
) -> np.ndarray:  # fmt: skip
    """[rows] mean log-likelihood (nats a residue) under the unsteered model of each arm's first `max_rows` sequences,
    and of all sequences of the arms in `whole`.

    It is nan for the others and for texts without residues. Pairs count both chains, by residues.
    """
    value = np.full(len(table), np.nan)
    wanted = (table["row"] < max_rows).to_numpy()
    if whole:
        wanted = wanted | table["arm"].isin(whole).to_numpy()
    rows = np.flatnonzero(wanted & (table["text"].str.len() > 0).to_numpy())
    passages: list[Encoded] = []
    owners: list[int] = []
    for i, (heavy, light) in zip(
        rows.tolist(), split_chains(table["text"].iloc[rows].tolist(), writing["chains"], species), strict=True
    ):
        encoded = model.encode(heavy, light, writing["species"], writing["chains"])
        passages += encoded
        owners += [i] * len(encoded)
    if passages:
        sizes = np.array([(p.residue >= 0).sum() + 1 for p in passages])
        total = np.bincount(owners, model.log_likelihood(passages) * sizes, len(table))
        value[rows] = (total / np.maximum(np.bincount(owners, sizes, len(table)), 1))[rows]
    return value
