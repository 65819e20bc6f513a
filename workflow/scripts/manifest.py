"""Write the manifest of a layer's shards."""

from antibody_sae import activations
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    activations.write_manifest(snakemake.input, snakemake.output[0])
