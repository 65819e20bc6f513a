"""The report's tab on what the model writes unsteered beside what the input holds."""

from __future__ import annotations

import pandas as pd

from antibody_sae.report.charts import nature as charts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.charts.logos import Logo
from antibody_sae.report.page import Pick, Section, Table, columns
from antibody_sae.report.run import CHAINS, Run, grouped, slug

TITLE = "Natural and written"
MOST_DIFFERENCES = 20
"""Rows of the table of the largest differences; the CSV holds all."""
SURE = 0.05
"""q below which a difference stands in it."""


def sections(run: Run, palette: Palette) -> list[Section] | None:
    """The tab's section; None where the run's antibodies were not read from files, or nothing whole was written."""
    table = run.csv("natural_vs_written")
    if not len(table):
        return None
    section = Section("Natural and written", _text(table), figures=_figures(table), tables=[_differences(table)])
    chains = [(side, CHAINS[side[0].upper()]) for side in table["chains"].unique()]
    section.picks = [Pick("chains", "Chain", chains)] if len(chains) > 1 else []
    return [section]


def _text(table: pd.DataFrame) -> str:
    counted = [
        f"{own['n_input'].iloc[0]:,} {side} chains of the input in {own['clusters'].iloc[0]:,} clonotype clusters, "
        f"{own['n_written'].iloc[0]:,} written"
        for side, own in grouped(table, "chains")
    ]
    return (
        f"What the model writes without steering beside the antibodies that were read, complete domains of both "
        f"({'; '.join(counted)}). 95% intervals count clusters, not antibodies. A difference is one between the model "
        "and this input, whose donors and selection it carries."
    )


def _figures(table: pd.DataFrame) -> list[Figure | Logo]:
    shares = table[table["unit"] == "share"]
    figures: list[Figure | Logo] = []
    for (side, measure), own in grouped(shares, ["chains", "measure"]):
        sets = [
            own[["value", name, f"{name}_low", f"{name}_high"]].set_axis(["value", "share", "low", "high"], axis=1)
            for name in charts.COLOURS
        ]
        long = pd.concat([part.assign(set=name) for name, part in zip(charts.COLOURS, sets, strict=True)])
        what = "residues in CDR3" if measure == "CDR3 residue" else f"{side} chains"
        caption = f"Share of {what}, 95% intervals; all differences are in the table's CSV."
        name, title = f"natural-{side}-{slug(str(measure))}", f"{str(measure)[0].upper()}{str(measure)[1:]}, {side}"
        chart = charts.side_by_side(long, str(measure))
        figures.append(Figure(name, title, caption, chart, long, {"chains": str(side)}))
    return figures


def _differences(table: pd.DataFrame) -> Table:
    found = table[table["q_value"] < SURE]
    scaled = (found["difference"].abs() / (found["high"] - found["low"])).sort_values(ascending=False)
    found = found.loc[scaled.index[:MOST_DIFFERENCES]]
    percent = found["unit"] == "share"
    shown = found.assign(
        what=found["measure"] + " " + found["value"],
        **{
            key: [f"{v:{sign}.1%}" if share else f"{v:{sign}.2f}" for v, share in zip(found[key], percent, strict=True)]
            for key, sign in (("input", ""), ("written", ""), ("difference", "+"), ("low", "+"), ("high", "+"))
        },
    )
    shown["difference_note"] = shown["low"] + " to " + shown["high"]
    asked = columns(
        "chains|chain", "what|what", "input|input", "written|written", "difference|written - input",
        "q_value|q|.1e|false discovery rate over all rows of the chain",
    )  # fmt: skip
    title = f"The {len(shown)} clearest differences (q below {SURE:g})" if len(shown) else "No difference is clear"
    return Table(title, asked, shown, csv="../tables/natural_vs_written.csv")
