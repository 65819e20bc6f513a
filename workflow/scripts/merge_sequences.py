"""Join the chunks of antibodies; say how many records were refused, and why."""

import sys

from antibody_sae.jobs import job
from antibody_sae.sequences import chunks

snakemake = globals()["snakemake"]

with job(snakemake):
    summary = chunks.merge(
        snakemake.input.accepted,
        snakemake.input.rejected,
        snakemake.params.drop,
        snakemake.output.antibodies,
        snakemake.output.rejected,
        snakemake.output.summary,
    )
    print(f"{summary['read']} records read, {summary['accepted']} antibodies accepted", file=sys.stderr)
    for reason, n in summary["rejected"].items():
        print(f"{n:>9} refused: {reason}", file=sys.stderr)
