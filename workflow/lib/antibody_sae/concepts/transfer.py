"""Do findings travel? SAEs of two runs of one model, each judged on the other's test antibodies.

A run's latents, pools and thresholds are those that its own associations chose on validation; nothing is chosen abroad.
Antibodies that the other run's SAE was trained on, or whose clonotype it was, are left out, and both are judged on the
chains alone that both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from antibody_sae.activations import Store
from antibody_sae.concepts.codes import ENCODE, VIEWS, CodeFile, codes_of, encode, of_antibodies
from antibody_sae.concepts.dictionaries import ALIKE
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Floats, codes_csr, take_rows
from antibody_sae.concepts.scoring import Bootstrap, Tally, raise_maximum
from antibody_sae.io import InputError
from antibody_sae.sae import evaluation
from antibody_sae.sae.model import SAE

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection

LIGHT = {"heavy": 0, "light": 1}
"""A chain's side -> what Labels.light says of its residues."""
TRAIN, TEST, NOWHERE = 0, 2, 3
"""Splits in Labels.split; antibodies in NOWHERE are judged by nobody."""


@dataclass(frozen=True)
class Side:
    """An SAE's run as it is seen here."""

    name: str
    """Of the run."""
    seed: int
    """Of the SAE."""
    store: Store
    sae: SAE
    labels: Labels
    best: pd.DataFrame
    """Its best.parquet."""
    held_out: np.ndarray
    """[residues] whether a residue is one of its test split (splits.residue_mask)."""
    clonotypes: pd.DataFrame
    """antibody_id and the clonotype of each antibody."""


def clonotypes(chains: pd.DataFrame) -> pd.DataFrame:
    """antibody_id and clonotype (V family, J gene, CDR3 of the heavy, else of the light chain) of chains.parquet."""
    first = chains[chains["status"] == "ok"].drop_duplicates("antibody_id")
    text = first[["v_family", "j_gene", "cdr3"]].fillna("").agg("|".join, axis=1)
    return pd.DataFrame({"antibody_id": first["antibody_id"], "clonotype": text})


def without_seen(side: Side, other: Side) -> Side:
    """`side` without the test antibodies that `other` was trained on: the same residues, or the same clonotype."""
    trained = pd.Series(other.labels.ids[other.labels.split == TRAIN])
    seen = set(trained) | set(other.clonotypes.set_index("antibody_id")["clonotype"].reindex(trained).dropna())
    own = side.clonotypes.set_index("antibody_id")["clonotype"].reindex(side.labels.ids)
    known = np.isin(side.labels.ids, list(seen)) | own.isin(seen).to_numpy()
    split = np.where(known & (side.labels.split == TEST), NOWHERE, side.labels.split)
    held_out = side.held_out & ~of_antibodies(side.labels, split == NOWHERE)
    return replace(side, labels=replace(side.labels, split=split), held_out=held_out)


def common_chains(one: Side, other: Side) -> list[str]:
    """Chains, heavy or light, of which both runs hold out residues. Raises InputError where there are none."""

    def holds(side: Side, light: int) -> bool:
        return bool((side.held_out & (side.labels.light == light)).any())

    found = [name for name, light in LIGHT.items() if holds(one, light) and holds(other, light)]
    if not found:
        raise InputError(
            f"transfer.from: {one.name} and {other.name} hold out no chain of the same kind (heavy or light) that the "
            "other has not seen in training: there is nothing to judge on"
        )
    return found


def fvu(sae: SAE, on: Side, chain: str) -> float:
    """Fraction of variance unexplained on the held-out residues of heavy or light chains."""
    keep = on.held_out & (on.labels.light == LIGHT[chain])
    return float(evaluation.evaluate(sae, on.store, keep)["fvu"])


# -- F1 of what was chosen at home ------------------------------------------------------------------------------------


def _codes(sae: SAE, on: Side, chains: Sequence[str], split: int) -> CodeFile:
    """The SAE's codes of the residues of some chains and one split of a run."""
    mine = np.isin(on.labels.light, [LIGHT[chain] for chain in chains])
    return encode(sae, on.store, on.labels, mine & of_antibodies(on.labels, on.labels.split == split))


