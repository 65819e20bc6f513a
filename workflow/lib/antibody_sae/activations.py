"""Harvest the residual stream of every residue, and read it back with proof of where it came from.

A shard is one safetensors file: `activations` [n, d_model] in the stored dtype and `residue_id` [n] (row numbers of
numbering/residues.parquet). It is written row by row, so a job's memory does not grow with its share of antibodies.
The layer's manifest.json names the model, tokenizer, layer and every shard's SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from antibody_sae.io import InputError, atomic, check_provenance, progress, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel

PROVENANCE = ("model", "revision", "weights_sha256", "tokenizer_sha256")
_DTYPES = {"bfloat16": ("BF16", torch.bfloat16), "float16": ("F16", torch.float16), "float32": ("F32", torch.float32)}
_WINDOW = 2048
"""Antibodies encoded and sorted by length at a time."""
_GOLDEN = 0.6180339887498949


def numbered(antibodies: pd.DataFrame, chains: pd.DataFrame) -> pd.DataFrame:
    """Antibodies all of whose chains were numbered, in file order.

    Columns antibody_id, heavy, light, species, first_heavy, first_light (residue_id of residue 0; -1 without chain).
    """
    bad = set(chains.loc[chains["status"] != "ok", "antibody_id"])
    first = chains.pivot(index="antibody_id", columns="side", values="first_residue_id")
    kept = antibodies.loc[~antibodies["antibody_id"].isin(bad), ["antibody_id", "heavy", "light", "species"]].copy()
    for side in ("heavy", "light"):
        ids = first[side] if side in first else pd.Series(dtype="float64")
        kept[f"first_{side}"] = kept["antibody_id"].map(ids).fillna(-1).astype("int64")
    return kept.reset_index(drop=True)


def _residue_ids(antibody: Any) -> np.ndarray:
    """[n_residues] residue_id of an antibody's residues, heavy then light."""
    parts = [
        first + np.arange(len(chain), dtype=np.int64)
        for chain, first in ((antibody.heavy, antibody.first_heavy), (antibody.light, antibody.first_light))
        if isinstance(chain, str)
    ]
    return np.concatenate(parts)


def sampled(residue_id: np.ndarray, share: float) -> np.ndarray:
    """Which residues stay when only a share is kept: the golden-ratio sequence, evenly spread over any run of ids
    (its discrepancy is O(log n / n)) and the same in every job."""
    return np.modf(residue_id * _GOLDEN)[0] < share


def harvest(
    model: AntibodyModel,
    antibodies: pd.DataFrame,
    layers: Sequence[int],
    paths: Sequence[str | Path],
    dtype: str = "bfloat16",
    share: float = 1.0,
) -> None:
    """One forward pass over `antibodies` (from `numbered`), one shard a layer.

    `share` of the residues is kept. Raises InputError where a value does not fit the dtype.
    """
    code, torch_dtype = _DTYPES[dtype]
    n = sum(int(sampled(_residue_ids(a), share).sum()) for a in antibodies.itertuples())
    with ExitStack() as stack:
        writers = {
            layer: _ShardWriter(stack, path, n, model.d_model, code, {**model.provenance, "layer": layer,
                                "hook": model.hook_name(layer), "model_dtype": model.dtype_name, "dtype": dtype,
                                "share": share})
            for layer, path in zip(layers, paths, strict=True)
        }  # fmt: skip
        starts = range(0, len(antibodies), _WINDOW)
        bar = progress(starts, len(starts), f"activations of {len(antibodies)} antibodies")
        for start in bar:
            passages, owners = [], []
            rows: list[Any] = list(antibodies.iloc[start : start + _WINDOW].itertuples())
            for row in rows:
                encoded = model.encode(
                    row.heavy if isinstance(row.heavy, str) else None,
                    row.light if isinstance(row.light, str) else None,
                    row.species,
                )
                passages += encoded
                owners += [row] * len(encoded)
            for i, states in model.hidden(passages, layers):
                ids = _residue_ids(owners[i])[passages[i].residue[passages[i].residue >= 0]]
                keep = np.flatnonzero(sampled(ids, share))
                for layer, hidden in states.items():
                    writers[layer].add(hidden[keep].to(torch_dtype), ids[keep])
        for writer in writers.values():
            writer.finish()


