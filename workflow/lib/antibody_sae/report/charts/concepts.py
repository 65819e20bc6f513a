"""Pictures of the concepts stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import FAINT, GREY, INK, Palette, base_chart, sized


def best_latents(table: pd.DataFrame, palette: Palette) -> Any:
    """Dot plot of each concept's best latent.

    Columns label, sae, seed, latent, f1, f1_low, f1_high, simple (F1 of the best simple baseline), simple_name, probe.
    """
    order = list(dict.fromkeys(table["label"]))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=190))
    offset = alt.YOffset("sae:N", sort=palette.saes, scale=alt.Scale(paddingOuter=0.35))
    x = alt.X("f1:Q", title="F1 on test antibodies", scale=alt.Scale(domain=[0, 1]))
    base = base_chart(table).encode(y=y)
    layers = [
        base.mark_tick(color=GREY, thickness=2.5, size=18).encode(
            x=alt.X("simple:Q"),
            tooltip=[
                "label:N",
                alt.Tooltip("simple_name:N", title="best simple baseline"),
                alt.Tooltip("simple:Q", format=".3f"),
            ],
        ),
        base.mark_point(color=INK, shape="diamond", size=70, strokeWidth=1.3, filled=False).encode(
            x=alt.X("probe:Q"), tooltip=["label:N", alt.Tooltip("probe:Q", title="linear probe", format=".3f")]
        ),
        base.mark_rule(strokeWidth=1.6).encode(
            x=alt.X("f1_low:Q"), x2="f1_high:Q", yOffset=offset, color=palette.colour()
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x,
            yOffset=offset,
            color=palette.colour(),
            shape=palette.shape(),
            tooltip=[
                "label:N",
                "sae:N",
                "seed:N",
                "latent:Q",
                alt.Tooltip("f1:Q", format=".3f"),
                alt.Tooltip("f1_low:Q", title="95% from", format=".3f"),
                alt.Tooltip("f1_high:Q", title="to", format=".3f"),
                alt.Tooltip("simple:Q", title="best simple baseline", format=".3f"),
                alt.Tooltip("probe:Q", title="linear probe", format=".3f"),
            ],
        ),
    ]
    return sized(alt.layer(*layers), table["label"].nunique() * max(24, 13 * table["sae"].nunique()))


def heatmap(table: pd.DataFrame, colour: str, latents: Sequence[str], labels: Sequence[str]) -> Any:
    """Latents (columns, in that order) against concepts (rows): columns latent (text), label, r."""
    return sized(
        base_chart(table)
        .mark_rect(cornerRadius=1)
        .encode(
            x=alt.X(
                "latent:N",
                scale=alt.Scale(domain=list(latents), padding=0.04),
                title="latent",
                axis=alt.Axis(labelAngle=-90, labelSeparation=0),
            ),
            y=alt.Y("label:N", scale=alt.Scale(domain=list(labels), padding=0.04), title=None),
            color=alt.Color(
                "r:Q",
                title="correlation r",
                scale=alt.Scale(domain=[0, 1], clamp=True, range=[FAINT, colour], interpolate="rgb"),
                legend=alt.Legend(gradientLength=140, tickCount=3),
            ),
            tooltip=["latent:N", "label:N", alt.Tooltip("r:Q", format=".3f")],
        ),
        17 * len(labels),
    )


def bars(table: pd.DataFrame, palette: Palette, x: str, title: str, fmt: str) -> Any:
    """One bar an SAE and seed: columns sae, seed and `x`."""
    table = table.assign(place=table["sae"].map(palette.saes.index)).sort_values(["place", "seed"])
    table = table.assign(
        row=table["sae"] + (" · seed " + table["seed"].astype(str) if table["seed"].nunique() > 1 else "")
    )
    base = base_chart(table).encode(y=alt.Y("row:N", sort=list(table["row"]), title=None))
    bar = base.mark_bar(height=16, cornerRadiusEnd=3).encode(
        x=alt.X(f"{x}:Q", title=title, axis=alt.Axis(format=fmt, tickCount=5)),
        color=palette.colour(False),
        tooltip=["row:N", alt.Tooltip(f"{x}:Q", format=fmt)],
    )
    text = base.mark_text(align="left", dx=5).encode(x=f"{x}:Q", text=alt.Text(f"{x}:Q", format=fmt))
    return sized(bar + text, 28 * len(table))


def spread(table: pd.DataFrame, palette: Palette, title: str, log: bool) -> Any:
    """Where a measure lies over an SAE's latents: columns sae, q10, q25, median, q75, q90."""
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True)
    base = base_chart(table).encode(y=alt.Y("sae:N", sort=palette.saes, title=None), color=palette.colour(False))
    tip = ["sae:N", *(alt.Tooltip(f"{q}:Q", format=".3~g") for q in ("q10", "q25", "median", "q75", "q90"))]
    axis = alt.Axis(tickCount=5, format="~g") if log else alt.Axis(tickCount=5)
    return sized(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("q10:Q", title=title, scale=scale, axis=axis), x2="q90:Q", tooltip=tip
        )
        + base.mark_bar(height=9, opacity=0.45).encode(x=alt.X("q25:Q", scale=scale), x2="q75:Q", tooltip=tip)
        + base.mark_point(size=75, filled=True, opacity=1).encode(
            x=alt.X("median:Q", scale=scale), shape=palette.shape(False), tooltip=tip
        ),
        28 * len(table),
    )
