"""Join the numbered chunks; say how many chains could be numbered, why others could not, and how plausible it is."""

import sys

from antibody_sae.jobs import job
from antibody_sae.numbering import checks
from antibody_sae.numbering import tables as numbering

snakemake = globals()["snakemake"]

with job(snakemake):
    summary = numbering.merge_chunks(
        snakemake.input.chains,
        snakemake.input.residues,
        snakemake.params.scheme,
        snakemake.output.chains,
        snakemake.output.residues,
        snakemake.output.summary,
    )
    print("\n".join(checks.describe(summary)), file=sys.stderr)
