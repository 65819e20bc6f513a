"""Best latents, interpretable latents and complexity of the patterns over all layers, SAEs and seeds."""

from antibody_sae.concepts import tables as concepts
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    best = [read_parquet(path) for path in snakemake.input.best]
    latents = [read_parquet(path, columns=concepts.LATENT_COLUMNS) for path in snakemake.input.latents]
    involved = concepts.complexity(latents, snakemake.params.controls)
    tables = concepts.best_latents(best), concepts.interpretable(latents), involved
    for table, path in zip(tables, snakemake.output, strict=True):
        with atomic(path) as part:
            table.to_csv(part, index=False, float_format="%.6g")
