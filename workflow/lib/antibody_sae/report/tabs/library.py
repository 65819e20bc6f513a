"""The report's tab on designed libraries: one page a library, chosen by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.io import read_json
from antibody_sae.report.charts import library as charts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.charts.logos import Logo, counted, logo
from antibody_sae.report.page import Column, Section, Table, columns
from antibody_sae.report.run import Run

TITLE = "Libraries"

MOST_GENES = 12
"""Genes at most in a picture, the most frequent of the library and the unsteered model."""
_PICKED = {
    "cell_id": ("name", ""), "v_call": ("V gene", ""), "j_call": ("J gene", ""), "cdr3_aa": ("CDR3", ""),
    "mutations": ("mutations", ".0f"), "cdr_liabilities": ("liabilities in CDRs", ".0f"),
    "perplexity": ("perplexity", ".2f"),
    "oasis": ("OASis", ".2f"), "antiberty_pll": ("AntiBERTy", ".2f"), "flashtap_flags": ("TAP flags", ".0f"),
    "training_distance": ("from training", ".0f"), "design_distance": ("from nearest design", ".0f"),
}  # fmt: skip


def sections(run: Run, palette: Palette) -> list[Section] | None:
    """A section a library that is there; None without one."""
    found = [(name, run.folder / "designs" / name / "page.json") for name in run.config.get("designs", [])]
    return [_section(name, read_json(file)) for name, file in found if file.exists()] or None


def _section(name: str, data: Mapping[str, Any]) -> Section:
    section = Section(f"Library {name}", _text(data))
    section.figures = [*_funnel(name, data), *_distributions(name, data), *_logos(name, data)]
    section.figures += [*_scores(name, data), _diversity(name, data)]
    picked = pd.DataFrame(data["picked"])
    shown = [Column(key, *about) for key, about in _PICKED.items() if key in picked]
    section.tables = [_prices(data), Table("Picked, far apart and the best first", shown, picked,
                                           csv=f"../designs/{name}-picked.csv")]  # fmt: skip
    return section


def _text(data: Mapping[str, Any]) -> str:
    price, lever = data["price"], data["lever"]
    asked = ", ".join(f"{c} {'in all' if v == 'high' else 'in none'}" for c, v in data["concepts"].items())
    pushed = {"none": "Nothing was pushed", "given": "Named latents were pushed"}.get(
        lever["kind"],
        f"A {lever['kind']} lever of {lever['length'] or 0:g} rms was pushed for {', '.join(lever['targets'])}",
    )
    text = f"{data['counts']['design']} antibodies{f' with {asked}' if asked else ''}. {pushed}: "
    text += f"{price['tokens_per_design']:,.0f} tokens written for each that meets the constraints"
    if price["ratio"] is None:
        return f"{text}; none of {price['rejection_sequences']} unsteered sequences does."
    return (
        f"{text}, {price['rejection_tokens_per_design']:,.0f} without steering ({price['ratio']:.1f} times as many; "
        f"{price['rejection_accepted']} of {price['rejection_sequences']} unsteered sequences do)."
    )


def _prices(data: Mapping[str, Any]) -> Table:
    shown = columns("kind|lever", "length|length, rms|.2f", "tokens_per_design|tokens a design|,.0f")
    price = data["price"]
    tried = pd.DataFrame(data["tried"] or [{**data["lever"], "tokens_per_design": price["tokens_per_design"]}])
    return Table("Levers tried on a pilot of their own", shown, tried, folded=True)


def _funnel(name: str, data: Mapping[str, Any]) -> list[Figure | Logo]:
    table = pd.DataFrame(data["funnel"]).rename(columns={"yield": "share"})
    about = "Sequences left after each constraint, in order; the tooltip says how many meet it by itself."
    return [Figure(f"library-{name}-funnel", "From written to accepted", about, charts.funnel(table), table)]


def _named(sets: Mapping[str, Any]) -> dict[str, Any]:
    return {charts.SETS[name]: values for name, values in sets.items()}


def _distributions(name: str, data: Mapping[str, Any]) -> list[Figure | Logo]:
    figures: list[Figure | Logo] = []
    lengths = pd.DataFrame([(s, n) for s, values in _named(data["lengths"]).items() for n in values],
                           columns=["set", "length"])  # fmt: skip
    table = lengths.groupby("set")["length"].value_counts(normalize=True).rename("share").reset_index()
    table = table.sort_values("length", ignore_index=True)
    chart = charts.shares(table, "length", "residues in CDR3", ordinal=True)
    figures.append(Figure(f"library-{name}-lengths", "CDR3 length", "Share of each set by CDR3 length.", chart, table))
    for title, sets in data["distributions"].items():
        rows = [{"set": s, "gene": g, "share": v} for s, values in _named(sets).items() for g, v in values.items()]
        table = pd.DataFrame(rows)
        main = table[table["set"] != "natural"].groupby("gene")["share"].max().nlargest(MOST_GENES).index
        table = table[table["gene"].isin(main)].sort_values("gene", ignore_index=True)
        key = title.lower().replace(" ", "-")
        about = "Share of each set by germline gene, the most frequent ones."
        chart = charts.shares(table, "gene", title, ordinal=False)
        figures.append(Figure(f"library-{name}-{key}", title, about, chart, table))
    return figures


def _logos(name: str, data: Mapping[str, Any]) -> list[Figure | Logo]:
    found: list[Figure | Logo] = []
    for kind in data["cdr3"]:
        counts = counted(data["cdr3"][kind], data["fr4"][kind])
        title = f"CDR3 and framework 4, {charts.SETS[kind]}"
        about = "IMGT 105 to 111 from the start of CDR3, 112 to 117 from its end, then framework 4; heights in bits."
        stem = f"library-{name}-logo-{kind}"
        table = counts.rename_axis("position").reset_index()
        found.append(Logo(stem, title, about, logo(counts, re.sub(r"\W", "-", stem)), table, {}))
    return found


def _scores(name: str, data: Mapping[str, Any]) -> list[Figure | Logo]:
    figures: list[Figure | Logo] = []
    for title, sets in data["scores"].items():
        rows = [
            {"score": title, "set": s, **dict(zip(("low", "median", "high"), np.quantile(v, [0.25, 0.5, 0.75]),
                                                  strict=True))}
            for s, v in _named(sets).items()
        ]  # fmt: skip
        if rows:
            table = pd.DataFrame(rows)
            stem = re.sub(r"\W+", "-", title.lower()).strip("-")
            about = "Median (point) and middle half (line) of each set."
            figures.append(Figure(f"library-{name}-{stem}", title[0].upper() + title[1:], about,
                                  charts.scores(table), table))  # fmt: skip
    return figures


def _diversity(name: str, data: Mapping[str, Any]) -> Figure:
    table = pd.DataFrame(data["diversity"]).replace({"set": charts.SETS})
    about = "Edit distances of whole chains, scaled into a plane: near means alike. Ringed: picked."
    return Figure(f"library-{name}-diversity", "Diversity", about, charts.diversity(table), table)
