"""The report's pictures: tidy tables in, Vega-Lite specifications out, and each as SVG, PNG and CSV.

One specification serves the page (drawn by Vega, wide as its container, in the reader's colour scheme) and the files
(drawn by vl-convert without a browser, in the light scheme).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from antibody_sae.io import atomic

# Okabe and Ito's colours, safe for colour-blind readers; SAEs take them in the order of the configuration.
SAE_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
SAE_SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down"]
INK, GREY, FAINT, PAPER = "#1b1f24", "#8a939c", "#eef1f4", "#ffffff"
# The same colours on a dark page: lighter, so that the contrast holds.
DARK = {
    "#0072B2": "#5bb8f0",
    "#D55E00": "#ff8a3d",
    "#009E73": "#2fcb9b",
    "#CC79A7": "#e39ac4",
    "#E69F00": "#f5b933",
    INK: "#e6e9ec",
    GREY: "#828c96",
    FAINT: "#262c33",
    PAPER: "#1b2025",
}


def config(dark: bool) -> dict[str, Any]:
    """Vega configuration (fonts, axes, legends) of the light or the dark page."""
    ink, muted, line = ("#e6e9ec", "#a3adb8", "#343c45") if dark else ("#1b1f24", "#56606b", "#dfe3e8")
    return {
        "background": None,
        "padding": {"left": 4, "top": 5, "right": 14, "bottom": 5},
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted,
            "titleColor": ink,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelFontSize": 11.5,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "labelLimit": 170,
            "labelFlush": False,
            "labelOverlap": "greedy",
            "labelSeparation": 5,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "orient": "top",
            "symbolStrokeWidth": 2,
            "labelLimit": 230,
            "columnPadding": 14,
        },
        "header": {"labelColor": ink, "titleColor": muted},
        "title": {"color": ink, "subtitleColor": muted, "anchor": "start", "fontSize": 14, "offset": 12},
        "text": {"color": ink, "fontSize": 11.5},
    }


@dataclass(frozen=True)
class Figure:
    """One picture of the report."""

    name: str
    """Stem of its files in report/figures/."""
    title: str
    caption: str
    """What is drawn, in which units, and what the intervals are."""
    chart: alt.TopLevelMixin
    data: pd.DataFrame
    """The numbers drawn, written as CSV beside the picture."""
    pick: dict[str, str] = field(default_factory=dict)
    """Where the page offers a choice (layer, concept, SAE): which choice shows this picture."""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Vega-Lite specification with its data, no colour scheme applied."""
        spec = self.chart.to_dict(validate=False)
        spec.pop("config", None)
        return spec


def svg(figure: Figure) -> str:
    """The picture as SVG on white, with its title."""
    spec = {**figure.spec, "title": {"text": figure.title}, "width": 620}
    settings = {**config(dark=False), "background": PAPER, "padding": 12, "font": "Liberation Sans, Arial, sans-serif"}
    return vl_convert.vegalite_to_svg(json.dumps(spec), config=settings)