class _ShardWriter:
    """Writes one safetensors file row by row: the format is a JSON header, then the tensors' bytes end to end."""

    def __init__(
        self, stack: ExitStack, path: str | Path, n: int, d_model: int, code: str, provenance: Mapping[str, Any]
    ) -> None:
        self.path, self.n, self.written = Path(path), n, 0
        self._sum = np.zeros(d_model)
        self._squares = 0.0
        width = {"BF16": 2, "F16": 2, "F32": 4}[code] * d_model
        header = {
            "residue_id": {"dtype": "I64", "shape": [n], "data_offsets": [0, 8 * n]},
            "activations": {"dtype": code, "shape": [n, d_model], "data_offsets": [8 * n, 8 * n + width * n]},
            "sum": {"dtype": "F64", "shape": [d_model],
                    "data_offsets": [(8 + width) * n, (8 + width) * n + 8 * d_model]},
            "sum_of_squares": {"dtype": "F64", "shape": [1],
                               "data_offsets": [(8 + width) * n + 8 * d_model, (8 + width) * n + 8 * d_model + 8]},
            "__metadata__": {k: json.dumps(v) for k, v in provenance.items()},
        }  # fmt: skip
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        part = stack.enter_context(atomic(path))
        self._ids: BinaryIO = stack.enter_context(part.open("wb"))
        self._ids.write(len(text).to_bytes(8, "little") + text)
        self._ids.flush()
        self._acts: BinaryIO = stack.enter_context(part.open("rb+"))
        self._acts.seek(8 + len(text) + 8 * n)

    def add(self, acts: Tensor, residue_id: np.ndarray) -> None:
        """Append acts [m, d_model] and residue_id [m]."""
        self._ids.write(residue_id.tobytes())
        self._acts.write(acts.contiguous().view(torch.uint8).numpy().tobytes())
        values = acts.double().numpy()
        self._sum += values.sum(0)
        self._squares += float(np.square(values).sum())
        self.written += len(residue_id)

    def finish(self) -> None:
        if not np.isfinite(self._squares):
            raise InputError(f"{self.path}: activations are not finite; use activations.dtype: bfloat16 or float32")
        assert self.written == self.n, f"{self.written} rows written, {self.n} promised"
        self._acts.write(self._sum.tobytes() + np.float64(self._squares).tobytes())
        self._acts.flush()
        self._ids.flush()


def write_manifest(paths: Sequence[str | Path], manifest_path: str | Path) -> None:
    """Write a layer's manifest: provenance, statistics, hashes. Raises InputError where shards disagree."""
    total, squares, n = None, 0.0, 0
    provenance: dict[str, Any] = {}
    shards = []
    for path in map(Path, paths):
        with safe_open(path, framework="np") as shard:
            found = {k: json.loads(v) for k, v in shard.metadata().items()}
            provenance = provenance or found
            check_provenance(found, provenance, path)
            total = shard.get_tensor("sum") + (0 if total is None else total)
            squares += float(shard.get_tensor("sum_of_squares")[0])
            rows = shard.get_slice("residue_id").get_shape()[0]
        shards.append({"file": path.name, "n": rows, "sha256": sha256_file(path)})
        n += rows
    if n == 0 or total is None:
        raise InputError(f"{manifest_path}: no residue was harvested; were any antibodies numbered?")
    mean = total / n
    variance = max(squares / n - float(mean @ mean), 0.0)
    write_json(
        {"format": 1, **provenance, "n": n, "d_model": len(mean), "mean": mean.tolist(),
         "scale": float(np.sqrt(variance / len(mean))), "shards": shards},
        manifest_path,
    )  # fmt: skip


class Store:
    """The activations of one layer.

    `expected` (provenance keys, layer) must agree with the manifest, and every shard with its hash when it is opened;
    otherwise InputError names the file.
    """

    def __init__(self, folder: str | Path, expected: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_json(self.folder / "manifest.json")
        check_provenance(self.manifest, {"format": 1, **(expected or {})}, self.folder / "manifest.json")
        self.n, self.d_model = int(self.manifest["n"]), int(self.manifest["d_model"])
        self.sizes = [int(s["n"]) for s in self.manifest["shards"]]
        self._verified: set[int] = set()

    def provenance(self) -> dict[str, Any]:
        """What an SAE trained on this store must say about itself."""
        return {key: self.manifest[key] for key in (*PROVENANCE, "layer", "hook", "model_dtype")}

    def read(self, shard: int, start: int = 0, stop: int | None = None) -> tuple[Tensor, np.ndarray]:
        """Rows start..stop of a shard: acts [m, d_model] (stored dtype), residue_id [m] int64."""
        entry = self.manifest["shards"][shard]
        path = self.folder / entry["file"]
        remedy = "delete it and run again to rebuild it"
        try:
            if shard not in self._verified:
                if sha256_file(path) != entry["sha256"]:
                    raise InputError(f"{path}: its contents do not match the hash in manifest.json; {remedy}")
                self._verified.add(shard)
            with safe_open(path, framework="pt") as handle:
                acts = handle.get_slice("activations")[start:stop]
                residue_id = handle.get_slice("residue_id")[start:stop].numpy()
        except OSError as error:
            raise InputError(f"{path}: not readable ({error}); {remedy}") from error
        return acts, residue_id

    def blocks(self, rows: int = 65536) -> Iterator[tuple[Tensor, np.ndarray]]:
        """All rows in file order, `rows` at most at a time."""
        for shard, size in enumerate(self.sizes):
            for start in range(0, size, rows):
                yield self.read(shard, start, min(start + rows, size))
