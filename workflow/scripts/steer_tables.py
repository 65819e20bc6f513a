"""Association beside effect, for every SAE and concept, and the claims in figures."""

import pandas as pd
from antibody_sae import effects
from antibody_sae.io import atomic, read_parquet, write_json
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]


def stacked(paths: list[str]) -> pd.DataFrame:
    return pd.concat(
        [read_parquet(path).assign(**about) for path, about in zip(paths, snakemake.params.about, strict=True)],
        ignore_index=True,
    )


with job(snakemake):
    table = stacked(snakemake.input.effects)
    criteria = effects.by_criterion(table)
    figures = effects.claims(criteria, table, stacked(snakemake.input.side_effects), stacked(snakemake.input.tested))
    for one, path in (
        (effects.mapping_table(criteria), snakemake.output.mapping),
        (criteria, snakemake.output.criteria),
    ):
        with atomic(path) as part:
            one.to_csv(part, index=False)
    write_json(figures, snakemake.output.claims)
