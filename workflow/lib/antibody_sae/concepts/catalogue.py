"""The antibody concepts: declared in one place, and evaluated on any numbered antibodies.

A concept is a name `group=value`. `GROUPS` lists every group: the function that labels rows with its values, the words
and the chart that the report has for it, and the regions in which steering looks for it. A new concept is one entry
here; a column of the input is a line of config.yaml (`concepts.metadata`). Residue-level groups label residues,
antibody-level groups label antibodies. The same functions label the sequences that a steered model generated, so a
concept means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from antibody_sae.antibody import REGIONS
from antibody_sae.io import InputError

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection, MetadataColumn

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
Labelled = pd.Series | list[pd.Series]
"""One value (or null) a row, as strings; a list where a row can have several values of a group."""


def motif_regex(pattern: Sequence[str]) -> str:
    """A motif as a regular expression."""
    return "".join(f"[{letters}]" for letters in pattern)


@dataclass(frozen=True)
class Block:
    """Some antibodies with their chains and residues, rows in the files' order."""

    antibodies: pd.DataFrame
    """One row an antibody of splits/antibodies.parquet: its columns, and the input's metadata."""
    chains: pd.DataFrame
    residues: pd.DataFrame
    """All residues of `antibodies`."""
    settings: ConceptsSection
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

    def following(self, places: int) -> np.ndarray:
        """[residues] the residue so many places on in the same chain, "" beyond its end."""
        out = np.full(len(self.letter), "", dtype=object)
        if places < len(out):
            same = self.chain_number[places:] == self.chain_number[: len(out) - places]
            out[: len(out) - places] = np.where(same, self.letter[places:], "")
        return out


def _texts(flags: np.ndarray, values: Any) -> pd.Series:
    """`values` where flags, null elsewhere."""
    out = np.full(len(flags), None, dtype=object)
    out[flags] = values if isinstance(values, str) else np.asarray(values, dtype=object)[flags]
    return pd.Series(out)


def imgt_positions(b: Block) -> pd.Series:
    number = pd.Series(b.imgt).astype(str).to_numpy(dtype=object)
    names = b.side + number + b.residues["insertion"].fillna("").to_numpy(dtype=object)
    return _texts(b.imgt > 0, names)


def region_names(b: Block) -> pd.Series:
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
        for place, allowed in enumerate(pattern):
            residue = pd.Series(b.following(place))
            match = residue.isin(list(allowed.lstrip("^"))).to_numpy()
            start &= (~match if allowed[0] == "^" else match) & (residue != "").to_numpy()
        inside = start.copy()
        for place in range(1, len(pattern)):
            inside[place:] |= start[: len(start) - place]
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


def in_bins(values: pd.Series, edges: list[float], whole: bool | None = None) -> pd.Series:
    """Names of half-open bins: "<10", "10-14" (`whole` numbers; None: where these are) or "-1..0.5", ">=20"; null
    stays null."""
    edges = sorted(edges)
    numbers = pd.to_numeric(values, errors="coerce")
    whole = bool((numbers.dropna() % 1 == 0).all()) if whole is None else whole
    whole = whole and all(float(e).is_integer() for e in edges)
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


NO_VALUE = ("", "nan", "na", "n/a", "nd", "null", "-")
"""What a cell of a metadata column says where nothing is known ("None" is a value: OAS's donors without a disease)."""


def metadata_values(antibodies: pd.DataFrame, column: str) -> pd.Series:
    """A metadata column of the input as texts, null where it says nothing."""
    if column not in antibodies:
        have = ", ".join(sorted(map(str, antibodies.columns)))
        raise InputError(f"config: concepts.metadata.{column}: the input has no such column; it has {have}")
    texts = antibodies[column].map(_plain)
    return texts.where(antibodies[column].notna() & ~texts.str.strip().str.lower().isin(NO_VALUE), None)


def split_values(values: pd.Series, separator: str | None) -> pd.Series:
    """[rows] lists of the values of each cell, each once, none where the cell is null."""
    return values.map(
        lambda v: list(dict.fromkeys(filter(None, map(str.strip, v.split(separator) if separator else [v])))),
        na_action="ignore",
    )