def scales(home: Side) -> list[Floats]:
    """Of each view a latent's largest value on its run's training split, of which thresholds are shares."""
    largest = [np.zeros(home.sae.latents, np.float32) for _ in VIEWS]
    for block in _codes(home.sae, home, list(LIGHT), TRAIN).blocks(TRAIN):
        pools = block.pooled(home.sae.latents)
        for matrix, scale in zip((block.codes, pools["max"], pools["mean"]), largest, strict=True):
            raise_maximum(matrix.idx, matrix.val, scale)
    return largest


def testable(one: Side, other: Side) -> pd.DataFrame:
    """concept and level of what could be tested in both runs."""
    found = [side.best.loc[side.best["latent"].notna(), ["concept", "level"]] for side in (one, other)]
    return found[0].merge(found[1])


class JudgedConcepts(NamedTuple):
    """A run's best latents on some run's test antibodies."""

    table: pd.DataFrame
    """One row a concept: concept, level, pool, latent, f1, f1_low, f1_high, always_yes,
    positives."""
    draws: Floats
    """[replicates, concepts] F1 of each draw of clusters; the same draws for each SAE judged on the same antibodies."""


def judge(
    home: Side,
    on: Side,
    chains: Sequence[str],
    concepts: pd.DataFrame,
    largest: Sequence[Floats],
    settings: ConceptsSection,
) -> JudgedConcepts:
    """F1 of the best latents of `home`, at its thresholds, on the test antibodies of `on`.

    `concepts` from `testable`, `largest` from `scales`, `settings` the section `concepts:`.
    """
    chosen = home.best.merge(concepts, on=["concept", "level"])
    codes, k, frames, draws = _codes(home.sae, on, chains, TEST), home.sae.latents, [], []
    for (level, pool), scale in zip(VIEWS, largest, strict=True):
        own = chosen[(chosen["level"] == level) & (chosen["pool"] == pool)].reset_index(drop=True)
        names = on.labels.names(level)
        j, cut = own["latent"].to_numpy(np.int64), own["threshold"].to_numpy(np.float32)
        c = np.array([names.index(name) for name in own["concept"]], np.int64)
        grid = np.unique(cut) if len(cut) else np.zeros(1, np.float32)
        tally = Tally(k, len(names), grid, moments=False)
        boot = Bootstrap(j, c, cut * scale[j], k, settings["bootstrap"], settings["seed"])
        for block in codes.blocks(TEST):
            group = np.repeat(np.arange(len(block.clusters) - 1), np.diff(block.clusters))
            if level == "residue":
                matrix, labels = block.codes, take_rows(on.labels.residue, block.ids)
                group = np.repeat(group, np.diff(block.offsets))
            else:
                matrix, labels = block.pooled(k)[pool], take_rows(on.labels.antibody, block.antibodies)
            tally.add(matrix, labels, scale)
            clusters = on.labels.cluster[block.antibodies[block.clusters[:-1]]]
            boot.add(matrix, labels, group, clusters, len(names))
        f1 = tally.f1()[j, np.searchsorted(grid, cut), c]
        low, high = boot.interval()
        positives = tally.positives[c]
        yes = 2 * positives / np.maximum(positives + tally.rows, 1)
        frames.append(
            own[["concept", "level", "pool", "latent"]].assign(
                f1=f1, f1_low=low, f1_high=high, always_yes=yes, positives=positives
            )
        )
        replicates = np.empty(boot.sums[:, 0].shape)
        replicates[:, boot.order] = 2 * boot.sums[:, 0] / np.maximum(boot.sums[:, 1] + boot.sums[:, 2], 1)
        draws.append(replicates)
    table, together = pd.concat(frames, ignore_index=True), np.concatenate(draws, 1)
    order = table.sort_values(["level", "concept"], kind="stable").index
    return JudgedConcepts(table.loc[order].reset_index(drop=True), together[:, order])


# -- are they the same latents? ---------------------------------------------------------------------------------------


