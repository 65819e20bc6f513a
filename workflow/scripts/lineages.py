"""Concepts from columns of the input, such as a binder's target, judged lineage by lineage beside the germline."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling, lineages
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    wildcards, found, settings = snakemake.wildcards, snakemake.input, snakemake.params.concepts
    name = {"sae": wildcards.sae, "seed": int(wildcards.seed), "layer": int(wildcards.layer)}
    store = Store(Path(found.manifest).parent, {"layer": name["layer"]})
    table = lineages.by_lineage(
        SAE.load(Path(found.sae[0]).parent, store.provenance()),
        store,
        labelling.load(Path(found.labels[0]).parent),
        read_parquet(found.antibodies, columns=["antibody_id", *settings["metadata"]]),
        settings["thresholds"],
        settings["bootstrap"],
        settings["seed"],
    )
    write_parquet(table.assign(**name), snakemake.output[0])
