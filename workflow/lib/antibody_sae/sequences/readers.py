"""Antibody files in the formats that people have them in, as one stream of records.

Every record of a file comes out once: fit for use, or with the reason why not. Only what concerns the whole file
(unreadable, damaged, not what it should be) raises, as an InputError that names file, line, field and remedy.
Nothing is held but the record at hand, and chains that wait for their partner.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from antibody_sae.antibody import RESIDUES
from antibody_sae.io import InputError

RESERVED = frozenset(
    ("antibody_id", "heavy", "light", "species", "source", "line", "n_duplicates", "log_likelihood", "cluster_id")
)
"""Column names that the pipeline uses; a metadata column of such a name is kept as input_<name>."""
_LONGEST = 5000
_FIELD = 50_000_000  # characters; a longer field is a quote that never closes
_WAITING = 1_000_000  # chains whose partner has not come yet: bounds memory
_MISSING = frozenset(("", "-", ".", "na", "n/a", "nan", "nd", "none", "null"))
_NO = frozenset(("f", "false", "no", "0", "0.0"))
_YES = frozenset(("t", "true", "yes", "1", "1.0"))
_AMBIGUOUS = frozenset("BJOUXZ")
_NUCLEOTIDES = frozenset("ACGTUN")
_CODONS = dict(
    zip(
        (a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)
_SPECIES = {"homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat", "macaca mulatta": "rhesus"}
_KNOWN_SPECIES = ("human", "mouse", "rat", "rabbit", "rhesus", "camel", "alpaca", "pig", "cow")
_GUESSES = {
    "heavy": ("heavy", "vh", "heavy_chain", "heavy_sequence", "sequence_heavy", "vh_sequence", "vhorvhh", "heavy_aa",
              "vh_aa", "fv_heavy", "sequence_alignment_aa_heavy"),
    "light": ("light", "vl", "light_chain", "light_sequence", "sequence_light", "vl_sequence", "light_aa", "vl_aa",
              "fv_light", "sequence_alignment_aa_light"),
    "id": ("id", "sequence_id", "antibody_id"),
    "species": ("species", "organism"),
}  # fmt: skip
_ONE_CHAIN = ("sequence", "seq", "sequence_aa", "aa", "protein")
_AIRR_FIELD = re.compile(
    r"(.*_)?(sequence|germline|alignment|junction|quality)(_.*)?|(cdr|fwr|np|n|p)\d.*|(rev_comp|productive|vj_in_frame)"
    r"|(stop_codon|complete_vdj|is_cell)|.*_(start|end|score|identity|support|cigar|length|aa|frameshift|frame|call)"
)
"""AIRR's alignments and coordinates: they describe the sequence, not the sample or the donor."""
_OAS_KEPT = ("Redundancy", "c_region", "c_call", "c_call_heavy", "c_call_light", "isotype_heavy", "isotype_light")


@dataclass
class Record:
    """One antibody, or one record that cannot be used: then `reason` says why."""

    line: int
    """Line of the file (row for Parquet) on which it ends, counted from 1."""
    id: str = ""
    heavy: str | None = None
    light: str | None = None
    species: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Settings:
    """How to read files: the keys of `sequences:` of the same names."""

    chains: str = "H"
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    metadata: Sequence[str] | None = None
    pair_pattern: str = r"(?P<id>.+?)[ _|:./-](?P<chain>VH|VL|VK|heavy|light|kappa|lambda|[HKL])"


