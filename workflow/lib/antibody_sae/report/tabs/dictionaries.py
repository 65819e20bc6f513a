"""The report's tab that compares the dictionaries of a run, over widths and layers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import dictionaries as charts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.page import Pick, Section, Table, columns
from antibody_sae.report.run import Run, grouped, rows, title
from antibody_sae.report.tabs.training import layer_picks

TITLE = "Dictionaries"

ASKED = "j-gene=IGHJ6"
"""The concept that is shown beside the targets: the one for which an early latent and a detector part ways."""
LEVELS = {"residues": "of residues", "antibodies": "of antibodies"}
FIGURES = {"auroc": "AUROC", "f1": "F1"}
MEASURES = {
    "f1_residues_k1": ("F1 of one latent", "mean F1 of one latent, concepts of residues", ".2f"),
    "f1_residues_k16": ("F1 of 16 latents", "mean F1 of 16 latents, concepts of residues", ".2f"),
    "f1_antibodies_k1": ("F1 of one latent, antibodies", "mean F1 of one latent, concepts of antibodies", ".2f"),
    "takes_residues": ("Latents a concept takes", "mean latents a concept takes", ".2f"),
    "absorbed": ("Absorption", "share of a concept's residues that are absorbed", ".1%"),
    "fvu": ("Unexplained variance", "fraction of variance unexplained", ".3f"),
    "dead_share": ("Dead latents", "share of latents that never fire", ".1%"),
    "loss_recovered_mean": ("Loss recovered", "loss recovered against mean ablation", ".1%"),
}
"""Column -> what it is called, the axis, the format of its numbers."""


def sections(run: Run, palette: Palette) -> list[Section] | None:
    """The tab's sections; None where the dictionaries have not been compared."""
    table = run.csv("dictionaries")
    if not len(table):
        return None
    titles = {(sae.layer, sae.title, sae.seed): run.title(sae) for sae in run.saes}
    table["title"] = [titles[key] for key in zip(table["layer"], table["sae"], table["seed"], strict=True)]
    table["dead_share"] = table["dead"] / table["latents"]
    parts = [_side_by_side(table), _probes(run, table, palette), _over(table, palette), _concepts(run)]
    return [part for part in parts if part.figures or part.tables]


def _noted(table: pd.DataFrame, form: str, *keys: str) -> pd.DataFrame:
    """The table with the interval of each key as the note below it."""
    for key in keys:
        if f"{key}_low" in table:
            ends = zip(table[f"{key}_low"], table[f"{key}_high"], strict=True)
            table[f"{key}_note"] = [f"{a:{form}} to {b:{form}}" if a == a else None for a, b in ends]
    return table


def _side_by_side(table: pd.DataFrame) -> Section:
    text = (
        "Reconstruction is measured on held-out antibodies. A k-sparse probe is a logistic regression on the k latents "
        "that go with a concept most: means over concepts on test antibodies, 95% intervals over clonotype clusters. A "
        "concept takes as many latents as raise its F1 by more than 0.03 one after the other. It is absorbed on a "
        "residue where the linear probe on the activations sees it, its own latents are silent, and one other latent "
        "speaks for it."
    )
    shown = _noted(table.copy(), ".2f", *(f"auroc_{level}_k{k}" for level in LEVELS for k in (1, 16)))
    shown = _noted(shown, ".1%", "absorbed")
    which = ("title|SAE", "layer|layer|d", "latents|latents|,d", "k|k|d")
    tables = {
        "Reconstruction and agreement": columns(
            *which, "fvu|FVU|.4f|fraction of variance unexplained", "l0|active a residue|.1f", "dead|dead|d",
            "dense|dense|d|active on over 10% of residues", "cosine|cosine|.3f|of an activation and its reconstruction",
            "ce_model|cross-entropy, nats|.3f|a token", "ce_reconstruction|with the SAE spliced in|.3f",
            "loss_recovered_zero|loss recovered|.1%|against zero ablation",
            "loss_recovered_mean|against mean|.1%|against mean ablation",
            "stability|stability|.2f|mean cosine with other seeds, matched one to one",
        ),
        "Concepts": columns(
            *which, "auroc_residues_k1|AUROC, residues, 1 latent|.3f", "auroc_residues_k16|16 latents|.3f",
            "auroc_residues_activations|activations|.3f|linear probe on all coordinates",
            "auroc_antibodies_k1|AUROC, antibodies, 1 latent|.3f", "auroc_antibodies_k16|16 latents|.3f",
            "auroc_antibodies_activations|activations|.3f|linear probe on all coordinates",
            "takes_residues|latents a concept|.2f|concepts of residues",
            "takes_antibodies|of antibodies|.2f|concepts of antibodies",
            "absorbed|absorbed|.1%|of the residues on which the probe sees the concept",
        ),
    }  # fmt: skip
    section = Section("The dictionaries side by side", text)
    for name, asked in tables.items():
        have = [column for column in asked if column.key in shown and shown[column.key].notna().any()]
        section.tables.append(Table(name, have, shown, csv="../tables/dictionaries.csv"))
    return section


