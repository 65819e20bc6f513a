"""The report's first tab: what was run, each SAE, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import claims as figures_claims
from antibody_sae.report.charts import training as figures_training
from antibody_sae.report.charts.base import INK, Figure, Palette
from antibody_sae.report.costs import costs
from antibody_sae.report.findings import interval, joined, matched_density, points
from antibody_sae.report.page import Column, Finding, Section, Table, columns
from antibody_sae.report.run import CHAINS, Run, grouped, title
from antibody_sae.report.tabs import levers


def described(run: Run, summary: Mapping[str, Any]) -> str:
    """One sentence: model, sequences, layers, SAEs."""
    sequences, n = run.config["sequences"], f"{summary['counts'].get('antibodies', 0):,}"
    chains = CHAINS[sequences["chains"]]
    origin = f"{n} antibodies from files"
    if sequences["source"] == "generate":
        origin = f"{n} {sequences['species']} {chains} that it wrote"
    layers = joined([str(layer) for layer in run.config["activations"]["layers"]])
    names = joined([title(name) for name in run.settings])
    shapes = [run.shape(sae) for sae in run.saes]
    widths = joined([f"{w:,}" for w in sorted({shape["latents"] for shape in shapes})])
    active = joined([str(k) for k in sorted({shape["k"] for shape in shapes})])
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


MARKS = {"confirmed": "yes", "not confirmed": "no"}


def findings(run: Run, summary: Mapping[str, Any], palette: Palette) -> list[Finding]:
    """The claims at a glance, each with the picture that goes with it where the run has one, and how useful the
    dictionaries are for control."""
    drawn = [_matched(summary, palette), _controlled(run), _compared(run, palette), _complex(run, palette)]
    claims = [
        Finding(f["claim"], f["verdict"], MARKS.get(f["verdict"], ""), f["text"], f["rule"], picture)
        for f, picture in zip(summary["findings"], drawn, strict=True)
    ]
    useful = levers.usefulness(run, palette)
    return [*claims, useful] if useful else claims


def _matched(summary: Mapping[str, Any], palette: Palette) -> Figure | None:
    known = [row for row in summary["saes"] if row.get("share_strict") is not None]
    if not known:
        return None
    table = pd.DataFrame(known)[["sae", "layer", "seed", "share_strict"]].rename(columns={"share_strict": "value"})
    table["sae"] = table["sae"].map(title)
    chart = figures_claims.by_sae(table, palette, "share of active latents", ".0%")
    caption = "Latents whose whole F1 interval beats every simple baseline; dots: seeds."
    return Figure("claim-match", "Latents that match a concept", caption, chart, table)


def _pushed(table: pd.DataFrame, who: str) -> pd.DataFrame:
    """Changes by target, the mean over seeds and layers: the interval only where there is one arm."""
    kept = ["delta", "delta_low", "delta_high", "steerable"]
    by = table[table["delta"].notna()].groupby("concept", sort=False)[kept]
    found = by.agg({"delta": "mean", "delta_low": "min", "delta_high": "max", "steerable": "mean"})
    one = by.size() == 1
    return pd.DataFrame({
        "concept": found.index, "label": [concept_label(c) for c in found.index], "who": who,
        "delta": found["delta"].astype(float), "low": found["delta_low"].where(one),
        "high": found["delta_high"].where(one),
        "steerable": found["steerable"].astype(float) >= 0.5,
    }).reset_index(drop=True)  # fmt: skip


_CHANGES = "Mean over seeds and layers on fresh sequences, 95% interval where there is one arm; hollow: not steered."


def _controlled(run: Run) -> Figure | None:
    if not len(run.criteria):
        return None
    own = run.criteria[(run.criteria["architecture"] == "topk") & (run.criteria["length"] > 0)]
    colours = {"latent with the best F1": "#0072B2", "trained vector": INK}
    latent, vector = (
        own[own["selected_by"] == "f1"],
        own[own["kind"] == "trained"].drop_duplicates(["concept", "layer"]),
    )
    table = pd.concat(
        [_pushed(part, who) for part, who in zip((latent, vector), colours, strict=True)], ignore_index=True
    )
    if not len(table):
        return None
    chart = figures_claims.changes(table, colours, {"latent with the best F1": "circle", "trained vector": "diamond"})
    return Figure("claim-control", "Best latent of TopK beside a trained vector", _CHANGES, chart, table)


def _compared(run: Run, palette: Palette) -> Figure | None:
    table = run.best_f1
    if not len(table):
        return None
    table = pd.concat([_pushed(own, str(sae)) for sae, own in grouped(table, "sae")], ignore_index=True)
    if not len(table):
        return None
    saes = list(dict.fromkeys(table["who"]))
    shapes = {sae: palette.shapes[palette.saes.index(sae)] for sae in saes}
    chart = figures_claims.changes(table, {sae: palette.of(sae) for sae in saes}, shapes)
    return Figure("claim-reliability", "Each SAE's latent with the best F1", _CHANGES, chart, table)


def _complex(run: Run, palette: Palette) -> Figure | None:
    table = matched_density(run)
    table = table[table["n_above_yes_mean"].notna()] if len(table) else table
    if not len(table):
        return None
    table = table[["sae", "layer", "seed", "n_above_yes_mean"]].rename(columns={"n_above_yes_mean": "value"})
    chart = figures_claims.by_sae(table, palette, "concepts a latent", ".1f")
    caption = "Concepts predicted 0.2 F1 better than by always saying yes, at matched density; dots: seeds."
    return Figure("claim-complexity", "Concepts a latent goes with", caption, chart, table)


def overview(run: Run, summary: Mapping[str, Any]) -> list[Section]:
    """What the claims rest on, the SAEs side by side, the data, the costs."""
    figures = [(f["claim"], what, value) for f in summary["findings"] for what, value in f["figures"]]
    sections = []
    if figures:
        shown = columns("what|what was measured", "value|figure, 95% interval in brackets", "claim|claim")
        table = pd.DataFrame(figures, columns=["claim", "what", "value"])
        sections.append(Section("The claims in figures", tables=[Table("Claims", shown, table)]))
    sections += [
        Section(
            "The SAEs side by side",
            "Association and control of the latents with the best F1. Changes are in percentage points of the share of "
            "written sequences with the concept, on fresh sequences that chose nothing, with 95% intervals.",
            tables=[_sae_table(summary)],
        ),
        Section("The data", tables=[_data_table(summary["counts"])]),
    ]
    spent = costs(run)
    if len(spent):
        caption = "Sum over a stage's jobs, from Snakemake's benchmarks; jobs that ran side by side all count."
        chart = Figure("costs", "Minutes of work per stage", caption, figures_training.stage_costs(spent), spent)
        shown = columns("stage|stage", "jobs|jobs|d", "minutes|minutes|.1f", "peak_gb|peak memory of a job, GB|.1f")
        cost_table = Table("Cost per stage", shown, spent, csv="figures/costs.csv")
        sections.append(Section("What it cost", figures=[chart], tables=[cost_table]))
    return sections


def _sae_table(summary: Mapping[str, Any]) -> Table:
    found = []
    for sae in summary["saes"]:
        row, change = dict(sae), sae.get("change")
        if change and change["mean"] is not None:
            row["mean_change"] = 100 * change["mean"]
            row["mean_change_note"] = interval(change, 100, "+.0f")
        if change and change["random_high"] is not None:  # a model that writes nothing numberable has neither
            row["random"], row["random_note"] = 100 * change["random_high"], f"lowest {points(change['random_low'])}"
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
        "steerable_targets|targets steered by their best F1|.0f",
        "mean_change|their mean change, points|+.0f|95% interval over targets in brackets",
        "random|random latents, highest|+.0f|mean over the same targets, of random latents of the same length",
    )
    return Table("SAEs", shown, pd.DataFrame(found), csv="../tables/saes.csv")


def _data_table(counts: Mapping[str, Any]) -> Table:
    def reasons(key: str, what: str) -> list[tuple[str, Any, str]]:
        return [(f"{what}: {reason}", n, "") for reason, n in (counts.get(key) or {}).items()]

    def domains(what: str, n: int | None) -> tuple[str, Any, str]:
        of = counts.get("domains") or 0
        return what, n, f"{n / of:.1%} of chains with a domain" if of and n is not None else ""

    splits = counts.get("splits") or {}
    found = [("records read", counts.get("read"), ""), ("antibodies accepted", counts.get("antibodies"), "")]
    found += reasons("rejected", "refused") + reasons("not_numbered", "chain not numbered")
    found += [("chains numbered", counts.get("numbered"), ""), ("residues", counts.get("residues"), "")]
    if counts.get("domains") is not None:
        whole, placed = (counts["domains"] - counts[key] for key in ("truncated", "misplaced"))
        found += [
            domains("complete domains (IMGT 1 or 2 to 127 or 128)", whole),
            domains("truncated at the start", counts["truncated_start"]),
            domains("truncated at the end", counts["truncated_end"]),
            domains("conserved cysteines at 23 and 104", placed),
            domains("V germline identity below 75%", counts["low_identity"]),
        ]
    found += [("clonotype clusters", counts.get("clusters"), "")]
    found += [(f"{split} antibodies", splits.get(split), "") for split in ("train", "validation", "test")]
    table = pd.DataFrame([row for row in found if row[1] is not None], columns=["what", "n", "n_note"])
    return Table("Sequences, from record to split", columns("what|", "n|number|,d"), table)
