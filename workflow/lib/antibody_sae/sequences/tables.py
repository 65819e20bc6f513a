"""Tables of antibodies: delimited text and Parquet, a pair or a chain a row; what a row means is decided by the header.

OAS units, AIRR rearrangements, Cell Ranger's contigs and the databases differ only in the names of their columns.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from antibody_sae.io import InputError
from antibody_sae.sequences.columns import (
    USUAL_NAMES,
    count_known,
    missing_column,
    named,
    no_chain,
    plain,
    region_columns,
    resolve,
    side_of,
)
from antibody_sae.sequences.fasta import cell_of
from antibody_sae.sequences.records import ReadSettings, Record, missing, translate

RESERVED = frozenset(
    ("antibody_id", "heavy", "light", "species", "source", "line", "n_duplicates", "log_likelihood", "cluster_id", "id")
)
"""Column names that the pipeline uses; a metadata column of such a name is kept as input_<name>."""
_FIELD = 50_000_000  # characters; a longer field is a quote that never closes
_NO = re.compile(r"f|false|n|no|0|0\.0|un\W?productive.*|non\W?productive.*", re.IGNORECASE)
_YES = re.compile(r"t|true|y|yes|1|1\.0", re.IGNORECASE)
_AIRR_FIELD = re.compile(
    r"(.*_)?(sequence|germline|alignment|junction|quality)(_.*)?|(cdr|fwr|np|n|p)\d.*|(rev_comp|productive|vj_in_frame)"
    r"|(stop_codon|complete_vdj|is_cell)|.*_(start|end|score|identity|support|cigar|length|aa|frameshift|frame|call)"
)
"""AIRR's alignments and coordinates: they describe the sequence, not the sample or the donor."""
_AIRR = frozenset(("v_call", "sequence_alignment", "rev_comp", "contig_id"))
_OAS_KEPT = ("Redundancy", "c_region", "c_call", "c_call_heavy", "c_call_light", "isotype_heavy", "isotype_light")
_CHAINS = frozenset(USUAL_NAMES["sequence"] + USUAL_NAMES["heavy"] + USUAL_NAMES["light"])
_DECIMAL_COMMA = re.compile(r"\s*([-+]?\d+),(\d+)\s*")

Row = Mapping[str, str]


class Layout(NamedTuple):
    """What a table's header says."""

    convert: Callable[[int, Row], Record]
    metadata: list[str]
    """Names of the metadata columns of its records."""


class OpenTable(NamedTuple):
    """An open table: its layout, and its rows with their lines (None for a row of another width than the header)."""

    layout: Layout
    rows: Iterator[tuple[int, Row | str]]


def layout(place: str, names: Sequence[str], unit: Row, settings: ReadSettings) -> Layout:
    """How the rows of a table become records. Raises InputError where the header lacks what is wanted.

    `unit` is what OAS says once for the whole file; it counts as columns.
    """
    every = [*names, *unit]
    used = resolve(place, every, settings)
    regions = [] if "sequence" in settings.columns else region_columns(every)
    one_a_row = bool(used["sequence"] or used["alignment"] or regions)
    asked = [side for side in settings.wanted if settings.columns.get(side)]
    pairs = all(used[side] for side in settings.wanted) and not (settings.columns.get("sequence") and not asked)
    if not pairs and (asked or not one_a_row):
        raise no_chain(place, next(side for side in settings.wanted if not used[side]), every)
    kept = _kept(place, every, unit, settings, used, pairs)

    def of_row(line: int, row: Row) -> Record:
        row = {**unit, **row}
        record = Record(line, _first(row, used["id"]), species=_first(row, used["species"]))
        record.metadata = {new: row[old] for old, new in kept.items()}
        if pairs:
            _pair(record, row, used, settings)
        else:
            _chain(record, row, used, regions, settings)
        return record

    return Layout(of_row, list(kept.values()))


def _first(row: Row, columns: Iterable[str]) -> str:
    """The first of the columns that says something."""
    return next((row[column] for column in columns if not missing(row[column])), "")