def find(patterns: Iterable[str]) -> list[str]:
    """Files that match, in order and once each. Raises InputError for a pattern without a file, or a folder."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        files = [match for match in matches if not Path(match).is_dir()]
        if not matches:
            raise InputError(f"sequences.paths: no file matches {pattern!r}; paths are relative to the working folder")
        if not files:
            raise InputError(
                f"sequences.paths: {pattern!r} is a folder; name its files, such as {pattern.rstrip('/')}/*"
            )
        found.update(dict.fromkeys(files))
    if not found:
        raise InputError("sequences.paths: is empty; with `source: file` it names the files to read")
    return list(found)


def read(path: str | Path, settings: Settings) -> Iterator[Record]:
    """The records of one file, cleaned; `settings.chains` (H, L or HL) says which chains are wanted.

    Raises InputError where the file as a whole cannot be read.
    """
    position = [0]
    try:
        kind = _sniff(path) if settings.format == "auto" else settings.format
        records = _parquet(path, settings) if kind == "parquet" else _text(path, kind, settings, position)
        for record in records:
            yield _check(record, settings.chains)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} after line {position[0]}: the gzip data are truncated or damaged ({error}); get the file again"
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{path} after line {position[0]}: not a table ({error}); is a quotation mark left open?"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the path, its permissions "
            "and sequences.format"
        ) from error


def metadata_columns(path: str | Path, settings: Settings) -> list[str]:
    """Names of the metadata columns that a file's records will have."""
    return next((list(record.metadata) for record in read(path, settings) if record.metadata), [])


def clean(chain: str) -> tuple[str, str]:
    """(residues in capitals without gaps and spaces, "") or ("", reason)."""
    if not chain.isascii():
        return "", "characters that are not residues"
    text = re.sub(r"[\s.-]", "", chain).upper()
    if not text:
        return "", "empty"
    if len(text) > _LONGEST:
        return "", f"wrong length: more than {_LONGEST} residues"
    letters = frozenset(text)
    if len(text) >= 30 and letters <= _NUCLEOTIDES:
        return "", "nucleotides where residues are expected: translate them, or give an AIRR table"
    if "*" in letters:
        return "", "stop codon"
    strange = letters - set(RESIDUES)
    if strange - _AMBIGUOUS:
        return "", "characters that are not residues"
    return ("", "ambiguous residue") if strange else (text, "")


def _check(record: Record, chains: str) -> Record:
    """Drop the chains that are not wanted, clean the others, find the first reason against the record."""
    for side, letter in (("heavy", "H"), ("light", "L")):
        raw = getattr(record, side)
        if letter not in chains:
            setattr(record, side, None)
        elif not record.reason:
            if raw is None or raw.strip().lower() in _MISSING:
                pair = " of the pair" if chains == "HL" else ""
                record.reason = f"no {side} chain{pair}"
            else:
                residues, reason = clean(raw)
                setattr(record, side, residues)
                record.reason = reason and f"{side} chain: {reason}"
    record.species = _species(record.species)
    return record


def _species(text: str | None) -> str | None:
    """Our name of a species (mouse_BALB/c -> mouse), None if it is not known."""
    text = (text or "").strip().lower()
    text = _SPECIES.get(text, text)
    return next((known for known in _KNOWN_SPECIES if re.match(rf"{known}\b|{known}_", text)), None)


