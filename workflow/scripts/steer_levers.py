"""A layer's levers that need no dictionary: the rate derivative, trained vectors, and where control lies."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.interventions import parse_where
from antibody_sae.io import read_json, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import control_map, targets, trained
from antibody_sae.steering.directions import typical_length

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    settings, wanted = params.steering, read_json(snakemake.input.targets)["targets"]
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    labels = labelling.load(Path(snakemake.input.labels).parent)
    counts = targets.typical_counts(labels, targets.panel(labels, wanted), params.writing["chains"][0])
    judge = trained.catalogue_judge(
        wanted, params.writing, {"numbering": params.numbering, "concepts": params.concepts}
    )
    where = parse_where(settings["where"], counts)
    bench = trained.Workbench(model, layer, where, params.writing, wanted, judge)
    base = bench.base(settings["gradient_antibodies"], settings["seed"])
    vectors, history = trained.levers(bench, base, settings, typical_length(store))
    about = {**model.provenance, "layer": layer, "targets": wanted}
    write_safetensors(vectors, snakemake.output.directions, trained.provenance(about))
    write_parquet(history, snakemake.output.training)
    write_parquet(trained.reliability(base, wanted), snakemake.output.reliability)
    regions = base.judged.region
    found = control_map.control_map(model, base.passages, base.credit, regions, wanted, params.writing)
    write_parquet(found, snakemake.output.control_map)
