"""The length of each target and kind of arm in a layer, from what was explored."""

from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.steering import doses, measured, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    found, bound = snakemake.input, snakemake.params.steering["perplexity_bound"]
    explored = [
        measured.joined(read_parquet(plan), read_parquet(outcomes))
        for plan, outcomes in zip(found.plans, found.outcomes, strict=True)
    ]
    table = doses.choose(explored, targets.read(found.targets), bound)
    write_parquet(table, snakemake.output[0])