class Matched(NamedTuple):
    """How the latents of two SAEs go together."""

    cosine: Floats
    """[K, K'] of their decoder directions."""
    correlation: Floats
    """[K, K'] of their activations on held-out residues of both runs; 0 where one never fires."""
    chance: Floats
    """[K, K'] the same with the other's residues in another order."""
    alive: tuple[np.ndarray, np.ndarray]
    """[K], [K'] bool: fires there."""


def match(one: Side, other: Side, chains: Sequence[str], seed: int) -> Matched:
    """Decoder and activations of both SAEs on the held-out residues of some chains of both runs."""
    rng = np.random.default_rng(seed)
    saes = one.sae, other.sae
    n, sums = 0, [np.zeros((2, sae.latents)) for sae in saes]
    products = [np.zeros((saes[0].latents, saes[1].latents)) for _ in range(2)]
    light = [LIGHT[chain] for chain in chains]
    for side in (one, other):
        keep = side.held_out & np.isin(side.labels.light, light)
        for x, ids in side.store.blocks(ENCODE):
            rows = x[np.flatnonzero(keep[ids])]
            if not len(rows):
                continue
            codes = [_matrix(sae, rows) for sae in saes]
            for matrix, total in zip(codes, sums, strict=True):
                total += np.stack([matrix.sum(0), matrix.multiply(matrix).sum(0)])
            turned = codes[1][rng.permutation(len(rows))]
            for product, second in zip(products, (codes[1], turned), strict=True):
                product += (codes[0].T @ second).toarray()
            n += len(rows)
    mean = [total[0] / max(n, 1) for total in sums]
    deviation = [np.sqrt(np.maximum(total[1] / max(n, 1) - m**2, 0)) for total, m in zip(sums, mean, strict=True)]
    scale = np.outer(*deviation)
    correlations = [
        np.divide(product / max(n, 1) - np.outer(*mean), scale, out=np.zeros_like(scale), where=scale > 0)
        for product in products
    ]
    cosine = (one.sae.directions @ other.sae.directions.T).numpy()
    alive = (sums[0][0] > 0, sums[1][0] > 0)
    return Matched(cosine, correlations[0], correlations[1], alive)


def _matrix(sae: SAE, x: Any) -> sparse.csr_array:
    codes = codes_csr(*codes_of(sae, x))
    matrix = sparse.csr_array((codes.val.astype(np.float64), codes.idx, codes.ptr), (len(x), sae.latents))
    matrix.sum_duplicates()  # inactive entries all say latent 0
    return matrix


def pairs(matched: Matched) -> pd.DataFrame:
    """One row a latent that has a partner under the best one-to-one matching of the latents that fire.

    latent, by_decoder and cosine, by_activation and correlation, chance (the correlation of such a matching where
    residues are shuffled), agree (both matchings name the same latent).
    """
    one, other = (np.flatnonzero(alive) for alive in matched.alive)
    found: dict[str, Any] = {"latent": one}
    for how, values in (("decoder", matched.cosine), ("activation", matched.correlation), ("chance", matched.chance)):
        rows, columns = linear_sum_assignment(values[np.ix_(one, other)], maximize=True)
        partner = np.full(len(one), -1, np.int64)
        partner[rows] = other[columns]
        found[how] = partner
    table = pd.DataFrame(found)
    table = table[(table["decoder"] >= 0) & (table["activation"] >= 0)].reset_index(drop=True)
    latent, by_decoder, by_activation, chance = (table[name].to_numpy() for name in table)
    return pd.DataFrame(
        {
            "latent": latent, "by_decoder": by_decoder, "cosine": matched.cosine[latent, by_decoder],
            "by_activation": by_activation, "correlation": matched.correlation[latent, by_activation],
            "chance": matched.chance[latent, chance], "agree": by_decoder == by_activation,
        }
    )  # fmt: skip


# -- the tables -------------------------------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """What one SAE's name holds in two runs."""

    summary: pd.DataFrame
    """One row a run that the SAE is from (found_in, judged_on): FVU at home and abroad by chain, mean F1 of the best
    latents at home and abroad and of the other run's own latents there, and what the two have in common."""
    concepts: pd.DataFrame
    """One row a run that the SAE is from, and a concept."""
    latents: pd.DataFrame
    """`pairs` of the first run's latents."""


