"""What became of the written sequences: numbering, concepts, distance to training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from antibody_sae.antibody import LETTERS
from antibody_sae.concepts import catalogue, labelling
from antibody_sae.concepts.labels import Labels
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.numbering import tables as numbering_tables
from antibody_sae.numbering.anarci import split_chains

if TYPE_CHECKING:
    from antibody_sae.sections import ConceptsSection, LabelSections, NumberingSection, Writing

NEIGHBOURS = 2000
"""Training sequences at most, evenly spaced, among which a designed sequence's nearest is looked for."""


def training_sequences(antibodies: pd.DataFrame, splits: pd.DataFrame, chains: str) -> list[str]:
    """At most NEIGHBOURS training antibodies, evenly spaced, as the model writes them (heavy and light together)."""
    train = splits.loc[splits["split"] == "train", "antibody_id"]
    table = antibodies[antibodies["antibody_id"].isin(train)]
    sides = [table[LETTERS[letter]].fillna("") for letter in chains]
    joined: Any = sides[0] if len(sides) == 1 else sides[0] + sides[1]
    texts = [str(text) for text in joined if text]
    n = min(len(texts), NEIGHBOURS)
    return [texts[i * len(texts) // n] for i in range(n)]


def mean_log_likelihood(texts: Sequence[str], each: np.ndarray) -> float:
    """Over all tokens (residues and stop) of texts whose means are `each` [texts]; nan ones, whose texts have no
    residues, are left out, and where there are no others it is nan."""
    size, known = np.array([len(text) + 1.0 for text in texts]), ~np.isnan(each)
    return float(np.average(each[known], weights=size[known])) if known.any() else float("nan")


def frequent(labels: Labels) -> list[str]:
    """Antibody-level concepts that between 2 and 98 % of the antibodies have: the side effects that are watched."""
    share = np.bincount(labels.antibody.idx, minlength=len(labels.antibody_names)) / max(1, len(labels.first))
    return [name for name, s in zip(labels.antibody_names, share, strict=True) if 0.02 <= s <= 0.98]


@dataclass(frozen=True)
class NumberedTexts:
    """Distinct texts that a model wrote, numbered."""

    antibodies: pd.DataFrame
    """One row a text: text, antibody_id, heavy, light, valid (complete domains, their cysteines in place)."""
    chains: pd.DataFrame
    """As numbering/chains.parquet, of all texts."""
    residues: pd.DataFrame
    """As numbering/residues.parquet, of the valid ones."""


def number_texts(texts: Iterable[str], writing: Writing, settings: NumberingSection) -> NumberedTexts:
    """Number each distinct text once; `settings` is the `numbering` section (species, scheme).

    Incomplete domains are not valid, unless `writing` says that the model need not write complete ones; nor are pairs
    without one of their chains.
    """
    whole = writing.get("complete", True)
    distinct = list(dict.fromkeys(texts))
    pairs = split_chains(distinct, writing["chains"], settings["species"])
    columns: dict[str, Any] = {"antibody_id": [f"s{i}" for i in range(len(distinct))], "text": distinct}
    columns |= {"heavy": [heavy for heavy, _ in pairs], "light": [light for _, light in pairs]}
    antibodies = pd.DataFrame(columns, dtype="object")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("antibodies.parquet", "chains.parquet", "residues.parquet")]
        write_parquet(antibodies, paths[0])
        numbering_tables.number_chunk(
            paths[0], 0, 1, settings["species"], settings["scheme"], paths[1], paths[2], whole
        )
        chains, residues = read_parquet(paths[1]), read_parquet(paths[2])
    bad = set(chains.loc[chains["status"] != "ok", "antibody_id"])
    there = antibodies[[LETTERS[letter] for letter in writing["chains"]]].notna().all(axis=1)
    antibodies["valid"] = there & antibodies["antibody_id"].isin(set(chains["antibody_id"]) - bad)
    keep = antibodies.loc[antibodies["valid"], "antibody_id"]
    return NumberedTexts(antibodies, chains, residues[residues["antibody_id"].isin(keep)].reset_index(drop=True))


def outcomes(
    written: pd.DataFrame,
    concepts: Sequence[str],
    writing: Writing,
    settings: LabelSections,
    reference: Sequence[str],
    max_rows: int,
) -> pd.DataFrame:
    """What became of each row of `written`: valid (complete domains, cysteines in place, ended by itself), heavy,
    light, v_gene, j_gene, cdr3 and fr4 (of the heavy, else the light chain), edit_distance (of each arm's first
    `max_rows` rows), and one bool column a concept.

    `settings` holds the sections `numbering` and `concepts`; `reference` the training sequences among which the nearest
    is looked for (Levenshtein distance, in residues).
    """
    found = number_texts(written["text"], writing, settings["numbering"])
    table = found.antibodies.copy()
    main = found.chains[found.chains["status"] == "ok"].drop_duplicates("antibody_id").set_index("antibody_id")
    for column in ("v_gene", "j_gene", "cdr3"):
        table[column] = table["antibody_id"].map(main[column]).where(table["valid"], None)
    mine = found.residues["chain"].to_numpy() == found.residues["antibody_id"].map(main["chain"]).to_numpy()
    fr4 = found.residues[mine & (found.residues["region"] == "FR4").to_numpy()]
    table["fr4"] = table["antibody_id"].map(fr4.groupby("antibody_id")["residue"].agg("".join)) if len(fr4) else None
    names = list(dict.fromkeys(concepts))
    held = label_concepts(found, names, settings["concepts"], writing["species"])
    table = pd.concat([table, pd.DataFrame(held, columns=names)], axis=1)
    rows = written.merge(table.drop(columns="antibody_id"), on="text", how="left", validate="many_to_one")
    rows["valid"] &= rows["ended"]
    rows[names] = rows[names].mul(rows["valid"], axis=0)  # what does not count has no concept
    near = (rows["row"] < max_rows).to_numpy() & (rows["text"].str.len() > 0).to_numpy()
    rows["edit_distance"] = np.nan
    if len(reference) and near.any():
        distances = cdist(rows.loc[near, "text"].tolist(), reference, scorer=Levenshtein.distance, dtype=np.uint16)
        rows.loc[near, "edit_distance"] = distances.min(1).astype(float)
    return rows.drop(columns="text")


def label_concepts(
    found: NumberedTexts, concepts: Sequence[str], settings: ConceptsSection, species: str
) -> np.ndarray:
    """[texts, concepts] bool by the catalogue's own functions; False for texts that were not numbered.

    `settings` is the `concepts` section; columns of a run's input are not known of new antibodies: they are left out.
    """
    out = np.zeros((len(found.antibodies), len(concepts)), bool)
    valid = found.antibodies["valid"].to_numpy(bool)
    if not valid.any() or not concepts:
        return out
    rows = found.antibodies[valid].assign(species=species, split="test", cluster_id=0).reset_index(drop=True)
    chains = found.chains[found.chains["antibody_id"].isin(rows["antibody_id"])]
    residues = found.residues.assign(residue_id=np.arange(len(found.residues)))
    block = catalogue.Block(rows, chains, residues, {**settings, "metadata": {}})
    pairs = [concept for concept in concepts if concept.startswith("position=")]
    labels, _ = labelling.label(iter([block]), block.settings, pairs=pairs)
    known = {*labels.antibody_names, *labels.residue_names}
    order = pd.Series(np.flatnonzero(valid), index=rows["antibody_id"])[labels.ids].to_numpy()
    for c, concept in enumerate(concepts):
        if concept in known:
            out[order, c] = labels.having(concept)
    return out
