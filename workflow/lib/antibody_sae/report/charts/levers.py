"""Pictures of levers: what moves a target, how few latents do, at what price, and where the model decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from antibody_sae.report.charts.base import FAINT, GREY, INK, PAPER, Palette, base_chart, sized


def handles(table: pd.DataFrame) -> Any:
    """Share of each target without steering and under its best handle: columns label, lever, baseline_rate, rate,
    rate_low, rate_high, acceptable."""
    order = list(table["label"])
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=190))
    base = base_chart(table).encode(y=y)
    axis = alt.Axis(format="%", tickCount=6)
    tip = [
        "label:N",
        "lever:N",
        alt.Tooltip("baseline_rate:Q", title="no steering", format=".1%"),
        alt.Tooltip("rate:Q", title="steered", format=".1%"),
        alt.Tooltip("rate_low:Q", title="95% from", format=".1%"),
        alt.Tooltip("rate_high:Q", title="to", format=".1%"),
    ]
    blue = "#0072B2"
    x = alt.X("rate:Q", title="share of complete sequences with the target", axis=axis, scale=alt.Scale(domain=[0, 1]))
    return sized(
        alt.layer(
            base.mark_rule(color=GREY, strokeWidth=1.2).encode(x=alt.X("baseline_rate:Q"), x2="rate:Q"),
            base.mark_rule(color=blue, strokeWidth=4, opacity=0.3).encode(x=alt.X("rate_low:Q"), x2="rate_high:Q"),
            base.mark_tick(color=INK, thickness=2.5, size=15).encode(x=alt.X("baseline_rate:Q"), tooltip=tip),
            base.mark_point(size=75, opacity=1, stroke=blue, strokeWidth=1.6).encode(
                x=x, tooltip=tip, fill=alt.condition("datum.acceptable", alt.value(blue), alt.value(PAPER))
            ),
            base.mark_text(align="left", dx=9, dy=-9, fontSize=11).encode(x=alt.X("rate_high:Q"), text="lever:N"),
        ),
        38 * len(order),
    )


def by_size(table: pd.DataFrame, palette: Palette, whole: pd.DataFrame) -> Any:
    """Effect against the number of latents, a line an SAE, seed and way of finding them (hollow and dotted: those that
    are not `plain`), and the trained vector's as a dashed line at equal length: columns sae, seed, m, found, plain,
    log_odds, low, high; `whole`: log_odds, low, high."""
    values = sorted(set(table["m"]))
    x = alt.X(
        "m:Q",
        title="latents in the lever",
        scale=alt.Scale(type="log", base=2, domain=[0.8 * min(values), 1.25 * max(values)], nice=False),
        axis=alt.Axis(values=values, format="d"),
    )
    y = alt.Y("log_odds:Q", title="log odds ratio", axis=alt.Axis(tickCount=6))
    base = base_chart(table).encode(x=x, color=palette.colour(), detail=["seed:N", "found:N"])
    tip = [
        "sae:N", "seed:N", "m:Q", "found:N", alt.Tooltip("log_odds:Q", format="+.2f"),
        alt.Tooltip("low:Q", format="+.2f"), alt.Tooltip("high:Q", format="+.2f"),
    ]  # fmt: skip
    dash = alt.StrokeDash("plain:N", scale=alt.Scale(domain=[True, False], range=[[1, 0], [2, 3]]), legend=None)
    colour = palette.colour()
    fill = alt.condition("datum.plain", colour, alt.value(PAPER))
    layers: list[Any] = [
        base_chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(y=alt.Y("y:Q")),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=dash),
        base.mark_rule(strokeWidth=1.3, opacity=0.6).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(size=60, opacity=1).encode(y=y, shape=palette.shape(), fill=fill, tooltip=tip),
    ]
    if len(whole):
        line = base_chart(whole.assign(name="trained vector", half="half of it"))
        layers += [
            line.mark_rule(color=INK, strokeDash=[10, 2], strokeWidth=1.6).encode(
                y=alt.Y("log_odds:Q"), tooltip=["name:N", alt.Tooltip("log_odds:Q", format="+.2f")]
            ),
            line.mark_text(align="left", dy=-6, dx=2).encode(x=alt.value(0), y=alt.Y("log_odds:Q"), text="name:N"),
            line.transform_calculate(halved="datum.log_odds / 2")
            .mark_rule(color=INK, strokeDash=[2, 3], opacity=0.7)
            .encode(y=alt.Y("halved:Q")),
        ]
    return sized(alt.layer(*layers), 250)


def halves(table: pd.DataFrame, palette: Palette) -> Any:
    """m_half, a dot a target and the median as a bar; hollow where it is above the most tried: columns sae, label,
    m_half (may be inf), most."""
    beyond = ~np.isfinite(table["m_half"])
    table = table.assign(
        at=table["m_half"].where(~beyond, 1.6 * table["most"]), tried=~beyond,
        said=table["m_half"].map("{:.1f}".format).where(~beyond, "more than " + table["most"].astype(str)),
    )  # fmt: skip
    order = [sae for sae in palette.saes if (table["sae"] == sae).any()]
    top = float(table["most"].max())
    ticks = [m for m in (1, 2, 4, 8, 16, 32, 64, 128) if m <= top]
    x = alt.X(
        "at:Q", title="latents for half of the trained vector's effect",
        scale=alt.Scale(type="log", base=2, domain=[0.85, 2 * top], nice=False),
        axis=alt.Axis(values=ticks, format="d"),
    )  # fmt: skip
    y = alt.Y("sae:N", sort=order, title=None)
    colour = alt.Color(
        "sae:N", scale=alt.Scale(domain=order, range=[palette.of(sae) for sae in order]), legend=None
    )  # fmt: skip
    fill = alt.condition("datum.tried", colour, alt.value(PAPER))
    dots = base_chart(table).mark_point(size=60, opacity=0.75, strokeWidth=1.6)
    tip = ["sae:N", "label:N", alt.Tooltip("said:N", title="latents")]
    middle = table.groupby("sae", sort=False).agg(at=("m_half", "median"), most=("most", "max")).reset_index()
    middle["at"] = middle["at"].where(np.isfinite(middle["at"]), 1.6 * middle["most"])
    bars = base_chart(middle).mark_tick(color=INK, thickness=3, size=24)
    return sized(
        dots.encode(x=x, y=y, stroke=colour, fill=fill, tooltip=tip) + bars.encode(x=alt.X("at:Q"), y=y),
        36 * len(order),
    )


WAYS = {
    "rejection": "rejection from the unsteered model", "prompt": "prompt", "logit_bias": "logit bias",
    "infill": "infilling",
}  # fmt: skip
"""What an engineer would do instead, as `way` of tables/alternatives.csv."""
HANDLE = "best handle"


def prices(table: pd.DataFrame) -> Any:
    """Tokens written for one accepted sequence: columns label, way (a title of WAYS, or HANDLE), tokens."""
    order = list(dict.fromkeys(table["label"]))
    ways = [way for way in (*WAYS.values(), HANDLE) if (table["way"] == way).any()]
    colours = dict(zip((*WAYS.values(), HANDLE), (GREY, "#E69F00", "#CC79A7", "#009E73", "#0072B2"), strict=True))
    scale = alt.Scale(domain=ways, range=[colours[way] for way in ways])
    base = base_chart(table).encode(
        y=alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=190)),
        x=alt.X(
            "tokens:Q", title="tokens written for one accepted sequence (log)",
            scale=alt.Scale(type="log", nice=False, padding=24), axis=alt.Axis(tickCount=5, format="~s"),
        ),
    )  # fmt: skip
    line = base.mark_line(color=GREY, strokeWidth=1.2).encode(detail="label:N")
    dot = base.mark_point(size=75, filled=True, opacity=1).encode(
        color=alt.Color("way:N", title=None, scale=scale, legend=alt.Legend(symbolOpacity=1)),
        tooltip=["label:N", "way:N", alt.Tooltip("tokens:Q", format=",.0f")],
    )
    return sized(line + dot, 30 * len(order))


def heat(
    table: pd.DataFrame, rows: Sequence[str], regions: Sequence[str], title: str, fmt: str, rows_title: str | None
) -> Any:
    """A cell a row and region, darker for more: columns row, region, value, and what the tooltip adds (`note`)."""
    top = float(table["value"].max()) or 1.0
    base = base_chart(table).encode(
        x=alt.X("region:N", sort=list(regions), title=None, axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("row:N", sort=list(rows), title=rows_title, axis=alt.Axis(labelLimit=190)),
        tooltip=[
            "row:N",
            "region:N",
            alt.Tooltip("value:Q", title=title, format=fmt),
            alt.Tooltip("note:N", title=" "),
        ],
    )
    scale = alt.Scale(domain=[0, top], range=[FAINT, "#0072B2"], interpolate="rgb", clamp=True)
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(
            "value:Q", title=title, scale=scale, legend=alt.Legend(format=fmt, gradientLength=160, tickCount=3)
        )
    )
    number = (
        base.transform_calculate(strong=f"datum.value > {0.55 * top}")
        .mark_text(fontSize=11)
        .encode(
            text=alt.Text("value:Q", format=fmt), color=alt.condition("datum.strong", alt.value(PAPER), alt.value(INK))
        )
    )
    return sized(cells + number, 30 * len(rows))
