"""All SAEs' concepts from columns of the input in one table."""

import pandas as pd
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake), atomic(snakemake.output[0]) as part:
    table = pd.concat([read_parquet(path) for path in snakemake.input], ignore_index=True)
    table.to_csv(part, index=False, float_format="%.6g")
