"""Headline figures of a run, from its tables and nothing else: summary.json, and the text `make run` ends with.

Everything here tolerates what a run leaves out: one SAE, no target that can be tested, several layers or seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.config import control_of
from antibody_sae.io import read_json
from antibody_sae.report.findings import interval, matching, orderedness, points, selection
from antibody_sae.report.run import Run, TrainedSAE
from antibody_sae.sae.prefixes import kind_of
from antibody_sae.significance import over_targets


def summary(run: Run) -> dict[str, Any]:
    """Headline figures: what was run, each SAE, and the paper's claims as sentences with this run's numbers."""
    found = [_sae(run, sae) for sae in run.saes]
    claims_file = run.folder / "tables" / "claims.json"
    claims = read_json(claims_file) if claims_file.exists() else {}
    findings = [matching(found, run.targets), selection(run, claims), *orderedness(run, claims)]
    figures: dict[str, Any] = _plain(
        {
            "run": run.config["run"],
            "model": _model(run),
            "counts": counts(run),
            "targets": run.targets,
            "saes": found,
            "findings": findings,
            "claims": claims,
        }
    )
    return figures


def _model(run: Run) -> dict[str, Any]:
    layer = run.config["activations"]["layers"][0]
    manifest = run.folder / "activations" / f"layer{layer}" / "manifest.json"
    found = read_json(manifest) if manifest.exists() else {}
    known = {key: found.get(key) for key in ("model", "revision", "weights_sha256", "tokenizer_sha256", "d_model")}
    known["dtype"] = found.get("model_dtype")
    return {**known, "name": run.config["model"]["name"]}


def counts(run: Run) -> dict[str, Any]:
    """Antibodies read, refused (by reason), numbered, in each split with their clusters; residues; of the chains with a
    domain those truncated, with misplaced cysteines, and of low germline identity."""
    out: dict[str, Any] = {}
    summary_file = run.folder / "sequences" / "summary.json"
    if summary_file.exists():
        found = read_json(summary_file)
        out |= {"read": found["read"], "antibodies": found["accepted"], "rejected": found["rejected"]}
    chains = run.table("numbering/chains.parquet", ["status", "length"])
    if len(chains):
        numbered = chains["status"] == "ok"
        out |= {
            "chains": len(chains),
            "numbered": int(numbered.sum()),
            "residues": int(chains["length"][numbered].sum()),
        }
        out["not_numbered"] = chains.loc[~numbered, "status"].value_counts().to_dict()
    numbering = run.folder / "numbering" / "summary.json"
    if numbering.exists():
        found = read_json(numbering)
        wanted = ("truncated", "truncated_start", "truncated_end", "misplaced", "low_identity")
        out |= {"domains": found["numbered"], **{key: found[key] for key in wanted}}
    splits = run.table("splits/antibodies.parquet", ["cluster_id", "split"])
    if len(splits):
        out["clusters"] = int(splits["cluster_id"].nunique())
        out["splits"] = splits["split"].value_counts().to_dict()
    return out


def _sae(run: Run, sae: TrainedSAE) -> dict[str, Any]:
    settings = run.settings[sae.name]
    row: dict[str, Any] = {
        "sae": sae.name,
        "title": run.title(sae),
        "architecture": kind_of(settings),
        "control": control_of(settings),
        "layer": sae.layer,
        "seed": sae.seed,
        **run.shape(sae),
    }
    metrics_file = run.folder / "saes" / sae.folder / "metrics.json"
    if metrics_file.exists():
        metrics = read_json(metrics_file)
        keys = (
            "fvu",
            "fvu_64",
            "fvu_64_by_energy",
            "l0",
            "dead",
            "dense",
            "cosine",
            "loss_recovered_zero",
            "loss_recovered_mean",
        )
        row |= {key: metrics.get(key) for key in keys}
    row |= _one(
        run.csv("interpretable"), sae, ("alive", "interpretable", "interpretable_strict", "share", "share_strict")
    )
    complexity = run.csv("complexity")
    if len(complexity):
        everywhere = complexity[complexity["subset"] == "all"]
        row |= _one(everywhere, sae, ("n_concepts_mean", "entropy_region_mean", "density_mean"))
    best = _own(run.best, sae)
    if len(best):
        columns = ["latent", "f1", "f1_low", "f1_high", "r", "simple_baseline", "f1_simple", "f1_probe_raw"]
        chosen = best[best["concept"].isin(run.targets)].set_index("concept")[columns]
        row["best_f1"] = {concept: chosen.loc[concept].to_dict() for concept in run.targets if concept in chosen.index}
    arms = _own(run.best_f1, sae)
    if len(arms):
        row |= {"tested_targets": arms["concept"].nunique(), "steerable_targets": int(arms["steerable"].sum())}
        row["change"] = over_targets(arms.set_index("concept")["delta"])._asdict()
        row["change"] |= {key: arms[key].mean() for key in ("random_low", "random_high")}
    return row


def _own(table: pd.DataFrame, sae: TrainedSAE) -> pd.DataFrame:
    if not len(table):
        return table
    return table[(table["layer"] == sae.layer) & (table["sae"] == sae.title) & (table["seed"] == sae.seed)]


def _one(table: pd.DataFrame, sae: TrainedSAE, columns: Iterable[str]) -> dict[str, Any]:
    own = _own(table, sae)
    return {column: own.iloc[0].get(column) for column in columns} if len(own) else {}


def _plain(value: Any) -> Any:
    """Python's own numbers, NaN as None, for JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return str(value)


def headline(found: Mapping[str, Any]) -> str:
    """summary.json as plain text: a line an SAE (FVU, dead latents, best F1 of each target, how many targets the
    latents with the best F1 steer, their mean change in points with its 95% interval, the random latents' mean range),
    then the findings."""
    labels = [concept_label(target) for target in found["targets"]]
    header = ["SAE", "FVU", "dead", *(f"F1 {label}" for label in labels), "steered by best F1", "mean change", "random"]
    lines = [header]
    for row in found["saes"]:
        best, change = row.get("best_f1") or {}, row.get("change")
        steered = f"{row['steerable_targets']} of {row['tested_targets']}" if change else "-"
        moved = f"{interval(change, 100, '+.0f')} points" if change else "-"
        control = f"{points(change['random_low'])} to {points(change['random_high'])}" if change else "-"
        lines.append(
            [
                f"{row['title']}" + ("" if "layer" in row["title"] else f", layer {row['layer']}"),
                "-" if row.get("fvu") is None else f"{row['fvu']:.3f}",
                "-" if row.get("dead") is None else str(row["dead"]),
                *(f"{best[t]['f1']:.2f}" if t in best else "-" for t in found["targets"]),
                steered,
                moved,
                control,
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * len(max(table, key=len)))
    findings = [f"{finding['claim']}: {finding['verdict']}. {finding['text']}" for finding in found["findings"]]
    return "\n".join([*table, "", *findings])
