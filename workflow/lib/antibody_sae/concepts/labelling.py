"""Label the antibodies of a run, or those that a steered model wrote, with the catalogue's concepts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from antibody_sae.antibody import RESIDUES, SIDED_REGIONS, SPLITS
from antibody_sae.concepts.catalogue import (
    PAIRS,
    Block,
    groups,
    imgt_positions,
    metadata_values,
    region_names,
    split_values,
)
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Csr
from antibody_sae.io import (
    InputError,
    parquet_batches,
    read_arrays,
    read_json,
    read_parquet,
    write_json,
    write_parquet,
    write_safetensors,
)

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection, MetadataColumn

PAIR_SHARE = (0.05, 0.95)
"""A residue is a concept at a position where its training share is in this range; above, the position says it."""
MOST_VALUES = 50
"""Values of one metadata column that become concepts, most frequent first."""
_FEW_NUMBERS = 10
"""A column of numbers with more different ones than this is binned."""


def settle_metadata(run: str | Path, settings: ConceptsSection) -> tuple[ConceptsSection, list[str]]:
    """`settings` with bins for the columns of numbers that have none, and without the columns that are no concept.

    A column is none where fewer antibodies than `min_clusters` have a value, where all have the same one, or where
    nearly every value is another one; the list says which and why. Bins are the quartiles of the training split.
    Raises InputError for a column that is not there.
    """
    chosen: dict[str, MetadataColumn | None] = {}
    said: list[str] = []
    if settings["metadata"]:
        splits = read_parquet(Path(run) / "splits" / "antibodies.parquet", ["antibody_id", "split"])
        table = read_parquet(Path(run) / "sequences" / "antibodies.parquet").merge(splits, on="antibody_id")
    for column, given in settings["metadata"].items():
        entry: MetadataColumn = {**(given or {})}
        values = metadata_values(table, column)
        each = split_values(values, entry.get("split")).explode().dropna()
        numbers = pd.to_numeric(each, errors="coerce")
        numeric = len(each) > 0 and bool(numbers.notna().all())
        n, different = int(values.notna().sum()), each.nunique()
        if n < settings["min_clusters"]:
            said.append(f"{column}: no concept, {n} of {len(table)} antibodies have a value")
            continue
        if different == 1 and n == len(table):
            said.append(f"{column}: no concept, all antibodies have the value {each.iloc[0]!r}")
            continue
        if numeric and different > _FEW_NUMBERS and not entry.get("bins"):
            training = numbers[table.loc[numbers.index, "split"] == "train"]
            edges = np.quantile(training if len(training) else numbers, (0.25, 0.5, 0.75))
            entry["bins"] = sorted({float(f"{edge:.3g}") for edge in edges})
            said.append(f"{column}: binned by quartiles of the training split, {entry['bins']}")
        elif not entry.get("bins") and n >= _FEW_NUMBERS and different > 0.9 * len(each):
            said.append(f"{column}: no concept, {different} different values in {n} antibodies")
            continue
        if entry.get("bins"):
            entry["whole"] = bool((numbers.dropna() % 1 == 0).all())
        chosen[column] = entry
    return {**settings, "metadata": chosen}, said


class _Names:
    """Gives each new concept name the next number."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def codes(self, group: str, values: pd.Series) -> np.ndarray:
        """[rows] int32 number of `group=value`, -1 for null."""
        codes, unique = pd.factorize(values)
        table = np.array([self.number.setdefault(f"{group}={v}", len(self.number)) for v in unique] + [-1], np.int32)
        return table[codes]


