"""Pictures that compare the dictionaries of a run."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import GREY, INK, Palette, base_chart, sized


def sparse_probes(table: pd.DataFrame, palette: Palette, title: str, bars: dict[str, float]) -> Any:
    """A figure over the number of latents of a probe: columns sae, seed, k, value, low, high; `bars`: what it is held
    against, by name, as horizontal lines."""
    low = min(float(table["low"].min()), *bars.values())
    scale = alt.Scale(domain=[max(0.0, low - 0.05), 1.0])
    ks = sorted(table["k"].unique().tolist())
    x = alt.X("k:Q", title="latents of the probe", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ks))
    base = base_chart(table).encode(x=x, color=palette.colour(), detail="seed:N")
    tip = ["sae:N", "seed:N", "k:Q", *(alt.Tooltip(f"{key}:Q", format=".3f") for key in ("value", "low", "high"))]
    lines = pd.DataFrame({"name": list(bars), "value": list(bars.values()), "k": max(ks)})
    reference = base_chart(lines).encode(
        y=alt.Y("value:Q", scale=scale), tooltip=["name:N", alt.Tooltip("value:Q", format=".3f")]
    )
    return sized(
        alt.layer(
            reference.mark_rule(color=GREY, strokeDash=[5, 4]),
            reference.mark_text(color=INK, align="right", dy=-6).encode(x=x, text="name:N"),
            base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
            base.mark_line(strokeWidth=1.6).encode(y=alt.Y("value:Q", scale=scale)),
            base.mark_point(size=55, filled=True, opacity=1).encode(
                y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6)),
                shape=palette.shape(),
                tooltip=tip,
            ),
        )
    )


def over(table: pd.DataFrame, palette: Palette, x: str, x_title: str, title: str, fmt: str) -> Any:
    """A measure over widths (log scale) or layers: columns sae, seed, line (what is joined), `x`, value, low, high."""
    values = sorted(table[x].unique().tolist())
    wide = x == "latents"
    scale = alt.Scale(type="log", base=2, nice=False, padding=18) if wide else alt.Scale(zero=False, padding=18)
    axis = alt.Axis(values=values, format="d")
    free = alt.Scale(zero=False)
    base = base_chart(table).encode(x=alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis))
    y_axis = alt.Axis(format=fmt, tickCount=6)
    tip = ["sae:N", "seed:N", f"{x}:Q", *(alt.Tooltip(f"{key}:Q", format=fmt) for key in ("value", "low", "high"))]
    return sized(
        alt.layer(
            base.mark_line(strokeWidth=1.3, color=GREY).encode(
                y=alt.Y("value:Q", title=title, axis=y_axis, scale=free), detail="line:N"
            ),
            base.mark_rule(opacity=0.6).encode(y="low:Q", y2="high:Q", color=palette.colour()),
            base.mark_point(size=70, filled=True, opacity=1).encode(
                y="value:Q", color=palette.colour(), shape=palette.shape(), tooltip=tip
            ),
        )
    )
