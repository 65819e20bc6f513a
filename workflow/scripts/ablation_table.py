"""What ablation did, for every SAE and target."""

import pandas as pd
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    pairs = zip(snakemake.input, snakemake.params.about, strict=True)
    tables = [read_parquet(path).assign(**about) for path, about in pairs]
    with atomic(snakemake.output[0]) as part:
        pd.concat(tables, ignore_index=True).to_csv(part, index=False, float_format="%.6g")
