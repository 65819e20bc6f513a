"""Plan the fresh sequences of what the explored ones chose."""

from antibody_sae.io import read_parquet, read_safetensors, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.steering import plans

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    explored = plans.Plan(read_parquet(found.plan), read_safetensors(found.vectors)["vectors"])
    plan = plans.confirm(explored, read_parquet(found.doses), snakemake.params.steering)
    write_safetensors({"vectors": plan.vectors}, snakemake.output.vectors)
    write_parquet(plan.table, snakemake.output.plan)
