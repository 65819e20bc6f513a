"""The antibody concepts: declared in one place, and evaluated on any numbered antibodies.

A concept is a name `group=value`. `GROUPS` lists every group with the function that labels rows with its values; a new
concept is one entry here, and a metadata column of the input is a few lines of config.yaml (`concepts.metadata`).
Residue-level groups label residues, antibody-level groups label antibodies. The same functions label what a steered
model wrote, so a concept means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from antibody_sae.io import (
    InputError,
    parquet_batches,
    read_json,
    read_parquet,
    read_safetensors,
    write_json,
    write_parquet,
    write_safetensors,
)
from antibody_sae.labels import REGIONS, RESIDUES, SPLITS, Labels
from antibody_sae.scoring import Csr

CLASSES = {
    # IMGT's physico-chemical classes (Pommie et al., J. Mol. Recognit. 17:17, 2004), and the aromatic side chains
    "hydropathy": {"hydrophobic": "IVLFCMAW", "neutral": "GTSYPH", "hydrophilic": "RKNDQE"},
    "volume": {"very-small": "AGS", "small": "NDCPT", "medium": "QEHV", "large": "RILKM", "very-large": "FWY"},
    "charge": {"positive": "RHK", "negative": "DE"},
    "ring": {"aromatic": "FWYH"},
}
MOTIFS: dict[str, tuple[str, ...]] = {
    # sequence liabilities (as in Raybould et al., PNAS 116:4025, 2019); one set of residues a position, ^ negates
    "N-glycosylation": ("N", "^P", "ST"),
    "deamidation": ("N", "GSTN"),
    "isomerisation": ("D", "GSTD"),
    "fragmentation": ("D", "P"),
    "integrin": ("R", "G", "D"),
}
CONSERVED = {
    "C23": (23, "C"),
    "W41": (41, "W"),
    "L89": (89, "L"),
    "C104": (104, "C"),
    "W118": (118, "W"),
    "F118": (118, "F"),
}
PAIR_SHARE = (0.05, 0.95)
"""A residue is a concept at a position where its training share is in this range; above, the position says it."""
MOST_VALUES = 50
"""Values of one metadata column that become concepts, most frequent first."""

Labelled = pd.Series | list[pd.Series]
"""One value (or null) a row, as strings; a list where a row can have several values of a group."""


@dataclass(frozen=True)
class Block:
    """Some antibodies with their chains and residues, rows in the files' order."""

    antibodies: pd.DataFrame
    """One row an antibody of splits/antibodies.parquet: its columns, and the input's metadata."""
    chains: pd.DataFrame
    residues: pd.DataFrame
    """All residues of `antibodies`."""
    settings: Mapping[str, Any]
    """The section `concepts:` of the configuration."""

    @cached_property
    def letter(self) -> np.ndarray:
        """[residues] the residue as one letter."""
        return self.residues["residue"].to_numpy(dtype=object)

    @cached_property
    def side(self) -> np.ndarray:
        """[residues] "H" or "L"."""
        return np.where(self.residues["chain"] == "H", "H", "L").astype(object)

    @cached_property
    def imgt(self) -> np.ndarray:
        """[residues] IMGT number, 0 outside the domain."""
        return self.residues["imgt"].fillna(0).to_numpy(dtype=np.int64)

    @cached_property
    def chain_number(self) -> np.ndarray:
        """[residues] 0, 1, ... one number a chain."""
        return np.cumsum(self.residues["position"].to_numpy() == 0) - 1

    def following(self, k: int) -> np.ndarray:
        """[residues] the residue k places on in the same chain, "" beyond its end."""
        out = np.full(len(self.letter), "", dtype=object)
        if k < len(out):
            same = self.chain_number[k:] == self.chain_number[: len(out) - k]
            out[: len(out) - k] = np.where(same, self.letter[k:], "")
        return out


def _texts(flags: np.ndarray, values: Any) -> pd.Series:
    """`values` where flags, null elsewhere."""
    out = np.full(len(flags), None, dtype=object)
    out[flags] = values if isinstance(values, str) else np.asarray(values, dtype=object)[flags]
    return pd.Series(out)


def _positions(b: Block) -> pd.Series:
    number = pd.Series(b.imgt).astype(str).to_numpy(dtype=object)
    names = b.side + number + b.residues["insertion"].fillna("").to_numpy(dtype=object)
    return _texts(b.imgt > 0, names)