def _open(path: str | Path) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115 (closed by the caller)
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        file.close()
        return cast("IO[bytes]", gzip.open(path))  # reads all members: OAS units have two
    for magic, name in ((b"BZh", "bzip2"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if start.startswith(magic):
            raise InputError(f"{path}: is compressed with {name}; decompress it, or use gzip")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} line 1: is UTF-16; save it as UTF-8")
    return file


def _sniff(path: str | Path) -> str:
    """Format by content."""
    with _open(path) as file:
        start = file.read(65536)
    if start[:4] == b"PAR1":
        return "parquet"
    text = start.decode("utf-8-sig", errors="replace").lstrip()
    if not text:
        raise InputError(f"{path}: is empty; remove it from sequences.paths, or get it again")
    if text.startswith((">", ";")):
        return "fasta"
    if text.startswith(("{", '"{')):
        return "oas"
    header = text.splitlines()[0]
    if "\t" not in header:
        return "csv"
    names = set(header.split("\t"))
    return "airr" if "sequence_id" in names and names & {"v_call", "sequence_alignment", "rev_comp"} else "tsv"


def _text(path: str | Path, kind: str, settings: Settings, position: list[int]) -> Iterator[Record]:
    with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as text:
        if kind == "fasta":
            yield from _fasta(path, text, settings, position)
        else:
            yield from _table(path, text, kind, settings, position)


def _fasta(path: str | Path, text: Iterable[str], settings: Settings, position: list[int]) -> Iterator[Record]:
    try:
        pattern = re.compile(settings.pair_pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"sequences.pair_pattern: not a regular expression ({error})") from error
    if not {"id", "chain"} <= set(pattern.groupindex):
        raise InputError("sequences.pair_pattern: needs the groups (?P<id>...) and (?P<chain>...)")
    pairs = _Pairs(path)
    for line, name, sequence in _fasta_entries(path, text, position):
        match = pattern.fullmatch(name)
        side = _side(match["chain"]) if match else None
        if settings.chains == "HL":
            if match is None or side is None:
                reason = "the name does not say which chain of which pair it is (sequences.pair_pattern)"
                yield Record(line, name, reason=reason)
            else:
                yield from pairs.add(match["id"], side, _one_chain(line, match["id"], side, sequence))
        else:
            yield _one_chain(line, name, side or _wanted(settings.chains), sequence)
    yield from pairs.rest()


def _fasta_entries(path: str | Path, text: Iterable[str], position: list[int]) -> Iterator[tuple[int, str, str]]:
    """(line of the header, name, sequence)"""
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
        elif size <= 2 * _LONGEST:  # more is refused anyway
            parts.append(line)
            size += len(line)
    if start:
        yield start, name, "".join(parts)
    else:
        raise InputError(f"{path}: has no FASTA entry (a line that starts with '>')")


def _one_chain(line: int, name: str, side: str, sequence: str) -> Record:
    return Record(line, name, heavy=sequence) if side == "heavy" else Record(line, name, light=sequence)


def _wanted(chains: str) -> str:
    return "light" if chains == "L" else "heavy"


def _side(chain: str) -> str | None:
    """heavy or light from what files call a chain or locus: H, VH, IGH, Heavy, K, VK, IGK, kappa, L, VL, Light, ..."""
    name = chain.strip().lower().removeprefix("ig").removeprefix("v")
    return {"h": "heavy", "k": "light", "l": "light"}.get(name[:1])


class _Pairs:
    """Joins the chains of a pair, whatever their order; holds only those whose partner has not come yet.

    A pair has the metadata of its heavy chain. Raises InputError where more than a million chains wait.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._waiting: dict[tuple[str, str], list[Record]] = {}

    def add(self, key: str, side: str, record: Record) -> Iterator[Record]:
        other = "light" if side == "heavy" else "heavy"
        partners = self._waiting.get((key, other))
        if not partners:
            self._waiting.setdefault((key, side), []).append(record)
            if len(self._waiting) > _WAITING:
                raise InputError(
                    f"{self._path} line {record.line}: more than {_WAITING} chains wait for their partner; sort the "
                    "file so that the chains of a pair lie near each other"
                )
            return
        partner = partners.pop(0)
        if not partners:
            del self._waiting[key, other]
        heavy, light = (record, partner) if side == "heavy" else (partner, record)
        yield Record(
            max(heavy.line, light.line), key, heavy.heavy, light.light, heavy.species or light.species,
            {**light.metadata, **heavy.metadata}, heavy.reason or light.reason,
        )  # fmt: skip

    def rest(self) -> Iterator[Record]:
        for records in self._waiting.values():
            yield from records


Row = Mapping[str, str]
Convert = Callable[[int, Row], Record]


def _table(path: str | Path, text: IO[str], kind: str, settings: Settings, position: list[int]) -> Iterator[Record]:
    csv.field_size_limit(_FIELD)
    unit: dict[str, str] = {}
    lines = _Lines(text)
    if kind == "oas":
        unit = _oas_metadata(path, lines)
    delimiter = "\t" if kind in ("tsv", "airr") else ","
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows, None)
    while header is not None and not any(cell.strip() for cell in header):
        header = next(rows, None)
    if header is None:
        raise InputError(f"{path}: has no header line; get the file again, or remove it from sequences.paths")
    names = _unique(header)
    other = next((d for d in ("\t", ";", ",", "|") if d != delimiter and d in header[0]), None)
    if len(names) == 1 and other:
        raise InputError(
            f"{path} line {lines.number}: the columns are separated by {other!r}, not {delimiter!r}; set "
            "sequences.format (csv: comma, tsv: tab)"
        )
    make = {"oas": _oas, "airr": _airr}.get(kind, _plain)
    convert = make(f"{path} line {lines.number}", names, settings, unit)
    pairs = _Pairs(path)
    for row in rows:
        position[0] = lines.number
        if not row:
            continue
        if len(row) != len(names):
            yield Record(lines.number, reason=f"{'more' if len(row) > len(names) else 'fewer'} fields than the header")
            continue
        record = convert(lines.number, dict(zip(names, row, strict=True)))
        cell = record.metadata.get("cell_id")
        if kind == "airr" and settings.chains == "HL" and cell:
            yield from pairs.add(cell, "heavy" if record.heavy is not None else "light", record)
        else:
            yield record
    yield from pairs.rest()


class _Lines:
    """Lines of a text, counted: csv's own count starts anew with each reader."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self.number = text, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.number += 1
        return line


def _unique(header: Sequence[str]) -> list[str]:
    names: list[str] = []
    for position, cell in enumerate(header, start=1):
        name = cell.strip() or f"column_{position}"
        while name in names:
            name += "_2"
        names.append(name)
    return names


def _missing(place: str, field_name: str, wanted: str, names: Sequence[str]) -> InputError:
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return InputError(f"{place}, {field_name}: there is no column {wanted}; the columns are: {shown}")


def _kept(place: str, names: Sequence[str], settings: Settings, default: Iterable[str]) -> dict[str, str]:
    """Input column -> metadata column."""
    if settings.metadata is not None:
        for name in settings.metadata:
            if name not in names:
                raise _missing(place, "sequences.metadata", repr(name), names)
        default = settings.metadata
    return {
        name: f"input_{name}" if name.lower() in RESERVED or name == "id" else name for name in default if name in names
    }


def _plain(place: str, names: Sequence[str], settings: Settings, unit: Row) -> Convert:
    """CSV, TSV, Parquet: columns by sequences.columns, or else by the usual names."""
    used: dict[str, str] = {}
    lower = {name.lower(): name for name in reversed(names)}
    for key, guesses in _GUESSES.items():
        if key in settings.columns:
            if settings.columns[key] not in names:
                raise _missing(place, f"sequences.columns.{key}", repr(settings.columns[key]), names)
            used[key] = settings.columns[key]
        else:
            guess = next((lower[g] for g in guesses if g in lower), None)
            if guess is not None:
                used[key] = guess
    if len(settings.chains) == 1 and _wanted(settings.chains) not in used:
        guess = next((lower[g] for g in _ONE_CHAIN if g in lower), None)
        if guess is not None:
            used[_wanted(settings.chains)] = guess
    for letter, key in (("H", "heavy"), ("L", "light")):
        if letter in settings.chains and key not in used:
            raise _missing(place, f"sequences.columns.{key}", f"for the {key} chain", names)
    kept = _kept(place, names, settings, [name for name in names if name not in used.values()])

    def convert(line: int, row: Row) -> Record:
        values = {key: row[column] for key, column in used.items()}
        return Record(line, metadata={new: row[old] for old, new in kept.items()}, **values)  # type: ignore[arg-type]

    return convert


def _refusal(row: Row, suffix: str = "") -> str:
    """Why an AIRR row (OAS has the same columns) is no functional antibody, or ""."""
    if row.get(f"productive{suffix}", "").strip().lower() in _NO:
        return "not productive"
    if row.get(f"stop_codon{suffix}", "").strip().lower() in _YES:
        return "stop codon"
    if row.get(f"vj_in_frame{suffix}", "").strip().lower() in _NO:
        return "out of frame"
    return ""


def _oas_metadata(path: str | Path, lines: _Lines) -> dict[str, str]:
    """The unit's own first line: JSON, quoted as one CSV field, which may run over several physical lines."""
    text = next(lines, "")
    if text.lstrip().startswith('"'):
        text = next(csv.reader(itertools.chain([text], lines)))[0]
    try:
        value = json.loads(text, strict=False)  # strict would refuse line breaks within values
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} line 1: is not an OAS unit's metadata (JSON); set sequences.format if the file is no OAS unit"
        )
    return {str(key): "" if item is None else str(item) for key, item in value.items()}


