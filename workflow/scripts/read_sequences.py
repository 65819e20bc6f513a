"""Read this chunk's files."""

from antibody_sae.jobs import job
from antibody_sae.sequences import chunks

snakemake = globals()["snakemake"]

with job(snakemake):
    chunks.read_chunk(
        snakemake.params.paths,
        snakemake.params.sequences,
        snakemake.params.species,
        snakemake.output.accepted,
        snakemake.output.rejected,
    )
