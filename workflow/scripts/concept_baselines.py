"""What neurons, principal components, positions, residues and linear probes say of each concept, for one layer."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import baselines, labelling
from antibody_sae.io import write_parquet, write_safetensors
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    labels = labelling.load(Path(snakemake.input.labels[0]).parent)
    store = Store(Path(snakemake.input.manifest).parent, {"layer": int(snakemake.wildcards.layer)})
    found = baselines.compute(store, labels, snakemake.params.thresholds)
    write_safetensors(found.probe._asdict(), snakemake.output.probe)
    write_parquet(found.table, snakemake.output.table)