def _oas(place: str, names: Sequence[str], settings: Settings, unit: Row) -> Convert:
    """Observed Antibody Space: unpaired units have plain AIRR names, paired ones end in _heavy and _light."""
    paired = "sequence_alignment_aa_heavy" in names
    for name in (
        ("sequence_alignment_aa_heavy", "sequence_alignment_aa_light") if paired else ("sequence_alignment_aa",)
    ):
        if name not in names:
            raise _missing(place, "header", repr(name), names)
    kept = _kept(place, [*names, *unit], settings, [*unit, *_OAS_KEPT])
    suffixes = [f"_{side}" for letter, side in (("H", "heavy"), ("L", "light")) if letter in settings.chains]

    def convert(line: int, row: Row) -> Record:
        everything = {**unit, **row}
        record = Record(line, row.get("sequence_id") or row.get("sequence_id_heavy") or "", species=unit.get("Species"))
        record.metadata = {new: everything[old] for old, new in kept.items()}
        if paired:
            record.heavy, record.light = row["sequence_alignment_aa_heavy"], row["sequence_alignment_aa_light"]
            record.reason = next(filter(None, (_refusal(row, suffix) for suffix in suffixes)), "")
        else:
            side = _side(unit.get("Chain", "")) or _side(row.get("locus", "")) or _side(row.get("v_call", ""))
            setattr(record, side or _wanted(settings.chains), row["sequence_alignment_aa"])
            record.reason = _refusal(row)
        return record

    return convert


