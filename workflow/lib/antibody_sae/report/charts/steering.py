"""Pictures of steering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from antibody_sae.report.charts.base import FAINT, GREY, INK, PAPER, Palette, base_chart, sized

DASHES = {
    "difference_of_means": [6, 3],
    "probe": [2, 3],
    "rate_derivative": [8, 3, 2, 3],
    "trained": [10, 2],
    "located": [10, 2, 2, 2],
}
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
    base_line = base_chart(pd.DataFrame({"rate": [baseline]})).mark_rule(color=INK, strokeDash=[1, 3])
    layers: list[Any] = [base_line.encode(y=y, tooltip=[alt.Tooltip("rate:Q", title="no steering", format=".1%")])]
    random = arms[arms["kind"].isin(["random_latent", "random_direction"])]
    if len(random):
        levels = random.assign(length=random["length"].round(3)).groupby("length", as_index=False)
        band = levels.agg(low=("rate", "min"), high=("rate", "max"))
        band = pd.concat([pd.DataFrame({"length": [0.0], "low": [baseline], "high": [baseline]}), band])
        layers.append(base_chart(band).mark_area(color=GREY, opacity=0.2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"))
        layers.append(
            base_chart(random).mark_point(color=GREY, size=14, filled=True, opacity=0.7).encode(x=x, y=y, tooltip=tip)
        )
    for kind in [*DASHES, "latent"]:
        some = lines[lines["kind"] == kind]
        if not len(some):
            continue
        own, width = (colour, 1.8) if kind == "latent" else (INK, 1.5)
        path = pd.concat([starts[starts["kind"] == kind], some])
        base = base_chart(some)
        layers += [
            base_chart(path[["arm_label", "length", "rate"]])
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
            base_chart(labels[["length", "rate", "edge", "place"]])
            .mark_rule(color=GREY, strokeWidth=0.7, opacity=0.8)
            .encode(x=alt.X("length:Q"), x2="edge:Q", y=alt.Y("rate:Q"), y2="place:Q"),
            base_chart(labels[["arm_label", "kind", "place", "edge"]])
            .mark_text(align="left", dx=3, fontSize=11, limit=150)
            .encode(
                x=alt.X("edge:Q"),
                y=alt.Y("place:Q"),
                text="arm_label:N",
                color=alt.condition("datum.kind == 'latent'", alt.value(colour), alt.value(INK)),
            ),
        ]
    return sized(alt.layer(*layers), 270)


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
    base = base_chart(data).encode(
        y=alt.Y("criterion:N", sort=list(order), title=None, axis=alt.Axis(grid=True, labelLimit=210)), yOffset=offset
    )
    x = alt.X(
        "share:Q",
        title="share of targets with a steerable latent",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%"),
    )
    tip = ["criterion:N", "sae:N", alt.Tooltip("steerable:Q"), alt.Tooltip("of:Q", title="of")]
    return sized(
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
    base = base_chart(table).encode(y=y)
    few = len(lanes) < 4
    layers: list[Any] = [
        base_chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(x="x:Q"),
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
    return sized(alt.layer(*layers), len(order) * max(26, (14 if few else 10) * len(lanes)))


def mapping_scatter(table: pd.DataFrame, palette: Palette, x: str, x_title: str) -> Any:
    """Association against effect, one point a steered latent and target, random latents faint.

    Columns sae, label, latent, kind, selected_by, `x`, delta, low, high.
    """
    chosen = "datum.kind == 'latent'"
    base = base_chart(table).encode(
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
    zero = base_chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[2, 2]).encode(y="y:Q")
    return sized(
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
    """Off-target effects: rows `arm`, columns `label`, colour by change (points of a share)."""
    top = float(table["delta"].abs().max() or 1)
    return sized(
        base_chart(table)
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
    base = base_chart(table).encode(
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
            base_chart(pd.DataFrame({"y": [line]})).mark_rule(color=INK, strokeDash=[3, 3]).encode(y=alt.Y("y:Q"))
        )
    return sized(alt.layer(*layers))