def _metadata(column: str, entry: MetadataColumn) -> Callable[[Block], Labelled]:
    def label(b: Block) -> Labelled:
        values = metadata_values(b.antibodies, column)
        if entry.get("bins"):
            return in_bins(values, entry["bins"], entry.get("whole"))
        if not entry.get("split"):
            return values
        lists = split_values(values, entry["split"])
        return [lists.str.get(i) for i in range(int(lists.str.len().max()) if lists.notna().any() else 0)]

    return label


Regions = tuple[str, ...] | Callable[[str], tuple[str, ...]]
"""Some of REGIONS, or a function that gives them for a concept's value."""
UP_TO_CDR3, CDR3, CDR3_ON = REGIONS[:5], ("CDR3",), ("CDR3", "FR4")


def side_of(value: str) -> str:
    """Chain, "H" or "L", that a value of a sided group names (IGHJ4, H105:C, K); "" where it names none."""
    return {"H": "H", "K": "L", "L": "L"}.get(value.removeprefix("IG")[:1], "")


def _around(early: tuple[str, ...], late: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """`early` for values that name an IMGT number before CDR3 (C23, H26:S), `late` for the others."""
    return lambda value: early if int("".join(filter(str.isdigit, value.partition(":")[0]))) < 105 else late


def _named(value: str) -> tuple[str, ...]:
    return (value.partition("-")[2],)


@dataclass(frozen=True)
class Group:
    """One family of concepts, `name=value`. All that a group is lies here: the report's words and chart, and where in
    a chain steering looks for it."""

    name: str
    level: str
    """residue or antibody."""
    label: Callable[[Block], Labelled]
    meaning: str
    """In concepts/concepts.parquet."""
    read: Regions
    """Regions whose activations stand for a concept."""
    decided: Regions
    """Regions whose residues decide whether an antibody has it."""
    chart: str
    """The report's chart of best latents: a key of report.tabs.concepts.CHARTS."""
    words: str = "{group} {value}"
    """A concept in words. {value}: `H:18-21`; {side}: H; {rest}: 18-21, with comparisons as signs."""
    sided: bool = True
    """Whether values name their chain (H:18-21, H105:C, H-CDR3, IGHV3, K); others may lie in either."""
    heatmap: bool = False
    """Whether the report compares its latents with all concepts."""

    def regions(self, value: str) -> tuple[list[str], list[str]]:
        """(read, decided) of a value, as in SIDED_REGIONS."""
        sides = side_of(value) if self.sided else "HL"
        if not sides:
            raise InputError(f"{self.name}={value}: names no chain (H, K or L); concepts.parquet lists all concepts")
        found = [where(value) if callable(where) else where for where in (self.read, self.decided)]
        read, decided = ([f"{side}-{region}" for side in sides for region in regions] for regions in found)
        return read, decided


GROUPS = (
    Group(
        "region", "residue", region_names, "framework or CDR, of the heavy (H) or light (L) chain",
        read=_named, decided=_named, chart="regions", words="{value}", heatmap=True,
    ),
    Group(
        "residue", "residue", lambda b: b.residues["residue"], "amino acid",
        read=REGIONS, decided=REGIONS, chart="residues", sided=False,
    ),
    Group(
        "class", "residue", _classes, "IMGT physico-chemical class",
        read=REGIONS, decided=REGIONS, chart="residues", sided=False,
    ),
    Group(
        "motif", "residue", _motifs, "sequence liability; all residues of the motif",
        read=REGIONS, decided=REGIONS, chart="residues", words="{value}", sided=False,
    ),
    Group(
        "conserved", "residue", _conserved, "conserved residue at its IMGT position, present",
        read=_around(("FR1",), CDR3), decided=_around(UP_TO_CDR3, CDR3_ON), chart="regions", words="{value}",
        sided=False,
    ),
    Group(
        "cdr3-part", "residue", _cdr3_parts, "part of CDR3 that V, J or neither germline gives",
        read=CDR3, decided=CDR3_ON, chart="regions", words="CDR3 {value}", heatmap=True,
    ),
    Group(
        "germline", "residue", _germline, "same residue as the assigned germline, or mutated",
        read=REGIONS, decided=REGIONS, chart="regions", words="{value}", sided=False,
    ),
    Group(
        "chain", "residue", lambda b: b.residues["chain"], "heavy, kappa or lambda",
        read=("FR1",), decided=UP_TO_CDR3, chart="genes", heatmap=True,
    ),
    Group(
        "v-family", "antibody", _of_chains("v_family"), "V gene family",
        read=("FR1",), decided=UP_TO_CDR3, chart="genes", words="{value}", heatmap=True,
    ),
    Group(
        "v-gene", "antibody", _of_chains("v_gene"), "V gene",
        read=("FR1",), decided=UP_TO_CDR3, chart="vgenes", words="{value}",
    ),
    Group(
        "j-gene", "antibody", _of_chains("j_gene"), "J gene",
        read=CDR3, decided=CDR3_ON, chart="genes", words="{value}", heatmap=True,
    ),
    Group(
        "light-locus", "antibody", _locus, "kappa or lambda",
        read=("FR1",), decided=UP_TO_CDR3, chart="genes", heatmap=True,
    ),
    Group(
        "cdr1-length", "antibody", _of_chains("cdr1_length"), "residues in CDR1",
        read=("FR1",), decided=UP_TO_CDR3, chart="cdrs", words="CDR-{side}1 length {rest}",
    ),
    Group(
        "cdr2-length", "antibody", _of_chains("cdr2_length"), "residues in CDR2",
        read=("FR1",), decided=UP_TO_CDR3, chart="cdrs", words="CDR-{side}2 length {rest}",
    ),
    Group(
        "cdr3-length", "antibody", _of_chains("cdr3_length", binned=True), "residues in CDR3",
        read=CDR3, decided=CDR3_ON, chart="cdrs", words="CDR-{side}3 length {rest}", heatmap=True,
    ),
    Group(
        "cdr3-charge", "antibody", _of_chains("cdr3_charge", binned=True), "net charge of CDR3",
        read=CDR3, decided=CDR3_ON, chart="cdrs", words="CDR-{side}3 charge {rest}", heatmap=True,
    ),
    Group(
        "cdr3-hydropathy", "antibody", _of_chains("cdr3_hydropathy", binned=True), "mean Kyte-Doolittle of CDR3",
        read=CDR3, decided=CDR3_ON, chart="cdrs", words="CDR-{side}3 hydropathy {rest}",
    ),
    Group(
        "v-identity", "antibody", _of_chains("v_identity", binned=True), "share of V residues that are germline",
        read=("FR1",), decided=UP_TO_CDR3, chart="cdrs", words="V identity {rest}",
    ),
    Group(
        "species", "antibody", lambda b: b.antibodies["species"], "species",
        read=REGIONS, decided=REGIONS, chart="others", sided=False,
    ),
)  # fmt: skip
PAIRS = Group(
    "position", "residue", imgt_positions, "amino acid at an IMGT position",
    read=_around(("FR1",), CDR3), decided=_around(UP_TO_CDR3, CDR3_ON), chart="positions", words="{rest} at {side}",
)  # fmt: skip
"""Labelled apart: which pairs are frequent is known only after all of the training split was read."""
BY_NAME = {group.name: group for group in (*GROUPS, PAIRS)}


def groups(settings: ConceptsSection) -> list[Group]:
    """All groups of a run, metadata columns included."""
    for column in BY_NAME.keys() & set(settings["metadata"]):
        raise InputError(
            f"config: concepts.metadata.{column}: the catalogue has a group of this name already; rename the column"
        )
    return [*GROUPS, *(_column(name, entry or {}) for name, entry in settings["metadata"].items())]


def _column(name: str, entry: MetadataColumn) -> Group:
    """A column of the input as a group."""
    return Group(
        name, "antibody", _metadata(name, entry), "column of the input",
        read=REGIONS, decided=REGIONS, chart="others", sided=False,
    )  # fmt: skip


def group_of(concept: str) -> Group:
    """The group of a concept `group=value`; what the catalogue has no group for is a column of the input."""
    name = concept.partition("=")[0]
    return BY_NAME.get(name) or _column(name, {})


def concept_label(concept: str) -> str:
    """`j-gene=IGHJ4` is IGHJ4, `cdr3-length=H:18-21` is CDR-H3 length 18-21."""
    group, _, value = concept.partition("=")
    side, _, rest = value.partition(":")
    rest = rest.replace(">=", "≥ ").replace("<", "< ").replace("..", " to ")
    return group_of(concept).words.format(group=group, value=value, side=side, rest=rest)
