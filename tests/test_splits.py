"""Clonotype clusters against brute force, splits that never share one, and near-linear time."""

import time

import numpy as np
import pandas as pd
import pytest
from antibody_sae import splits
from antibody_sae.antibody import SPLITS
from antibody_sae.io import InputError, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st

RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")


def clones(n: int, seed: int, families: int = 30) -> pd.DataFrame:
    """CDR3s in clones that mutate, over a few V and J genes."""
    rng = np.random.default_rng(seed)
    roots = ["".join(rng.choice(RESIDUES, rng.integers(4, 18))) for _ in range(families)]
    rows = []
    for _ in range(n):
        cdr3 = list(roots[rng.integers(families)])
        for position in rng.integers(0, len(cdr3), rng.integers(0, 5)):
            cdr3[position] = RESIDUES[rng.integers(20)]
        family = f"IGHV{rng.integers(1, 3)}"
        rows.append((f"{family}-{rng.integers(1, 3)}", family, f"IGHJ{rng.integers(1, 3)}", "".join(cdr3)))
    return pd.DataFrame(rows, columns=["v_gene", "v_family", "j_gene", "cdr3"])


def brute_force(table: pd.DataFrame, identity: float) -> np.ndarray:
    """Single linkage by comparing every pair."""
    rows = list(table.itertuples(index=False))
    cluster = list(range(len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows[:i]):
            equal = a.cdr3 == b.cdr3 and a.v_family == b.v_family
            near = a.v_gene == b.v_gene and len(a.cdr3) == len(b.cdr3)
            near = near and sum(x == y for x, y in zip(a.cdr3, b.cdr3, strict=True)) >= identity * len(a.cdr3) - 1e-9
            if a.j_gene == b.j_gene and (equal or near):
                old, new = cluster[i], cluster[j]
                cluster = [new if c == old else c for c in cluster]
    return pd.factorize(np.array(cluster))[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.9, 1.0]), st.integers(2, 120))
