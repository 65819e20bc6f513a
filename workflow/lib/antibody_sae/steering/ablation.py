"""Is a latent necessary? It is held at 0 on antibodies that have a target (steering says whether it is sufficient).

Two measures. What becomes of the likelihood of the residues that decide the target, as they stand in test antibodies
that have it, and of the others, as a control. And what becomes of the target's rate where the model goes on from just
before those residues. The other control is the target's matched latent, as dense and as large and not associated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from antibody_sae.antibody import SPLITS
from antibody_sae.concepts.labels import Labels, chain_residues, text_of
from antibody_sae.interventions import Edit, Intervention, clamp
from antibody_sae.sae.model import SAE
from antibody_sae.significance import Floats, log_odds_ratio, over_targets
from antibody_sae.steering import outcomes
from antibody_sae.steering.arms import pairs
from antibody_sae.steering.targets import context

if TYPE_CHECKING:  # transformers takes seconds to import
    from antibody_sae.models.model import AntibodyModel
    from antibody_sae.sections import LabelSections, Writing

CONTINUED = 2
"""Sequences written from each antibody under each arm."""


def arms_of(plan: pd.DataFrame) -> pd.DataFrame:
    """Of an explored plan each target's candidates and matched latents: concept, kind, latent, selected_by (";")."""
    found = pairs(plan)
    about = plan[["kind", "latent"]].iloc[found["row"]].reset_index(drop=True)
    table = pd.concat([found[["concept", "criterion"]], about], axis=1)
    table = table[table["kind"].isin(["latent", "matched_latent"])].drop_duplicates()
    keys = ["concept", "kind", "latent"]
    by = {key: ";".join(own["criterion"].dropna()) or None for key, own in table.groupby(keys, sort=False)}
    out = pd.DataFrame([*by], columns=keys).astype({"latent": "Int64"})
    return out.assign(selected_by=pd.Series([*by.values()], dtype=object))


