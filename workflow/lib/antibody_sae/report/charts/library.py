"""Pictures of a designed library beside unsteered and natural antibodies."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import FAINT, GREY, base_chart, sized

SETS = {"design": "library", "unsteered": "unsteered", "natural": "natural"}
COLOURS = {"library": "#D55E00", "unsteered": "#0072B2", "natural": GREY}


def _colour(table: pd.DataFrame, legend: bool = True) -> alt.Color:
    """Of the sets that are there."""
    present = [name for name in COLOURS if (table["set"] == name).any()]
    scale = alt.Scale(domain=present, range=[COLOURS[name] for name in present])
    return alt.Color("set:N", title=None, scale=scale, legend=alt.Legend(symbolOpacity=1) if legend else None)


def funnel(table: pd.DataFrame) -> Any:
    """Sequences left after each constraint in order: columns constraint, left, share."""
    base = base_chart(table).encode(y=alt.Y("constraint:N", sort=None, title=None))
    bar = base.mark_bar(height=15, cornerRadiusEnd=3, color="#D55E00").encode(
        x=alt.X("left:Q", title="sequences left", axis=alt.Axis(tickCount=6)),
        tooltip=["constraint:N", "left:Q", alt.Tooltip("share:Q", title="meet it by itself", format=".1%")],
    )
    text = base.mark_text(align="left", dx=5).encode(x="left:Q", text="left:Q")
    return sized(bar + text, 25 * len(table))


def shares(table: pd.DataFrame, x: str, title: str, ordinal: bool) -> Any:
    """Share of each set with a value: columns set, `x`, share."""
    axis = alt.Axis(labelAngle=0) if ordinal else alt.Axis(labelAngle=-40, labelOverlap=False)
    return sized(
        base_chart(table)
        .mark_bar()
        .encode(
            x=alt.X(f"{x}:{'O' if ordinal else 'N'}", title=title, sort=None, axis=axis),
            xOffset=alt.XOffset("set:N", sort=list(COLOURS)),
            y=alt.Y("share:Q", title="share", axis=alt.Axis(format="%")),
            color=_colour(table),
            tooltip=["set:N", f"{x}:{'O' if ordinal else 'N'}", alt.Tooltip("share:Q", format=".1%")],
        )
    )


def scores(table: pd.DataFrame) -> Any:
    """Medians and middle halves of each score by set, one row a set: columns score, set, low, median, high."""
    base = base_chart(table).encode(
        y=alt.Y("set:N", title=None, sort=list(COLOURS)), color=_colour(table, legend=False)
    )
    x = alt.X("median:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    tips = ["set:N", "score:N", *(alt.Tooltip(f"{c}:Q", format=".4g") for c in ("low", "median", "high"))]
    rule = base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=alt.X("low:Q", title=None), x2="high:Q", tooltip=tips)
    point = base.mark_point(size=70, filled=True, opacity=1).encode(x=x, tooltip=tips)
    return sized(rule + point, 24 * table["set"].nunique())


def diversity(table: pd.DataFrame) -> Any:
    """Antibodies in a plane in which near means alike: columns x, y, set, name, picked."""
    base = base_chart(table).encode(
        x=alt.X("x:Q", title=None, axis=alt.Axis(labels=False, ticks=False, gridColor=FAINT)),
        y=alt.Y("y:Q", title=None, axis=alt.Axis(labels=False, ticks=False, gridColor=FAINT)),
        color=_colour(table),
        tooltip=["name:N", "set:N", "picked:N"],
    )
    every = base.mark_point(size=28, filled=True, opacity=0.55)
    chosen = base.transform_filter("datum.picked").mark_point(size=90, filled=False, strokeWidth=1.6)
    return sized(every + chosen, 330)