def _airr(place: str, names: Sequence[str], settings: Settings, unit: Row) -> Convert:
    """AIRR rearrangements: amino acids where given, else the in-frame alignment translated; pairs by cell_id."""
    sources = ("sequence_alignment_aa", "sequence_aa", "sequence_alignment")
    if not set(sources) & set(names):
        raise _missing(place, "header", " or ".join(map(repr, sources)), names)
    if settings.chains == "HL" and "cell_id" not in names:
        raise _missing(place, "sequences.chains HL", "'cell_id', which joins the chains of a pair", names)
    kept = _kept(place, names, settings, [n for n in names if n == "c_call" or not _AIRR_FIELD.fullmatch(n)])

    def convert(line: int, row: Row) -> Record:
        record = Record(line, row.get("sequence_id", ""), species=row.get("species"), reason=_refusal(row))
        record.metadata = {new: row[old] for old, new in kept.items()}
        record.metadata.setdefault("cell_id", row.get("cell_id", ""))
        residues = row.get("sequence_alignment_aa") or row.get("sequence_aa") or ""
        if not residues and row.get("sequence_alignment"):
            residues = translate(row["sequence_alignment"], row.get("v_germline_start", ""))
        side = _side(row.get("locus", "")) or _side(row.get("v_call", ""))
        setattr(record, side or _wanted(settings.chains), residues)
        return record

    return convert


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


def _parquet(path: str | Path, settings: Settings) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            convert = _plain(str(path), names, settings, {})
            line = 0
            for batch in file.iter_batches(4096):
                columns = [["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns]
                for row in zip(*columns, strict=True):
                    line += 1
                    yield convert(line, dict(zip(names, row, strict=True)))
    except pa.ArrowException as error:
        raise InputError(f"{path}: is no readable Parquet file ({error}); get it again") from error
