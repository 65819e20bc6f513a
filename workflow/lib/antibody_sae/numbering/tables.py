"""The tables of a run's numbering: a row a chain, a row a residue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antibody_sae.antibody import REGIONS, SIDES
from antibody_sae.io import parquet_batches, parquet_writer, progress, write_json
from antibody_sae.numbering import germlines
from antibody_sae.numbering.anarci import INSERTIONS, Numbered, number
from antibody_sae.numbering.checks import FIRST, INCOMPLETE, OK, Checks

CHARGE = {"K": 1, "R": 1, "D": -1, "E": -1}
HYDROPATHY = dict(
    zip(
        "ARNDCQEGHILKMFPSTWYV",
        (
            1.8,
            -4.5,
            -3.5,
            -3.5,
            2.5,
            -3.5,
            -3.5,
            -0.4,
            -3.2,
            4.5,
            3.8,
            -3.9,
            1.9,
            2.8,
            -1.6,
            -0.8,
            -0.7,
            -0.9,
            -1.3,
            4.2,
        ),
        strict=True,
    )
)
"""Kyte & Doolittle 1982, doi:10.1016/0022-2836(82)90515-0."""
_CHAINS = pa.schema(
    [(name, pa.string()) for name in ("antibody_id", "side", "chain", "status")]
    + [(name, pa.int32()) for name in ("start", "end")]
    + [(name, pa.string()) for name in ("v_gene", "j_gene", "v_family", "v_allele", "j_allele")]
    + [("v_identity", pa.float64()), ("j_identity", pa.float64()), ("germline_species", pa.string())]
    + [("v_genes_tied", pa.string()), ("profile", pa.string()), ("conserved", pa.string())]
    + [("first_imgt", pa.int32()), ("last_imgt", pa.int32()), ("complete", pa.bool_())]
    + [("first_residue_id", pa.int64())]
    + [(name, pa.int32()) for name in ("length", "cdr1_length", "cdr2_length", "cdr3_length")]
    + [("cdr3", pa.string()), ("cdr3_charge", pa.float64()), ("cdr3_hydropathy", pa.float64())]
)
_ROWS = 1000  # antibodies at a time: about 200,000 residues


def net_charge(residues: Iterable[str]) -> int:
    """Sum of the residues' CHARGE."""
    return sum(CHARGE.get(residue, 0) for residue in residues)


def _residue_schema(scheme: str) -> pa.Schema:
    fields = [("antibody_id", pa.string()), ("chain", pa.string()), ("position", pa.int16()), ("residue", pa.string())]
    fields += [("imgt", pa.int16()), ("insertion", pa.string()), ("region", pa.string()), ("germline", pa.string())]
    if scheme != "imgt":
        fields += [("number", pa.int16()), ("number_insertion", pa.string())]
    return pa.schema(fields)


