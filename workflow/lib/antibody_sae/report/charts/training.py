"""Pictures of training."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import Palette, base_chart, sized


def stage_costs(table: pd.DataFrame) -> Any:
    """Minutes of work by stage: columns stage, minutes, jobs."""
    base = base_chart(table).encode(y=alt.Y("stage:N", sort=list(table["stage"]), title=None))
    bar = base.mark_bar(height=15, cornerRadiusEnd=3, color="#0072B2").encode(
        x=alt.X("minutes:Q", title="minutes, summed over jobs", axis=alt.Axis(tickCount=6)),
        tooltip=["stage:N", "jobs:Q", alt.Tooltip("minutes:Q", format=".1f")],
    )
    text = base.mark_text(align="left", dx=5).encode(x="minutes:Q", text=alt.Text("minutes:Q", format=".1f"))
    return sized(bar + text, 25 * len(table))


def curves(
    table: pd.DataFrame, palette: Palette, y: str, title: str, log: bool, ends: pd.DataFrame | None = None
) -> Any:
    """Lines over training tokens, one a seed; `ends` adds a point at the last token (the held-out value)."""
    top = max(1.0, float(table[y].max()))
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(domain=[0, top])
    base = base_chart(table).encode(
        x=alt.X("tokens:Q", title="training residues seen", axis=alt.Axis(format="~s", tickCount=6)),
        y=alt.Y(
            f"{y}:Q",
            title=title,
            scale=scale,
            axis=alt.Axis(format="~g", tickCount=6) if log else alt.Axis(tickCount=min(6, int(top))),
        ),
        color=palette.colour(),
        detail="seed:N",
        tooltip=["sae:N", "seed:N", "tokens:Q", f"{y}:Q"],
    )
    layers = [base.mark_line(strokeWidth=1.6)]
    if ends is not None and len(ends):
        layers.append(
            base_chart(ends)
            .mark_point(size=80, filled=True, opacity=1)
            .encode(
                x="tokens:Q",
                y=alt.Y(f"{y}:Q", scale=scale),
                color=palette.colour(),
                shape=palette.shape(),
                tooltip=["sae:N", "seed:N", alt.Tooltip(f"{y}:Q", title="held out", format=".4f")],
            )
        )
    return sized(alt.layer(*layers))


def prefixes(table: pd.DataFrame, palette: Palette) -> Any:
    """Explained variance (held out) by the first l latents alone; columns sae, seed, prefix, explained."""
    return sized(
        base_chart(table)
        .mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=36, filled=True))
        .encode(
            x=alt.X(
                "prefix:Q",
                title="latents kept, from the first (log scale)",
                scale=alt.Scale(type="log", base=2, nice=False),
            ),
            y=alt.Y("explained:Q", title="explained variance, held out", axis=alt.Axis(format="%")),
            color=palette.colour(),
            shape=palette.shape(),
            detail="seed:N",
            tooltip=["sae:N", "seed:N", "prefix:Q", alt.Tooltip("explained:Q", format=".1%")],
        )
    )


def agreement(table: pd.DataFrame, palette: Palette, y: str) -> Any:
    """Agreement between seeds over the first latents: columns sae, seed (the pair), prefix and `y`."""
    return sized(
        base_chart(table)
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=34, filled=True))
        .encode(
            x=alt.X(
                "prefix:Q",
                title="first latents compared (log scale)",
                scale=alt.Scale(type="log", base=2, nice=False),
                axis=alt.Axis(values=sorted(table["prefix"].unique().tolist())),
            ),
            y=alt.Y(f"{y}:Q", title=y),
            color=palette.colour(),
            shape=palette.shape(),
            detail="seed:N",
            tooltip=["sae:N", alt.Tooltip("seed:N", title="seeds"), "prefix:Q", alt.Tooltip(f"{y}:Q", format=".3f")],
        )
    )