def test_clusters_are_those_of_brute_force(seed, identity, n):
    table = clones(n, seed, families=1 + n // 10)
    np.testing.assert_array_equal(splits.clonotypes(table, identity), brute_force(table, identity))


def test_clusters_do_not_depend_on_the_order():
    table = clones(400, 3)
    order = np.random.default_rng(0).permutation(len(table))
    straight = splits.clonotypes(table)
    shuffled = np.empty(len(table), int)
    shuffled[order] = splits.clonotypes(table.iloc[order].reset_index(drop=True))
    assert len(set(zip(straight, shuffled, strict=True))) == len(set(straight)) == len(set(shuffled))


@pytest.mark.parametrize("one_group", [False, True])
def test_a_hundred_thousand_chains_in_under_a_minute(one_group):
    rng = np.random.default_rng(0)
    n = 100_000
    middle = ["".join(row) for row in rng.choice(RESIDUES, (n, 9))]
    gene = ["IGHV3-23" if one_group else f"IGHV3-{i}" for i in rng.integers(0, 40, n)]
    table = pd.DataFrame(
        {"v_gene": gene, "v_family": "IGHV3", "j_gene": "IGHJ4", "cdr3": [f"AR{m}FDY" for m in middle]}
    )
    start = time.perf_counter()
    cluster = splits.clonotypes(table)
    split = splits.assign(cluster, {"train": 0.7, "validation": 0.15, "test": 0.15}, 0)
    assert time.perf_counter() - start < 60
    assert len(set(cluster)) > 0.9 * n
    assert abs((split == "test").mean() - 0.15) < 0.001


def test_shares_are_kept_and_the_seed_decides():
    cluster = splits.clonotypes(clones(3000, 1, families=300))
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    one, again, other = (splits.assign(cluster, shares, seed) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()
    for name, share in shares.items():
        assert abs((one == name).mean() - share) < 0.02
    # a cluster too large for a small split goes to training
    big = np.r_[np.zeros(500, int), 1 + np.arange(500)]
    assert set(splits.assign(big, shares, 0)[:500]) == {"train"}


@pytest.mark.parametrize("sizes", [[20, 20, 20, 20], [70, 8, 1], [5, 5, 5]])
def test_of_few_clusters_every_split_gets_one(sizes):
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    found = splits.assign(cluster, {"train": 0.7, "validation": 0.15, "test": 0.15}, seed=0)
    assert set(found) == {"train", "validation", "test"}
    assert (found == "train").sum() == max((found == name).sum() for name in set(found))


def test_too_few_clusters_say_so():
    with pytest.raises(InputError, match=r"3 antibodies in 1 clonotype clusters leave .*test.* empty; every"):
        splits.assign(np.zeros(3, int), {"train": 0.7, "validation": 0.15, "test": 0.15}, 0)


def paired(n: int = 300):
    """chains.parquet of pairs that share some light chains, and the light chains' residues."""
    heavy, light = clones(n, 5), clones(n, 6)
    light["v_gene"] = light["v_family"] = "IGKV1"
    ids = [f"antibody{i}" for i in range(n)]
    tables = [t.assign(antibody_id=ids, side=s, status="ok") for t, s in ((heavy, "heavy"), (light, "light"))]
    chains = pd.concat(tables).sort_values("antibody_id", kind="stable").reset_index(drop=True)
    chains.loc[chains.index[-1], "status"] = "no antibody domain found"
    chains["length"] = np.where(chains["status"] == "ok", 4, 7)
    ends = (chains["length"] * (chains["status"] == "ok")).cumsum()
    chains["first_residue_id"] = np.where(chains["status"] == "ok", ends - chains["length"], -1)
    residues = pd.Series([f"LIGHT{i % 50}" for i in range(n)], index=ids)
    return chains, residues


def test_no_cluster_and_no_seen_light_chain_on_two_sides(tmp_path):
    chains, light = paired()
    table = splits.split(chains, light, identity=0.8, validation=0.2, test=0.2, seed=1)
    assert set(chains.loc[chains["status"] != "ok", "antibody_id"]).isdisjoint(table["antibody_id"])
    assert len(table) == 299
    assert (table.groupby("cluster_id")["split"].nunique() == 1).all()
    heavy = chains[chains["side"] == "heavy"].set_index("antibody_id").loc[table["antibody_id"]]
    expected = brute_force(heavy.reset_index()[["v_gene", "v_family", "j_gene", "cdr3"]], 0.8)
    np.testing.assert_array_equal(table["cluster_id"], expected)

    write_parquet(table, tmp_path / "splits" / "antibodies.parquet")
    write_parquet(chains, tmp_path / "numbering" / "chains.parquet")
    masks = {name: splits.residue_mask(tmp_path, name) for name in SPLITS}
    total = chains.loc[chains["status"] == "ok", "length"].sum()
    assert all(len(mask) == total for mask in masks.values())
    assert (sum(mask.astype(int) for mask in masks.values()) <= 1).all()
    ok = chains[chains["status"] == "ok"]
    in_split = {name: ok[masks[name][ok["first_residue_id"].to_numpy()]] for name in SPLITS}
    trained = set(light[in_split["train"].query("side == 'light'")["antibody_id"]])
    for name in ("validation", "test"):
        evaluated = in_split[name].query("side == 'light'")["antibody_id"]
        assert trained.isdisjoint(light[evaluated])
        assert len(in_split[name].query("side == 'heavy'")) == (table["split"] == name).sum() > 0


def test_light_chains_alone_define_their_clonotypes():
    chains, light = paired()
    alone = chains[chains["side"] == "light"].reset_index(drop=True)
    unique = pd.Series([f"LIGHT{i}" for i in range(len(light))], index=light.index)
    table = splits.split(alone, unique, identity=1.0, validation=0.2, test=0.2, seed=1)
    assert not table["light_in_train"].any()
    assert table["cluster_id"].nunique() == alone.iloc[:-1].groupby(["j_gene", "cdr3"]).ngroups


def test_nothing_numbered_says_so():
    chains, light = paired(10)
    with pytest.raises(InputError, match="no antibody has all of its chains numbered"):
        splits.split(chains.assign(status="bad"), light, 0.8, 0.2, 0.2, 1)
