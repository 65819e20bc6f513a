"""What a run steers towards: the targets, the antibodies to choose on, and where in a chain a target is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antibody_sae.antibody import REGIONS, SIDED_REGIONS, SPLITS
from antibody_sae.concepts import catalogue
from antibody_sae.io import InputError, read_json

if TYPE_CHECKING:
    from antibody_sae.concepts.labels import Labels

PANEL = 4000
"""Antibodies at most that candidates are chosen on, evenly spaced over the run's, so that memory stays bounded."""


@dataclass(frozen=True)
class Panel:
    """Antibodies that candidates are chosen and associations measured on."""

    rows: np.ndarray
    """[n] rows of the labels' antibodies."""
    has: np.ndarray
    """[n, targets] bool."""
    test: np.ndarray
    """[n] bool: measured on, never chosen on."""
    targets: list[str]


PREVALENCE = (0.05, 0.5)
"""Share of the antibodies that a target chosen by the rule has."""
NEAREST = 0.25
"""Share that it has as nearly as its group allows."""


def chains_of(targets: Sequence[str], passages: Sequence[str]) -> dict[str, str]:
    """{target: chains that are written to steer it}. `passages` is what the model writes of an antibody: all of it at
    once ("HL", "H", "L"), or its chains one at a time ("H" and "L"), of which a target is steered in its own."""
    if len(passages) == 1:
        return dict.fromkeys(targets, passages[0])
    return {target: catalogue.side_of(target.partition("=")[2]) for target in targets}


def by_chains(targets: Mapping[str, str]) -> dict[str, list[str]]:
    """{chains: targets that are steered in them}"""
    return {chains: [t for t, own in targets.items() if own == chains] for chains in dict.fromkeys(targets.values())}


def read(path: str | Path) -> dict[str, str]:
    """steering/targets.json as {target: chains}, in the order of every array by target."""
    found = read_json(path)
    return dict(zip(found["targets"], found["chains"], strict=True))


def automatic(labels: Labels, side: str, unsided: bool = True) -> dict[str, float]:
    """{target: prevalence} by the protocol's rule, of the heavy or light chain (`side` "H" or "L"); `unsided`: with
    motifs, which may lie in either.

    Of each group of concepts that exclude each other (V families, J genes, bins of CDR3 length, net charge, hydropathy
    and V identity, motifs, residues at a position of CDR3, and of the rest) the value that is nearest to NEAREST, if
    it lies within PREVALENCE. Raises InputError where no group has one.
    """
    genes, ends = (("IGH",), "H") if side == "H" else (("IGK", "IGL"), "L")
    best: dict[str, tuple[float, str]] = {}
    shares: dict[str, float] = {}
    for name in [*labels.antibody_names, *labels.residue_names]:
        group, _, value = name.partition("=")
        if group in ("v-family", "j-gene"):
            mine = value.startswith(genes)
        elif group in ("cdr3-length", "cdr3-charge", "cdr3-hydropathy", "v-identity", "position"):
            mine = value.startswith(ends)
        else:
            mine = group == "motif" and unsided
        if not mine:
            continue
        if group == "position":
            number = int("".join(filter(str.isdigit, value.partition(":")[0])))
            group = "position in CDR3" if 105 <= number <= 117 else "position outside"
        shares[name] = float(labels.having(name).mean())
        if PREVALENCE[0] <= shares[name] <= PREVALENCE[1]:
            best[group] = min(best.get(group, (1.0, "")), (abs(shares[name] - NEAREST), name))
    if not best:
        raise InputError("steering.targets: auto finds no concept that 5 to 50 % of the antibodies have; name some")
    return {name: shares[name] for _, name in best.values()}


def panel(labels: Labels, targets: Sequence[str]) -> Panel:
    """At most PANEL antibodies, evenly spaced. Raises InputError for a target that no antibody, or every one, has."""
    known = [*labels.antibody_names, *labels.residue_names]
    for target in targets:
        if target not in known:
            group = target.partition("=")[0]
            near = [name for name in known if name.partition("=")[0] == group] or sorted(
                {n.partition("=")[0] for n in known}
            )
            raise InputError(
                f"steering.targets: {target!r} is no concept of this run; there are {', '.join(near[:30])}"
            )
    n = len(labels.first)
    rows = np.unique(np.linspace(0, n - 1, min(n, PANEL)).round().astype(np.int64))
    has = np.stack([labels.having(target)[rows] for target in targets], 1)
    test = labels.split[rows] == SPLITS.index("test")
    for j, target in enumerate(targets):
        positives = int(has[~test, j].sum())
        if positives < 5 or positives > (~test).sum() - 5:
            raise InputError(
                f"steering.targets: {positives} of {(~test).sum()} antibodies to choose on have {target}; that is too "
                "few to compare: take another target, or more antibodies"
            )
    return Panel(rows, has, test, list(targets))


def context(target: str) -> tuple[list[int], list[int]]:
    """(regions whose activations stand for a target, regions whose residues decide it), as indices into SIDED_REGIONS.

    Raises InputError for a column of the input: generated sequences do not have it.
    """
    group, value = catalogue.group_of(target), target.partition("=")[2]
    if group.name not in catalogue.BY_NAME:
        raise InputError(
            f"steering.targets: {target!r}: {group.name} is a column of the input, which generated sequences do not "
            f"have; take a concept of the groups {', '.join(catalogue.BY_NAME)}"
        )
    read, decided = group.regions(value)
    return [SIDED_REGIONS.index(r) for r in read], [SIDED_REGIONS.index(r) for r in decided]


def typical_counts(labels: Labels, panel: Panel, side: str) -> dict[str, tuple[int, int]]:
    """Region -> (median residues of the chain before it, up to its end), for Where; `side` is "H" or "L"."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i in panel.rows[~panel.test][:1000]:
        region = labels.region[labels.first[i] : labels.first[i] + labels.length[i]]
        light = labels.light[labels.first[i] : labels.first[i] + labels.length[i]]
        region = region[light == (side == "L")]
        for name in REGIONS:
            at = np.flatnonzero(region == SIDED_REGIONS.index(f"{side}-{name}"))
            if len(at):
                found.setdefault(name, []).append((int(at[0]), int(at[-1]) + 1))
    return {
        name: (int(np.median([a for a, _ in ends])), int(np.median([b for _, b in ends])))
        for name, ends in found.items()
    }
