"""The report of a run: its tabs, from the run's tables, and all its pictures as files beside the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from antibody_sae import hardware
from antibody_sae.io import atomic
from antibody_sae.report.charts import base as figures_base
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.charts.logos import Logo
from antibody_sae.report.findings import ONE_SEED
from antibody_sae.report.page import Browsed, Tab, render
from antibody_sae.report.run import Run
from antibody_sae.report.tabs import (
    concepts,
    dictionaries,
    latents,
    levers,
    library,
    nature,
    steering,
    training,
    transfer,
)
from antibody_sae.report.tabs.overview import described, findings, overview, tiles

TABS = (training, dictionaries, concepts, latents, steering, levers, nature, transfer, library)
"""Modules of the tabs after the overview: each has TITLE and `sections(run, palette)`, None where the run has nothing
for it."""


def build(run: Run, summary: Mapping[str, Any], page: str | Path, pictures: str | Path) -> None:
    """Write the page, and every picture as SVG, PNG and CSV into the folder `pictures`."""
    palette = Palette(list(dict.fromkeys(sae.title for sae in run.saes)))
    tabs = [Tab("overview", "Overview", overview(run, summary), findings(run, summary, palette))]
    for module in TABS:
        if (found := module.sections(run, palette)) is not None:
            tabs.append(Tab(module.__name__.rpartition(".")[2], module.TITLE, found))
    drawn = {figure.name: figure for tab in tabs for figure in tab.figures}
    for figure in drawn.values():
        _write(figure, Path(pictures))
    steered = steering.arms(run)
    browsed = [Browsed(sae.key, run.title(sae), *latents.records(run, sae, steered)) for sae in run.saes]
    browsed = [sae for sae in browsed if sae.records]
    html = render(tabs, browsed, latents.positions(run) if browsed else [], _about(run, summary))
    with atomic(page) as part:
        part.write_text(html, encoding="utf-8")


def _write(figure: Figure | Logo, folder: Path) -> None:
    svg = figure.svg if isinstance(figure, Logo) else figures_base.svg(figure)
    figures_base.write_pictures(svg, folder / figure.name)
    with atomic(folder / f"{figure.name}.csv") as part:
        figure.data.to_csv(part, index=False, float_format="%.6g")


def _about(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": summary["run"],
        "what": described(run, summary),
        "note": f"{ONE_SEED.capitalize()}." if any(f["verdict"] == ONE_SEED for f in summary["findings"]) else "",
        "tiles": tiles(summary),
        "model": summary["model"],
        "processor": hardware.instruction_set(),
        "settings": yaml.safe_dump(dict(run.config), sort_keys=False, width=100),
    }