def examples(labels: Labels, target: str, chains: str, most: int) -> list[tuple[str, str, np.ndarray, int]]:
    """At most `most` test antibodies that have the target, evenly spaced: heavy and light chain ("" where it is not
    written), [residues] whether a residue decides the target, clonotype cluster."""
    regions = context(target)[1]
    rows = np.flatnonzero(labels.having(target) & (labels.split == SPLITS.index("test")))
    out = []
    for row in rows[[i * len(rows) // most for i in range(most)] if len(rows) > most else slice(None)].tolist():
        sides = [
            ids if side in chains else ids[:0] for side, ids in zip("HL", chain_residues(labels, row), strict=True)
        ]
        heavy, light = (text_of(labels, ids) for ids in sides)
        decides = np.isin(labels.region[np.concatenate(sides)], regions)
        if decides.any():
            out.append((heavy, light, decides, int(labels.cluster[row])))
    return out


def likelihoods(
    model: AntibodyModel, layer: int, chains: str, species: str, antibodies: Sequence[tuple[str, str]],
    arm: Intervention,
) -> list[Floats]:  # fmt: skip
    """[residues] log-probability (nats) of each residue of each antibody (heavy, light) under an intervention."""
    passages = [model.encode(heavy or None, light or None, species, chains)[0] for heavy, light in antibodies]
    found: dict[int, Floats] = {}
    for i, logits in model.next_token_logits(passages, layer, Edit(model, [arm], chains, species)):
        at = torch.from_numpy(np.flatnonzero(passages[i].residue >= 0)).to(logits.device)
        tokens = torch.from_numpy(passages[i].tokens).to(logits.device)
        found[i] = logits.log_softmax(-1)[at - 1, tokens[at]].cpu().numpy()
    return [found[i] for i in range(len(passages))]


def continued(
    model: AntibodyModel, layer: int, prompts: Sequence[str], arms: Sequence[Intervention],
    writing: Writing, seed: Sequence[int],
) -> pd.DataFrame:  # fmt: skip
    """CONTINUED sequences of each arm from each prompt: columns arm, row (within the arm), text, ended."""
    rows: list[tuple[int, int, str, bool]] = []
    for k, (text, times) in enumerate(Counter(prompts).items()):
        first, each = len(rows) // len(arms), CONTINUED * times
        edit = Edit(model, [arm for arm in arms for _ in range(each)], writing["chains"], writing["species"])
        how: dict[str, Any] = {**writing, "prompt": text, "seed": [*seed, k], "layer": layer, "edit": edit}
        for i, one in enumerate(model.generate(len(arms) * each, **how)):
            rows.append((i // each, first + i % each, one.text, one.ended))
    return pd.DataFrame(rows, columns=["arm", "row", "text", "ended"])


def ablate(
    model: AntibodyModel, layer: int, sae: SAE, labels: Labels, arms: pd.DataFrame, targets: Mapping[str, str],
    most: int, writing: Writing, settings: LabelSections, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """One row an arm (`arms_of`) and target, and one without ablation (kind none).

    `most`: antibodies a target; `writing`: of the `sequences` section; `settings`: sections numbering and concepts.
    antibodies: that have the target; deciding, elsewhere (with _low, _high): mean change in nats of a residue's
    log-probability, of those that decide the target and of the others, with its interval over clonotype clusters; n,
    n_valid, hits, rate: of what was continued; log_odds (with _low, _high): against the same without ablation.
    """
    rows: list[dict[str, Any]] = []
    for t, (target, chains) in enumerate(targets.items()):
        own: list[Any] = arms[arms["concept"] == target].to_dict("records")
        found = examples(labels, target, chains, most)
        if not own or not found:
            continue
        held = [Intervention(), *(clamp(sae, {int(arm["latent"]): 0.0}) for arm in own)]
        how: Writing = {**writing, "chains": chains}
        texts = [(heavy, light) for heavy, light, _, _ in found]
        read = [likelihoods(model, layer, chains, writing["species"], texts, arm) for arm in held]
        prompts = [(heavy + light)[: int(np.argmax(decides))] for heavy, light, decides, _ in found]
        written = continued(model, layer, prompts, held, how, [seed, t])
        became = outcomes.outcomes(written, [target], how, settings, [], 0)
        counts = became.groupby("arm").agg(n=("row", "size"), n_valid=("valid", "sum"), hits=(target, "sum"))
        for i, arm in enumerate([{"concept": target, "kind": "none"}, *own]):
            row: dict[str, Any] = {**arm, "antibodies": len(found)} | counts.loc[i].astype(int).to_dict()
            row["rate"] = row["hits"] / row["n_valid"] if row["n_valid"] else np.nan
            if i:
                row |= _changes(read[i], read[0], found) | _odds(row, rows[-i])
            rows.append(row)
    columns = ["concept", "kind", "latent", "selected_by", "antibodies", "deciding", "deciding_low", "deciding_high",
               "elsewhere", "elsewhere_low", "elsewhere_high", "n", "n_valid", "hits", "rate", "log_odds",
               "log_odds_low", "log_odds_high"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns).astype({"latent": "Int64"})


def _changes(
    after: Sequence[Floats], before: Sequence[Floats], found: Sequence[tuple[str, str, np.ndarray, int]]
) -> dict[str, float]:
    out = {}
    for name, deciding in (("deciding", True), ("elsewhere", False)):
        change = {
            (cluster, i): float((a - b)[decides == deciding].mean())
            for i, (a, b, (_, _, decides, cluster)) in enumerate(zip(after, before, found, strict=True))
            if (decides == deciding).any()
        }
        index = pd.MultiIndex.from_tuples(list(change), names=["cluster", "antibody"]) if change else None
        mean = over_targets(pd.Series(list(change.values()), index=index, dtype=float)) if change else None
        for suffix, value in zip(("", "_low", "_high"), mean[:3] if mean else (np.nan,) * 3, strict=True):
            out[f"{name}{suffix}"] = value
    return out


def _odds(row: Mapping[str, Any], none: Mapping[str, Any]) -> dict[str, float]:
    found = log_odds_ratio(row["hits"], row["n_valid"], none["hits"], none["n_valid"])
    return {f"log_odds{s}": float(value) for s, value in zip(("", "_low", "_high"), found, strict=True)}
