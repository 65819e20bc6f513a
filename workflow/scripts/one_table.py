"""Tables of many SAEs in one; `about`, where a rule has it, says of each what its own rows do not."""

import pandas as pd
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake), atomic(snakemake.output[0]) as part:
    about = snakemake.params.get("about") or [{}] * len(snakemake.input)
    tables = [read_parquet(path).assign(**own) for path, own in zip(snakemake.input, about, strict=True)]
    pd.concat(tables, ignore_index=True).to_csv(part, index=False, float_format="%.6g")
