"""The report's tab on another run of the same model: whether findings travel between the two."""

from __future__ import annotations

import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import transfer as charts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.page import Section, Table, columns
from antibody_sae.report.run import Run, grouped, slug

TITLE = "Transfer"


def sections(run: Run, palette: Palette) -> list[Section] | None:
    """The tab's sections; None where transfer.from names no run."""
    summary, concepts = run.csv("transfer"), run.csv("transfer_concepts")
    if not len(summary):
        return None
    other = next(name for name in summary["judged_on"] if name != run.config["run"])
    section = Section(f"{run.config['run']} and {other}", _text(summary))
    section.tables = [_summary(summary), _steered(concepts)]
    for (layer, sae), own in grouped(concepts, ["layer", "sae"]):
        way = own["found_in"] + " latents on " + own["judged_on"]
        table = own.assign(way=way, label=own["concept"].map(concept_label))
        table = table[["way", "concept", "label", "f1_native", "f1_abroad", "f1_abroad_low", "f1_abroad_high"]]
        caption = (
            "A point a concept, both figures on the same test antibodies; below the line the brought latent is worse."
        )
        figure = Figure(
            f"transfer-layer{layer}-{slug(sae)}", f"Brought latents, {sae}, layer {layer}", caption,
            charts.brought(table), table,
        )  # fmt: skip
        section.figures.append(figure)
    return [section]


def _text(summary: pd.DataFrame) -> str:
    alike = (summary["seed"] == summary["other_seed"]).any()
    return (
        "SAEs of both runs, each judged on the other's test antibodies but for those whose clonotype it was trained "
        "on. Latent, threshold and pool are those chosen at home; nothing is chosen abroad. Latents are the same where "
        "cosine and correlation of activations are at least 0.7 and both matchings pair them."
        + (" These SAEs share their seed, so their random start, which alone makes latents alike." if alike else "")
    )


def _summary(summary: pd.DataFrame) -> Table:
    shown = summary.copy()
    for key in ("f1_abroad", "f1_native", "difference"):
        low, high = shown[f"{key}_low"], shown[f"{key}_high"]
        shown[f"{key}_note"] = [f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True)]
    asked = columns(
        "sae|SAE", "layer|layer|d", "found_in|found in", "judged_on|judged on",
        "fvu_heavy_home|FVU at home, heavy|.3f", "fvu_heavy_abroad|FVU there, heavy|.3f",
        "fvu_light_home|FVU at home, light|.3f", "fvu_light_abroad|FVU there, light|.3f",
        "concepts|concepts|d|that could be tested in both runs", "f1_home|mean F1 at home|.2f",
        "f1_abroad|mean F1 there|.2f", "f1_native|of the latents found there|.2f", "difference|difference|+.2f",
        "cosine|mean cosine|.2f|of latents matched by decoder",
        "correlation|mean correlation|.2f|of latents matched by activation",
        "chance|by chance|.2f|such a correlation where residues are shuffled",
        "same_by_both|same latents|.0%|by decoder and by activation",
    )  # fmt: skip
    fvu = [key for key in map(str, shown) if key.startswith("fvu") and shown[key].isna().all()]
    return Table(
        "Each SAE at home and abroad", [c for c in asked if c.key not in fvu], shown, csv="../tables/transfer.csv"
    )


def _steered(concepts: pd.DataFrame) -> Table:
    pushed = concepts[concepts["delta"].notna()]
    shown = pushed.assign(
        label=pushed["concept"].map(concept_label),
        change=100 * pushed["delta"],
        change_note=[
            f"{100 * a:+.0f} to {100 * b:+.0f}" for a, b in zip(pushed["delta_low"], pushed["delta_high"], strict=True)
        ],
        steers=pushed["steerable"].map({True: "yes", False: "no"}),
    )
    asked = columns(
        "label|concept", "sae|SAE", "layer|layer|d", "found_in|found in", "latent|latent|d", "f1_home|F1 at home|.2f",
        "f1_abroad|F1 there|.2f", "change|change, points|+.0f|of the concept's share when pushed",
        "steers|steers",
    )  # fmt: skip
    title = "Whether a latent found on either run's antibodies steers what the model writes"
    return Table(title, asked, shown, csv="../tables/transfer_concepts.csv")
