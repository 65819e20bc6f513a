"""The report's tab on training."""

from __future__ import annotations

import pandas as pd

from antibody_sae.io import read_json
from antibody_sae.report.charts import training as figures_training
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.charts.logos import Logo
from antibody_sae.report.findings import joined
from antibody_sae.report.page import Pick, Section
from antibody_sae.report.run import Run, rows, title

TITLE = "Training"


def layer_picks(run: Run) -> list[Pick]:
    """The choice of a layer, where the run has several."""
    layers = run.config["activations"]["layers"]
    return [Pick("layer", "Layer", [(str(layer), str(layer)) for layer in layers])] if len(layers) > 1 else []


def sections(run: Run, palette: Palette) -> list[Section]:
    """How the SAEs were trained and how well they reconstruct."""
    history = run.of_saes("saes/{}/history.parquet")
    metrics = pd.DataFrame(
        [
            {"layer": sae.layer, "sae": sae.title, "seed": sae.seed} | read_json(file)
            for sae in run.saes
            if (file := run.folder / "saes" / sae.folder / "metrics.json").exists()
        ]
    )
    unlearned = joined([f"{sae.title} was {run.source(sae)}" for sae in run.loaded])
    text = (
        f"{unlearned}: what is loaded has no history here; its metrics stand under Dictionaries." if unlearned else ""
    )
    section = Section("Reconstruction", text if run.loaded else "", picks=layer_picks(run))
    for layer in run.config["activations"]["layers"]:
        for table, draw in ((history, _curves), (metrics, _prefixes)):
            own = table[table["layer"] == layer] if len(table) else table
            if len(own):
                section.figures += draw(own, metrics, palette, {"layer": str(layer)}, f"-layer{layer}")
        section.figures += _stability(run, layer, palette)
    return [section]


def _curves(
    history: pd.DataFrame, metrics: pd.DataFrame, palette: Palette, pick: dict[str, str], suffix: str
) -> list[Figure | Logo]:
    ends = history.groupby(["layer", "sae", "seed"], as_index=False)["tokens"].max()
    held_out = metrics.drop(columns="tokens").merge(ends, on=["layer", "sae", "seed"]) if len(metrics) else None
    keys = ["sae", "seed", "tokens"]
    fvu = figures_training.curves(
        history[[*keys, "fvu"]], palette, "fvu", "fraction of variance unexplained (log)", True,
        None if held_out is None else held_out[[*keys, "fvu"]],
    )  # fmt: skip
    dead = figures_training.curves(history[[*keys, "dead"]], palette, "dead", "dead latents", False)
    about = (
        "Fraction of variance unexplained on the training batches (lines) and, at the end, on held-out antibodies "
        "(marks); one line a seed."
    )
    also = [*keys, "fvu", "loss", "aux_loss", "k", "lr"]
    return [
        Figure(f"fvu{suffix}", "Unexplained variance during training", about, fvu, history[also], pick),
        Figure(
            f"dead{suffix}",
            "Dead latents during training",
            "Latents that did not fire on the last residues (saes.dead_after of them); AuxK revives them.",
            dead,
            history[[*keys, "dead"]],
            pick,
        ),
    ]


def _prefixes(
    own: pd.DataFrame, metrics: pd.DataFrame, palette: Palette, pick: dict[str, str], suffix: str
) -> list[Figure | Logo]:
    curves = []
    for row in rows(own):
        curve = {"prefix": row.prefixes["latents"], "explained": row.prefixes["explained_variance"]}
        curves.append(pd.DataFrame({"sae": row.sae, "seed": row.seed, **curve}))
    data = pd.concat(curves, ignore_index=True).query("prefix > 0")
    about = (
        "Explained variance on held-out antibodies when the code is cut to its first latents by index. An Ordered SAE "
        "puts what matters most first; a TopK SAE has no order."
    )
    return [
        Figure(
            f"prefix{suffix}",
            "What the first latents explain",
            about,
            figures_training.prefixes(data, palette),
            data,
            pick,
        )
    ]


def _stability(run: Run, layer: int, palette: Palette) -> list[Figure | Logo]:
    found = []
    for name in run.settings:
        file = run.folder / "saes" / f"layer{layer}" / f"{name}-stability.json"
        for pair in read_json(file)["pairs"] if file.exists() else []:
            values = {"prefix": pair["latents"], **{k: pair[k] for k in ("stability", "orderedness")}}
            found.append(pd.DataFrame({"sae": title(name), "seed": " and ".join(map(str, pair["seeds"])), **values}))
    if not found:
        return []
    data = pd.concat(found, ignore_index=True)
    about = {
        "stability": "Mean cosine of the seeds' decoder directions after the best one-to-one matching; first latents.",
        "orderedness": "Spearman correlation of the matched latents' indices; first latents. 1: the same order.",
    }
    return [
        Figure(
            f"{name}-layer{layer}",
            f"{name.capitalize()} between seeds",
            text,
            figures_training.agreement(data, palette, name),
            data,
            {"layer": str(layer)},
        )
        for name, text in about.items()
    ]
