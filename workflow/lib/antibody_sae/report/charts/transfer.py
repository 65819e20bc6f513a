"""Picture of how findings travel between two runs."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import GREY, SAE_COLOURS, base_chart, sized


def brought(table: pd.DataFrame) -> Any:
    """F1 of brought latents over that of a run's own on the same antibodies: columns way, label, f1_native,
    f1_abroad, f1_abroad_low, f1_abroad_high."""
    ways = list(dict.fromkeys(table["way"]))
    line = base_chart(pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0]})).mark_line(color=GREY, strokeDash=[3, 3])
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5, format=".1f")
    x = alt.X("f1_native:Q", title="F1 of the latents found where they are judged", scale=scale, axis=axis)
    colour = alt.Color(
        "way:N",
        title=None,
        scale=alt.Scale(domain=ways, range=SAE_COLOURS[: len(ways)]),
        legend=alt.Legend(symbolSize=80, symbolOpacity=1),
    )
    tips: list[Any] = ["label:N", "way:N"]
    for key in ("f1_native", "f1_abroad", "f1_abroad_low", "f1_abroad_high"):
        tips.append(alt.Tooltip(f"{key}:Q", format=".2f"))
    base = base_chart(table).encode(x=x, color=colour, tooltip=tips)
    y = alt.Y("f1_abroad:Q", title="F1 of the latents that were brought", scale=scale, axis=axis)
    return sized(
        alt.layer(
            line.encode(x=alt.X("a:Q", scale=scale), y=alt.Y("b:Q", scale=scale)),
            base.mark_rule(opacity=0.25).encode(y=alt.Y("f1_abroad_low:Q"), y2="f1_abroad_high:Q"),
            base.mark_point(size=40, filled=True, opacity=0.8).encode(y=y),
        ),
        320,
    )
