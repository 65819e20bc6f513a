"""Tables over all SAEs of a run: best latents, interpretable latents, complexity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd


def best_latents(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """tables/best_latents.csv: best.parquet of every layer, SAE and seed."""
    return pd.concat(tables, ignore_index=True).sort_values(["level", "concept", "layer", "sae", "seed"], kind="stable")


def interpretable(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """tables/interpretable.csv: how many latents beat every simple baseline on test, per layer, SAE and seed."""
    rows = []
    for t in tables:
        alive = t["max_activation"] > 0
        rows.append(
            {
                **{key: t[key].iloc[0] for key in ("layer", "sae", "seed")},
                "latents": len(t),
                "alive": int(alive.sum()),
                "interpretable": int(t["interpretable"].sum()),
                "share": t["interpretable"].sum() / max(alive.sum(), 1),
                "interpretable_strict": int(t["interpretable_strict"].sum()),
                "share_strict": t["interpretable_strict"].sum() / max(alive.sum(), 1),
                "concepts": t.loc[t["interpretable"], "concept"].nunique(),
                "concepts_strict": t.loc[t["interpretable_strict"], "concept"].nunique(),
            }
        )
    return pd.DataFrame(rows).sort_values(["layer", "sae", "seed"], kind="stable")


COMPLEXITY = (
    "density",
    "n_concepts",
    "n_above_yes",
    "entropy_region",
    "entropy_residue",
    "antibodies",
    "span",
    "extent",
)
"""Measures of how involved a latent's activation pattern is: columns of latents/."""
LATENT_COLUMNS = [
    "layer", "sae", "seed", "latent", "max_activation", "concept", "interpretable", "interpretable_strict", *COMPLEXITY
]  # fmt: skip
"""Columns of latents/ that the tables need."""


_BINS = np.arange(-6, 0.01, 0.25)
"""Edges of the bins of log10 density."""


def complexity(tables: Iterable[pd.DataFrame], controls: Collection[str] = ()) -> pd.DataFrame:
    """tables/complexity.csv: how involved the activation patterns are, per layer, SAE and seed, over non-dead latents.

    Mean and median of each measure for all latents, the first 64 (where Ordered puts its broadest) and the others, and
    the mean at matched density: among a layer's and seed's SAEs but `controls` each bin of density weighs the fewest
    latents that any of them has in it, so that a denser SAE is not the more complex for that.
    """
    rows = []
    living = [t[t["max_activation"] > 0] for t in tables]
    for t in living:
        for subset, part in (("all", t), ("first 64", t[t["latent"] < 64]), ("others", t[t["latent"] >= 64])):
            row = {**{key: t[key].iloc[0] for key in ("layer", "sae", "seed")}, "subset": subset, "latents": len(part)}
            row["dense"] = (part["density"] > 0.1).mean()
            for measure in COMPLEXITY:
                row[f"{measure}_mean"], row[f"{measure}_median"] = part[measure].mean(), part[measure].median()
            rows.append(row)
    everything = pd.concat(living)
    for _, group in everything[~everything["sae"].isin(controls)].groupby(["layer", "seed"]):
        bins = np.digitize(np.log10(group["density"].clip(lower=1e-9)), _BINS)
        weight = group.groupby([bins, "sae"]).size().unstack(fill_value=0).min(axis=1)
        for (layer, sae, seed), part in group.assign(bin=bins).groupby(["layer", "sae", "seed"]):
            means = part.groupby("bin")[list(COMPLEXITY)].mean().reindex(weight.index[weight > 0])
            row = {"layer": layer, "sae": sae, "seed": seed, "subset": "matched density", "latents": int(weight.sum())}
            for measure in COMPLEXITY:
                total = (means[measure] * weight[weight > 0]).sum()
                row[f"{measure}_mean"] = total / weight.sum() if weight.sum() else np.nan
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["layer", "sae", "seed"], kind="stable")


EFFECT = ["delta", "delta_low", "delta_high", "steerable"]
_SAE = ["layer", "sae", "seed"]


def with_steering(concepts: pd.DataFrame, steered: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The concepts' rows beside what pushing the latent with the best F1 did in the run that found it: change of the
    concept's share among written sequences. `steered`: run -> its tables/steering_by_criterion.csv."""
    frames = [
        table[(table["kind"] == "latent") & (table["selected_by"] == "f1") & (table["length"] > 0)]
        .assign(found_in=name)[["found_in", *_SAE, "concept", *EFFECT]]
        .drop_duplicates(["found_in", *_SAE, "concept"])
        for name, table in steered.items()
    ]
    return concepts.merge(pd.concat(frames, ignore_index=True), on=["found_in", *_SAE, "concept"], how="left")
