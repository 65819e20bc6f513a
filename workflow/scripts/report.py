"""The page and its pictures."""

from pathlib import Path

from antibody_sae.io import read_json
from antibody_sae.jobs import job
from antibody_sae.report import build as report
from antibody_sae.report.run import Run

snakemake = globals()["snakemake"]

with job(snakemake):
    run = Run(Path(snakemake.output.page).parents[1], snakemake.params.config)
    report.build(run, read_json(snakemake.input.summary), snakemake.output.page, snakemake.output.figures)