def _csr(columns: list[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    table = np.stack(columns, 1) if columns else np.empty((rows, 0), np.int32)
    keep = table >= 0
    return keep.sum(1), table[keep]


def label(
    blocks: Iterator[Block], settings: ConceptsSection, pairs: list[str] | None = None, also: Sequence[str] = ()
) -> tuple[Labels, pd.DataFrame]:
    """Label antibodies block by block.

    `pairs` are the residue-at-position concepts to look for (`position=H105:C`); None takes the most frequent of the
    training split, and those named in `also`. Returns the labels and a table of the groups. Raises InputError for an
    unknown metadata column.
    """
    residue_names, antibody_names, place_names = _Names(), _Names(), _Names()
    widths: dict[str, list[np.ndarray]] = {"residue": [], "antibody": []}
    entries: dict[str, list[np.ndarray]] = {"residue": [], "antibody": []}
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("position", "region", "letter", "light", "length", "split", "cluster", "rows", "ids")
    }
    chosen = groups(settings)
    for b in blocks:
        for level, names, n in (
            ("residue", residue_names, len(b.residues)),
            ("antibody", antibody_names, len(b.antibodies)),
        ):
            columns = []
            for group in chosen:
                if group.level == level:
                    values = group.label(b)
                    columns += [names.codes(group.name, v) for v in (values if isinstance(values, list) else [values])]
            width, entry = _csr(columns, n)
            widths[level].append(width)
            entries[level].append(entry)
        parts["position"].append(place_names.codes("", imgt_positions(b)))
        parts["region"].append(pd.Categorical(region_names(b), categories=SIDED_REGIONS).codes.astype(np.int8))
        parts["letter"].append(pd.Categorical(b.letter, categories=list(RESIDUES)).codes.astype(np.int8))
        parts["light"].append((b.side == "L").astype(np.int8))
        length = b.residues.groupby("antibody_id", sort=False).size()
        parts["length"].append(b.antibodies["antibody_id"].map(length).to_numpy(np.int64))
        parts["split"].append(b.antibodies["split"].map({s: i for i, s in enumerate(SPLITS)}).to_numpy(np.int8))
        parts["cluster"].append(b.antibodies["cluster_id"].to_numpy(np.int64))
        parts["rows"].append(b.residues["residue_id"].to_numpy(np.int64))
        parts["ids"].append(b.antibodies["antibody_id"].to_numpy(dtype=str))
    joined = {name: np.concatenate(part) if part else np.empty(0, np.int64) for name, part in parts.items()}
    places = [name.removeprefix("=") for name in place_names.number]
    order = sorted(range(len(places)), key=lambda p: _place_key(places[p]))
    rank = np.empty(len(places) + 1, np.int16)
    rank[order], rank[-1] = np.arange(len(places)), -1
    position = rank[joined["position"]]
    positions = [places[p] for p in order]
    owner_split = np.repeat(joined["split"], joined["length"])
    pair_columns = _pair_codes(
        residue_names, positions, position, joined["letter"], owner_split, pairs, settings["position_pairs"], also
    )
    widths["residue"].append(np.empty(0, np.int64))
    base_width, base = np.concatenate(widths["residue"]), np.concatenate([*entries["residue"], np.empty(0, np.int32)])
    has_pair = pair_columns >= 0
    owner = np.repeat(np.arange(len(base_width)), base_width)
    slots = (
        np.arange(len(base)) + np.concatenate([[0], np.cumsum(has_pair)])[owner] if len(base) else np.empty(0, np.int64)
    )
    idx = np.empty(len(base) + has_pair.sum(), np.int16)
    idx[slots] = base
    ends = np.cumsum(base_width + has_pair)
    idx[ends[has_pair] - 1] = pair_columns[has_pair]
    first_row = np.concatenate([[0], np.cumsum(joined["length"])])[:-1]
    n_rows = int(joined["rows"].max(initial=-1)) + 1

    def spread(values: np.ndarray, empty: int) -> np.ndarray:
        out = np.full(n_rows, empty, values.dtype)
        out[joined["rows"]] = values
        return out

    width_all = spread(base_width + has_pair, 0)
    labels = Labels(
        ids=joined["ids"],
        residue_names=list(residue_names.number),
        antibody_names=list(antibody_names.number),
        positions=positions,
        residue=_matrix(width_all, idx),
        antibody=_matrix(*(np.concatenate([*part["antibody"], np.empty(0, np.int64)]) for part in (widths, entries))),
        first=joined["rows"][first_row] if len(first_row) else np.empty(0, np.int64),
        length=joined["length"],
        split=joined["split"],
        cluster=joined["cluster"],
        position=spread(position, -1),
        region=spread(joined["region"], -1),
        letter=spread(joined["letter"], -1),
        light=spread(joined["light"], 0),
    )  # fmt: skip
    table = pd.DataFrame([(g.name, g.meaning) for g in [*chosen, PAIRS]], columns=["group", "meaning"])
    return _limit_metadata(labels, settings), table


def _limit_metadata(labels: Labels, settings: ConceptsSection) -> Labels:
    """Keep the most frequent values of each metadata column: one of unique values would make a concept of each row."""
    counts = np.bincount(labels.antibody.idx, minlength=len(labels.antibody_names))
    keep = np.ones(len(counts), bool)
    for column in settings["metadata"]:
        own = np.array([i for i, n in enumerate(labels.antibody_names) if n.partition("=")[0] == column], np.int64)
        keep[own[np.argsort(-counts[own], kind="stable")][MOST_VALUES:]] = False
    if keep.all():
        return labels
    number = np.where(keep, np.cumsum(keep) - 1, -1)[labels.antibody.idx]
    rows = np.repeat(np.arange(labels.antibody.rows), np.diff(labels.antibody.ptr))[number >= 0]
    matrix = _matrix(np.bincount(rows, minlength=labels.antibody.rows), number[number >= 0])
    return replace(
        labels, antibody=matrix, antibody_names=[n for n, kept in zip(labels.antibody_names, keep, strict=True) if kept]
    )


def _matrix(widths: np.ndarray, idx: np.ndarray) -> Csr:
    return Csr(np.concatenate([[0], np.cumsum(widths)]).astype(np.int64), idx.astype(np.int16), np.empty(0, np.float32))


def _place_key(place: str) -> tuple[str, int, int]:
    """Sequence order of IMGT positions: insertions follow their position, but those of 112 precede it, reversed."""
    number = int("".join(ch for ch in place[1:] if ch.isdigit()))
    insertion = place[1 + len(str(number)) :]
    rank = sum((ord(ch) - 64) * 27**i for i, ch in enumerate(reversed(insertion)))
    return place[0], number, -rank if number == 112 else rank


def _pair_codes(
    names: _Names, positions: list[str], position: np.ndarray, letter: np.ndarray, split: np.ndarray,
    pairs: list[str] | None, most: int, also: Sequence[str],
) -> np.ndarray:  # fmt: skip
    """[residues] concept number of the residue's own (position, residue) pair, -1 where that is not a concept."""
    key = position.astype(np.int64) * len(RESIDUES) + letter
    inside = (position >= 0) & (letter >= 0)
    size = len(positions) * len(RESIDUES)
    if pairs is None:
        counts = np.bincount(key[inside & (split == 0)], minlength=size).reshape(-1, len(RESIDUES))
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        fits = ((share >= PAIR_SHARE[0]) & (share <= PAIR_SHARE[1])).ravel()
        best = np.argsort(-np.where(fits, counts.ravel(), -1), kind="stable")[:most]
        wanted = [
            f"{PAIRS.name}={positions[i // len(RESIDUES)]}:{RESIDUES[i % len(RESIDUES)]}" for i in best if fits[i]
        ]
        wanted = list(dict.fromkeys([*wanted, *also]))
    else:
        wanted = pairs
    table = np.full(size + 1, -1, np.int32)
    place = {p: i for i, p in enumerate(positions)}
    for name in wanted:
        where, _, residue = name.partition("=")[2].rpartition(":")
        number = names.number.setdefault(name, len(names.number))
        if where in place:
            table[place[where] * len(RESIDUES) + RESIDUES.index(residue)] = number
    return table[np.where(inside, key, size)]


def read_blocks(run: str | Path, settings: ConceptsSection, rows: int = 1_000_000) -> Iterator[Block]:
    """The antibodies of splits/antibodies.parquet with their residues, about `rows` residues at a time."""
    run = Path(run)
    antibodies = read_parquet(run / "splits" / "antibodies.parquet")
    metadata = read_parquet(run / "sequences" / "antibodies.parquet").drop(columns=["heavy", "light"])
    antibodies = antibodies.merge(
        metadata, on="antibody_id", how="left", validate="one_to_one", suffixes=("", "_input")
    )
    chains = read_parquet(run / "numbering" / "chains.parquet")
    chains = chains[chains["status"] == "ok"]
    path = run / "numbering" / "residues.parquet"
    columns = ["antibody_id", "chain", "position", "residue", "imgt", "insertion", "region", "germline"]
    held: list[pd.DataFrame] = []
    start = seen = 0
    for table in parquet_batches(path, columns=columns, rows=rows):
        frame = table.to_pandas().assign(residue_id=np.arange(start, start + table.num_rows))
        start += table.num_rows
        last = (frame["antibody_id"] == frame["antibody_id"].iloc[-1]).to_numpy()  # it may go on in the next batch
        block = _block(antibodies, chains, pd.concat([*held, frame[~last]], ignore_index=True), settings)
        held = [frame[last]] if not last.all() else [*held, frame]
        if not last.all():
            seen += len(block.antibodies)
            yield block
    if held:
        block = _block(antibodies, chains, pd.concat(held, ignore_index=True), settings)
        seen += len(block.antibodies)
        yield block
    if seen != len(antibodies):
        raise InputError(
            f"{path}: {len(antibodies) - seen} antibodies of the splits have no residues; delete it and run again"
        )


def _block(antibodies: pd.DataFrame, chains: pd.DataFrame, residues: pd.DataFrame, settings: ConceptsSection) -> Block:
    ids = residues["antibody_id"].unique()
    mine = antibodies[antibodies["antibody_id"].isin(ids)]
    order = pd.Series(np.arange(len(ids)), index=ids)
    mine = mine.iloc[np.argsort(mine["antibody_id"].map(order), kind="stable")].reset_index(drop=True)
    residues = residues[residues["antibody_id"].isin(mine["antibody_id"])].reset_index(drop=True)
    return Block(mine, chains[chains["antibody_id"].isin(mine["antibody_id"])], residues, settings)


def save(labels: Labels, table: pd.DataFrame, settings: ConceptsSection, folder: str | Path) -> pd.DataFrame:
    """Write labels.safetensors (integers), labels.json (names, hash), concepts.parquet (support; returned)."""
    folder = Path(folder)
    tensors = {
        "ids": labels.ids.astype("S")[:, None].view(np.uint8),
        "residue.ptr": labels.residue.ptr, "residue.idx": labels.residue.idx,
        "antibody.ptr": labels.antibody.ptr, "antibody.idx": labels.antibody.idx,
        "first": labels.first, "length": labels.length, "split": labels.split, "cluster": labels.cluster,
        "position": labels.position, "region": labels.region, "letter": labels.letter, "light": labels.light,
    }  # fmt: skip
    digest = write_safetensors(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "labels.safetensors"
    )
    names = {"residue": labels.residue_names, "antibody": labels.antibody_names, "positions": labels.positions}
    write_json(
        {"format": 1, "sha256": digest, "regions": list(SIDED_REGIONS), "residues": RESIDUES, **names},
        folder / "labels.json",
    )
    support = labels.support(settings["min_clusters"]).merge(table[["group", "meaning"]], on="group", how="left")
    write_parquet(support, folder / "concepts.parquet")
    return support


def load(folder: str | Path) -> Labels:
    """Read what `save` wrote, verified by its hash."""
    folder = Path(folder)
    header = read_json(folder / "labels.json")
    if header.get("format") != 1:
        raise InputError(f"{folder / 'labels.json'}: not a format that this version reads; delete it and run again")
    t = read_arrays(folder / "labels.safetensors", header["sha256"])
    none = np.empty(0, np.float32)
    ids = t["ids"].view(f"S{t['ids'].shape[1]}")[:, 0].astype(str)
    return Labels(
        ids, header["residue"], header["antibody"], header["positions"],
        Csr(t["residue.ptr"], t["residue.idx"], none), Csr(t["antibody.ptr"], t["antibody.idx"], none),
        *(t[name] for name in ("first", "length", "split", "cluster", "position", "region", "letter", "light")),
    )  # fmt: skip