def _probes(run: Run, table: pd.DataFrame, palette: Palette) -> Section:
    section = Section("Concepts from few latents")
    levels = [level for level in LEVELS if f"f1_{level}_k1" in table]
    section.picks = [
        Pick("level", "Concepts", [(level, LEVELS[level]) for level in levels]),
        Pick("figure", "Figure", list(FIGURES.items())),
        *layer_picks(run),
    ]
    found = (re.fullmatch(r"f1_(?:residues|antibodies)_k(\d+)", str(name)) for name in table)
    ks = sorted({int(match[1]) for match in found if match})
    for layer, own in grouped(table, "layer"):
        for level in levels:
            for figure, word in FIGURES.items():
                stem = f"{figure}_{level}"
                parts = [
                    pd.DataFrame({
                        "sae": own["sae"], "seed": own["seed"], "k": k, "value": own[f"{stem}_k{k}"],
                        "low": own[f"{stem}_k{k}_low"], "high": own[f"{stem}_k{k}_high"],
                    })
                    for k in ks
                ]  # fmt: skip
                data = pd.concat(parts, ignore_index=True).dropna(subset="value")
                if not len(data):
                    continue
                bars = {"linear probe on the activations": float(own[f"{stem}_activations"].mean())}
                if figure == "f1":
                    bars["always yes"] = float(own[f"f1_{level}_always_yes"].mean())
                else:
                    bars["chance"] = 0.5
                about = (
                    f"Mean {word} over concepts {LEVELS[level]} on test antibodies of a logistic regression on few "
                    "latents; 95% bootstrap over clonotype clusters. Dashed: the linear probe on all coordinates of "
                    f"the activation, and {'what saying yes everywhere scores' if figure == 'f1' else 'chance'}."
                )
                chart = charts.sparse_probes(data, palette, f"mean {word}", bars)
                pick = {"layer": str(layer), "level": level, "figure": figure}
                name = f"sparse-probes-{figure}-{level}-layer{layer}"
                section.figures.append(
                    Figure(name, f"{word} of few latents, concepts {LEVELS[level]}", about, chart, data, pick)
                )
    return section


def _over(table: pd.DataFrame, palette: Palette) -> Section:
    """Each measure over widths where a layer has several, and over layers where the run has."""
    section = Section("Over widths and layers")
    present = [key for key in MEASURES if key in table and table[key].notna().any()]
    section.picks = [Pick("measure", "Measure", [(key, MEASURES[key][0]) for key in present])]
    for key in present:
        for figure in _measure_over(table[table[key].notna()], key, palette):
            section.figures.append(figure)
    return section


def _measure_over(table: pd.DataFrame, key: str, palette: Palette) -> Iterator[Figure]:
    word, axis, form = MEASURES[key]
    data = table[["sae", "seed", "layer", "latents", "k", "architecture", "activation"]].assign(value=table[key])
    for end in ("low", "high"):
        data[end] = table.get(f"{key}_{end}", pd.Series(np.nan, index=table.index))
    seed = data["seed"].astype(str)
    interval = " Lines over the marks: 95% bootstrap over clonotype clusters." if data["low"].notna().any() else ""
    for layer, own in grouped(data, "layer"):
        if own["latents"].nunique() > 1:
            kind = own["architecture"] + own["activation"].astype(str)
            kin = own.assign(line=kind + own["k"].astype(str) + seed[own.index])
            about = f"Joined: dictionaries of one type, k and seed that differ in their width.{interval}"
            chart = charts.over(kin, palette, "latents", "latents of the dictionary (log scale)", axis, form)
            name = f"over-widths-{key.replace('_', '-')}-layer{layer}"
            yield Figure(name, f"{word} over widths, layer {layer}", about, chart, kin, {"measure": key})
    if data["layer"].nunique() > 1:
        kin = data.assign(line=data["sae"] + seed)
        about = f"Joined: one entry of saes.train and seed at the layers it was trained at.{interval}"
        chart = charts.over(kin, palette, "layer", "layer", axis, form)
        yield Figure(f"over-layers-{key.replace('_', '-')}", f"{word} over layers", about, chart, kin, {"measure": key})