def write_pictures(svg: str, stem: Path) -> None:
    """Write an SVG and its PNG beside each other."""
    with atomic(stem.with_name(f"{stem.name}.svg")) as path:
        path.write_text(svg, encoding="utf-8")
    with atomic(stem.with_name(f"{stem.name}.png")) as path:
        path.write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _chart(table: pd.DataFrame) -> alt.Chart:
    """A chart of the table: floats to five significant digits (enough to draw and to read), what is missing as null."""
    columns = {}
    for name, values in table.items():
        if pd.api.types.is_float_dtype(values.dtype):
            columns[name] = [
                float(f"{v:.5g}") if np.isfinite(v) else None for v in values.to_numpy(float, na_value=np.nan)
            ]
        else:
            columns[name] = [None if pd.isna(v) else v for v in values.astype(object)]
    names = [str(name) for name in columns]
    return alt.Chart(
        alt.InlineData([dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    )


def _sized(chart: Any, height: float = 230) -> Any:
    """As wide as its container; the plot itself `height` pixels high."""
    return chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )


class Palette:
    """Colour and shape of each SAE, the same in every picture."""

    def __init__(self, saes: Sequence[str]) -> None:
        self.saes = list(saes)
        self.colours = [SAE_COLOURS[i % len(SAE_COLOURS)] for i in range(len(saes))]
        self.shapes = [SAE_SHAPES[i % len(SAE_SHAPES)] for i in range(len(saes))]

    def colour(self, legend: bool = True) -> alt.Color:
        return alt.Color(
            "sae:N",
            title=None,
            scale=alt.Scale(domain=self.saes, range=self.colours),
            legend=alt.Legend(symbolSize=90, symbolOpacity=1) if legend else None,
        )

    def shape(self, legend: bool = True) -> alt.Shape:
        return alt.Shape(
            "sae:N",
            title=None,
            scale=alt.Scale(domain=self.saes, range=self.shapes),
            legend=alt.Legend(symbolSize=90, symbolOpacity=1) if legend else None,
        )

    def of(self, sae: str) -> str:
        return self.colours[self.saes.index(sae)]


def stage_costs(table: pd.DataFrame) -> Any:
    """Minutes of work by stage: columns stage, minutes, jobs."""
    base = _chart(table).encode(y=alt.Y("stage:N", sort=list(table["stage"]), title=None))
    bar = base.mark_bar(height=15, cornerRadiusEnd=3, color="#0072B2").encode(
        x=alt.X("minutes:Q", title="minutes, summed over jobs", axis=alt.Axis(tickCount=6)),
        tooltip=["stage:N", "jobs:Q", alt.Tooltip("minutes:Q", format=".1f")],
    )
    text = base.mark_text(align="left", dx=5).encode(x="minutes:Q", text=alt.Text("minutes:Q", format=".1f"))
    return _sized(bar + text, 25 * len(table))


# ---------------------------------------------------------------- training


def curves(
    table: pd.DataFrame, palette: Palette, y: str, title: str, log: bool, ends: pd.DataFrame | None = None
) -> Any:
    """Lines over training tokens, one a seed; `ends` adds a point at the last token (the held-out value)."""
    top = max(1.0, float(table[y].max()))
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(domain=[0, top])
    base = _chart(table).encode(
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
            _chart(ends)
            .mark_point(size=80, filled=True, opacity=1)
            .encode(
                x="tokens:Q",
                y=alt.Y(f"{y}:Q", scale=scale),
                color=palette.colour(),
                shape=palette.shape(),
                tooltip=["sae:N", "seed:N", alt.Tooltip(f"{y}:Q", title="held out", format=".4f")],
            )
        )
    return _sized(alt.layer(*layers))


def prefixes(table: pd.DataFrame, palette: Palette) -> Any:
    """Explained variance (held out) when only the first l latents may speak; columns sae, seed, prefix, explained."""
    return _sized(
        _chart(table)
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
    return _sized(
        _chart(table)
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


# ---------------------------------------------------------------- concepts


def best_latents(table: pd.DataFrame, palette: Palette) -> Any:
    """Dot plot of each concept's best latent.

    Columns label, sae, seed, latent, f1, f1_low, f1_high, simple (F1 of the best simple baseline), simple_name, probe.
    """
    order = list(dict.fromkeys(table["label"]))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=190))
    offset = alt.YOffset("sae:N", sort=palette.saes, scale=alt.Scale(paddingOuter=0.35))
    x = alt.X("f1:Q", title="F1 on test antibodies", scale=alt.Scale(domain=[0, 1]))
    base = _chart(table).encode(y=y)
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
    return _sized(alt.layer(*layers), table["label"].nunique() * max(24, 13 * table["sae"].nunique()))


def heatmap(table: pd.DataFrame, colour: str, latents: Sequence[str], labels: Sequence[str]) -> Any:
    """Latents (columns, in that order) against concepts (rows): columns latent (text), label, r."""
    return _sized(
        _chart(table)
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
    base = _chart(table).encode(y=alt.Y("row:N", sort=list(table["row"]), title=None))
    bar = base.mark_bar(height=16, cornerRadiusEnd=3).encode(
        x=alt.X(f"{x}:Q", title=title, axis=alt.Axis(format=fmt, tickCount=5)),
        color=palette.colour(False),
        tooltip=["row:N", alt.Tooltip(f"{x}:Q", format=fmt)],
    )
    text = base.mark_text(align="left", dx=5).encode(x=f"{x}:Q", text=alt.Text(f"{x}:Q", format=fmt))
    return _sized(bar + text, 28 * len(table))


def spread(table: pd.DataFrame, palette: Palette, title: str, log: bool) -> Any:
    """Where a measure lies over an SAE's latents: columns sae, q10, q25, median, q75, q90."""
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True)
    base = _chart(table).encode(y=alt.Y("sae:N", sort=palette.saes, title=None), color=palette.colour(False))
    tip = ["sae:N", *(alt.Tooltip(f"{q}:Q", format=".3~g") for q in ("q10", "q25", "median", "q75", "q90"))]
    axis = alt.Axis(tickCount=5, format="~g") if log else alt.Axis(tickCount=5)
    return _sized(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("q10:Q", title=title, scale=scale, axis=axis), x2="q90:Q", tooltip=tip
        )
        + base.mark_bar(height=9, opacity=0.45).encode(x=alt.X("q25:Q", scale=scale), x2="q75:Q", tooltip=tip)
        + base.mark_point(size=75, filled=True, opacity=1).encode(
            x=alt.X("median:Q", scale=scale), shape=palette.shape(False), tooltip=tip
        ),
        28 * len(table),
    )


