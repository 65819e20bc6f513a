"""Train one SAE on the training split."""

from pathlib import Path

from antibody_sae import splits
from antibody_sae.activations import Store
from antibody_sae.io import write_parquet
from antibody_sae.jobs import job
from antibody_sae.sae import settings, training

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    sae, history = training.train(
        Store(Path(snakemake.input.manifest).parent, {"model": params.model, "layer": layer}),
        splits.residue_mask(params.run, "train"),
        settings.settings_from(params.settings),
        int(snakemake.wildcards.seed),
        params.checkpoint,
        snakemake.threads,
        params.device,
    )
    write_parquet(history, snakemake.output.history)
    sae.save(Path(snakemake.output.weights).parent)
    Path(params.checkpoint).unlink(missing_ok=True)
