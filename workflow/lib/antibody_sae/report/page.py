"""What the report's page is made of (tabs, sections, pictures, tables), and the HTML that they become.

What the page shows at once lies in it as HTML; charts and latents lie in it as gzipped JSON, unpacked when they are
first looked at (a page on the file system may not fetch other files). Text from data is escaped by the template engine,
or lies in base64 and reaches the page as textContent.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert

from antibody_sae.report.charts import base as figures_base
from antibody_sae.report.charts import latent
from antibody_sae.report.charts.base import Figure
from antibody_sae.report.charts.logos import Logo
from antibody_sae.report.run import records

TEMPLATES = Path(__file__).parents[3] / "report"
CHUNK = 64
"""Latents in one block of the page: what opening one latent unpacks."""


@dataclass(frozen=True)
class Column:
    """A column of a table on the page."""

    key: str
    title: str
    fmt: str = ""
    """Python format of its numbers; empty: text."""
    help: str = ""

    @property
    def number(self) -> bool:
        return bool(self.fmt)


def columns(*specs: str) -> list[Column]:
    """Columns from "key|title", "key|title|format" or "key|title|format|help"."""
    return [Column(*spec.split("|")) for spec in specs]


@dataclass(frozen=True)
class Table:
    """A table on the page; sorting uses the numbers, not their text.

    A cell's `<key>_note` in the data is set small below it, its `<key>_href` makes it a link.
    """

    title: str
    columns: Sequence[Column]
    data: pd.DataFrame
    csv: str = ""
    folded: bool = False

    @property
    def cells(self) -> list[list[dict[str, Any]]]:
        return [[self._cell(column, row) for column in self.columns] for row in records(self.data)]

    @staticmethod
    def _cell(column: Column, row: Mapping[str, Any]) -> dict[str, Any]:
        value: Any = row.get(column.key)
        missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
        text = "–" if missing else format(value, column.fmt) if column.fmt else str(value)
        number = None if missing or not column.fmt else float(value)
        note, link = (row.get(f"{column.key}_{extra}") for extra in ("note", "href"))
        return {"text": text, "sort": number, "note": note if isinstance(note, str) else None, "href": link}


@dataclass(frozen=True)
class Pick:
    """A choice that a section offers: which of its pictures are shown."""

    key: str
    title: str
    options: Sequence[tuple[str, str]]


@dataclass
class Section:
    """A heading with a sentence, pictures and tables."""

    title: str
    text: str = ""
    figures: list[Figure | Logo] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    @property
    def pictures(self) -> list[dict[str, Any]]:
        keys = ("name", "title", "caption", "pick")
        return [{k: getattr(f, k) for k in keys} | {"svg": getattr(f, "svg", None)} for f in self.figures]


@dataclass(frozen=True)
class Finding:
    """A claim at a glance: verdict, one sentence, one picture; the rule behind a click."""

    claim: str
    verdict: str
    mark: str
    """yes, no or empty: how the verdict is shown."""
    text: str
    rule: str
    figure: Figure | None = None


@dataclass
class Tab:
    """A part of the page."""

    id: str
    title: str
    sections: list[Section]
    findings: list[Finding] = field(default_factory=list)
    """Shown above the sections."""

    @property
    def figures(self) -> list[Figure | Logo]:
        """Every picture of the tab."""
        own = [finding.figure for finding in self.findings if finding.figure]
        return [*own, *(figure for section in self.sections for figure in section.figures)]


@dataclass(frozen=True)
class Browsed:
    """An SAE in the browser of latents."""

    key: str
    title: str
    index: Mapping[str, Any]
    """Columns of the list of latents."""
    records: Sequence[Mapping[str, Any]]
    """What is known of each latent."""


def pack(value: Any) -> str:
    """Base64 of gzipped JSON; the same text for the same value."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


def _blocks(tabs: Sequence[Tab], browsed: Sequence[Browsed]) -> list[tuple[str, str]]:
    blocks = []
    for tab in tabs:
        charts = {f.name: f.spec for f in tab.figures if isinstance(f, Figure)}
        blocks.append((f"charts-{tab.id}", pack(charts)))
    for sae in browsed:
        blocks.append((f"index-{sae.key}", pack(sae.index)))
        for i in range(0, len(sae.records), CHUNK):
            blocks.append((f"latents-{sae.key}-{i // CHUNK}", pack(sae.records[i : i + CHUNK])))
    return blocks


def render(
    tabs: Sequence[Tab], browsed: Sequence[Browsed], positions: Sequence[tuple[str, str]], about: Mapping[str, Any]
) -> str:
    """The page as HTML.

    `positions` are (IMGT position, region) of the entries of the latents' profiles; `about` what the template says at
    the top and bottom: run, what, note, tiles, model, processor, settings.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    saes = [{"key": sae.key, "title": sae.title, "latents": len(sae.records)} for sae in browsed]
    page = {
        "themes": {"light": figures_base.config(dark=False), "dark": figures_base.config(dark=True)},
        "swap": figures_base.DARK,
        "latent": latent.latent_specs(),
        "chunk": CHUNK,
        "saes": saes,
        "positions": positions,
    }
    return environment.get_template("index.html.j2").render(
        tabs=tabs,
        saes=saes,
        page=page,
        blocks=_blocks(tabs, browsed),
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        js=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
        vega=vl_convert.javascript_bundle(),  # type: ignore[call-arg]
        **about,
    )
