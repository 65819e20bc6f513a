"""Association beside effect, for every SAE and concept, and the claims in figures."""

import pandas as pd
from antibody_sae.io import atomic, read_parquet, write_json
from antibody_sae.jobs import job
from antibody_sae.steering import claims

snakemake = globals()["snakemake"]


def stacked(paths: list[str]) -> pd.DataFrame:
    return pd.concat(
        [read_parquet(path).assign(**about) for path, about in zip(paths, snakemake.params.about, strict=True)],
        ignore_index=True,
    )


with job(snakemake):
    table = stacked(snakemake.input.effects)
    criteria = claims.by_criterion(table)
    figures = claims.claims(criteria, table)
    matches = pd.concat([pd.DataFrame(), *map(read_parquet, snakemake.input.matches)], ignore_index=True)
    for one, path in (
        (claims.mapping_table(criteria), snakemake.output.mapping),
        (criteria, snakemake.output.criteria),
        (claims.across_seeds(criteria, matches), snakemake.output.across_seeds),
    ):
        with atomic(path) as part:
            one.to_csv(part, index=False)
    write_json(figures, snakemake.output.claims)
