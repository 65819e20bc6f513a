"""Train one SAE on the training split, measure it on the test split."""

from pathlib import Path

from antibody_sae import models, splits, training
from antibody_sae.activations import Store
from antibody_sae.io import read_parquet, write_json, write_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]
SPLICED = 100  # antibodies of the cross-entropy with the reconstruction spliced in

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    sae, history = training.train(
        store,
        splits.residue_mask(params.run, "train"),
        training.settings_from(params.settings),
        int(snakemake.wildcards.seed),
        params.checkpoint,
        snakemake.threads,
        params.model["device"],
    )
    metrics = training.evaluate(sae, store, splits.residue_mask(params.run, "test"))
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"])
    split = read_parquet(snakemake.input.splits, columns=["antibody_id", "split"])
    held_out = antibodies[antibodies["antibody_id"].isin(split.loc[split["split"] == "test", "antibody_id"])]
    passages = [
        passage
        for row in held_out.head(SPLICED).itertuples()
        for passage in model.encode(
            row.heavy if isinstance(row.heavy, str) else None,
            row.light if isinstance(row.light, str) else None,
            row.species,
        )
    ]
    metrics |= training.splice(sae, model, passages, layer, store.manifest["mean"])
    write_parquet(history, snakemake.output.history)
    write_json(metrics, snakemake.output.metrics)
    sae.save(Path(snakemake.output.weights).parent)
    Path(params.checkpoint).unlink(missing_ok=True)