# ---------------------------------------------------------------- steering

DASHES = {"difference_of_means": [6, 3], "probe": [2, 3], "rate_gradient": [8, 3, 2, 3]}
"""Supervised directions -> dashes of their lines."""
Z = 1.959964
"""Of a 95% interval."""


def dose_response(arms: pd.DataFrame, baseline: float, colour: str, top: float, x_title: str, concept: str) -> Any:
    """Concept rate against length of the added vector, for one SAE.

    arms: arm_label, kind, length, strength, rate, rate_low, rate_high, valid, acceptable, n. Latents and supervised
    directions are lines from no steering at 0; random ones a band. Points are hollow where quality is too low.
    """
    zero = {"length": 0.0, "rate": baseline, "rate_low": baseline, "rate_high": baseline, "acceptable": True}
    lines = arms[arms["kind"].isin(["latent", *DASHES])]
    starts = lines.drop_duplicates("arm_label")[["arm_label", "kind"]].assign(**zero)
    x = alt.X("length:Q", title=x_title, axis=alt.Axis(tickCount=7), scale=alt.Scale(nice=False))
    y = alt.Y(
        "rate:Q",
        title=f"share with {concept}",
        scale=alt.Scale(domain=[0, top]),
        axis=alt.Axis(format="%", tickCount=6),
    )
    tip = [
        alt.Tooltip("arm_label:N", title="arm"),
        alt.Tooltip("strength:Q", title="× largest activation", format=".3~g"),
        alt.Tooltip("rate:Q", format=".1%"),
        alt.Tooltip("rate_low:Q", title="95% from", format=".1%"),
        alt.Tooltip("rate_high:Q", title="to", format=".1%"),
        alt.Tooltip("valid:Q", title="numberable", format=".1%"),
        alt.Tooltip("n:Q", title="written"),
    ]
    base_line = _chart(pd.DataFrame({"rate": [baseline]})).mark_rule(color=INK, strokeDash=[1, 3])
    layers: list[Any] = [base_line.encode(y=y, tooltip=[alt.Tooltip("rate:Q", title="no steering", format=".1%")])]
    random = arms[arms["kind"].isin(["random_latent", "random_direction"])]
    if len(random):
        levels = random.assign(length=random["length"].round(3)).groupby("length", as_index=False)
        band = levels.agg(low=("rate", "min"), high=("rate", "max"))
        band = pd.concat([pd.DataFrame({"length": [0.0], "low": [baseline], "high": [baseline]}), band])
        layers.append(_chart(band).mark_area(color=GREY, opacity=0.2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"))
        layers.append(
            _chart(random).mark_point(color=GREY, size=14, filled=True, opacity=0.7).encode(x=x, y=y, tooltip=tip)
        )
    for kind in [*DASHES, "latent"]:
        some = lines[lines["kind"] == kind]
        if not len(some):
            continue
        own, width = (colour, 1.8) if kind == "latent" else (INK, 1.5)
        path = pd.concat([starts[starts["kind"] == kind], some])
        base = _chart(some)
        layers += [
            _chart(path[["arm_label", "length", "rate"]])
            .mark_line(color=own, strokeWidth=width, strokeDash=DASHES.get(kind, [1, 0]), opacity=0.75)
            .encode(x=x, y=y, detail="arm_label:N"),
            base.mark_rule(color=own, strokeWidth=1.2, opacity=0.6).encode(x=x, y="rate_low:Q", y2="rate_high:Q"),
            base.mark_point(size=44, opacity=1, stroke=own, strokeWidth=1.5).encode(
                x=x, y=y, tooltip=tip, fill=alt.condition("datum.acceptable", alt.value(own), alt.value(PAPER))
            ),
        ]
    labels = lines.sort_values("length").groupby("arm_label", as_index=False).last()
    if len(labels):
        edge = 1.06 * float(arms["length"].max())
        labels = labels.assign(place=spaced(labels["rate"], 0.06 * top, top), edge=edge)
        layers += [
            _chart(labels[["length", "rate", "edge", "place"]])
            .mark_rule(color=GREY, strokeWidth=0.7, opacity=0.8)
            .encode(x=alt.X("length:Q"), x2="edge:Q", y=alt.Y("rate:Q"), y2="place:Q"),
            _chart(labels[["arm_label", "kind", "place", "edge"]])
            .mark_text(align="left", dx=3, fontSize=11, limit=150)
            .encode(
                x=alt.X("edge:Q"),
                y=alt.Y("place:Q"),
                text="arm_label:N",
                color=alt.condition("datum.kind == 'latent'", alt.value(colour), alt.value(INK)),
            ),
        ]
    return _sized(alt.layer(*layers), 270)


def spaced(values: pd.Series, gap: float, top: float) -> list[float]:
    """The values moved as little as possible (least squares) to lie `gap` apart, order kept, none above `top`.

    Less i gap, the i-th value must not decrease: isotonic regression by pooling adjacent violators.
    """
    order = values.sort_values(kind="stable").index
    pools: list[tuple[float, int]] = []  # mean, size
    for i, value in enumerate(values.loc[order]):
        pools.append((value - i * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    placed = [mean for mean, size in pools for _ in range(size)]
    highest = top - gap * (len(placed) - 1)
    placed = [min(place, highest) + i * gap for i, place in enumerate(placed)]
    return pd.Series(placed, index=order).loc[values.index].tolist()


def shares(table: pd.DataFrame, palette: Palette, order: Sequence[str]) -> Any:
    """Share of targets with a steerable latent by criterion and SAE: columns criterion, sae, steerable, n."""
    p, n = table["steerable"] / table["n"], table["n"]
    centre, spread = (
        (p + Z**2 / (2 * n)) / (1 + Z**2 / n),
        Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)),
    )
    data = table.assign(share=p, low=(centre - spread).clip(0), high=(centre + spread).clip(upper=1), of=n)
    offset = alt.YOffset("sae:N", sort=palette.saes, scale=alt.Scale(paddingOuter=0.3))
    base = _chart(data).encode(
        y=alt.Y("criterion:N", sort=list(order), title=None, axis=alt.Axis(grid=True, labelLimit=210)), yOffset=offset
    )
    x = alt.X(
        "share:Q",
        title="share of targets with a steerable latent",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%"),
    )
    tip = ["criterion:N", "sae:N", alt.Tooltip("steerable:Q"), alt.Tooltip("of:Q", title="of")]
    return _sized(
        base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q"), x2="high:Q", color=palette.colour())
        + base.mark_point(filled=True, size=75, opacity=1).encode(
            x=x, color=palette.colour(), shape=palette.shape(), tooltip=tip
        ),
        len(order) * max(26, 14 * table["sae"].nunique()),
    )


def effect_dots(table: pd.DataFrame, palette: Palette, row: str, x_title: str) -> Any:
    """Largest change of each row (concept or criterion), a lane each SAE and seed, with intervals and the random
    latents' range in grey.

    table: `row`, sae, seed, delta, low, high, random_low, random_high, direction (difference of means), latent,
    strength.
    """
    order = list(dict.fromkeys(table[row]))
    table = table.assign(lane=table["sae"] + " " + table["seed"].astype(str))
    lanes = sorted(table["lane"].unique(), key=lambda lane: (palette.saes.index(lane.rpartition(" ")[0]), lane))
    y = alt.Y(f"{row}:N", sort=order, title=None, axis=alt.Axis(grid=True, labelLimit=190))
    offset = alt.YOffset("lane:N", sort=lanes, scale=alt.Scale(paddingOuter=0.3))
    axis = alt.Axis(format="+.0%", tickCount=6)
    named = [f"{row}:N", "sae:N", "seed:N"]
    tip = [
        *named,
        alt.Tooltip("latent:N"),
        alt.Tooltip("strength:Q", format=".3~g"),
        alt.Tooltip("delta:Q", title="change", format="+.1%"),
        alt.Tooltip("low:Q", title="95% from", format="+.1%"),
        alt.Tooltip("high:Q", title="to", format="+.1%"),
    ]
    base = _chart(table).encode(y=y)
    few = len(lanes) < 4
    layers: list[Any] = [
        _chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(x="x:Q"),
        base.mark_bar(color=GREY, opacity=0.35, height=7 if few else 5).encode(
            x=alt.X("random_low:Q"),
            x2="random_high:Q",
            yOffset=offset,
            tooltip=[
                *named,
                alt.Tooltip("random_low:Q", title="random latents from", format="+.1%"),
                alt.Tooltip("random_high:Q", title="to", format="+.1%"),
            ],
        ),
        base.mark_point(shape="diamond", filled=False, color=INK, size=70, strokeWidth=1.3).encode(
            x=alt.X("direction:Q"),
            tooltip=[f"{row}:N", alt.Tooltip("direction:Q", title="difference of means", format="+.1%")],
        ),
        base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q"), x2="high:Q", yOffset=offset, color=palette.colour()),
        base.mark_point(filled=True, size=75 if few else 45, opacity=1).encode(
            x=alt.X("delta:Q", title=x_title, axis=axis),
            yOffset=offset,
            color=palette.colour(),
            shape=palette.shape(),
            tooltip=tip,
        ),
    ]
    return _sized(alt.layer(*layers), len(order) * max(26, (14 if few else 10) * len(lanes)))


def mapping_scatter(table: pd.DataFrame, palette: Palette, x: str, x_title: str) -> Any:
    """Association against effect, one point a steered latent and target, random latents faint.

    Columns sae, label, latent, kind, selected_by, `x`, delta, low, high.
    """
    chosen = "datum.kind == 'latent'"
    base = _chart(table).encode(
        x=alt.X(f"{x}:Q", title=x_title, scale=alt.Scale(zero=True)),
        color=palette.colour(),
    )
    tip = [
        alt.Tooltip("label:N", title="concept"),
        "sae:N",
        "latent:N",
        "selected_by:N",
        alt.Tooltip(f"{x}:Q", format=".3f"),
        alt.Tooltip("delta:Q", title="change", format="+.1%"),
    ]
    zero = _chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(y="y:Q")
    return _sized(
        zero
        + base.mark_rule(strokeWidth=1).encode(
            y=alt.Y("low:Q"), y2="high:Q", opacity=alt.condition(chosen, alt.value(0.4), alt.value(0.12))
        )
        + base.mark_point(filled=True, size=56).encode(
            y=alt.Y("delta:Q", title="change of the concept's share", axis=alt.Axis(format="+.0%", tickCount=6)),
            shape=palette.shape(),
            opacity=alt.condition(chosen, alt.value(0.95), alt.value(0.3)),
            tooltip=tip,
        ),
        270,
    )


def side_effects(table: pd.DataFrame) -> Any:
    """What else moved: rows `arm`, columns `label`, colour by change (points of a share)."""
    top = float(table["delta"].abs().max() or 1)
    return _sized(
        _chart(table)
        .mark_rect(cornerRadius=1)
        .encode(
            x=alt.X(
                "label:N",
                sort=list(dict.fromkeys(table["label"])),
                title=None,
                axis=alt.Axis(labelAngle=-90, labelLimit=150, labelSeparation=0),
            ),
            y=alt.Y("arm:N", sort=list(dict.fromkeys(table["arm"])), title=None, axis=alt.Axis(labelLimit=220)),
            color=alt.Color(
                "delta:Q",
                title="change",
                scale=alt.Scale(domain=[-top, 0, top], range=["#D55E00", FAINT, "#0072B2"], interpolate="rgb"),
                legend=alt.Legend(format="+.0%", gradientLength=160, tickCount=3),
            ),
            tooltip=["arm:N", "label:N", alt.Tooltip("delta:Q", format="+.1%")],
        ),
        20 * table["arm"].nunique(),
    )


def quality(
    table: pd.DataFrame, palette: Palette, y: str, title: str, fmt: str, line: float | None, x_title: str
) -> Any:
    """A quality of what was written against length of the vector, a line a latent: columns sae, name, length, `y`."""
    share = fmt.endswith("%")
    step = 0.01 if share else 0.1
    scale = alt.Scale(domain=[min(0.9, float(table[y].min())), 1]) if share else alt.Scale(zero=False)
    base = _chart(table).encode(
        x=alt.X("length:Q", title=x_title, axis=alt.Axis(tickCount=6), scale=alt.Scale(zero=True)),
        y=alt.Y(f"{y}:Q", title=title, axis=alt.Axis(format=fmt, tickCount=5, tickMinStep=step), scale=scale),
        color=palette.colour(),
        detail="name:N",
        tooltip=[
            "sae:N",
            alt.Tooltip("name:N", title="latent"),
            alt.Tooltip("strength:Q", format=".3~g"),
            alt.Tooltip(f"{y}:Q", format=fmt),
        ],
    )
    layers = [
        base.mark_line(strokeWidth=1.2, opacity=0.7),
        base.mark_point(filled=True, size=30).encode(shape=palette.shape()),
    ]
    if line is not None:
        layers.append(
            _chart(pd.DataFrame({"y": [line]})).mark_rule(color=INK, strokeDash=[3, 3]).encode(y=alt.Y("y:Q"))
        )
    return _sized(alt.layer(*layers))


# ---------------------------------------------------------------- one latent: specifications the page fills with data


def latent_specs() -> dict[str, dict[str, Any]]:
    """Charts of a latent's page by name; the page puts the rows in as `data.values`."""
    empty = pd.DataFrame({"x": [], "value": []})
    inside = alt.condition("indexof(datum.region, 'CDR') >= 0", alt.value("#D55E00"), alt.value("#0072B2"))
    along = (
        _chart(empty)
        .mark_bar()
        .encode(
            x=alt.X(
                "imgt:O",
                title="position (CDRs in the second colour)",
                sort=None,
                axis=alt.Axis(labelOverlap=True, labelAngle=0),
            ),
            y=alt.Y("value:Q", title="mean activation", axis=alt.Axis(tickCount=4)),
            color=inside,
            tooltip=["imgt:O", "region:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    by_region = (
        _chart(empty)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("region:N", sort=None, title=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("value:Q", title="mean activation", axis=alt.Axis(tickCount=4)),
            color=inside,
            tooltip=["region:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    residues = alt.X("residue:N", title=None, axis=alt.Axis(labelAngle=0, labelOverlap=False), sort="-y")
    by_residue = (
        _chart(empty)
        .mark_bar(cornerRadiusEnd=2, color="#0072B2")
        .encode(
            x=residues,
            y=alt.Y("value:Q", title="mean activation", axis=alt.Axis(tickCount=4)),
            tooltip=["residue:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    lens = (
        _chart(empty)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=residues,
            y=alt.Y("value:Q", title="logit per unit", axis=alt.Axis(tickCount=4)),
            color=alt.condition("datum.value > 0", alt.value("#0072B2"), alt.value("#D55E00")),
            tooltip=["residue:N", alt.Tooltip("value:Q", format="+.3f")],
        )
    )
    dose = _chart(empty).encode(
        x=alt.X("length:Q", title="length of the added vector, rms lengths"),
        y=alt.Y(
            "rate:Q", title="share with the concept", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(zero=True)
        ),
        color=alt.Color("concept:N", title=None, scale=alt.Scale(range=SAE_COLOURS)),
    )
    dose_layers = (
        dose.mark_line(strokeWidth=1.6)
        + dose.mark_rule().encode(y="rate_low:Q", y2="rate_high:Q")
        + dose.mark_point(size=46, opacity=1, strokeWidth=1.5).encode(
            shape=alt.Shape("concept:N", title=None),
            fill=alt.condition(
                "datum.ok", alt.Fill("concept:N", scale=alt.Scale(range=SAE_COLOURS), legend=None), alt.value(PAPER)
            ),
            tooltip=[
                "concept:N",
                alt.Tooltip("strength:Q", title="× largest activation", format=".3~g"),
                alt.Tooltip("rate:Q", format=".1%"),
                alt.Tooltip("valid:Q", title="numberable", format=".1%"),
            ],
        )
    )
    charts = {
        "along": (along, 150),
        "region": (by_region, 130),
        "residue": (by_residue, 130),
        "lens": (lens, 130),
        "dose": (dose_layers, 220),
    }
    specs = {}
    for name, (chart, height) in charts.items():
        spec = _sized(chart, height).to_dict(validate=False)
        spec.pop("config", None)
        spec["data"] = {"values": []}
        for layer in spec.get("layer", []):
            layer.pop("data", None)
        specs[name] = spec
    return specs
