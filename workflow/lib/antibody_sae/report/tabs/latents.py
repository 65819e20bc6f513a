"""What the report's page shows of each latent: a row in the list of latents, and a record for the latent's own page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.io import parquet_batches, read_json, read_safetensors
from antibody_sae.report import run as tables
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.page import Section
from antibody_sae.report.run import Run, TrainedSAE

TITLE = "Latents"

SHOWN_CONCEPTS = 8
NEAREST = 2
"""Nearest latents shown in each other SAE of the layer."""
STEPS = 99
"""Activations of residues are whole numbers of this many steps of the antibody's largest."""


def sections(run: Run, palette: Palette) -> list[Section]:
    """None of its own: the page's template draws the browser, from `records`."""
    return []


def records(run: Run, sae: TrainedSAE, arms: pd.DataFrame) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(columns of the list of latents, one record a latent); empty where the run has no concepts of this SAE."""
    table = run.table(f"latents/{sae.folder}.parquet")
    if not len(table):
        return {}, []
    table = table.sort_values("latent", ignore_index=True)
    own = arms
    if len(arms):
        mine = (arms["layer"] == sae.layer) & (arms["sae"] == sae.title) & (arms["seed"] == sae.seed)
        own = arms[mine & (arms["kind"] == "latent")]
    steered = {int(latent): part for latent, part in tables.grouped(own, "latent")}
    examples = run.config["report"]["examples"]
    antibodies = _antibodies(run, {a for row in table["top_antibodies"] for a in row[:examples]})
    near = nearest(run, sae)
    labels = read_json(run.folder / "concepts" / "labels.json")
    out = [
        _record(row, steered.get(int(row["latent"])), antibodies, near[i], labels, examples)
        for i, row in enumerate(tables.records(table))
    ]
    return _index(table, steered), out


REGION_ENDS = {26: "FR1", 38: "CDR1", 55: "FR2", 65: "CDR2", 104: "FR3", 117: "CDR3", 128: "FR4"}
"""Last IMGT position of each region (Lefranc et al., Dev. Comp. Immunol. 27:55, 2003)."""


def positions(run: Run) -> list[tuple[str, str]]:
    """(IMGT position, region) of the profiles' entries, in sequence order."""
    out = []
    for name in read_json(run.folder / "concepts" / "labels.json")["positions"]:
        number = int("".join(c for c in name[1:] if c.isdigit()))
        out.append((name, next((region for end, region in REGION_ENDS.items() if number <= end), "")))
    return out


def _index(table: pd.DataFrame, steered: Mapping[int, pd.DataFrame]) -> dict[str, Any]:
    names = sorted({concept_label(c) for c in table["concept"].dropna()})
    place = {name: i for i, name in enumerate(names)}
    effect: list[float | None] = [None] * len(table)
    for latent, rows in steered.items():
        good = rows[rows["acceptable"] & rows["delta"].notna()]
        if len(good):
            effect[latent] = round(float(max(good["delta"].to_numpy(float), key=abs)), 4)
    return {
        "names": names,
        "concept": [place[concept_label(c)] if isinstance(c, str) else None for c in table["concept"]],
        "f1": [_number(v, 3) for v in table["f1"]],
        "density": [_number(v, 3) for v in table["density"]],
        "concepts": table["n_concepts"].astype(int).tolist(),
        "interpretable": table["interpretable"].astype(int).tolist(),
        "effect": effect,
    }


