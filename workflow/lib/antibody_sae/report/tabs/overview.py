"""The report's first tab: what was run, each SAE, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import training as figures_training
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.costs import costs
from antibody_sae.report.findings import interval, joined, points
from antibody_sae.report.page import Column, Section, Table, columns
from antibody_sae.report.run import Run, title
from antibody_sae.report.tabs import steering as report_steering


def described(run: Run, summary: Mapping[str, Any]) -> str:
    """One sentence: model, sequences, layers, SAEs."""
    sequences, n = run.config["sequences"], f"{summary['counts'].get('antibodies', 0):,}"
    chains = {"H": "heavy chains", "L": "light chains", "HL": "paired antibodies"}[sequences["chains"]]
    origin = f"{n} antibodies from files"
    if sequences["source"] == "generate":
        origin = f"{n} {sequences['species']} {chains} that it wrote"
    layers = joined([str(layer) for layer in run.config["activations"]["layers"]])
    names = joined([title(name) for name in run.settings])
    widths = joined([f"{w:,}" for w in sorted({s["latents"] for s in run.settings.values()})])
    active = joined([str(k) for k in sorted({s["k"] for s in run.settings.values()})])
    return (
        f"{run.config['model']['name']} on {origin}; residual stream after block {layers}; {names} sparse autoencoders "
        f"with {widths} latents, {active} active a residue."
    )


def tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    counts = summary["counts"]
    splits = counts.get("splits") or {}
    sizes = " / ".join(f"{splits.get(split, 0):,}" for split in ("train", "validation", "test"))
    tiles = [
        ("Antibodies", counts.get("antibodies"), f"{sum((counts.get('rejected') or {}).values()):,} refused"),
        (
            "Chains numbered",
            counts.get("numbered"),
            f"{counts.get('chains', 0) - counts.get('numbered', 0):,} could not be",
        ),
        ("Residues", counts.get("residues"), ""),
        ("Clonotype clusters", counts.get("clusters"), f"{sizes} antibodies to train / validate / test"),
        ("SAEs", len(summary["saes"]), f"{sum(s['latents'] for s in summary['saes']):,} latents"),
    ]
    return [{"title": name, "value": f"{value:,}", "note": note} for name, value, note in tiles if value is not None]


def overview(run: Run, summary: Mapping[str, Any], palette: Palette) -> list[Section]:
    """The SAEs side by side, the claims, the data, the costs."""
    first = run.config["activations"]["layers"][0]
    claims = columns("claim|claim", "verdict|verdict", "rule|how it is decided")
    sections = [
        Section(
            "The SAEs side by side",
            "Association and control of the latents with the best F1. Changes are in percentage points of the share of "
            "written sequences with the concept, on fresh sequences that chose nothing, with 95% intervals.",
            figures=[f for f in report_steering.effects(run, palette) if f.pick["layer"] == str(first)],
            tables=[_sae_table(summary)],
        ),
        Section("The three claims", tables=[Table("Claims", claims, pd.DataFrame(summary["findings"]))]),
        Section("The data", tables=[_data_table(summary["counts"])]),
    ]
    spent = costs(run)
    if len(spent):
        caption = "Sum over a stage's jobs, from Snakemake's benchmarks; jobs that ran side by side all count."
        chart = Figure("costs", "Minutes of work per stage", caption, figures_training.stage_costs(spent), spent)
        shown = columns("stage|stage", "jobs|jobs|d", "minutes|minutes|.1f", "peak_gb|peak memory of a job, GB|.1f")
        table = Table("Cost per stage", shown, spent, csv="figures/costs.csv")
        sections.append(Section("What it cost", figures=[chart], tables=[table]))
    return sections


def _sae_table(summary: Mapping[str, Any]) -> Table:
    found = []
    for sae in summary["saes"]:
        row, change = dict(sae), sae.get("change")
        if change:
            row["mean_change"] = 100 * change["mean"]
            row["mean_change_note"] = interval(change, 100, "+.0f")
            row["control"], row["control_note"] = 100 * change["random_high"], f"lowest {points(change['random_low'])}"
        for target, best in (sae.get("best_f1") or {}).items():
            row[target], row[f"{target}_note"] = best["f1"], f"latent {best['latent']}"
        found.append(row)
    shown = columns(
        "title|SAE",
        "layer|layer|d",
        "fvu|FVU|.3f|fraction of variance unexplained, held out",
        "dead|dead|d|latents that never fire on held-out residues",
        "interpretable|interpretable|,d|latents that beat every simple baseline on test",
    )
    shown += [Column(t, f"F1 {concept_label(t)}", ".2f", "best latent, test antibodies") for t in summary["targets"]]
    shown += columns(
        "steerable_targets|targets steered by their best F1|d",
        "mean_change|their mean change, points|+.0f|95% interval over targets in brackets",
        "control|random latents, highest|+.0f|mean over the same targets, of random latents of the same length",
    )
    return Table("SAEs", shown, pd.DataFrame(found), csv="../tables/saes.csv")


def _data_table(counts: Mapping[str, Any]) -> Table:
    def reasons(key: str, what: str) -> list[tuple[str, Any]]:
        return [(f"{what}: {reason}", n) for reason, n in (counts.get(key) or {}).items()]

    splits = counts.get("splits") or {}
    found = [("records read", counts.get("read")), ("antibodies accepted", counts.get("antibodies"))]
    found += reasons("rejected", "refused") + reasons("not_numbered", "chain not numbered")
    found += [("chains numbered", counts.get("numbered")), ("residues", counts.get("residues"))]
    found += [("clonotype clusters", counts.get("clusters"))]
    found += [(f"{split} antibodies", splits.get(split)) for split in ("train", "validation", "test")]
    table = pd.DataFrame([pair for pair in found if pair[1] is not None], columns=["what", "n"])
    return Table("Sequences, from record to split", columns("what|", "n|number|,d"), table)
