"""Steered libraries: antibodies written under an intervention, kept only where they meet the constraints.

>>> model = models.load({"name": "iglm"})
>>> sae = SAE.load("results/default/saes/layer2/ordered-seed0")
>>> steering = interventions.push(sae, {29: 1.0})  # latent 29, at the largest activation it has on training data
>>> library = design(model, sae.config["layer"], steering, 100, Constraints(max_perplexity=4.0))
>>> write(library, "j4")  # j4.fasta, j4.tsv
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError, atomic
from antibody_sae.models.model import AntibodyModel
from antibody_sae.steering import outcomes, sampling

WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": True}
NUMBERING = {"species": ["human"], "scheme": "imgt"}
MOST_TRIES = 50
"""Sequences written for each one that is wanted, before the constraints count as not to be met."""
AIRR = {"FR1": "fwr1", "CDR1": "cdr1", "FR2": "fwr2", "CDR2": "cdr2", "FR3": "fwr3", "CDR3": "cdr3", "FR4": "fwr4"}


@dataclass(frozen=True)
class Constraints:
    """What a design must be; the config's keys of the same names."""

    numberable: bool = True
    """Every chain is numbered, and the model ended the sequence itself."""
    distinct: bool = True
    """No sequence twice in a library."""
    max_perplexity: float | None = None
    """Under the unsteered model."""
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Concept -> (smallest, largest) share of the library that has it; (1, 1): every design, (0, 0): none."""


def design(
    model: AntibodyModel,
    layer: int,
    intervention: Intervention,
    n: int,
    constraints: Constraints = Constraints(),
    *,
    seed: int = 1,
    writing: Mapping[str, Any] = WRITING,
    numbering: Mapping[str, Any] = NUMBERING,
    concepts: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Write sequences under an intervention until n of them meet the constraints.

    Parameters
    ----------
    writing, numbering, concepts
        The sections `sequences` (chains, species, temperature, top_p, prompt), `numbering` (species, scheme) and
        `concepts` (only for `rates`) of a configuration.

    Returns
    -------
    One row a chain in the columns of AIRR's rearrangement schema that residues have (sequence_id, cell_id, sequence_aa,
    locus, v_call, j_call, fwr1_aa ... fwr4_aa, junction_aa, v_identity, j_identity), numbering ("1:E 2:V ..."),
    perplexity, and seed, batch and row, which write that sequence again.

    Raises
    ------
    InputError
        After MOST_TRIES * n sequences, with the reasons why sequences were refused.
    """
    if constraints.rates and concepts is None:
        raise InputError("design: constraints.rates needs the section `concepts` of a configuration")
    kept: list[pd.DataFrame] = []
    seen: set[str] = set()
    counts = dict.fromkeys(constraints.rates, 0)
    refused: Counter[str] = Counter()
    batch = accepted = 0
    while accepted < n:
        if batch * sampling.BATCH >= MOST_TRIES * n + sampling.BATCH:
            reasons = ", ".join(f"{count} {why}" for why, count in refused.most_common())
            raise InputError(
                f"design: {accepted} of {n} sequences after {batch * sampling.BATCH} tries (refused: {reasons}); "
                "lower the strength, loosen the constraints, or choose another latent"
            )
        written = _batch(model, layer, intervention, seed, batch, writing)
        found = outcomes.number_texts(written["text"], writing, numbering)
        table = written.merge(found.antibodies, on="text", how="left", validate="many_to_one")
        labels = outcomes.label_concepts(found, list(counts), concepts or {}, writing["species"])
        held = dict(zip(found.antibodies["text"], labels.tolist(), strict=True))
        chosen = []
        for i, each in enumerate(table.itertuples()):
            why = _refusal(each, constraints, seen)
            has = dict(zip(counts, held[str(each.text)], strict=True)) if why is None else {}
            why = why or _quota(has, counts, constraints.rates, accepted, n)
            if why or accepted == n:
                refused[why or "not needed"] += 1
                continue
            chosen.append(i)
            seen.add(str(each.text))
            accepted += 1
            counts = {c: count + has[c] for c, count in counts.items()}
        kept.append(_describe(table.iloc[chosen], found, seed))
        batch += 1
    return pd.concat(kept, ignore_index=True)


def _batch(
    model: AntibodyModel, layer: int, intervention: Intervention, seed: int, batch: int, writing: Mapping[str, Any]
) -> pd.DataFrame:
    """Columns text, ended, row, batch, perplexity of one batch."""
    arms, counts = [intervention], [sampling.BATCH]
    written = sampling.generate(model, layer, arms, counts, writing, [seed, batch])
    likelihood = sampling.log_likelihoods(model, written, writing, ["human"], sampling.BATCH)
    return written.drop(columns="arm").assign(batch=batch, perplexity=np.exp(-likelihood))


