"""Which chains of a cell (or of one name) are a pair, decided by evidence once all of them have come."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from antibody_sae.io import InputError
from antibody_sae.sequences.records import Record

_WAITING = 1_000_000  # chains whose cell is not complete yet: bounds memory
_HEAVY_LEAD = 2.0
"""A second heavy chain with more than 1/2 of the first one's molecules is another cell's: B cells express one."""


class Cells:
    """Joins the chains of each cell, whatever their order.

    A cell's chains are those fit for use; equal ones count once, with their molecules added up. One heavy and one light
    chain are a pair. Of several light chains that with most molecules (else reads) is taken, and of several heavy ones
    too if it has at least twice those of the next; else the cell is set aside as a doublet. Ties, and several chains
    without counts, are set aside as well. Only cells that are not complete are held: `expected` are the cells of all
    records that will come, told beforehand.

    Raises InputError where more than a million chains wait.
    """

    def __init__(self, expected: Iterable[tuple[str, ...] | None], files: str = "") -> None:
        hashes = array("q", (hash(cell) for cell in expected if cell))
        self._hashes, self._sizes = np.unique(np.array(hashes, np.int64), return_counts=True)
        self._held: dict[tuple[str, ...], list[Record]] = {}
        self._waiting = 0
        self._files = files
        """What the reason for a chain without a partner says of the files that were looked through."""
        self.counts: Counter[str] = Counter()
        """What was decided, for the log."""

    def add(self, record: Record) -> Iterator[Record]:
        """The antibodies and refused records that are decided now that this one is here."""
        if record.cell is None:
            yield record
            return
        held = self._held.setdefault(record.cell, [])
        held.append(record)
        self._waiting += 1
        place = int(np.searchsorted(self._hashes, hash(record.cell)))
        if len(held) == self._sizes[place]:
            self._waiting -= len(held)
            yield from self._decide(self._held.pop(record.cell))
        elif self._waiting > _WAITING:
            raise InputError(
                f"{record.source} line {record.line}: more than {_WAITING} chains wait for their partner; sort the "
                "file so that the chains of a cell lie near each other"
            )

    def rest(self) -> Iterator[Record]:
        """What is decided once no more records come."""
        for records in self._held.values():
            yield from self._decide(records)

    def _decide(self, records: Sequence[Record]) -> Iterator[Record]:
        chains: dict[str, list[Record]] = {"heavy": [], "light": []}
        for record in records:
            if record.reason or (record.heavy and record.light):  # refused, or a pair in itself
                yield record
            else:
                chains["heavy" if record.heavy else "light"].append(record)
        for side in chains:
            chains[side], again = _distinct(chains[side], side)
            yield from again
        heavy, light = chains["heavy"], chains["light"]
        reason = ""
        for side, other in (("heavy", "light"), ("light", "heavy")):
            if chains[other] and not chains[side]:
                self.counts["without a partner"] += 1
                reason = f"no {side} chain of the pair{self._files}"
        several = len(heavy) > 1 or len(light) > 1
        if not reason:
            reason = _ambiguous(heavy, "heavy", _HEAVY_LEAD) or _ambiguous(light, "light", 1.0)
            if reason:
                self.counts["set aside: " + reason.partition(":")[0]] += 1
        if reason or not heavy:
            for record in (*heavy, *light):
                record.reason = reason
                yield record
            return
        self.counts["pairs"] += 1
        if several:
            self.counts["of these chosen among several chains by their counts"] += 1
        for side, (_, *others) in chains.items():
            for record in others:
                record.reason = f"another {side} chain of the cell was seen more often"
                yield record
        yield _pair(heavy[0], light[0])


def _distinct(records: Sequence[Record], side: str) -> tuple[list[Record], list[Record]]:
    """(records of different residues, those seen most often first; records that repeat one of them)"""
    first: dict[str, Record] = {}
    again = []
    for record in records:
        kept = first.setdefault(getattr(record, side), record)
        if kept is not record:
            kept.molecules, kept.reads = _sum(kept.molecules, record.molecules), _sum(kept.reads, record.reads)
            record.reason = f"the same {side} chain twice in a cell"
            again.append(record)
    return sorted(first.values(), key=_seen, reverse=True), again


def _sum(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a + b


def _seen(record: Record) -> tuple[float, float]:
    return record.molecules or 0.0, record.reads or 0.0


def _ambiguous(records: Sequence[Record], side: str, lead: float) -> str:
    """Why none of a cell's chains, in order of their counts, can be chosen, or ""."""
    if len(records) < 2:
        return ""
    first, second = _seen(records[0]), _seen(records[1])
    if first == (0.0, 0.0):
        return f"several {side} chains share a cell or name: no counts say which is its own"
    if first == second:
        return f"tie: several {side} chains of the cell were seen equally often"
    if any(a < lead * b for a, b in [pair for pair in zip(first, second, strict=True) if any(pair)][:1]):
        return f"doublet: several {side} chains of the cell were seen about equally often"
    return ""


def _pair(heavy: Record, light: Record) -> Record:
    """The pair; metadata is that of the heavy chain, and the light one's where the heavy one has none."""
    assert heavy.cell is not None
    return Record(
        max(heavy.line, light.line) if heavy.source == light.source else heavy.line, heavy.cell[-1], heavy.heavy,
        light.light, cell=heavy.cell, species=heavy.species or light.species,
        metadata={**light.metadata, **heavy.metadata}, note=heavy.note or light.note, source=heavy.source,
    )  # fmt: skip
