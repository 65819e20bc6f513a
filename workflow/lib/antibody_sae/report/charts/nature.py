"""Pictures of what the model writes beside what the input holds."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import GREY, base_chart, sized

COLOURS = {"input": GREY, "written": "#D55E00"}
SHAPES = ["square", "circle"]


def side_by_side(table: pd.DataFrame, title: str) -> Any:
    """Shares of the input and of what was written, with their intervals: columns value, set, share, low, high."""
    kept = alt.X("value:N", title=title, sort=None, axis=alt.Axis(labelAngle=-40, labelOverlap=False))
    scale = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    legend = alt.Legend(symbolSize=80, symbolOpacity=1)
    colour = alt.Color("set:N", title=None, scale=scale, legend=legend)
    tips: list[Any] = ["value:N", "set:N", *(alt.Tooltip(f"{key}:Q", format=".1%") for key in ("share", "low", "high"))]
    base = base_chart(table).encode(
        x=kept, xOffset=alt.XOffset("set:N", sort=list(COLOURS)), color=colour, tooltip=tips
    )
    y = alt.Y("low:Q", title="share", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(zero=True))
    shape = alt.Shape("set:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=SHAPES), legend=legend)
    return sized(
        alt.layer(
            base.mark_rule(strokeWidth=1.6, opacity=0.7).encode(y=y, y2="high:Q"),
            base.mark_point(size=42, filled=True, opacity=1).encode(y="share:Q", shape=shape),
        )
    )
