"""Train, validation and test antibodies, whole clonotype clusters at a time.

A clonotype cluster is single linkage over antibodies with the same V gene, J gene and CDR3 length whose CDR3s agree
in at least `identity` of their positions. The heavy chain defines it where there is one: light chains are so often
public (identical in unrelated cells) that linking over them as well would join most of a paired data set into one
cluster. Two more rules keep near-duplicates on one side: antibodies with the same V family, J gene and the very same
CDR3 are one cluster (the V calls of one clone can differ between close genes), and the residues of a light chain that
training has seen, letter by letter, are left out of the validation and test masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numba
import numpy as np
import pandas as pd

from antibody_sae.io import InputError, read_parquet


def clonotypes(chains: pd.DataFrame, identity: float = 0.8) -> np.ndarray:
    """[n] cluster of each row, numbered by first appearance.

    `chains` has one row an antibody, the chain that defines its clonotype: v_gene, v_family, j_gene, cdr3.
    """
    text = chains[["v_gene", "v_family", "j_gene", "cdr3"]].fillna("")
    code = text.apply(lambda column: pd.factorize(column)[0])
    parent = np.arange(len(text))
    same = code.groupby(["v_family", "j_gene", "cdr3"], sort=False).ngroup().to_numpy()
    first = np.unique(same, return_index=True)[1]
    _join_all(parent, np.arange(len(text)), first[same])
    length = text["cdr3"].str.len().rename("length")
    for members in code.groupby(["v_gene", "j_gene", length]).indices.values():
        # Equal CDR3s are joined already: one of each stands for all.
        rows = np.asarray(members)
        rows = rows[np.unique(code["cdr3"].to_numpy()[rows], return_index=True)[1]]
        n = int(length.iloc[rows[0]])
        mismatches = int(np.floor(n * (1 - identity) + 1e-9))
        if len(rows) > 1 and mismatches:
            cdr3 = np.frombuffer("".join(text["cdr3"].iloc[rows]).encode(), np.uint8).reshape(len(rows), n)
            _join_similar(parent, rows, cdr3, mismatches)
    roots = np.array([_find(parent, i) for i in range(len(text))])
    return pd.factorize(roots)[0].astype(np.int64)


def _join_similar(parent: np.ndarray, rows: np.ndarray, cdr3: np.ndarray, mismatches: int) -> None:
    """Join the rows whose CDR3s [n, length] differ in at most `mismatches` positions.

    Two such CDR3s agree wholly on at least one of mismatches + 1 disjoint sets of positions, so only those in one
    bucket of such a set are compared. The sets share out the variable positions: a set of germline-encoded ones would
    put everything into one bucket.
    """
    n_values = [len(np.unique(column)) for column in cdr3.T]
    order = np.argsort(n_values, kind="stable")[::-1]
    for part in range(mismatches + 1):
        positions = order[part :: mismatches + 1]
        _, bucket = np.unique(cdr3[:, positions], axis=0, return_inverse=True)
        by_bucket = np.argsort(bucket, kind="stable")
        bounds = np.flatnonzero(np.diff(bucket[by_bucket], prepend=-1, append=-1))
        _join_buckets(parent, rows[by_bucket], cdr3[by_bucket], bounds, mismatches)


@numba.njit
def _find(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit
def _join_all(parent: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    for i in range(len(a)):
        parent[_find(parent, a[i])] = _find(parent, b[i])


@numba.njit
def _join_buckets(parent: np.ndarray, rows: np.ndarray, cdr3: np.ndarray, bounds: np.ndarray, mismatches: int) -> None:
    """Compare the members of each bucket [bounds[b], bounds[b + 1]) that no cluster joins yet."""
    for b in range(len(bounds) - 1):
        for i in range(bounds[b], bounds[b + 1]):
            for j in range(i + 1, bounds[b + 1]):
                different = 0
                for p in range(cdr3.shape[1]):
                    different += cdr3[i, p] != cdr3[j, p]
                    if different > mismatches:
                        break
                if different <= mismatches:
                    parent[_find(parent, rows[i])] = _find(parent, rows[j])


def assign(cluster: np.ndarray, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """[n] split of each antibody: clusters by size, each to the split that it fills least, equal sizes in random order;
    no split stays empty where there are clusters enough.

    Raises InputError where there are too few clusters for every split to get one.
    """
    ids, sizes = np.unique(cluster, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(ids))
    order = order[np.argsort(-sizes[order], kind="stable")]
    names = list(shares)
    target = np.array([shares[name] for name in names]) * len(cluster)
    filled = np.zeros(len(names))
    split_of = np.empty(len(ids), np.int64)
    for left, i in zip(range(len(order), 0, -1), order, strict=True):
        fill = (filled + sizes[i]) / target
        if (filled == 0).sum() >= left:
            fill[filled > 0] = np.inf  # of few clusters, the smallest are for the splits that have none
        split_of[i] = np.argmin(fill)
        filled[split_of[i]] += sizes[i]
    empty = [name for name, n in zip(names, filled, strict=True) if n == 0]
    if empty:
        raise InputError(
            f"splits: {len(cluster)} antibodies in {len(ids)} clonotype clusters leave {' and '.join(empty)} empty; "
            "every split needs one: use antibodies of more clonotypes, or smaller clusters: a higher splits.identity"
        )
    return np.array(names)[split_of[np.searchsorted(ids, cluster)]]


def split(
    chains: pd.DataFrame, light: pd.Series, identity: float, validation: float, test: float, seed: int
) -> pd.DataFrame:
    """antibody_id, cluster_id, split, light_in_train of the antibodies all of whose chains are ok.

    `light_in_train`: an antibody outside training whose light chain occurs in training, letter by letter.
    `chains` is chains.parquet; `light` is the light chains' residues by antibody_id.
    """
    bad = chains.loc[chains["status"] != "ok", "antibody_id"]
    usable = chains[~chains["antibody_id"].isin(bad)]
    # The heavy chain comes first within an antibody.
    defining = usable.drop_duplicates("antibody_id").reset_index(drop=True)
    if defining.empty:
        raise InputError(
            "numbering/chains.parquet, status: no antibody has all of its chains numbered; see the reasons there"
        )
    table = defining[["antibody_id"]].copy()
    table["cluster_id"] = clonotypes(defining, identity)
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    table["split"] = assign(table["cluster_id"].to_numpy(), shares, seed)
    residues = table["antibody_id"].map(light)
    in_train = table["split"] == "train"
    table["light_in_train"] = residues.isin(residues[in_train].dropna()) & ~in_train
    return table


def residue_mask(run_dir: str | Path, name: str) -> np.ndarray:
    """[n_residues] whether each residue_id belongs to a split ("train", "validation" or "test").

    Outside training, light chains that training has seen letter by letter are left out.
    """
    run = Path(run_dir)
    table = read_parquet(run / "splits" / "antibodies.parquet")
    chains = read_parquet(
        run / "numbering" / "chains.parquet", columns=["antibody_id", "side", "status", "length", "first_residue_id"]
    )
    chains = chains[chains["status"] == "ok"]
    chosen = table[table["split"] == name]
    keep = chains["antibody_id"].isin(chosen["antibody_id"])
    if name != "train":
        seen = chosen.loc[chosen["light_in_train"], "antibody_id"]
        keep &= ~((chains["side"] == "light") & chains["antibody_id"].isin(seen))
    # Chains with status ok lie end to end, in order.
    return np.repeat(keep.to_numpy(), chains["length"].to_numpy())