def _pair(record: Record, row: Row, used: Mapping[str, list[str]], settings: ReadSettings) -> None:
    """A row with a column a chain; wide AIRR tables have each field once a side."""
    for side in settings.wanted:
        setattr(record, side, row[used[side][0]])
        suffix = f"_{side}" if f"productive_{side}" in row else ""
        record.reason = record.reason or _refusal(row, [f"{field}{suffix}" for field in _FUNCTION])


_FUNCTION = ("productive", "stop_codon", "vj_in_frame")


def _refusal(row: Row, columns: Sequence[str]) -> str:
    """Why a row is no functional antibody by the columns productive, stop_codon and vj_in_frame, or ""."""
    productive, stop_codon, in_frame = (row.get(column, "").strip() for column in columns)
    if _NO.fullmatch(productive):
        return "not productive"
    if _YES.fullmatch(stop_codon):
        return "stop codon"
    return "out of frame" if _NO.fullmatch(in_frame) else ""


def _chain(
    record: Record, row: Row, used: Mapping[str, list[str]], regions: Sequence[str], settings: ReadSettings
) -> None:
    """A row with one chain (or an entry of two): residues where given, else the in-frame alignment, translated."""
    record.reason = _refusal(row, [next(iter(used[field]), "") for field in _FUNCTION])
    residues = [column for column in used["sequence"] if plain(column) not in ("sequence", "seq") or not used["v_call"]]
    text = _first(row, residues) or "".join(row[column] for column in regions if not missing(row[column]))
    if not text and (alignment := _first(row, used["alignment"])):
        text = translate(alignment, _first(row, used["v_germline_start"]))
    text = text or _first(row, used["sequence"])  # AIRR's `sequence` is the read itself
    side = next(filter(None, (side_of(row[c]) for field in ("locus", "v_call") for c in used[field])), None)
    if side == "other":
        record.reason = record.reason or "T-cell receptor chain, not an antibody"
    elif side:
        setattr(record, side, text)
    else:
        record.chains = (text,)
    record.molecules, record.reads = (_number(_first(row, used[field])) for field in ("molecules", "reads"))
    if settings.chains != "HL":
        return
    if not used["cell"]:
        record.cell = cell_of(record.id, settings)
    elif cell := _first(row, used["cell"][:1]):
        record.cell = (*(row[column] for column in used["sample"]), cell)
        if any(_NO.fullmatch(row[column].strip()) for column in used["is_cell"]):
            record.reason = record.reason or "no cell: is_cell is false"
    else:
        record.reason = record.reason or f"no cell: {used['cell'][0]} is empty"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _kept(
    place: str, names: Sequence[str], unit: Row, settings: ReadSettings, used: Mapping[str, list[str]], pairs: bool
) -> dict[str, str]:
    """Input column -> metadata column."""
    if settings.metadata is not None:
        columns = [(name, named(name, names)) for name in settings.metadata]
        if absent := next((name for name, column in columns if column is None), None):
            raise missing_column(place, "sequences.metadata", repr(absent), names)
        chosen = [column for _, column in columns if column]
    elif unit:
        chosen = [*unit, *(name for name in _OAS_KEPT if name in names)]
    elif not pairs and _AIRR & {name.lower() for name in names}:
        chosen = [name for name in names if name.lower() == "c_call" or not _AIRR_FIELD.fullmatch(name.lower())]
    else:
        taken = {used[side][0] for side in settings.wanted} if pairs else set(used["sequence"][:1])
        taken |= {column for field in ("id", "species") for column in used[field][:1]}
        chosen = [name for name in names if name not in taken]
    if settings.metadata is None:  # a column without a name is the row's number that pandas wrote
        chosen = [name for name in chosen if not re.fullmatch(r"column_\d+|Unnamed: \d+", name)]
    return {name: f"input_{name}" if name.lower() in RESERVED else name for name in chosen}


# --- delimited text --------------------------------------------------------------------------------------------------