def _concepts(run: Run) -> Section:
    """How many latents, and which, each concept takes in each dictionary."""
    table = run.csv("dictionary_concepts")
    section = Section("One concept over the dictionaries")
    if not len(table):
        return section
    table["label"] = table["concept"].map(concept_label)
    table = _noted(_noted(table, ".2f", "f1_k1", "f1_k16"), ".0%", "absorbed")
    widths = {(sae.layer, sae.title, sae.seed): run.shape(sae)["latents"] for sae in run.saes}
    table["width"] = [widths[key] for key in zip(table["layer"], table["sae"], table["seed"], strict=True)]
    if "narrower" in table:
        table["narrower"] = table["narrower"].map(title, na_action="ignore")
    where = _places(run)
    keys = zip(table["layer"], table["sae"], table["seed"], table["own_latents"].astype(str), strict=True)
    table["own"] = [
        ", ".join(f"{j}{where.get((layer, sae, seed, int(j)), '')}" for j in own.split(";") if j.isdigit())
        for layer, sae, seed, own in keys
    ]
    section.text = (
        "The latents that a concept takes, the best first, with the region in which each is mostly active. Beside them "
        "the first latent of the next narrower dictionary that differs in nothing else: how near its direction is to "
        "these, and how many latents here point its way (cosine of at least 0.7)."
    )
    which = ("label|concept", "sae|SAE", "layer|layer|d", "seed|seed|d", "width|latents|,d")
    asked = columns(
        *which, "own|takes", "f1_k1|F1, 1 latent|.2f", "f1_k16|16 latents|.2f", "f1_activations|activations|.2f",
        "narrower|next narrower", "narrower_latent|its first latent|.0f", "own_cosine|cosine with these|.2f",
        "alike|its like|.0f",
    )  # fmt: skip
    named = [*run.targets, *({ASKED} - set(run.targets))]
    chosen = table[table["concept"].isin(named)].copy()
    chosen["place"] = chosen["concept"].map(named.index)
    chosen = chosen.sort_values(["place", "layer", "width", "sae", "seed"], kind="stable")
    every = columns(
        *which, "level|level", "positives|positives|,d", "takes|takes|d", "f1_k1|F1, 1 latent|.2f",
        "f1_k16|16 latents|.2f", "f1_always_yes|always yes|.2f", "f1_activations|activations|.2f",
        "auroc_k1|AUROC, 1 latent|.3f", "auroc_k16|16 latents|.3f", "auroc_activations|activations|.3f",
        "called|seen by the probe|,.0f", "missed|own latents silent|.0%", "absorbed|absorbed|.0%",
        "absorbed_by|by (latent: residues)",
    )  # fmt: skip
    for name, shown, data, folded in (
        ("Latents of each target", asked, chosen, False),
        ("Every concept", every, table, True),
    ):
        have = [column for column in shown if column.key in data and data[column.key].notna().any()]
        if len(data):
            section.tables.append(Table(name, have, data, csv="../tables/dictionary_concepts.csv", folded=folded))
    return section


def _places(run: Run) -> dict[tuple[int, str, int, int], str]:
    """(layer, SAE, seed, latent) -> the region in which it is mostly active and that share of its activation."""
    latents = run.of_saes("latents/{}.parquet", ["latent", "profile_regions"])
    out = {}
    for row in rows(latents):
        profile = np.asarray(row.profile_regions, float)
        if profile.sum() > 0:
            most = int(profile.argmax())
            share = profile[most] / profile.sum()
            out[row.layer, row.sae, row.seed, row.latent] = f" ({SIDED_REGIONS[most]} {share:.0%})"
    return out
