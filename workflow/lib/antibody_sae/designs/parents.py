"""Variants of a parent antibody: its framework kept, regions written anew.

Two ways. *Prompt*: the chain up to the first region that is rewritten is the prompt, and the model writes the rest, the
framework behind it included. *Infilling*, with IgLM: the model reads the whole chain with the region masked and writes
that region alone (`steering.alternatives.filler`).
Several regions are infilled one by one, each beside the parent's others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antibody_sae.antibody import REGIONS
from antibody_sae.io import InputError
from antibody_sae.numbering import anarci

if TYPE_CHECKING:
    from antibody_sae.sections import NumberingSection, ParentSection


@dataclass(frozen=True)
class Parent:
    """A parent chain and what is rewritten in it."""

    sequence: str
    spans: Mapping[str, tuple[int, int]]
    """Region that is rewritten -> its residues [start, end) in `sequence`."""

    @property
    def prompt(self) -> str:
        """What comes before the first rewritten region."""
        return self.sequence[: min(start for start, _ in self.spans.values())]

    def compose(self, spans: Mapping[str, str]) -> str:
        """The chain with regions replaced."""
        text = self.sequence
        for region, (start, end) in sorted(self.spans.items(), key=lambda item: -item[1][0]):
            text = text[:start] + spans[region] + text[end:]
        return text


def parent(asked: ParentSection, chains: str, settings: NumberingSection) -> Parent:
    """The parent of a design's `from:` (heavy, light, rewrite); `settings`: species and scheme of `numbering`.

    Raises InputError where the chain that is written is not given or cannot be numbered.
    """
    side = "light" if chains == "L" else "heavy"
    sequence = str(asked.get(side) or "").upper()
    if not sequence:
        raise InputError(f"designs: from.{side}: the {side} chain's residues are needed, for the model writes {chains}")
    found = anarci.number([sequence], settings["species"], "imgt")[0]
    if found.numbers is None or found.status != "ok":
        raise InputError(f"designs: from.{side}: {found.status}; give a whole variable domain")
    spans = {}
    for region in asked["rewrite"]:
        inside = (found.numbers.region == REGIONS.index(region)).nonzero()[0]
        if not len(inside):
            raise InputError(f"designs: from.{side}: this chain has no {region}")
        spans[region] = (found.start + int(inside[0]), found.start + int(inside[-1]) + 1)
    return Parent(sequence, spans)
