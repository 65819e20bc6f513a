"""Reading and writing every file of a run: whole or not at all, verified when read, never pickled."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # heavy packages load only where a function needs them: Snakemake's parse imports this module
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

T = TypeVar("T")


class InputError(Exception):
    """Something the user can mend; the message names the file, the place in it and the remedy."""


def unreadable(path: str | Path, kind: str, error: Exception) -> InputError:
    """The error for a file that cannot be read: deleting it helps where it is damaged, and only there."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: is not there; run the workflow up to it, which makes it, or check the path")
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR}:
        return InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions")
    return InputError(f"{path}: not readable as {kind} ({error}); delete it and run again to rebuild it")


def lacking(path: str | Path, lost: Iterable[str], names: Iterable[str]) -> InputError:
    """The error for a sound table without the columns that are wanted of it."""
    return InputError(
        f"{path}: has no column {', '.join(sorted(lost))}; it has {', '.join(names) or 'none'}. The file is sound, and "
        "was written by another version or for another purpose: name another one, or let the workflow make it anew"
    )


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield the path of a new, empty file in a temporary folder beside `path`; on success fsync and rename it there.

    A reader therefore sees the old file, the new file or none, never a part of one (also after kill -9 or a
    full disk: the rename comes last). What the writer leaves beside its file (safetensors renames one of its own) goes
    with the folder, by whichever way the writing ends.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with (
            tempfile.TemporaryDirectory(".part", f".{path.name}.", path.parent, ignore_cleanup_errors=True) as folder,
            _opened(folder) as handle,
        ):
            with suppress(OSError):  # a file system without locks: leftovers of killed jobs stay there
                fcntl.flock(handle, fcntl.LOCK_EX)
            part = Path(folder, "part")
            part.touch()
            yield part
            with open(part, "rb+") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)  # safetensors makes files that only their owner can read
            os.replace(part, path)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}:
            raise
        raise InputError(
            f"{path}: could not be written ({error.strerror}); make room or choose another folder"
        ) from error


@contextmanager
def _opened(folder: str | Path) -> Iterator[int]:
    """A folder's descriptor, to lock it by."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove the temporary folders that killed writers of `path` left: a live writer holds a lock on its own."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError), _opened(old) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def antibody_id(heavy: str | None, light: str | None) -> str:
    """The antibody's name everywhere: a hash of its residues, so equal antibodies have equal names."""
    return hashlib.blake2b(f"{heavy or ''}|{light or ''}".encode(), digest_size=10).hexdigest()


def write_json(value: Any, path: str | Path) -> None:
    """Write JSON (sorted keys, NaN refused: it is not JSON)."""
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON; raises InputError that names the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, "JSON", error) from error


_SEAL = b"seal"


def _seal(part: Path) -> None:
    """Put a checksum of the footer, for which Parquet has none, between the pages and it, where no reader looks."""
    with open(part, "rb+") as handle:
        handle.seek(-8, os.SEEK_END)
        footer = int.from_bytes(handle.read(4), "little") + 8
        handle.seek(-footer, os.SEEK_END)
        tail = handle.read()
        handle.seek(-footer, os.SEEK_END)
        handle.write(_SEAL + zlib.crc32(tail).to_bytes(4, "little") + tail)


