"""Generate this chunk's antibodies with the model."""

from antibody_sae import models, sequences
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    sequences.generate_chunk(
        models.load(snakemake.params.model),
        snakemake.params.sequences,
        snakemake.params.species,
        int(snakemake.wildcards.chunk),
        snakemake.params.checkpoints,
        snakemake.output.accepted,
        snakemake.output.rejected,
    )
