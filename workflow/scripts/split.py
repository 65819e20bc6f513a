"""Clonotype clusters, and which of them are for training, validation and test."""

import sys

from antibody_sae import splits
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    columns = ["antibody_id", "side", "status", "v_gene", "v_family", "j_gene", "cdr3"]
    light = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "light"]).set_index("antibody_id")["light"]
    table = splits.split(read_parquet(snakemake.input.chains, columns=columns), light, **snakemake.params.splits)
    for name, part in table.groupby("split"):
        print(f"{name}: {len(part)} antibodies in {part['cluster_id'].nunique()} clusters", file=sys.stderr)
    write_parquet(table, snakemake.output[0])
