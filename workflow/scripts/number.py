"""Number this chunk's antibodies."""

from antibody_sae import numbering
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    settings = snakemake.params.numbering
    numbering.number_chunk(
        snakemake.input.antibodies,
        int(snakemake.wildcards.chunk),
        settings["chunks"],
        settings["species"],
        settings["scheme"],
        snakemake.output.chains,
        snakemake.output.residues,
    )