def _refusal(each: Any, constraints: Constraints, seen: set[str]) -> str | None:
    if constraints.numberable and not (each.valid and each.ended):
        return "not numbered or not ended"
    if constraints.distinct and each.text in seen:
        return "seen before"
    if constraints.max_perplexity is not None and not each.perplexity <= constraints.max_perplexity:
        return "above max_perplexity"
    return None


def _quota(
    has: Mapping[str, bool],
    counts: Mapping[str, int],
    rates: Mapping[str, tuple[float, float]],
    accepted: int,
    n: int,
) -> str | None:
    """Why a sequence would make the shares of a library of n impossible to reach, if it would."""
    for concept, (low, high) in rates.items():
        if has[concept] and counts[concept] + 1 > np.floor(high * n + 1e-9):
            return f"{concept} above its rate"
        if not has[concept] and counts[concept] + (n - accepted - 1) < np.ceil(low * n - 1e-9):
            return f"{concept} below its rate"
    return None


def _describe(table: pd.DataFrame, found: outcomes.Numbered, seed: int) -> pd.DataFrame:
    """AIRR-style rows, one a chain, of accepted designs."""
    rows = []
    by_chain = dict(list(found.residues.groupby(["antibody_id", "chain"], sort=False)))
    chains = found.chains.set_index(["antibody_id", "side"]).to_dict("index")
    for each in table.itertuples():
        name = f"{each.batch}-{each.row}"
        for side in ("heavy", "light"):
            sequence = getattr(each, side)
            if not isinstance(sequence, str):
                continue
            row: dict[str, Any] = {"sequence_id": f"{name}-{side}", "cell_id": name, "sequence_aa": sequence}
            numbered: Any = chains[each.antibody_id, side]
            if each.valid:
                residues = by_chain[each.antibody_id, numbered["chain"]]
                regions = residues.groupby("region")["residue"].agg("".join)
                inside = residues[residues["imgt"].notna()]
                places = inside["imgt"].astype(int).astype(str) + inside["insertion"].fillna("")
                around = inside[inside["imgt"].between(104, 118)]["residue"]
                row |= {
                    "locus": f"IG{numbered['chain']}",
                    "v_call": numbered["v_allele"],
                    "j_call": numbered["j_allele"],
                    "v_identity": numbered["v_identity"],
                    "j_identity": numbered["j_identity"],
                    "junction_aa": "".join(around),
                    **{f"{airr}_aa": regions.get(region, "") for region, airr in AIRR.items()},
                    "numbering": " ".join(places + ":" + inside["residue"]),
                }
            rows.append(row | {"perplexity": each.perplexity, "seed": seed, "batch": each.batch, "row": each.row})
    return pd.DataFrame(rows)


def write(library: pd.DataFrame, stem: str | Path, about: str = "") -> None:
    """Write stem.fasta and stem.tsv, each whole or not at all; `about`, the intervention in words, becomes a column."""
    fasta = "".join(f">{row.sequence_id}\n{row.sequence_aa}\n" for row in library.itertuples())
    text = io.StringIO()
    library.assign(intervention=about).to_csv(text, sep="\t", index=False, lineterminator="\n")
    for suffix, content in ((".fasta", fasta), (".tsv", text.getvalue())):
        with atomic(f"{stem}{suffix}") as part:
            part.write_text(content, encoding="utf-8")


def best_latent(effects: pd.DataFrame, concept: str, selected_by: str | None = None) -> tuple[int, float]:
    """(latent, strength) that moved a concept most while its sequences stayed acceptable, steerable ones first.

    `effects` is an SAE's effects.parquet. Raises InputError where no arm qualifies, or the concept was not steered.
    """
    known = sorted(effects["concept"].unique())
    if concept not in known:
        raise InputError(f"designs: concept {concept!r} was not steered; steering.targets has {', '.join(known)}")
    confirmed = effects[(effects["stage"] == "confirm") & (effects["length"] > 0)]
    rows = confirmed[(confirmed["concept"] == concept) & (confirmed["kind"] == "latent") & confirmed["acceptable"]]
    if selected_by is not None:
        rows = rows[[selected_by in str(why).split(";") for why in rows["selected_by"]]]
    rows = rows.sort_values(["steerable", "delta"], ascending=False)
    if rows.empty or rows["delta"].iloc[0] <= 0:
        raise InputError(f"designs: no latent raised {concept} at acceptable quality; name `latents` yourself")
    return int(rows["latent"].iloc[0]), float(rows["strength"].iloc[0])
