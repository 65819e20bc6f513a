"""Read this chunk's files."""

from antibody_sae import sequences
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    sequences.read_chunk(
        list(snakemake.input),
        snakemake.params.sequences,
        snakemake.params.species,
        snakemake.output.accepted,
        snakemake.output.rejected,
    )
