"""What every reader yields, and what is asked of residues before anything is numbered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from antibody_sae.antibody import RESIDUES
from antibody_sae.species import canonical

LONGEST = 5000
"""Letters of the longest chain that is read; a contig of a single-cell assembly has a thousand."""
MISSING = frozenset(("", "-", ".", "na", "n/a", "nan", "nd", "none", "null"))
_AMBIGUOUS = frozenset("BJOUXZ")
_NUCLEOTIDES = frozenset("ACGTUN")
_NO_SPECIES = frozenset(("synthetic construct", "synthetic", "artificial", "artificial sequence", "unidentified",
                         "unknown", "other"))  # fmt: skip
"""What databases write where there is no species: such a record is read as `sequences.species`, and counted."""
_CODONS = dict(
    zip(
        (a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@dataclass
class Record:
    """One antibody, one chain of it, or one record that cannot be used: then `reason` says why."""

    line: int
    """Line of the file (row for Parquet) on which it ends, counted from 1."""
    id: str = ""
    heavy: str | None = None
    light: str | None = None
    chains: tuple[str, ...] = ()
    """Chains whose type the file does not say: numbering does. Two where the entry holds a pair."""
    cell: tuple[str, ...] | None = None
    """What the chains of a pair share: (sample, ..., cell), or the id that `pair_pattern` finds in a name."""
    molecules: float | None = None
    reads: float | None = None
    """How often the chain was seen in its cell."""
    species: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    note: str = ""
    """What was taken in another way than it stands in the file; counted in the log."""
    source: str = ""
    """Path of the file."""


@dataclass(frozen=True)
class ReadSettings:
    """How to read files: the keys of `sequences:` of the same names."""

    chains: str = "H"
    format: str = "auto"
    columns: Mapping[str, str | None] = field(default_factory=dict)
    metadata: Sequence[str] | None = None
    pair_pattern: str = r"(?P<id>.+?)[_|:./-](?P<chain>VH|VL|VK|HC|LC|IGH|IGK|IGL|heavy|light|kappa|lambda|[HKL])"
    join: str | None = None
    translate: bool = False

    @classmethod
    def of(cls, sequences: Mapping[str, Any]) -> ReadSettings:
        """From the section `sequences:` of a configuration."""
        return cls(**{key.name: sequences[key.name] for key in fields(cls)})

    @property
    def wanted(self) -> tuple[str, ...]:
        """The sides that are wanted: heavy, light or both."""
        return tuple(side for side, letter in (("heavy", "H"), ("light", "L")) if letter in self.chains)


def missing(text: str | None) -> bool:
    """Whether a cell of a table says nothing."""
    return text is None or text.strip().lower() in MISSING


def is_nucleotides(text: str) -> bool:
    """Whether letters are bases: no variable domain of 30 residues does with A, C, G, T and N."""
    return len(text) >= 30 and frozenset(text) <= _NUCLEOTIDES


def clean(chain: str, translate: bool = False) -> tuple[str, str]:
    """(residues in capitals without gaps, spaces and a final "*", "") or ("", reason).

    With `translate` bases pass too (T for U): which frame numbers is found out later.
    """
    text = re.sub(r"[ \t\r\n.-]", "", chain)
    if not text.isascii():  # before capitals are made: ß would become SS
        return "", _strange(sorted({letter for letter in text if not letter.isascii()}))
    text = text.upper().rstrip("*")
    if not text:
        return "", "empty"
    if len(text) > LONGEST:
        return "", f"wrong length: more than {LONGEST} residues"
    if is_nucleotides(text):
        if translate:
            return text.replace("U", "T"), ""
        return "", "nucleotides where residues are expected: set sequences.translate: true, or give an AIRR table"
    if "*" in text:
        return "", "stop codon"
    strange = sorted(frozenset(text) - set(RESIDUES))
    if not strange:
        return text, ""
    if set(strange) <= _AMBIGUOUS:
        return "", f"ambiguous residue: {', '.join(strange)}"
    return "", _strange([letter for letter in strange if letter not in _AMBIGUOUS])


def _strange(letters: Sequence[str]) -> str:
    shown = " ".join(map(repr, letters[:5])) + (" ..." if len(letters) > 5 else "")
    return f"characters that are not residues: {shown}"


def check(record: Record, settings: ReadSettings) -> Record:
    """Drop the chains that are not wanted, clean the others, find the first reason against the record."""
    for side in ("heavy", "light"):
        raw = getattr(record, side)
        if side not in settings.wanted:
            setattr(record, side, None)
        elif record.reason or (raw is None and (record.chains or record.cell)):
            continue  # numbering or the other chain of the cell will say
        elif missing(raw):
            record.reason = f"no {side} chain{' of the pair' if settings.chains == 'HL' else ''}"
        else:
            residues, reason = clean(raw, settings.translate)
            setattr(record, side, residues)
            record.reason = reason and f"{side} chain: {reason}"
    if record.chains and not record.reason:
        found = [clean(chain, settings.translate) for text in record.chains for chain in _entry(text)]
        record.chains = tuple(residues for residues, _ in found)
        label = f"{settings.wanted[0]} chain" if len(settings.wanted) == 1 else "chain"
        reason = next((reason for _, reason in found if reason), "")
        record.reason = f"no {label}" if reason == "empty" else reason and f"{label}: {reason}"
    _check_species(record)
    if record.reason:
        record.cell = None  # what is refused for itself takes no partner
    return record


def _entry(text: str) -> list[str]:
    """The chains of one entry: VH/VL, VH|VL and VH:VL are two."""
    parts = re.split(r"[/|:]", text)
    return parts if len(parts) == 2 and min(map(len, parts)) >= 30 else [text]


def _check_species(record: Record) -> None:
    text, record.species = (record.species or "").strip(), None
    if text.lower() in MISSING:
        return
    names = {canonical(part) for part in [text, *re.split(r"[;|]", text)]}
    known = names - {None}
    if len(known) == 1:
        record.species = known.pop()
    elif text.lower() in _NO_SPECIES:
        record.note = f"species {text!r}: read as sequences.species says"
    else:
        record.reason = record.reason or f"species {text!r} is not known"


def translate(alignment: str, v_germline_start: str = "") -> str:
    """Residues of an AIRR sequence_alignment.

    With IMGT's gaps ('.') it starts in frame; without, the V gene's first aligned base, `v_germline_start` (from 1),
    says where the first whole codon is. A codon with part of a gap, or an unknown base, becomes X.
    """
    text = alignment.upper().replace("U", "T")
    if "." not in text:
        text = text.replace("-", "")
        start = float(v_germline_start) if re.fullmatch(r"\d+(\.0*)?", v_germline_start.strip()) else 1
        text = text[-(int(start) - 1) % 3 :]
    codons = [text[i : i + 3] for i in range(0, len(text) - 2, 3)]
    while codons and codons[0][0] in ".-" and set(codons[0]) - set(".-"):
        codons.pop(0)  # the first base of a codon lies before the alignment
    return "".join("" if not codon.strip(".-") else _CODONS.get(codon, "X") for codon in codons)


def open_frames(bases: str) -> list[str]:
    """The stretches without a stop, 60 residues or more, of all six frames of a nucleotide sequence, longest first."""
    frames = [strand[i:] for strand in (bases, bases.translate(_COMPLEMENT)[::-1]) for i in range(3)]
    stretches = [s for frame in frames for s in translate(frame).split("*") if len(s) >= 60]
    return sorted(stretches, key=len, reverse=True)
