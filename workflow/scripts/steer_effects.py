"""Compare an SAE's arms with the layer's controls."""

from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.steering import effects

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    table, side_effects = effects.effects(
        read_parquet(found.plan),
        effects.measure(read_parquet(found.outcomes)),
        read_parquet(found.controls_plan),
        effects.measure(read_parquet(found.controls)),
        read_parquet(found.tested),
        snakemake.params.steering,
    )
    write_parquet(table, snakemake.output.effects)
    write_parquet(side_effects, snakemake.output.side_effects)
