"""Antibody files in the formats that people have them in, as one stream of records.

Every record of a file comes out once: fit for use, or with the reason why not. Only what concerns the whole file
(unreadable, damaged, not what it should be) raises, as an InputError that names file, line, field and remedy.
Nothing is held but the record at hand; the chains of a pair are joined later (reader_pairing), when numbering has
said what each is.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from antibody_sae.io import InputError
from antibody_sae.sequences.fasta import read_fasta
from antibody_sae.sequences.records import ReadSettings, Record, check
from antibody_sae.sequences.tables import OpenTable, open_parquet, open_text


def find(patterns: Iterable[str]) -> list[str]:
    """Files that match, in order and once each; a pattern that is itself a file's name is that file.

    Raises InputError for a pattern without a file, or a folder.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
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


def read(path: str | Path, settings: ReadSettings) -> Iterator[Record]:
    """The records of one file, cleaned: a pair or a chain each, by what a row or entry holds.

    Raises InputError where the file as a whole cannot be read.
    """
    position = [0]
    with _plain_errors(path, position):
        kind = _kind(path, settings)
        if kind == "fasta":
            with _open(path) as raw, _decode(raw) as text:
                for record in read_fasta(path, text, settings, position):
                    record.source = str(path)
                    yield check(record, settings)
        else:
            with _open(path) as raw, _decode(raw) as text:
                table = _table(path, text, kind, settings)
                for line, row in table.rows:
                    position[0] = line
                    record = Record(line, reason=row) if isinstance(row, str) else table.layout.convert(line, row)
                    record.source = str(path)
                    yield check(record, settings)


def metadata_columns(path: str | Path, settings: ReadSettings) -> list[str]:
    """Names of the metadata columns that a file's records will have. Raises InputError for a header that lacks what
    the settings want: nothing but the header is read."""
    with _plain_errors(path, [0]):
        kind = _kind(path, settings)
        if kind == "fasta":
            return []
        with _open(path) as raw, _decode(raw) as text:
            return _table(path, text, kind, settings).layout.metadata


def _table(path: str | Path, text: IO[str], kind: str, settings: ReadSettings) -> OpenTable:
    return open_parquet(path, settings) if kind == "parquet" else open_text(path, text, kind, settings)


@contextmanager
def _plain_errors(path: str | Path, position: Sequence[int]) -> Iterator[None]:
    try:
        yield
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


def _open(path: str | Path) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115 (closed by the caller)
    start = file.read(8)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        file.close()
        return cast("IO[bytes]", gzip.open(path))  # reads all members: OAS units have two
    for magic, name in ((b"BZh", "bzip2"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if start.startswith(magic):
            excel = "; an Excel workbook is a zip too: save its sheet as CSV" if name == "zip" else ""
            raise InputError(f"{path}: is compressed with {name}; decompress it, or use gzip{excel}")
    if start == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise InputError(f"{path}: is an Excel workbook; save its sheet as CSV")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} line 1: is UTF-16; save it as UTF-8")
    return file


def _decode(raw: IO[bytes]) -> IO[str]:
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")


def _kind(path: str | Path, settings: ReadSettings) -> str:
    """The format by content (oas, fasta, parquet, or table), where the settings do not say."""
    if settings.format != "auto":
        return settings.format
    with _open(path) as file:
        start = file.read(65536)
    if start[:4] == b"PAR1":
        return "parquet"
    text = start.decode("utf-8-sig", errors="replace").lstrip()
    if not text:
        raise InputError(f"{path}: is empty; remove it from sequences.paths, or get it again")
    if text.startswith(">") or (text.startswith(";") and re.search(r"^>", text, re.MULTILINE)):
        return "fasta"
    if text.startswith("["):
        raise InputError(
            f"{path}: is a JSON array, which is not read; write a table instead "
            "(pandas: pd.read_json(path).to_csv(...))"
        )
    return "oas" if text.startswith(("{", '"{')) else "table"