def number_chunk(
    antibodies: str | Path,
    chunk: int,
    chunks: int,
    species: Sequence[str],
    scheme: str,
    chains_path: str | Path,
    residues_path: str | Path,
    complete: bool = False,
) -> None:
    """Number the chunk-th of `chunks` equal parts of antibodies.parquet into a chains and a residues table.

    Both are as the merged ones, but residue ids count from the chunk's first residue. With `complete`, a chain that is
    no whole variable domain is not used: its status says at which end residues are missing.
    """
    with pq.ParquetFile(antibodies) as file:
        rows = file.metadata.num_rows
    start, stop = (rows * i // chunks for i in (chunk, chunk + 1))
    known: dict[str, Numbered] = {}
    first = 0
    batches = parquet_batches(antibodies, start, stop, ["antibody_id", "heavy", "light"], _ROWS)
    with (
        parquet_writer(chains_path, _CHAINS) as chains_file,
        parquet_writer(residues_path, _residue_schema(scheme)) as residues_file,
    ):
        for batch in progress(batches, -(-(stop - start) // _ROWS), f"numbering {stop - start} antibodies"):
            chains = [(row["antibody_id"], side, row[side]) for row in batch.to_pylist() for side in SIDES if row[side]]
            new = list(dict.fromkeys(chain for _, _, chain in chains if chain not in known))
            if len(known) + len(new) > 4 * _ROWS:
                known.clear()
                new = list(dict.fromkeys(chain for _, _, chain in chains))
            known.update(zip(new, number(new, species, scheme), strict=True))
            numbered = [_expect(known[chain], side, complete) for _, side, chain in chains]
            lengths = [len(c[2]) if n.status == OK else 0 for c, n in zip(chains, numbered, strict=True)]
            ends = first + np.cumsum([0, *lengths])
            chains_file.write_table(
                pa.Table.from_pylist(
                    [_chain_row(*c, n, int(e)) for c, n, e in zip(chains, numbered, ends, strict=False)], _CHAINS
                )
            )
            ok = [(c[0], c[2], n) for c, n in zip(chains, numbered, strict=True) if n.status == OK]
            if ok:
                residues_file.write_table(_residue_table(ok, scheme))
            first = int(ends[-1])


def _expect(numbered: Numbered, side: str, complete: bool) -> Numbered:
    """A heavy chain in the light column, or the reverse, is not used: the model would read it under a wrong tag."""
    if numbered.chain and numbered.chain not in SIDES[side]:
        return numbered._replace(status=f"chain type {numbered.chain} where a {side} chain was expected")
    if complete and numbered.status == OK and not numbered.complete:
        assert numbered.numbers is not None
        end = "start" if numbered.numbers.first not in FIRST else "end"
        return numbered._replace(status=INCOMPLETE.format(end=end))
    return numbered


def _chain_row(antibody: str, side: str, chain: str, numbered: Numbered, first: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "antibody_id": antibody, "side": side, "chain": numbered.chain, "status": numbered.status,
        "start": numbered.start, "end": numbered.end, "first_residue_id": -1, "length": len(chain),
        "profile": numbered.profile, "conserved": numbered.conserved, "complete": numbered.complete,
    }  # fmt: skip
    numbers, nearest = numbered.numbers, numbered.germline
    if numbers is None:
        return row
    row |= {"first_imgt": numbers.first, "last_imgt": numbers.last}
    if numbered.status != OK:
        return row
    domain = chain[numbered.start : numbered.end]
    cdr3 = "".join(residue for residue, region in zip(domain, numbers.region.tolist(), strict=True) if region == 5)
    return row | {
        "v_gene": germlines.gene(nearest.v_allele), "j_gene": germlines.gene(nearest.j_allele),
        "v_family": germlines.family(nearest.v_allele), "v_allele": nearest.v_allele, "j_allele": nearest.j_allele,
        "v_identity": None if nearest.v_allele is None else nearest.v_identity,
        "j_identity": None if nearest.j_allele is None else nearest.j_identity,
        "germline_species": nearest.species, "v_genes_tied": ",".join(nearest.v_genes_tied) or None,
        "first_residue_id": first, "cdr1_length": int((numbers.region == 1).sum()),
        "cdr2_length": int((numbers.region == 3).sum()), "cdr3_length": len(cdr3),
        "cdr3": cdr3, "cdr3_charge": float(net_charge(cdr3)),
        "cdr3_hydropathy": sum(HYDROPATHY.get(r, 0.0) for r in cdr3) / len(cdr3) if cdr3 else None,
    }  # fmt: skip


def _texts(codes: np.ndarray, values: Sequence[str], mask: np.ndarray | None = None) -> pa.Array:
    """Strings by index into `values`; null where `mask`."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=mask), pa.array(values, pa.string())).cast(pa.string())


def _residue_table(chains: Sequence[tuple[str, str, Numbered]], scheme: str) -> pa.Table:
    """Residues of chains (antibody_id, sequence, numbered) whose status is ok, end to end."""
    lengths = np.array([len(sequence) for _, sequence, _ in chains])
    total = int(lengths.sum())
    imgt, number_ = np.zeros(total, np.int16), np.zeros(total, np.int16)
    insertion, number_insertion = np.zeros(total, np.int8), np.zeros(total, np.int8)
    region = np.full(total, -1, np.int8)
    germline = np.full(total, ord("-"), np.uint8)
    starts = np.cumsum(lengths) - lengths
    for begin, (_, _, numbered) in zip(starts.tolist(), chains, strict=True):
        numbers = numbered.numbers
        assert numbers is not None
        domain = slice(begin + numbered.start, begin + numbered.end)
        imgt[domain], insertion[domain], region[domain] = numbers.imgt, numbers.insertion, numbers.region
        number_[domain], number_insertion[domain] = numbers.number, numbers.number_insertion
        nearest = numbered.germline
        text = germlines.residues(nearest.species, nearest.v_allele, nearest.j_allele)
        # An inserted residue has no counterpart in the germline's columns; number 0 is no position.
        columns = np.where(numbers.insertion == 0, numbers.imgt, 0)
        germline[domain] = np.frombuffer(("-" + text).encode(), np.uint8)[columns]
    outside = region < 0
    letters = [chr(i) for i in range(128)]
    owner = np.repeat(np.arange(len(chains)), lengths)
    table = {
        "antibody_id": _texts(owner, [antibody for antibody, _, _ in chains]),
        "chain": _texts(owner, [str(numbered.chain) for _, _, numbered in chains]),
        "position": pa.array(np.arange(total) - np.repeat(starts, lengths), pa.int16()),
        "residue": _texts(np.frombuffer("".join(sequence for _, sequence, _ in chains).encode(), np.uint8), letters),
        "imgt": pa.array(imgt, mask=imgt == 0),
        "insertion": _texts(insertion, INSERTIONS),
        "region": _texts(region, REGIONS, outside),
        "germline": _texts(germline, letters, germline == ord("-")),
    }
    if scheme != "imgt":
        table["number"] = pa.array(number_, mask=outside)
        table["number_insertion"] = _texts(number_insertion, INSERTIONS)
    return pa.table(table, _residue_schema(scheme))


def merge_chunks(
    chain_paths: Sequence[str | Path],
    residue_paths: Sequence[str | Path],
    scheme: str,
    chains_path: str | Path,
    residues_path: str | Path,
    summary_path: str | Path,
) -> dict[str, Any]:
    """Join the chunks' tables in order, so that row numbers of residues.parquet are residue ids.

    Returns and writes the summary (see `Checks.summary`). Raises InputError where no chain is ok, with the reasons,
    and where so many lack the conserved cysteines that the numbering itself must be wrong.
    """
    checks = Checks()
    first = 0
    with (
        parquet_writer(chains_path, _CHAINS) as chains_file,
        parquet_writer(residues_path, _residue_schema(scheme)) as residues_file,
    ):
        for chains, residues in zip(chain_paths, residue_paths, strict=True):
            for table in parquet_batches(chains, rows=_ROWS):
                ids = table["first_residue_id"].to_numpy()
                column = pa.array(np.where(ids < 0, ids, ids + first))
                index = table.schema.get_field_index("first_residue_id")
                chains_file.write_table(table.set_column(index, "first_residue_id", column))
                checks.add(table)
            for table in parquet_batches(residues, rows=200 * _ROWS):
                residues_file.write_table(table)
                first += table.num_rows
        checks.refuse(chains_path)
    summary = checks.summary()
    write_json(summary, summary_path)
    return summary
