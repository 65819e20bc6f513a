"""The report's tab on concepts: what the latents stand for, beside everything simpler, and how involved they are."""

from __future__ import annotations

from typing import Any

import pandas as pd

from antibody_sae.concepts.catalogue import concept_label, group_of
from antibody_sae.report.charts import concepts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.page import Column, Pick, Section, Table, columns
from antibody_sae.report.run import Run, grouped

TITLE = "Concepts"

CHARTS = {
    "genes": ("Germline genes and families", True),
    "regions": ("Regions and parts", True),
    "residues": ("Residues and classes", True),
    "cdrs": ("CDR lengths, charge, hydropathy, V identity", True),
    "vgenes": ("V genes", False),
    "positions": ("Residues at IMGT positions", False),
    "others": ("Other columns of the input", False),
}
"""Chart of the best latents, which a catalogue's group names -> (its title, whether its concepts keep the catalogue's
order, because a reader looks for a name; the others go by F1)."""
MOST_ROWS = 36
"""Concepts on one chart, those with the largest F1."""
BASELINES = {
    "neuron": "single neuron",
    "pca": "principal component",
    "untrained": "untrained SAE",
    "position": "position",
    "residue": "residue",
    "shuffled": "shuffled labels",
    "germline": "germline alone",
}
MEASURES = (
    ("density", "Density", "share of residues on which a latent fires (log)", True),
    ("n_concepts", "Concepts a latent", "concepts that a latent is associated with", False),
    ("entropy_region", "Spread over regions", "entropy of its activation over regions, bits", False),
    ("entropy_residue", "Spread over residues", "entropy of its activation over amino acids, bits", False),
)
WHICH = ("sae|SAE", "layer|layer|d", "seed|seed|d")


def sections(run: Run, palette: Palette) -> list[Section]:
    """The tab's sections; those without pictures and tables are left out."""
    layers = [str(layer) for layer in run.config["activations"]["layers"]]
    picks = [Pick("layer", "Layer", [(layer, layer) for layer in layers])] if len(layers) > 1 else []
    parts = [_patterns(run, palette, picks)]
    if len(run.best):
        parts = [_best(run, palette, picks), *_lineages(run), _heatmaps(run, palette), *parts]
    return [part for part in parts if part.figures or part.tables]


def _best(run: Run, palette: Palette, picks: list[Pick]) -> Section:
    chart_of = run.best["concept"].map(lambda concept: group_of(concept).chart)
    best = run.best.assign(family=chart_of, label=run.best["concept"].map(concept_label))
    best["simple_name"] = best["simple_baseline"].map(BASELINES)
    present = [key for key in CHARTS if (best["family"] == key).any()]
    section = Section(
        "The best latent of each concept",
        "Latent and threshold are chosen on validation antibodies; every figure is from test antibodies of other "
        "clonotypes.",
        picks=[Pick("family", "Concepts", [(key, CHARTS[key][0]) for key in present]), *picks],
    )
    keep = ["label", "concept", "sae", "seed", "latent", "f1", "f1_low", "f1_high", "precision", "recall", "auroc", "r"]
    keep += ["simple_name", "f1_simple", "f1_probe_raw"]
    about = (
        "F1 on test antibodies of the best latent (filled marks, 95% bootstrap over clonotype clusters), of the best "
        "simple baseline (grey tick), and of a linear probe on the activations (open diamond)."
    )
    for layer, table in grouped(best, "layer"):
        for family in present:
            own = table[table["family"] == family]
            ranked = own.groupby("label")["f1"].max().sort_values(ascending=False).index[:MOST_ROWS].tolist()
            name, by_name = CHARTS[family]
            order = [label for label in dict.fromkeys(own["label"]) if label in ranked] if by_name else ranked
            data = own.set_index("label").loc[order].reset_index()[keep].astype({"latent": "int64"})
            data = data.rename(columns={"f1_simple": "simple", "f1_probe_raw": "probe"})
            chart = concepts.best_latents(data, palette)
            pick = {"layer": str(layer), "family": family}
            section.figures.append(Figure(f"best-{family}-layer{layer}", name, about, chart, data, pick))
    keys = {(s.layer, s.title, s.seed): s.key for s in run.saes}
    which = zip(best["layer"], best["sae"], best["seed"], best["latent"], strict=True)
    best["latent_href"] = [f"#latents/{keys[layer, sae, seed]}/{latent}" for layer, sae, seed, latent in which]
    shown = columns(
        "label|concept", "level|level", *WHICH, "latent|latent|d", "f1|F1|.3f", "f1_low|from|.3f", "f1_high|to|.3f",
        "precision|precision|.2f", "recall|recall|.2f", "auroc|AUROC|.3f", "r|r|.2f",
        "simple_name|best simple baseline", "f1_simple|its F1|.3f", "f1_probe_raw|probe|.3f", "support|positives|,.0f",
        "q_value|q|.1e",
    )  # fmt: skip
    section.tables.append(Table("Best latents", shown, best, csv="../tables/best_latents.csv", folded=True))
    return section


