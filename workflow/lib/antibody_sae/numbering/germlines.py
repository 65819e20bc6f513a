"""Germline genes at IMGT positions: ANARCI's tables, mended where they are shifted, and the nearest to a chain."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from anarci.germlines import all_germlines

from antibody_sae.antibody import RESIDUES

_EXTRA = {("rhesus", "H"): (16, 28), ("rhesus", "K"): (21,), ("rat", "H"): (31, 104)}
"""Columns of ANARCI's V germlines that are no IMGT positions: gaps in all alleles (but a G that rhesus IGHV3-176*01 has
too much), left over from an alignment. Behind them every residue lies one or two positions too far: the cysteines of
rhesus heavy germlines at 24 and 106 instead of 23 and 104, of kappa at 24 and 105, of rat heavy at 23 and 106."""


class Germline(NamedTuple):
    """The V and J alleles nearest to a chain."""

    v_allele: str | None = None
    v_identity: float = float("nan")
    j_allele: str | None = None
    j_identity: float = float("nan")
    species: str | None = None
    v_genes_tied: tuple[str, ...] = ()
    """Every V gene of that species with an allele of this identity; the one of `v_allele` first."""


def gene(allele: str | None) -> str | None:
    """IGHV3-23*01 -> IGHV3-23."""
    return allele.split("*")[0] if allele else None


def family(allele: str | None) -> str | None:
    """IGHV3-23*01 -> IGHV3."""
    match = re.match(r"[A-Z]+\d+", allele or "")
    return match.group() if match else gene(allele)


@lru_cache(maxsize=64)
def alleles(segment: str, chain: str, species: str) -> dict[str, str]:
    """V or J alleles of a species and chain type (H, K, L): [128] residue at each IMGT position, '-' where none."""
    texts = all_germlines[segment][chain].get(species, {})
    extra = _EXTRA.get((species, chain), ()) if segment == "V" else ()
    if not extra:
        return dict(texts)
    return {
        name: "".join(residue for column, residue in enumerate(text, start=1) if column not in extra).ljust(128, "-")
        for name, text in texts.items()
    }


@lru_cache(maxsize=4096)
def residues(species: str | None, v_allele: str | None, j_allele: str | None) -> str:
    """[128] residue of the V or else the J allele at each IMGT position, '-' where neither has one."""
    v, j = (
        alleles(segment, allele[2], species)[allele] if allele and species else "-" * 128
        for segment, allele in (("V", v_allele), ("J", j_allele))
    )
    return "".join(a if a != "-" else b for a, b in zip(v, j, strict=True))


class _Table(NamedTuple):
    names: list[tuple[str, str]]
    """(species, allele), in ANARCI's order, which decides ties."""
    onehot: np.ndarray
    """[n_alleles, 128 * 20] float32."""
    lengths: np.ndarray
    """[n_alleles] residues of each allele, float64."""


def _onehot(aligned: np.ndarray) -> np.ndarray:
    """[n, 128] residue bytes -> [n, 128 * 20] float32."""
    letters = np.frombuffer(RESIDUES.encode(), np.uint8)
    same: np.ndarray = aligned[:, :, None] == letters
    return same.reshape(len(aligned), 128 * len(RESIDUES)).astype(np.float32)


@lru_cache(maxsize=64)
def _table(segment: str, chain: str, species: tuple[str, ...]) -> _Table:
    texts = {(one, name): text for one in species for name, text in alleles(segment, chain, one).items()}
    aligned = np.array([np.frombuffer(text.encode(), np.uint8) for text in texts.values()], np.uint8).reshape(-1, 128)
    onehot = _onehot(aligned)
    return _Table(list(texts), onehot, onehot.sum(axis=1).astype(np.float64))


def assign(aligned: np.ndarray, chain: str, species: tuple[str, ...]) -> list[Germline]:
    """The germlines of highest identity to each chain, J among the species of its V gene (ANARCI: run_germline_assignment).

    `aligned` is [n, 128], the residue (as a byte) in each match state. A species without V genes of this chain type
    takes no part (ANARCI gives no chain a germline then); without J genes of it, only V is assigned.
    """  # noqa: E501
    table = _table("V", chain, species)
    if not len(aligned) or not table.names:
        return [Germline()] * len(aligned)
    onehot = _onehot(aligned)
    result = _nearest_v(onehot, table)
    for one in {germline.species for germline in result}:
        assert one is not None
        table = _table("J", chain, (one,))
        rows = [row for row, germline in enumerate(result) if germline.species == one]
        if table.names:
            identity = _identity(onehot[rows], table)
            for row, best, values in zip(rows, identity.argmax(axis=1), identity, strict=True):
                result[row] = result[row]._replace(j_allele=table.names[best][1], j_identity=float(values[best]))
    return result


def _identity(onehot: np.ndarray, table: _Table) -> np.ndarray:
    """[n, n_alleles] float64; counts are exact in float32, so that equal identities compare equal."""
    shares: np.ndarray = (onehot @ table.onehot.T).astype(np.float64) / table.lengths
    return shares


def _nearest_v(onehot: np.ndarray, table: _Table) -> list[Germline]:
    found = []
    for values in _identity(onehot, table):
        tied = [table.names[i] for i in np.flatnonzero(values == values.max())]
        species, allele = tied[0]
        genes = tuple(dict.fromkeys(str(gene(name)) for one, name in tied if one == species))
        found.append(Germline(allele, float(values.max()), species=species, v_genes_tied=genes))
    return found
