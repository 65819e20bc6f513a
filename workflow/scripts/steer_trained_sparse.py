"""Levers of few latents of a dictionary, trained in their coefficients."""

from pathlib import Path

import pandas as pd
from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import read_safetensors, sha256_file, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE
from antibody_sae.steering import sparse, targets, trained
from antibody_sae.steering.directions import typical_length

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found, layer = snakemake.params, snakemake.input, int(snakemake.wildcards.layer)
    settings, wanted = params.steering, targets.read(found.targets)
    model = models.load(params.model)
    store = Store(Path(found.manifest).parent, {**model.provenance, "layer": layer})
    sae = SAE.load(Path(found.sae).parent, store.provenance())
    labels, vectors = labelling.load(Path(found.labels).parent), read_safetensors(found.directions)["trained"]
    sections = {"numbering": params.numbering, "concepts": params.concepts}
    made: dict[str, list] = {"vectors": [], "table": [], "training": []}
    benches = trained.benches(model, layer, wanted, labels, settings["where"], params.writing, sections)
    for bench, _ in benches:
        aims = vectors[[list(wanted).index(t) for t in bench.targets]]
        base = bench.unsteered(settings["gradient_antibodies"], settings["seed"])
        levers, *tables = sparse.train(bench, base, sae, aims, settings, typical_length(store))
        for name, part in zip(made, ((bench.targets, levers), *tables), strict=True):
            made[name].append(part)
    about = {**store.provenance(), "sae_sha256": sha256_file(found.weights), "targets": list(wanted)}
    levers = trained.together(made.pop("vectors"), list(wanted))
    write_safetensors(levers, snakemake.output.vectors, trained.provenance(about))
    for name, parts in made.items():
        write_parquet(pd.concat(parts, ignore_index=True), snakemake.output[name])
