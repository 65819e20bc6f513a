"""Number this chunk's antibodies."""

from antibody_sae.jobs import job
from antibody_sae.numbering import tables as numbering

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
        snakemake.params.complete,
    )
