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

# Okabe and Ito's colours, then some of Tol's, safe for colour-blind readers; SAEs take them in the order of the
# configuration.
SAE_COLOURS = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#332288", "#882255", "#56B4E9", "#999933", "#CC6677",
]  # fmt: skip
SAE_SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down"]
INK, GREY, FAINT, PAPER = "#1b1f24", "#8a939c", "#eef1f4", "#ffffff"
# The same colours on a dark page: lighter, so that the contrast holds.
DARK = {
    "#0072B2": "#5bb8f0",
    "#D55E00": "#ff8a3d",
    "#009E73": "#2fcb9b",
    "#CC79A7": "#e39ac4",
    "#E69F00": "#f5b933",
    "#332288": "#9d8df1",
    "#882255": "#d8639c",
    "#56B4E9": "#a6dcff",
    "#999933": "#c9c95c",
    "#CC6677": "#ee8c9b",
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
        # JSON has no NaN, and a mark needs no place
        plain: dict[str, Any] = json.loads(json.dumps(spec), parse_constant=lambda _: None)
        return plain


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


def base_chart(table: pd.DataFrame) -> alt.Chart:
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


def sized(chart: Any, height: float = 230) -> Any:
    """As wide as its container; the plot itself `height` pixels high."""
    return chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )


class Palette:
    """Colour and shape of each SAE, the same in every picture."""

    def __init__(self, saes: Sequence[str]) -> None:
        self.saes = list(saes)
        n = len(SAE_COLOURS)  # a multiple of the shapes': the next round takes each colour with another shape
        self.colours = [SAE_COLOURS[i % n] for i in range(len(saes))]
        self.shapes = [SAE_SHAPES[(i + i // n) % len(SAE_SHAPES)] for i in range(len(saes))]

    def colour(self, legend: bool = True) -> alt.Color:
        return alt.Color(
            "sae:N",
            title=None,
            scale=alt.Scale(domain=self.saes, range=self.colours),
            legend=self._legend() if legend else None,
        )

    def shape(self, legend: bool = True) -> alt.Shape:
        return alt.Shape(
            "sae:N",
            title=None,
            scale=alt.Scale(domain=self.saes, range=self.shapes),
            legend=self._legend() if legend else None,
        )

    def _legend(self) -> alt.Legend:
        columns = 4 if len(self.saes) > 5 else alt.Undefined  # in a single row more than five are cut off
        return alt.Legend(symbolSize=90, symbolOpacity=1, columns=columns)

    def of(self, sae: str) -> str:
        return self.colours[self.saes.index(sae)]
