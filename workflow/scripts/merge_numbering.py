"""Join the numbered chunks; say how many chains could be numbered, and why others could not."""

import sys

from antibody_sae.jobs import job
from antibody_sae.numbering import tables as numbering

snakemake = globals()["snakemake"]

with job(snakemake):
    counts = numbering.merge_chunks(
        snakemake.input.chains,
        snakemake.input.residues,
        snakemake.params.scheme,
        snakemake.output.chains,
        snakemake.output.residues,
    )
    for status, n in counts.items():
        print(f"{n:>9} chains {status}", file=sys.stderr)