def transfer(one: Side, other: Side, settings: ConceptsSection) -> Transfer:
    """Each run's SAE on the other's test antibodies; `settings` is the section `concepts:` of this run."""
    one, other = without_seen(one, other), without_seen(other, one)
    chains = common_chains(one, other)
    matched = match(one, other, chains, settings["seed"])
    latents, concepts = pairs(matched), testable(one, other)
    sides, largest = (one, other), [scales(side) for side in (one, other)]
    judged = {
        (a, b): judge(sides[a], sides[b], chains, concepts, largest[a], settings) for a in range(2) for b in range(2)
    }  # fmt: skip
    summaries, frames = [], []
    for a, b in ((0, 1), (1, 0)):
        home, abroad, native = judged[a, a], judged[a, b], judged[b, b]
        row: dict[str, Any] = {"found_in": sides[a].name, "judged_on": sides[b].name}
        row |= {"seed": sides[a].seed, "other_seed": sides[b].seed}
        for chain in LIGHT:
            here = chain in chains
            row[f"fvu_{chain}_home"] = fvu(sides[a].sae, sides[a], chain) if here else np.nan
            row[f"fvu_{chain}_abroad"] = fvu(sides[a].sae, sides[b], chain) if here else np.nan
        row["concepts"] = len(abroad.table)
        for name, part in (("home", home), ("abroad", abroad), ("native", native)):
            row |= _mean(f"f1_{name}", part.draws, part.table["f1"])
        row |= _mean("difference", abroad.draws - native.draws, abroad.table["f1"] - native.table["f1"])
        row |= _in_common(latents)
        summaries.append(row)
        table = home.table[["concept", "level", "pool", "latent", "f1"]].rename(columns={"f1": "f1_home"})
        table["f1_abroad"] = abroad.table["f1"]
        table["f1_abroad_low"], table["f1_abroad_high"] = abroad.table["f1_low"], abroad.table["f1_high"]
        table["always_yes"], table["positives"] = abroad.table["always_yes"], abroad.table["positives"]
        theirs = native.table["latent"].to_numpy(np.int64)
        table["native_latent"], table["f1_native"] = theirs, native.table["f1"]
        low, high = _bounds(abroad.draws - native.draws)
        table["difference"] = abroad.table["f1"] - native.table["f1"]
        table["difference_low"], table["difference_high"] = low, high
        at = (table["latent"].to_numpy(np.int64), theirs)[:: 1 if a == 0 else -1]
        table["cosine"], table["correlation"] = matched.cosine[at], matched.correlation[at]
        table.insert(0, "found_in", sides[a].name)
        table.insert(1, "judged_on", sides[b].name)
        table.insert(2, "seed", sides[a].seed)
        frames.append(table)
    return Transfer(pd.DataFrame(summaries), pd.concat(frames, ignore_index=True), latents)


def _bounds(draws: Floats) -> tuple[Any, Any]:
    """95 % percentile interval along the replicates."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return low, high


def _mean(name: str, draws: Floats, values: pd.Series) -> dict[str, float]:
    """The mean over concepts with its interval over the test antibodies' clusters."""
    if not len(values):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    low, high = _bounds(draws.mean(1))
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _in_common(latents: pd.DataFrame) -> dict[str, float]:
    """Means over the matched latents, and the shares that are the same; same_index is the share whose partner by
    decoder has the same index, as latents of SAEs that started from the same directions (of equal seeds) have."""
    by_decoder, by_activation = latents["cosine"] >= ALIKE, latents["correlation"] >= ALIKE
    by_both = by_decoder & by_activation & latents["agree"]
    return {
        "matched": len(latents), "cosine": latents["cosine"].mean(), "correlation": latents["correlation"].mean(),
        "chance": latents["chance"].mean(), "same_by_decoder": by_decoder.mean(),
        "same_by_activation": by_activation.mean(), "same_by_both": by_both.mean(),
        "same_index": (latents["latent"] == latents["by_decoder"]).mean(),
    }  # fmt: skip