def _regions(b: Block) -> pd.Series:
    known = b.residues["region"].notna().to_numpy()
    return _texts(known, b.side + "-" + b.residues["region"].fillna("").to_numpy(dtype=object))


def _classes(b: Block) -> list[pd.Series]:
    return [
        pd.Series(b.letter).map({letter: name for name, letters in classes.items() for letter in letters})
        for classes in CLASSES.values()
    ]


def _motifs(b: Block) -> list[pd.Series]:
    found = []
    for name, pattern in MOTIFS.items():
        start = np.ones(len(b.letter), bool)
        for k, allowed in enumerate(pattern):
            residue = pd.Series(b.following(k))
            match = residue.isin(list(allowed.lstrip("^"))).to_numpy()
            start &= (~match if allowed[0] == "^" else match) & (residue != "").to_numpy()
        inside = start.copy()
        for k in range(1, len(pattern)):
            inside[k:] |= start[: len(start) - k]
        found.append(_texts(inside, name))
    extra = (b.letter == "C") & (b.imgt > 0) & ~np.isin(b.imgt, (23, 104))
    return [*found, _texts(extra, "extra-cysteine")]


def _conserved(b: Block) -> pd.Series:
    out = np.full(len(b.letter), None, dtype=object)
    for name, (number, letter) in CONSERVED.items():
        out[(b.imgt == number) & (b.letter == letter)] = name
    return pd.Series(out)


def _cdr3_parts(b: Block) -> pd.Series:
    """V-derived: the first residues of CDR3 while they are the germline's; J-derived: the last; middle: the rest."""
    inside = (b.residues["region"] == "CDR3").to_numpy()
    rows = pd.DataFrame({"chain": b.chain_number[inside], "differs": ~_is_germline(b)[inside]})
    from_v = rows.groupby("chain")["differs"].cumsum().eq(0)
    from_j = rows[::-1].groupby("chain")["differs"].cumsum().eq(0)[::-1]
    parts = np.where(from_v, "V-derived", np.where(from_j, "J-derived", "middle"))
    out = np.full(len(inside), None, dtype=object)
    out[inside] = b.side[inside] + "-" + parts.astype(object)
    return pd.Series(out)


def _is_germline(b: Block) -> np.ndarray:
    return (b.residues["germline"].notna() & (b.residues["germline"] == b.residues["residue"])).to_numpy(dtype=bool)


def _germline(b: Block) -> pd.Series:
    state = np.where(_is_germline(b), "germline", "mutated")
    return _texts(b.residues["germline"].notna().to_numpy(), state)


def _of_chains(column: str, binned: bool = False) -> Callable[[Block], list[pd.Series]]:
    """Label antibodies by a column of numbering/chains.parquet, one Series a side."""

    def label(b: Block) -> list[pd.Series]:
        out = []
        for side, name in (("heavy", "H"), ("light", "L")):
            rows = b.chains[(b.chains["side"] == side) & b.chains[column].notna()]
            values = in_bins(rows[column], b.settings["bins"][column]) if binned else rows[column].map(_plain)
            if not column.startswith(("v_family", "v_gene", "j_gene", "chain")):  # gene names say the chain themselves
                values = name + ":" + values.astype(object)
            by_id = pd.Series(values.to_numpy(dtype=object), index=rows["antibody_id"])
            out.append(b.antibodies["antibody_id"].map(by_id[~by_id.index.duplicated()]))
        return out

    return label


