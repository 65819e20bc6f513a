"""The report of a run: its tabs, from the run's tables, and all its pictures as files beside the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from antibody_sae import figures, latents, report_concepts, report_steering
from antibody_sae.figures import Figure, Palette
from antibody_sae.io import atomic, read_json
from antibody_sae.logos import Logo
from antibody_sae.page import Browsed, Column, Pick, Section, Tab, Table, columns, render
from antibody_sae.tables import Run, concept_label, costs, joined, points, rows, title

MARKS = {"confirmed": "yes", "not confirmed": "no"}


def build(run: Run, summary: Mapping[str, Any], page: str | Path, pictures: str | Path) -> None:
    """Write the page, and every picture as SVG, PNG and CSV into the folder `pictures`."""
    palette = Palette(list(dict.fromkeys(sae.title for sae in run.saes)))
    steered = report_steering.arms(run)
    tabs = [
        Tab("overview", "Overview", overview(run, summary, palette)),
        Tab("training", "Training", training(run, palette)),
        Tab("concepts", "Concepts", report_concepts.sections(run, palette)),
        Tab("latents", "Latents", []),
        Tab("steering", "Steering", report_steering.sections(run, steered, palette)),
    ]
    drawn = {figure.name: figure for tab in tabs for section in tab.sections for figure in section.figures}
    for figure in drawn.values():
        _write(figure, Path(pictures))
    browsed = [Browsed(sae.key, run.title(sae), *latents.records(run, sae, steered)) for sae in run.saes]
    browsed = [sae for sae in browsed if sae.records]
    html = render(tabs, browsed, latents.positions(run) if browsed else [], _about(run, summary))
    with atomic(page) as part:
        part.write_text(html, encoding="utf-8")


def _write(figure: Figure | Logo, folder: Path) -> None:
    svg = figure.svg if isinstance(figure, Logo) else figures.svg(figure)
    figures.write_pictures(svg, folder / figure.name)
    with atomic(folder / f"{figure.name}.csv") as part:
        figure.data.to_csv(part, index=False, float_format="%.6g")


def layer_picks(run: Run) -> list[Pick]:
    """The choice of a layer, where the run has several."""
    layers = run.config["activations"]["layers"]
    return [Pick("layer", "Layer", [(str(layer), str(layer)) for layer in layers])] if len(layers) > 1 else []


# ---------------------------------------------------------------- what the page says around its tabs


def _about(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": summary["run"],
        "what": _what(run, summary),
        "findings": [{**f, "mark": MARKS.get(f["verdict"], "")} for f in summary["findings"]],
        "tiles": _tiles(summary),
        "model": summary["model"],
        "settings": yaml.safe_dump(dict(run.config), sort_keys=False, width=100),
    }


def _what(run: Run, summary: Mapping[str, Any]) -> str:
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


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
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


# ---------------------------------------------------------------- overview


def overview(run: Run, summary: Mapping[str, Any], palette: Palette) -> list[Section]:
    """The SAEs side by side, the claims, the data, the costs."""
    first = run.config["activations"]["layers"][0]
    claims = columns("claim|claim", "verdict|verdict", "rule|how it is decided")
    sections = [
        Section(
            "The SAEs side by side",
            "Association and control of the best latents. Changes are in percentage points of the share of written "
            "sequences with the concept, measured on sequences that did not choose the latent, with 95% intervals.",
            figures=[f for f in report_steering.effects(run, palette) if f.pick["layer"] == str(first)],
            tables=[_sae_table(summary)],
        ),
        Section("The three claims", tables=[Table("Claims", claims, pd.DataFrame(summary["findings"]))]),
        Section("The data", tables=[_data_table(summary["counts"])]),
    ]
    spent = costs(run)
    if len(spent):
        caption = "Sum over a stage's jobs, from Snakemake's benchmarks; jobs that ran side by side all count."
        chart = Figure("costs", "Minutes of work per stage", caption, figures.stage_costs(spent), spent)
        shown = columns("stage|stage", "jobs|jobs|d", "minutes|minutes|.1f", "peak_gb|peak memory of a job, GB|.1f")
        table = Table("Cost per stage", shown, spent, csv="figures/costs.csv")
        sections.append(Section("What it cost", figures=[chart], tables=[table]))
    return sections


def _sae_table(summary: Mapping[str, Any]) -> Table:
    found = []
    for sae in summary["saes"]:
        row, arm = dict(sae), sae.get("largest_change")
        if arm:
            interval = f"[{points(arm['delta_low'])}, {points(arm['delta_high'])}]"
            row["change"] = 100 * arm["delta"]
            row["change_note"] = f"{concept_label(arm['concept'])}, latent {arm['latent']} {interval}"
            if arm["random_low"] is not None:
                row["control"], row["control_note"] = 100 * arm["random_high"], f"lowest {points(arm['random_low'])}"
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
        "change|largest change, points|+.0f|95% interval in brackets",
        "control|random latents, highest|+.0f|the same target, moved by random latents",
        "steerable_targets|steerable targets|d",
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


# ---------------------------------------------------------------- training


def training(run: Run, palette: Palette) -> list[Section]:
    """How the SAEs were trained and how well they reconstruct."""
    history = run.of_saes("saes/{}/history.parquet")
    metrics = pd.DataFrame(
        [
            {"layer": sae.layer, "sae": sae.title, "seed": sae.seed, "title": run.title(sae)} | read_json(file)
            for sae in run.saes
            if (file := run.folder / "saes" / sae.folder / "metrics.json").exists()
        ]
    )
    section = Section("Reconstruction", picks=layer_picks(run))
    for layer in run.config["activations"]["layers"]:
        for table, draw in ((history, _curves), (metrics, _prefixes)):
            own = table[table["layer"] == layer] if len(table) else table
            if len(own):
                section.figures += draw(own, metrics, palette, {"layer": str(layer)}, f"-layer{layer}")
        section.figures += _stability(run, layer, palette)
    if len(metrics):
        shown = columns(
            "title|SAE", "layer|layer|d", "fvu|FVU|.4f|fraction of variance unexplained",
            "l0|active a residue|.1f", "dead|dead|d", "dense|dense|d|active on over 10% of residues",
            "cosine|cosine|.3f|of an activation and its reconstruction", "ce_model|cross-entropy, nats|.3f|a token",
            "ce_reconstruction|with the SAE spliced in|.3f",
            "loss_recovered_zero|loss recovered|.1%|against zero ablation",
            "loss_recovered_mean|against mean|.1%|against mean ablation",
        )  # fmt: skip
        section.tables.append(Table("Metrics on held-out antibodies", shown, metrics, csv="../tables/saes.csv"))
    return [section]


def _curves(
    history: pd.DataFrame, metrics: pd.DataFrame, palette: Palette, pick: dict[str, str], suffix: str
) -> list[Figure | Logo]:
    ends = history.groupby(["layer", "sae", "seed"], as_index=False)["tokens"].max()
    held_out = metrics.drop(columns="tokens").merge(ends, on=["layer", "sae", "seed"]) if len(metrics) else None
    keys = ["sae", "seed", "tokens"]
    fvu = figures.curves(
        history[[*keys, "fvu"]], palette, "fvu", "fraction of variance unexplained (log)", True,
        None if held_out is None else held_out[[*keys, "fvu"]],
    )  # fmt: skip
    dead = figures.curves(history[[*keys, "dead"]], palette, "dead", "dead latents", False)
    about = (
        "Fraction of variance unexplained on the training batches (lines) and, at the end, on held-out antibodies "
        "(marks); one line a seed."
    )
    also = [*keys, "fvu", "loss", "aux_loss", "k", "lr"]
    return [
        Figure(f"fvu{suffix}", "Unexplained variance during training", about, fvu, history[also], pick),
        Figure(
            f"dead{suffix}",
            "Dead latents during training",
            "Latents that did not fire on the last residues (saes.dead_after of them); AuxK revives them.",
            dead,
            history[[*keys, "dead"]],
            pick,
        ),
    ]


def _prefixes(
    own: pd.DataFrame, metrics: pd.DataFrame, palette: Palette, pick: dict[str, str], suffix: str
) -> list[Figure | Logo]:
    curves = []
    for row in rows(own):
        curve = {"prefix": row.prefixes["latents"], "explained": row.prefixes["explained_variance"]}
        curves.append(pd.DataFrame({"sae": row.sae, "seed": row.seed, **curve}))
    data = pd.concat(curves, ignore_index=True).query("prefix > 0")
    about = (
        "Explained variance on held-out antibodies when the code is cut to its first latents by index. An Ordered SAE "
        "puts what matters most first; a TopK SAE has no order."
    )
    return [
        Figure(f"prefix{suffix}", "What the first latents explain", about, figures.prefixes(data, palette), data, pick)
    ]


def _stability(run: Run, layer: int, palette: Palette) -> list[Figure | Logo]:
    found = []
    for name in run.settings:
        file = run.folder / "saes" / f"layer{layer}" / f"{name}-stability.json"
        for pair in read_json(file)["pairs"] if file.exists() else []:
            values = {"prefix": pair["latents"], **{k: pair[k] for k in ("stability", "orderedness")}}
            found.append(pd.DataFrame({"sae": title(name), "seed": " and ".join(map(str, pair["seeds"])), **values}))
    if not found:
        return []
    data = pd.concat(found, ignore_index=True)
    about = {
        "stability": "Mean cosine of the seeds' decoder directions after the best one-to-one matching; first latents.",
        "orderedness": "Spearman correlation of the matched latents' indices; first latents. 1: the same order.",
    }
    return [
        Figure(
            f"{name}-layer{layer}",
            f"{name.capitalize()} between seeds",
            text,
            figures.agreement(data, palette, name),
            data,
            {"layer": str(layer)},
        )
        for name, text in about.items()
    ]