def _number(value: Any, digits: int) -> float | None:
    """A float to some significant digits, None for nan."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None


def _record(
    row: Mapping[str, Any], steered: pd.DataFrame | None, antibodies: Mapping[str, Any], nearest: Sequence[Any],
    labels: Mapping[str, Any], examples: int,
) -> dict[str, Any]:  # fmt: skip
    own = dict(zip(row["profile_positions"], row["profile_values"], strict=True))
    regions = [(name, value) for name, value in zip(labels["regions"], row["profile_regions"], strict=True)]
    if not any(value for name, value in regions if name.startswith("L")):
        regions = [(name.removeprefix("H-"), value) for name, value in regions if name.startswith("H")]
    lens = row.get("lens_residues")
    record: dict[str, Any] = {
        "facts": _facts(row),
        "concepts": [
            [concept_label(c["concept"]), *(c[key] for key in ("f1", "precision", "recall", "auroc", "r", "q_value"))]
            for c in json.loads(row["best_concepts"])[:SHOWN_CONCEPTS]
        ],
        "along": [_number(own.get(position, 0.0), 3) for position in labels["positions"]] if own else [],
        "regions": [[name, _number(value, 3)] for name, value in regions] if own else [],
        "residues": [
            [letter, _number(value, 3)]
            for letter, value in zip(labels["residues"], row["profile_residues"], strict=True)
        ]
        if own
        else [],
        "lens": [] if lens is None else [
            [letter, _number(value, 3)] for letter, value in zip(lens, row["lens_logits"], strict=True)
        ],
        "top": [],
        "dose": [],
        "near": nearest,
    }  # fmt: skip
    tops = zip(row["top_antibodies"], row["top_values"], row["top_residues"], row["top_activations"], strict=True)
    for antibody, value, at, activations in list(tops)[:examples]:
        if antibody in antibodies:
            steps = [max(1, round(STEPS * float(a) / max(float(value), 1e-9))) for a in activations]
            strength = {
                "activation": _number(value, 3),
                "at": [int(i) for i in at],
                "steps": [min(STEPS, s) for s in steps],
            }
            record["top"].append({"id": antibody, **antibodies[antibody], **strength})
    if steered is not None:
        record["steerable"] = bool(steered["steerable"].any())
        for arm in tables.rows(steered[steered["rate"].notna() & steered["length"].notna()].sort_values("length")):
            values = (arm.length, arm.rate, arm.rate_low, arm.rate_high, arm.valid, arm.strength)
            keys = ("length", "rate", "rate_low", "rate_high", "valid", "strength")
            numbers = {key: _number(value, 4) for key, value in zip(keys, values, strict=True)}
            record["dose"].append({"concept": concept_label(arm.concept), "ok": bool(arm.acceptable), **numbers})
        for concept, baseline in dict(zip(steered["concept"], steered["baseline_rate"], strict=True)).items():
            zero = {
                "length": 0,
                "strength": 0,
                "rate": _number(baseline, 4),
                "rate_low": None,
                "rate_high": None,
                "valid": None,
            }
            record["dose"].append({"concept": concept_label(concept), "ok": True, **zero})
    return record


def _facts(row: Mapping[str, Any]) -> list[list[str]]:
    def text(key: str, form: str) -> str:
        value = row[key]
        return format(value, form) if math.isfinite(value) else "–"

    if not row["max_activation"] > 0:
        return [["dead:", "never fires on the training antibodies"]]
    return [
        ["fires on", f"{text('density', '.2%')} of residues"],
        ["in", f"{text('antibodies', '.0%')} of antibodies"],
        ["residues an antibody", text("span", ".1f")],
        ["largest activation", text("max_activation", ".2f")],
        ["entropy over regions", f"{text('entropy_region', '.1f')} bits"],
        ["over residues", f"{text('entropy_residue', '.1f')} bits"],
    ]


def _antibodies(run: Run, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """For each antibody: what it is, in words, and its chains as runs of one region: [[region, residues], ...] each."""
    chains = run.table(
        "numbering/chains.parquet", ["antibody_id", "side", "v_gene", "j_gene", "first_residue_id", "length"]
    )
    chains = chains[chains["antibody_id"].isin(wanted) & (chains["first_residue_id"] >= 0)].sort_values(
        "first_residue_id"
    )
    out: dict[str, dict[str, Any]] = {}
    starts, ends = chains["first_residue_id"].to_numpy(), (chains["first_residue_id"] + chains["length"]).to_numpy()
    pieces: dict[int, list[list[str]]] = {i: [] for i in range(len(chains))}
    first = 0
    for batch in parquet_batches(run.folder / "numbering/residues.parquet", columns=["residue", "region"], rows=65536):
        letters = np.array(batch["residue"].to_pylist(), dtype=object)
        names = np.array([name or "" for name in batch["region"].to_pylist()], dtype=object)
        here = range(
            int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(starts, first + len(letters)))
        )
        for i in here:
            low, high = max(starts[i] - first, 0), min(ends[i] - first, len(letters))
            _add_runs(pieces[i], letters[low:high], names[low:high])
        first += len(letters)
    for i, row in enumerate(tables.rows(chains)):
        entry = out.setdefault(row.antibody_id, {"about": "", "chains": []})
        genes = " ".join(g for g in (row.v_gene, row.j_gene) if isinstance(g, str))
        entry["about"] = " · ".join(filter(None, [entry["about"], genes]))
        entry["chains"].append(pieces[i])
    return out


def _add_runs(runs: list[list[str]], letters: np.ndarray, names: np.ndarray) -> None:
    cuts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
    for a, b in pairwise(cuts):
        if a == b:
            continue
        text = "".join(letters[a:b])
        if runs and runs[-1][0] == names[a]:  # the chain goes on in the next batch
            runs[-1][1] += text
        else:
            runs.append([str(names[a]), text])


def nearest(run: Run, sae: TrainedSAE) -> list[list[list[Any]]]:
    """For each latent, [key, latent, cosine] of its nearest decoder directions in every other SAE of the layer."""
    own = decoder(run, sae)
    near: list[list[list[Any]]] = [[] for _ in own]
    for other in run.saes:
        if other == sae or other.layer != sae.layer:
            continue
        theirs = decoder(run, other)
        for start in range(0, len(own), 1024):
            cosine = own[start : start + 1024] @ theirs.T
            best = np.argsort(-cosine, axis=1)[:, :NEAREST]
            for i, row in enumerate(best):
                near[start + i] += [[other.key, int(j), round(float(cosine[i, j]), 3)] for j in row]
    return near


def decoder(run: Run, sae: TrainedSAE) -> np.ndarray:
    return read_safetensors(run.folder / "saes" / sae.folder / "sae.safetensors")["decoder.weight"].float().numpy()
