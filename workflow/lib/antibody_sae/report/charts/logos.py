"""Sequence logos as SVG, from counts of residues by position."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from antibody_sae.antibody import RESIDUES
from antibody_sae.report.charts.base import GREY, INK


@dataclass(frozen=True)
class Logo:
    """A logo as a picture of the report; the fields mean what they mean in figures.Figure."""

    name: str
    title: str
    caption: str
    svg: str
    data: pd.DataFrame
    pick: dict[str, str]


LEFT, RIGHT = 7, 6
"""Residues of CDR3 in a logo: IMGT 105-111 from its start, 112-117 from its end; between them no place is fixed."""
FR4_LENGTH = 11
"""IMGT 118-128."""
# Residues by chemistry, in Okabe and Ito's colours.
CHEMISTRY = {
    **dict.fromkeys("DE", "#D55E00"),
    **dict.fromkeys("KRH", "#0072B2"),
    **dict.fromkeys("STNQ", "#009E73"),
    **dict.fromkeys("GP", "#E69F00"),
    **dict.fromkeys("AVLIMC", "#1b1f24"),
    **dict.fromkeys("FWY", "#CC79A7"),
}
LETTER, BITS = 17.0, 26.0
"""Width of a position and height of a bit in a logo, pixels."""


def logo(frequencies: pd.DataFrame, name: str) -> str:
    """SVG of a sequence logo: rows are positions in order, columns the 20 residues, values counts; heights in bits.

    Information of a position: log2(20) - entropy (Schneider & Stephens 1990, without the small-sample term). `name`
    makes the ids in the SVG its own.
    """
    counts = frequencies.reindex(columns=list(RESIDUES)).fillna(0.0).to_numpy(float)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1, keepdims=True)
    heights = shares * (np.log2(20) - entropy) * (total > 0)
    left, floor, top = 34.0, 5.0 + BITS * np.log2(20), 5.0
    used, letters, text = set(), [], []
    for i, row in enumerate(heights):
        base = floor
        for j in np.argsort(row):
            tall = BITS * row[j]
            if tall < 0.6:
                continue
            letter = RESIDUES[j]
            wide = LETTER * (0.45 if letter == "I" else 0.94)
            x, base = left + i * LETTER + (LETTER - wide) / 2, base - tall
            letters.append(
                f'<use href="#{name}-{letter}" fill="{CHEMISTRY[letter]}" '
                f'transform="matrix({wide / 100:.4f} 0 0 {tall / 100:.4f} {x:.1f} {base:.2f})"/>'
            )
            used.add(letter)
        place = f"translate({left + (i + 0.5) * LETTER + 3:.1f} {floor + 5:.1f}) rotate(-90)"
        text.append(f'<text transform="{place}" text-anchor="end">{escape(str(frequencies.index[i]))}</text>')
    for bits in range(5):
        y = floor - BITS * bits
        text.append(f'<text x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{bits}</text>')
    middle = (floor + top) / 2
    text.append(f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">bits</text>')
    width, height = left + LETTER * len(heights) + 6, floor + 30
    paths = "".join(f'<path id="{name}-{letter}" d="{_letters()[letter]}"/>' for letter in sorted(used))
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    axis = f'<path d="M{left} {top}V{floor:.1f}H{width - 6:.0f}" fill="none" stroke="{GREY}"/>'
    words = f'<g font-family="Liberation Sans, Arial, sans-serif" font-size="10" fill="{INK}">{"".join(text)}</g>'
    drawn = f"<defs>{paths}</defs>{axis}{''.join(letters)}{words}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{drawn}</svg>'


@cache
def _letters() -> dict[str, str]:
    """Outlines of the 20 letters in a box of 100 x 100 (of DejaVu Sans Bold)."""
    path = Path(__file__).parents[4] / "report" / "letters.json"
    outlines: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return outlines


def counted(cdr3: Iterable[Any], fr4: Iterable[Any]) -> pd.DataFrame:
    """[24 IMGT positions, 20 residues] counts of CDR3's first 7 and last 6 residues and of FR4's 11.

    A pair with a missing part is left out; of a CDR3 shorter than 13 the start has the larger half, as in IMGT.
    """
    names = [str(i) for i in range(105, 105 + LEFT + RIGHT + FR4_LENGTH)]
    counts = np.zeros((len(names), len(RESIDUES)))
    for loop, framework in zip(cdr3, fr4, strict=True):
        if not isinstance(loop, str) or not isinstance(framework, str):
            continue
        left = min(LEFT, -(-len(loop) // 2))
        right = min(RIGHT, len(loop) - left)
        places = [(105 + i, residue) for i, residue in enumerate(loop[:left])]
        places += [(118 - right + i, residue) for i, residue in enumerate(loop[len(loop) - right :])]
        places += [(118 + i, residue) for i, residue in enumerate(framework[:FR4_LENGTH])]
        for position, residue in places:
            if residue in RESIDUES:
                counts[position - 105, RESIDUES.index(residue)] += 1
    return pd.DataFrame(counts, index=names, columns=list(RESIDUES))
