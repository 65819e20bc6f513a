"""All SAEs' transfer in one table, their concepts beside what steering did in the run that found the latent."""

import pandas as pd
from antibody_sae.concepts import tables
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    summary, concepts = (
        pd.concat([read_parquet(path) for path in paths], ignore_index=True)
        for paths in (found.summaries, found.concepts)
    )
    steered = dict(zip(snakemake.params.runs, map(pd.read_csv, found.steering), strict=True))
    concepts = tables.with_steering(concepts, steered)
    for table, path in zip((summary, concepts), snakemake.output, strict=True):
        with atomic(path) as part:
            table.to_csv(part, index=False, float_format="%.6g")