def _check_seal(path: str | Path) -> None:
    """Raise ValueError where the footer is not what `_seal` saw; other writers' files have no seal, and pass."""
    with open(path, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(-8, os.SEEK_END)
        tail = min(int.from_bytes(handle.read(4), "little") + 16, size)
        handle.seek(-tail, os.SEEK_END)
        seal = handle.read(8)
        if seal[:4] == _SEAL and zlib.crc32(handle.read()) != int.from_bytes(seal[4:], "little"):
            raise ValueError("its footer does not have its checksum")


def write_parquet(table: pd.DataFrame | pa.Table, path: str | Path) -> None:
    """Write a table with checksums of pages and footer, so that a flipped byte is found when it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with atomic(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)
        _seal(part)


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, verifying its checksums; raises InputError that names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_seal(path)
        names = pq.read_schema(path).names
        if lost := set(columns or ()) - set(names):
            raise lacking(path, lost, names)
        table: pd.DataFrame = pq.read_table(path, columns=columns, page_checksum_verification=True).to_pandas()
        return table
    except MemoryError:  # pyarrow's is one of its own errors too: the file is not at fault
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise unreadable(path, "Parquet", error) from error


@contextmanager
def parquet_writer(path: str | Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer for tables too large for memory: `write_table` once a row group, with checksums."""
    import pyarrow.parquet as pq

    with atomic(path) as part:
        with pq.ParquetWriter(part, schema, compression="zstd", write_page_checksum=True) as writer:
            yield writer
        _seal(part)


def parquet_batches(
    path: str | Path, start: int = 0, stop: int | None = None, columns: list[str] | None = None, rows: int = 4096
) -> Iterator[pa.Table]:
    """Rows start..stop of a table, `rows` at most at a time; raises InputError that names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_seal(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if lost := set(columns or ()) - set(file.schema_arrow.names):  # pyarrow leaves them out without a word
                raise lacking(path, lost, file.schema_arrow.names)
            stop = file.metadata.num_rows if stop is None else stop
            first = 0  # row number of the row group's first row
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                low, high = max(start - first, 0), min(stop - first, size)
                offset = 0
                if low < high:
                    for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                        skip = min(max(low - offset, 0), batch.num_rows)
                        part = batch.slice(skip, max(high - offset - skip, 0))
                        offset += batch.num_rows
                        if part.num_rows:
                            yield pa.Table.from_batches([part])
                    if offset != size:  # the header of a page has no checksum
                        raise ValueError(f"{offset} of {size} rows")
                first += size
    except MemoryError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(path, "Parquet", error) from error


def write_safetensors(
    tensors: Mapping[str, torch.Tensor | np.ndarray], path: str | Path, metadata: dict[str, str] | None = None
) -> str:
    """Write torch's tensors or, without torch, numpy's arrays; returns the file's SHA-256, for the manifest."""
    import numpy as np
    from safetensors import SafetensorError

    arrays = all(isinstance(value, np.ndarray) for value in tensors.values())
    framework = import_module("safetensors.numpy" if arrays else "safetensors.torch")
    with atomic(path) as part:
        try:
            framework.save_file(dict(tensors), part, metadata=metadata)
        except (OSError, SafetensorError) as error:  # a full disk is a SafetensorError
            raise InputError(f"{path}: could not be written ({error}); is there space? may you write there?") from error
        return sha256_file(part)


def read_safetensors(path: str | Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read tensors; where `sha256` is given, the file must have it. Raises InputError that names the file."""
    found: dict[str, torch.Tensor] = _read_safetensors(path, sha256, "safetensors.torch")
    return found


def read_arrays(path: str | Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """As `read_safetensors`, without torch, which takes seconds to import."""
    found: dict[str, np.ndarray] = _read_safetensors(path, sha256, "safetensors.numpy")
    return found


def _read_safetensors(path: str | Path, sha256: str | None, framework: str) -> Any:
    from safetensors import SafetensorError

    try:
        if sha256 is not None and sha256_file(path) != sha256:
            raise InputError(
                f"{path}: its contents do not match the hash in its manifest; delete it and run again to rebuild it"
            )
        return import_module(framework).load_file(path)
    except (OSError, SafetensorError) as error:  # SafetensorError: a broken header
        raise unreadable(path, "safetensors", error) from error


def inside(folder: str | Path, name: str) -> Path:
    """`folder/name`, refusing a name that would leave the folder (names come from configs and data)."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{name!r}: names are letters, digits, '.', '_' and '-' only, and start with a letter or digit"
        )
    return Path(folder) / name


def progress(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """The items; a line on stderr now and then says how far they are (every 10 s on a terminal, else once a minute).

    Whole lines, not a bar: jobs side by side write to one screen.
    """
    start = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= (10 if sys.stderr.isatty() else 60):
            said = now
            left = f" of {total:,}, about {math.ceil((now - start) * (total / done - 1))} s left" if total else ""
            print(f"{what}: {done:,}{left}", file=sys.stderr)


def check_provenance(found: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Raise InputError where a cached file's manifest disagrees with what this run expects of it."""
    for key, value in expected.items():
        if found.get(key) != value:
            raise InputError(
                f"{path}: {key} is {found.get(key)!r}, this run expects {value!r}; "
                "it belongs to another run: delete it and run again to rebuild it"
            )
