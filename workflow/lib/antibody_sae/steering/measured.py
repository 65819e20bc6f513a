"""Outcomes counted by arm: all that doses, effects and tests read of the written sequences."""

from __future__ import annotations

import pandas as pd


def measure(rows: pd.DataFrame) -> pd.DataFrame:
    """Outcomes by arm: n, n_valid and valid (complete, and ended by themselves), unique (share of distinct sequences),
    scored, log_likelihood and its sd (nats a residue, of the scored), edit_distance; and `hits:<concept>` among the
    valid.
    """
    concepts = [column for column in rows.columns if "=" in column]
    rows = rows.assign(**{concept: rows[concept] & rows["valid"] for concept in concepts})
    grouped = rows.groupby("arm", sort=True)
    texts = rows["heavy"].fillna("") + "|" + rows["light"].fillna("")
    table = pd.DataFrame({
        "n": grouped.size(),
        "n_valid": grouped["valid"].sum().astype("int64"),
        "valid": grouped["valid"].mean(),
        "unique": texts.groupby(rows["arm"]).nunique() / grouped.size(),
        "scored": grouped["log_likelihood"].count(),
        "log_likelihood": grouped["log_likelihood"].mean(),
        "log_likelihood_sd": grouped["log_likelihood"].std(),
        "edit_distance": grouped["edit_distance"].mean(),
    })  # fmt: skip
    hits = {f"hits:{concept}": grouped[concept].sum().astype("int64") for concept in concepts}
    return pd.concat([table, pd.DataFrame(hits)], axis=1).reset_index()


def joined(plan: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """A plan's arms beside what became of them."""
    return plan.merge(measure(outcomes).drop(columns="n"), on="arm", validate="one_to_one")