def _plain(value: Any) -> str:
    """A value as text; 12.0 is 12 (parquet keeps integers with nulls as floats)."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def in_bins(values: pd.Series, edges: list[float]) -> pd.Series:
    """Names of half-open bins: "<10", "10-14" (whole numbers) or "-1..0.5", ">=20"; null stays null."""
    edges = sorted(edges)
    numbers = pd.to_numeric(values, errors="coerce")
    whole = bool((numbers.dropna() % 1 == 0).all()) and all(float(e).is_integer() for e in edges)
    text = [_plain(float(e)) for e in edges]
    names = [f"<{text[0]}"]
    for a, b in pairwise(edges):
        last = _plain(float(b - 1)) if whole else ""
        names.append((_plain(float(a)) if a == b - 1 else f"{_plain(float(a))}-{last}") if whole else f"{a}..{b}")
    names.append(f">={text[-1]}")
    place = np.searchsorted(edges, numbers.to_numpy(dtype=float), side="right")
    return pd.Series(np.array(names, dtype=object)[place], index=values.index).where(numbers.notna(), None)


def _locus(b: Block) -> pd.Series:
    light = b.chains[b.chains["side"] == "light"].drop_duplicates("antibody_id")
    return b.antibodies["antibody_id"].map(light.set_index("antibody_id")["chain"])


def _metadata(column: str, bins: list[float] | None) -> Callable[[Block], pd.Series]:
    def label(b: Block) -> pd.Series:
        if column not in b.antibodies:
            have = ", ".join(sorted(map(str, b.antibodies.columns)))
            raise InputError(f"config: concepts.metadata.{column}: the input has no such column; it has {have}")
        values = b.antibodies[column]
        if bins:
            return in_bins(values, bins)
        return values.map(_plain).where(values.notna() & (values.astype(str) != ""), None)

    return label


@dataclass(frozen=True)
class Group:
    """One family of concepts."""

    name: str
    level: str
    """residue or antibody."""
    label: Callable[[Block], Labelled]
    meaning: str


GROUPS = (
    Group("region", "residue", _regions, "framework or CDR, of the heavy (H) or light (L) chain"),
    Group("residue", "residue", lambda b: b.residues["residue"], "amino acid"),
    Group("class", "residue", _classes, "IMGT physico-chemical class"),
    Group("motif", "residue", _motifs, "sequence liability; all residues of the motif"),
    Group("conserved", "residue", _conserved, "conserved residue at its IMGT position, present"),
    Group("cdr3-part", "residue", _cdr3_parts, "part of CDR3 that V, J or neither germline gives"),
    Group("germline", "residue", _germline, "same residue as the assigned germline, or mutated"),
    Group("chain", "residue", lambda b: b.residues["chain"], "heavy, kappa or lambda"),
    Group("v-family", "antibody", _of_chains("v_family"), "V gene family"),
    Group("v-gene", "antibody", _of_chains("v_gene"), "V gene"),
    Group("j-gene", "antibody", _of_chains("j_gene"), "J gene"),
    Group("light-locus", "antibody", _locus, "kappa or lambda"),
    Group("cdr1-length", "antibody", _of_chains("cdr1_length"), "residues in CDR1"),
    Group("cdr2-length", "antibody", _of_chains("cdr2_length"), "residues in CDR2"),
    Group("cdr3-length", "antibody", _of_chains("cdr3_length", binned=True), "residues in CDR3"),
    Group("cdr3-charge", "antibody", _of_chains("cdr3_charge", binned=True), "net charge of CDR3"),
    Group("cdr3-hydropathy", "antibody", _of_chains("cdr3_hydropathy", binned=True), "mean Kyte-Doolittle of CDR3"),
    Group("v-identity", "antibody", _of_chains("v_identity", binned=True), "share of V residues that are germline"),
    Group("species", "antibody", lambda b: b.antibodies["species"], "species"),
)
PAIRS = Group("position", "residue", _positions, "amino acid at an IMGT position")
"""Labelled apart: which pairs are frequent is known only after all of the training split was read."""


def groups(settings: Mapping[str, Any]) -> list[Group]:
    """All groups of a run, metadata columns included."""
    taken = {group.name for group in (*GROUPS, PAIRS)}
    for column in taken & set(settings["metadata"]):
        raise InputError(
            f"config: concepts.metadata.{column}: the catalogue has a group of this name already; rename the column"
        )
    extra = [
        Group(column, "antibody", _metadata(column, (entry or {}).get("bins")), "column of the input")
        for column, entry in settings["metadata"].items()
    ]
    return [*GROUPS, *extra]


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
    blocks: Iterator[Block], settings: Mapping[str, Any], pairs: list[str] | None = None
) -> tuple[Labels, pd.DataFrame]:
    """Label antibodies block by block.

    `pairs` are the residue-at-position concepts to look for (`position=H105:C`); None takes the most frequent of the
    training split. Returns the labels and a table of the groups. Raises InputError for an unknown metadata column.
    """
    residue_names, antibody_names, place_names = _Names(), _Names(), _Names()
    widths: dict[str, list[np.ndarray]] = {"residue": [], "antibody": []}
    entries: dict[str, list[np.ndarray]] = {"residue": [], "antibody": []}
    parts: dict[str, list[np.ndarray]] = {
        k: [] for k in ("position", "region", "letter", "light", "length", "split", "cluster", "rows", "ids")
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
        parts["position"].append(place_names.codes("", _positions(b)))
        parts["region"].append(pd.Categorical(_regions(b), categories=REGIONS).codes.astype(np.int8))
        parts["letter"].append(pd.Categorical(b.letter, categories=list(RESIDUES)).codes.astype(np.int8))
        parts["light"].append((b.side == "L").astype(np.int8))
        length = b.residues.groupby("antibody_id", sort=False).size()
        parts["length"].append(b.antibodies["antibody_id"].map(length).to_numpy(np.int64))
        parts["split"].append(b.antibodies["split"].map({s: i for i, s in enumerate(SPLITS)}).to_numpy(np.int8))
        parts["cluster"].append(b.antibodies["cluster_id"].to_numpy(np.int64))
        parts["rows"].append(b.residues["residue_id"].to_numpy(np.int64))
        parts["ids"].append(b.antibodies["antibody_id"].to_numpy(dtype=str))
    joined = {k: np.concatenate(v) if v else np.empty(0, np.int64) for k, v in parts.items()}
    places = [name.removeprefix("=") for name in place_names.number]
    order = sorted(range(len(places)), key=lambda p: _place_key(places[p]))
    rank = np.empty(len(places) + 1, np.int16)
    rank[order], rank[-1] = np.arange(len(places)), -1
    position = rank[joined["position"]]
    positions = [places[p] for p in order]
    owner_split = np.repeat(joined["split"], joined["length"])
    pair_columns = _pair_codes(
        residue_names, positions, position, joined["letter"], owner_split, pairs, settings["position_pairs"]
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


def _limit_metadata(labels: Labels, settings: Mapping[str, Any]) -> Labels:
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
        labels, antibody=matrix, antibody_names=[n for n, k in zip(labels.antibody_names, keep, strict=True) if k]
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
    pairs: list[str] | None, most: int,
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
            f"{PAIRS.name}={positions[k // len(RESIDUES)]}:{RESIDUES[k % len(RESIDUES)]}" for k in best if fits[k]
        ]
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


def read_blocks(run: str | Path, settings: Mapping[str, Any], rows: int = 1_000_000) -> Iterator[Block]:
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


def _block(
    antibodies: pd.DataFrame, chains: pd.DataFrame, residues: pd.DataFrame, settings: Mapping[str, Any]
) -> Block:
    ids = residues["antibody_id"].unique()
    mine = antibodies[antibodies["antibody_id"].isin(ids)]
    order = pd.Series(np.arange(len(ids)), index=ids)
    mine = mine.iloc[np.argsort(mine["antibody_id"].map(order), kind="stable")].reset_index(drop=True)
    residues = residues[residues["antibody_id"].isin(mine["antibody_id"])].reset_index(drop=True)
    return Block(mine, chains[chains["antibody_id"].isin(mine["antibody_id"])], residues, settings)


def save(labels: Labels, table: pd.DataFrame, settings: Mapping[str, Any], folder: str | Path) -> pd.DataFrame:
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
        {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}, folder / "labels.safetensors"
    )
    names = {"residue": labels.residue_names, "antibody": labels.antibody_names, "positions": labels.positions}
    write_json(
        {"format": 1, "sha256": digest, "regions": list(REGIONS), "residues": RESIDUES, **names}, folder / "labels.json"
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
    t = {k: v.numpy() for k, v in read_safetensors(folder / "labels.safetensors", header["sha256"]).items()}
    none = np.empty(0, np.float32)
    ids = t["ids"].view(f"S{t['ids'].shape[1]}")[:, 0].astype(str)
    return Labels(
        ids, header["residue"], header["antibody"], header["positions"],
        Csr(t["residue.ptr"], t["residue.idx"], none), Csr(t["antibody.ptr"], t["antibody.idx"], none),
        *(t[k] for k in ("first", "length", "split", "cluster", "position", "region", "letter", "light")),
    )  # fmt: skip
