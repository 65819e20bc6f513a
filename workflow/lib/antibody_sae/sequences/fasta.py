"""FASTA: entries, and the pair that a name says an entry belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from antibody_sae.io import InputError
from antibody_sae.sequences.records import LONGEST, ReadSettings, Record


@lru_cache(maxsize=4)
def _pattern(pair_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(pair_pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"sequences.pair_pattern: not a regular expression ({error})") from error
    if "id" not in pattern.groupindex:
        raise InputError("sequences.pair_pattern: needs the group (?P<id>...), which the chains of a pair share")
    return pattern


def cell_of(name: str, settings: ReadSettings) -> tuple[str, ...] | None:
    """What the names of a pair's chains share: what `pair_pattern` finds as id, or else the whole name."""
    match = _pattern(settings.pair_pattern).fullmatch(name)
    shared = match["id"] if match and match["id"] else name
    return (shared,) if shared else None


def read_fasta(path: str | Path, text: Iterable[str], settings: ReadSettings, position: list[int]) -> Iterator[Record]:
    """The entries; numbering says which chain each is. A name ends at the first blank, as everywhere in FASTA.

    A `pair_pattern` with a blank in it is one for the whole line.
    """
    whole = bool(re.search(r" |\\s", settings.pair_pattern))
    if settings.columns:
        raise InputError(f"{path}: FASTA has no columns; sequences.columns is for tables")
    for line, header, sequence in _entries(path, text, position):
        name = next(iter(header.split()), "")
        cell = cell_of(header if whole else name, settings)
        yield Record(line, name, chains=(sequence,), cell=cell if settings.chains == "HL" else None)


def _entries(path: str | Path, text: Iterable[str], position: list[int]) -> Iterator[tuple[int, str, str]]:
    """(line of the header, the header without '>', sequence)"""
    start, name, parts, size = 0, "", [""], 0
    lines = (line for chunk in text for line in chunk.splitlines())  # also \r alone ends a line
    for number, line in enumerate(lines, start=1):
        position[0] = number
        if line.startswith(">"):
            if start:
                yield start, name, "".join(parts)
            start, name, parts, size = number, line[1:].strip(), [], 0
        elif not start:
            if line.strip() and not line.startswith(";"):
                raise InputError(
                    f"{path} line {number}: FASTA starts with '>'; set sequences.format if it is not FASTA"
                )
        elif size <= 2 * LONGEST:  # more is refused anyway
            parts.append(line)
            size += len(line)
    if start:
        yield start, name, "".join(parts)
    else:
        raise InputError(f"{path}: has no FASTA entry (a line that starts with '>')")
