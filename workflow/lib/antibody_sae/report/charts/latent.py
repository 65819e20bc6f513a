"""Pictures of one latent's page."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from antibody_sae.report.charts.base import PAPER, SAE_COLOURS, base_chart, sized


def latent_specs() -> dict[str, dict[str, Any]]:
    """Charts of a latent's page by name; the page puts the rows in as `data.values`."""
    empty = pd.DataFrame({"x": [], "value": []})
    inside = alt.condition("indexof(datum.region, 'CDR') >= 0", alt.value("#D55E00"), alt.value("#0072B2"))
    along = (
        base_chart(empty)
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
        base_chart(empty)
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
        base_chart(empty)
        .mark_bar(cornerRadiusEnd=2, color="#0072B2")
        .encode(
            x=residues,
            y=alt.Y("value:Q", title="mean activation", axis=alt.Axis(tickCount=4)),
            tooltip=["residue:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    lens = (
        base_chart(empty)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=residues,
            y=alt.Y("value:Q", title="logit per unit", axis=alt.Axis(tickCount=4)),
            color=alt.condition("datum.value > 0", alt.value("#0072B2"), alt.value("#D55E00")),
            tooltip=["residue:N", alt.Tooltip("value:Q", format="+.3f")],
        )
    )
    dose = base_chart(empty).encode(
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
        spec = sized(chart, height).to_dict(validate=False)
        spec.pop("config", None)
        spec["data"] = {"values": []}
        for layer in spec.get("layer", []):
            layer.pop("data", None)
        specs[name] = spec
    return specs
