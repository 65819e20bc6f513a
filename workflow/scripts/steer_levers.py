"""A layer's levers that need no dictionary: the rate derivative, trained vectors, and where control lies."""

from pathlib import Path

import pandas as pd
from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import write_json, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import targets, trained
from antibody_sae.steering.directions import typical_length

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    settings, wanted = params.steering, targets.read(snakemake.input.targets)
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    labels = labelling.load(Path(snakemake.input.labels).parent)
    sections = {"numbering": params.numbering, "concepts": params.concepts}
    made: dict[str, list] = {"vectors": [], "places": [], "training": [], "reliability": [], "control_map": []}
    benches = trained.benches(model, layer, wanted, labels, settings["where"], params.writing, sections)
    for bench, counts in benches:
        base = bench.base(settings["gradient_antibodies"], settings["seed"])
        vectors, history, found = trained.levers(bench, base, settings, typical_length(store), counts)
        reliable = trained.reliability(base, bench.targets)
        parts = (bench.targets, vectors), found, history, reliable, base.control_map
        for name, part in zip(made, parts, strict=True):
            made[name].append(part)
    about = {**model.provenance, "layer": layer, "targets": list(wanted)}
    vectors = trained.together(made.pop("vectors"), list(wanted))
    write_safetensors(vectors, snakemake.output.directions, trained.provenance(about))
    write_json(dict(place for found in made.pop("places") for place in found.items()), snakemake.output.places)
    for name, tables in made.items():
        write_parquet(pd.concat(tables, ignore_index=True), snakemake.output[name])
