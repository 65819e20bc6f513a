"""The files of a library: FASTA, the AIRR Community's rearrangement table, plates, and the recipe for it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from antibody_sae.designs import picking
from antibody_sae.designs.library import Library
from antibody_sae.io import atomic

AIRR_REQUIRED = (
    "sequence_id", "sequence", "rev_comp", "productive", "v_call", "d_call", "j_call", "sequence_alignment",
    "germline_alignment", "junction", "junction_aa", "v_cigar", "d_cigar", "j_cigar",
)  # fmt: skip
"""Columns that a rearrangement table must have (AIRR Data Commons schema); those of nucleotides stay empty."""
_INTERNAL = ["side", "text"]


def airr(chains: pd.DataFrame) -> pd.DataFrame:
    """`Library.chains` as a rearrangement table: the required columns first, then everything else that is known."""
    table = chains.drop(columns=_INTERNAL, errors="ignore").assign(rev_comp="F", productive="T")
    for column in AIRR_REQUIRED:
        if column not in table:
            table[column] = ""
    return table[[*AIRR_REQUIRED, *(c for c in table if c not in AIRR_REQUIRED)]]


def picked(chains: pd.DataFrame, n: int) -> list[str]:
    """Names of at most n designs that lie far apart, best rank first (`picking.pick`)."""
    cells = chains.drop_duplicates("cell_id")
    chosen = picking.pick(picking.distances(cells["text"].tolist()), n)
    return cells["cell_id"].iloc[chosen].tolist()


def _text(table: pd.DataFrame, separator: str) -> str:
    text = io.StringIO()
    table.to_csv(text, sep=separator, index=False, lineterminator="\n")
    return text.getvalue()


def write(library: Library | pd.DataFrame, stem: str | Path, pick: int = 96, about: Mapping[str, Any] = {}) -> None:
    """Write stem.fasta, stem.tsv (AIRR) and stem-picked.csv (plates), each whole or not at all.

    `library` is a Library or its chains; `about` becomes columns of the table.
    """
    chains = library.chains if isinstance(library, Library) else library
    table = airr(chains).assign(**about)
    fasta = "".join(f">{row.sequence_id}\n{row.sequence_aa}\n" for row in chains.itertuples())
    plate = picking.plate(chains, picked(chains, pick))
    for suffix, text in ((".fasta", fasta), (".tsv", _text(table, "\t")), ("-picked.csv", _text(plate, ","))):
        with atomic(f"{stem}{suffix}") as part:
            part.write_text(text, encoding="utf-8")


PACKAGES = ("torch", "transformers", "numpy", "numba", "pyhmmer", "anarci")
"""What the arithmetic of writing and numbering depends on; a recipe names their versions."""


def recipe(
    config: Mapping[str, Any], code: str, provenance: Mapping[str, Any], levers: Mapping[str, str]
) -> dict[str, Any]:
    """What writes a library again: the configuration's parts (seed included), the hash of the code, the model's and the
    levers' hashes, and the versions of what the arithmetic depends on."""
    from importlib.metadata import version

    return {
        "config": dict(config),
        "code": code,
        "model": dict(provenance),
        "levers": dict(levers),
        "packages": {name: version(name) for name in PACKAGES},
    }
