"""The picture beside each claim: one look should say what the verdict says."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import GREY, INK, Palette, base_chart, sized


def by_sae(table: pd.DataFrame, palette: Palette, title: str, fmt: str) -> Any:
    """A bar an SAE type, its mean over seeds, and a dot a seed where there are several: columns sae, seed, value."""
    means = table.groupby("sae", sort=False)["value"].mean().to_frame().reset_index()
    y = alt.Y("sae:N", sort=list(means["sae"]), title=None)
    x = alt.X("value:Q", title=title, axis=alt.Axis(format=fmt, tickCount=5), scale=alt.Scale(zero=True))
    known = [sae for sae in means["sae"] if sae in palette.saes]
    colour = alt.Color("sae:N", scale=alt.Scale(domain=known, range=[palette.of(sae) for sae in known]), legend=None)
    base = base_chart(means).encode(y=y, tooltip=["sae:N", alt.Tooltip("value:Q", title=title, format=fmt)])
    layers: list[Any] = [
        base.mark_bar(height=18, cornerRadiusEnd=3, opacity=0.85).encode(x=x, color=colour),
        base.mark_text(align="left", dx=6, color=INK).encode(x="value:Q", text=alt.Text("value:Q", format=fmt)),
    ]
    if table["seed"].nunique() > 1:
        dots = base_chart(table).encode(y=y, tooltip=["sae:N", "seed:N", alt.Tooltip("value:Q", format=fmt)])
        layers.insert(1, dots.mark_point(color=INK, size=28, filled=False).encode(x="value:Q"))
    return sized(alt.layer(*layers), 34 * len(means))


def changes(table: pd.DataFrame, names: dict[str, str], shapes: dict[str, str]) -> Any:
    """Change of each target's share under two or more ways of pushing, a line between them.

    Columns label, who, delta, low, high, steerable. names: who -> colour, shapes: who -> its mark; a mark is hollow
    where the target is not steered.
    """
    order = list(dict.fromkeys(table["label"]))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=150))
    legend = alt.Legend(symbolSize=80, symbolOpacity=1)
    scale = alt.Scale(domain=list(names), range=list(names.values()))
    marks = alt.Scale(domain=list(shapes), range=list(shapes.values()))
    axis = alt.Axis(format="+.0%", tickCount=6)
    offset = alt.YOffset("who:N", sort=list(names), scale=alt.Scale(paddingOuter=0.35))
    base = base_chart(table).encode(
        y=y, yOffset=offset, color=alt.Color("who:N", title=None, scale=scale, legend=legend)
    )
    tip = [
        "label:N",
        "who:N",
        alt.Tooltip("delta:Q", title="change", format="+.1%"),
        alt.Tooltip("low:Q", title="95% from", format="+.1%"),
        alt.Tooltip("high:Q", title="to", format="+.1%"),
        alt.Tooltip("steerable:N", title="steers"),
    ]
    x = alt.X("delta:Q", title="change of the target's share", axis=axis)
    shape = alt.Shape("who:N", title=None, scale=marks, legend=legend)
    return sized(
        alt.layer(
            base_chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(x="x:Q"),
            base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q"), x2="high:Q"),
            base.mark_point(size=70, opacity=1, strokeWidth=1.8).encode(
                x=x,
                shape=shape,
                tooltip=tip,
                fillOpacity=alt.condition("datum.steerable", alt.value(1), alt.value(0)),
                fill=alt.Fill("who:N", title=None, scale=scale, legend=legend),
            ),
        ),
        len(order) * max(22, 13 * len(names)),
    )
