"""Take a saved dictionary as an SAE of the run, measured on the training split."""

from pathlib import Path

from antibody_sae import splits
from antibody_sae.activations import Store
from antibody_sae.jobs import job
from antibody_sae.sae import loading

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found = snakemake.params, snakemake.input
    store = Store(Path(found.manifest).parent, {"layer": int(snakemake.wildcards.layer)})
    sae = loading.load(params.load, store, splits.residue_mask(params.run, "train"), params.names)
    sae.save(Path(snakemake.output.weights).parent)
