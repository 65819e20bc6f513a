"""The run's headline figures, and each SAE's as CSV."""

from pathlib import Path

import pandas as pd
from antibody_sae.io import atomic, write_json
from antibody_sae.jobs import job
from antibody_sae.report import run as tables_run
from antibody_sae.report import summary as tables_summary

snakemake = globals()["snakemake"]

with job(snakemake):
    summary = tables_summary.summary(tables_run.Run(Path(snakemake.output.summary).parents[1], snakemake.params.config))
    flat = pd.json_normalize(summary["saes"], sep=":")
    with atomic(snakemake.output.saes) as part:
        flat.to_csv(part, index=False, float_format="%.6g")
    write_json(summary, snakemake.output.summary)
