"""Generate this chunk's antibodies with the model."""

from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sequences import chunks

snakemake = globals()["snakemake"]

with job(snakemake):
    chunks.generate_chunk(
        models.load(snakemake.params.model),
        snakemake.params.sequences,
        snakemake.params.species,
        int(snakemake.wildcards.chunk),
        snakemake.params.checkpoints,
        snakemake.output.accepted,
        snakemake.output.rejected,
    )