def _lineages(run: Run) -> list[Section]:
    table = run.csv("lineages")
    if not len(table):
        return []
    untested = table[table["status"] != "ok"].drop_duplicates("concept")
    named = f" {len(untested)} could not be tested; the table says why." if len(untested) else ""
    text = (
        "Each lineage is judged by what was chosen on all others, and has one vote; antibodies of which the column "
        "says nothing are left out. The germline's F1 is the best of a single V gene, J gene, CDR length or bin of V "
        "identity, of regressions on these, and of always saying yes. A latent beats it where the whole 95% "
        f"interval of the difference, over lineages, is above 0.{named}"
    )
    shown = table.assign(label=table["concept"].map(concept_label))
    shown["beats"] = shown["beats_germline"].map({True: "yes", False: "no"})
    for key in ("f1", "difference"):
        low, high = shown[f"{key}_low"], shown[f"{key}_high"]
        shown[f"{key}_note"] = [f"{a:.2f} to {b:.2f}" if a == a else None for a, b in zip(low, high, strict=True)]
    asked = columns(
        "label|concept", *WHICH, "positives|positives|,d", "antibodies|of|,d", "lineages_with|lineages with it|,d",
        "lineages|of|,d", "status|tested", "chosen|latent, most often", "f1|F1|.2f",
        "germline|germline's single value, most often", "f1_germline|F1 of the germline|.2f",
        "difference|difference|+.2f", "beats|beats the germline",
    )  # fmt: skip
    tables = [Table("Columns of the input", asked, shown, csv="../tables/lineages.csv")]
    return [Section("Columns of the input, lineage by lineage", text, tables=tables)]


def _heatmaps(run: Run, palette: Palette) -> Section:
    section = Section("Latents against concepts")
    options = []
    about = (
        "Point-biserial correlation on test antibodies of each concept's best latent (columns) with every concept "
        "(rows); empty: below the floor of what is kept. A latent that stands for one thing has one strong cell."
    )
    best = run.best[run.best["concept"].map(lambda concept: group_of(concept).heatmap).astype(bool)]
    for sae in run.saes:
        own = best[(best["layer"] == sae.layer) & (best["sae"] == sae.title) & (best["seed"] == sae.seed)]
        pairs = run.table(f"concepts/{sae.folder}/associations.parquet", ["latent", "concept", "r"])
        if not len(own) or not len(pairs):
            continue
        chosen, wanted = list(dict.fromkeys(own["latent"].astype(int))), list(dict.fromkeys(own["concept"]))
        data = pairs[pairs["latent"].isin(chosen) & pairs["concept"].isin(wanted)]
        data = data.groupby(["latent", "concept"])["r"].max().reset_index()
        drawn = data.assign(label=data["concept"].map(concept_label), latent=data["latent"].astype(str))
        labels = [concept_label(concept) for concept in wanted]
        chart = concepts.heatmap(
            drawn[["latent", "label", "r"]], palette.of(sae.title), [str(latent) for latent in chosen], labels
        )
        name = f"{run.title(sae)}: latents against concepts"
        section.figures.append(Figure(f"heatmap-{sae.key}", name, about, chart, data, {"sae": sae.key}))
        options.append((sae.key, run.title(sae)))
    if len(options) > 1:
        section.picks.append(Pick("sae", "SAE", options))
    return section


def _patterns(run: Run, palette: Palette, picks: list[Pick]) -> Section:
    section = Section(
        "How many latents are interpretable, and how involved they are",
        "A latent is interpretable when, for the concept it was given on validation, it is significant (BH-FDR) on "
        "test and beats every simple baseline there. Complexity is the price that the paper reports for ordering.",
        picks=picks,
    )
    counted, complexity = run.csv("interpretable"), run.csv("complexity")
    needed = ["latent", "max_activation", *(measure for measure, *_ in MEASURES)]
    patterns = run.of_saes("latents/{}.parquet", needed)
    for layer in run.config["activations"]["layers"]:
        pick = {"layer": str(layer)}
        own = counted[counted["layer"] == layer] if len(counted) else counted
        if len(own):
            chart = concepts.bars(own, palette, "share", "interpretable share of non-dead latents", ".1%")
            about = "Share of the non-dead latents, per SAE."
            section.figures.append(
                Figure(f"interpretable-layer{layer}", "Interpretable latents", about, chart, own, pick)
            )
        if len(patterns):
            alive = patterns[(patterns["layer"] == layer) & (patterns["max_activation"] > 0)]
            section.figures += [_spread(alive, palette, pick, *measure) for measure in MEASURES if len(alive)]
    if len(counted):
        shown = columns(
            *WHICH, "latents|latents|,d", "alive|alive|,d", "interpretable|interpretable|,d", "share|share|.1%",
            "interpretable_strict|strictly|,d|with the whole 95% interval above the best simple baseline",
            "share_strict|share|.1%", "concepts|concepts|d|that these latents stand for", "concepts_strict|strictly|d",
        )  # fmt: skip
        section.tables.append(Table("Interpretable latents", shown, counted, csv="../tables/interpretable.csv"))
    if len(complexity):
        means = [str(c) for c in complexity.columns if str(c).endswith("_mean")]
        shown = columns(*WHICH, "subset|latents", "latents|number|,d", "dense|dense|.1%|active on over 10% of residues")
        shown += [Column(c, f"{c.removesuffix('_mean').replace('_', ' ')}, mean", ".3g") for c in means]
        section.tables.append(Table("Complexity", shown, complexity, csv="../tables/complexity.csv", folded=True))
    return section


def _spread(
    alive: pd.DataFrame, palette: Palette, pick: dict[str, str], measure: str, name: str, axis: str, log: bool
) -> Figure:
    values = alive[alive[measure] > 0] if log else alive
    found: dict[str, Any] = {"sae": [sae for sae, _ in grouped(values, "sae")]}
    for key, share in {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}.items():
        found[key] = [table[measure].quantile(share) for _, table in grouped(values, "sae")]
    data = pd.DataFrame(found)
    about = "Median over the non-dead latents (mark), middle half (bar), 10 to 90% (line)."
    chart = concepts.spread(data, palette, axis, log)
    return Figure(f"complexity-{measure}-layer{pick['layer']}", name, about, chart, data, pick)