class Lines:
    """Lines of a text, counted as they are taken: csv's own count starts anew with each reader."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._ahead, self.number = text, deque[str](), 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._text)
        self.number += 1
        return line

    def peek(self, n: int) -> list[str]:
        """The next n lines, which stay."""
        self._ahead.extend(itertools.islice(self._text, max(0, n - len(self._ahead))))
        return list(self._ahead)[:n]


def open_text(path: str | Path, text: IO[str], kind: str, settings: ReadSettings) -> OpenTable:
    """A delimited text; kind: oas, airr, csv, tsv, or table for any. Raises InputError for a header of no use."""
    csv.field_size_limit(_FIELD)
    lines = Lines(text)
    unit = _oas_metadata(path, lines) if kind == "oas" else {}
    while (ahead := lines.peek(1)) and not ahead[0].strip():
        next(lines)
    told = re.fullmatch(r'"?sep=(.)"?\s*', "".join(lines.peek(1)))  # Excel's own line
    if told:
        next(lines)
    delimiter = told[1] if told else _delimiter(lines.peek(20), kind, settings)
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows, None)
    while header is not None and not any(cell.strip() for cell in header):
        header = next(rows, None)
    if header is None:
        raise InputError(f"{path}: has no header line; get the file again, or remove it from sequences.paths")
    other = next((d for d in "\t;,|" if d != delimiter and d in header[0]), None)
    if len(header) == 1 and other:
        raise InputError(
            f"{path} line {lines.number}: the columns are separated by {other!r}, not {delimiter!r}; leave "
            "sequences.format at auto (csv: comma or semicolon, tsv: tab)"
        )
    names = _unique(header)
    return OpenTable(
        layout(f"{path} line {lines.number}", names, unit, settings), _rows(lines, rows, names, delimiter == ";")
    )


def _rows(
    lines: Lines, rows: Iterable[list[str]], names: Sequence[str], comma: bool
) -> Iterator[tuple[int, Row | str]]:
    """(line, row by column, or why it is none); `comma`: numbers have decimal commas."""
    for row in rows:
        if not row:
            continue
        if len(row) != len(names):
            yield lines.number, f"{'more' if len(row) > len(names) else 'fewer'} fields than the header"
            continue
        if comma:
            row = [_DECIMAL_COMMA.sub(r"\1.\2", cell) if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in row]
        yield lines.number, dict(zip(names, row, strict=True))


def _delimiter(lines: Sequence[str], kind: str, settings: ReadSettings) -> str:
    """What separates the columns: where most names are known, rows are as wide as the header, columns are many."""
    candidates = {"csv": ",;", "tsv": "\t"}.get(kind, ",\t;|")

    def fit(delimiter: str) -> tuple[int, bool, int]:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            rows = []
        if not rows:
            return (0, False, 0)
        width = len(rows[0])
        alike = sum(len(row) == width for row in rows) > len(rows) / 2
        return (count_known(rows[0], settings), alike and width > 1, width)

    return max(candidates, key=fit)


def _unique(header: Sequence[str]) -> list[str]:
    names: list[str] = []
    for position, cell in enumerate(header, start=1):
        name = cell.strip() or f"column_{position}"
        while name in names:
            name += "_2"
        names.append(name)
    return names


def _oas_metadata(path: str | Path, lines: Lines) -> dict[str, str]:
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
    if any(line.lstrip().startswith("{") for line in lines.peek(1)) or {plain(key) for key in value} & _CHAINS:
        raise InputError(
            f"{path}: is JSON lines, an object a record, which is not read; write a table instead "
            "(pandas: pd.read_json(path, lines=True).to_csv(...))"
        )
    return {str(key): "" if item is None else str(item) for key, item in value.items()}


# --- Parquet ---------------------------------------------------------------------------------------------------------


def open_parquet(path: str | Path, settings: ReadSettings) -> OpenTable:
    """A Parquet file; rows are counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise InputError(f"{path}: is no readable Parquet file ({error}); get it again") from error
    names = file.schema_arrow.names

    def rows() -> Iterator[tuple[int, Row | str]]:
        lines = itertools.count(1)
        try:
            with file:
                for batch in file.iter_batches(4096):
                    columns = [["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns]
                    for row in zip(*columns, strict=True):
                        yield next(lines), dict(zip(names, row, strict=True))
        except pa.ArrowException as error:
            raise InputError(f"{path}: is no readable Parquet file ({error}); get it again") from error

    return OpenTable(layout(str(path), names, {}, settings), rows())
