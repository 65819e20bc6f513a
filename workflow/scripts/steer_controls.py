"""What a layer's SAEs share: supervised directions, the gradient of each target's rate, and arms without a latent."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.interventions import parse_where
from antibody_sae.io import read_parquet, write_json, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import directions, plans, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    settings = params.steering
    model = models.load(params.model)
    expected = {**model.provenance, "layer": layer, "model_dtype": model.dtype_name}
    store = Store(Path(snakemake.input.manifest).parent, expected)
    labels = labelling.load(Path(snakemake.input.labels).parent)
    panel = targets.panel(labels, settings["targets"])
    counts = targets.typical_counts(labels, panel, params.chains[0])
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"])
    known = directions.directions(store, labels, panel)
    known["rate_gradient"] = directions.rate_gradient(
        model,
        layer,
        antibodies.set_index("antibody_id").loc[labels.ids],
        labels,
        panel,
        parse_where(settings["where"], counts),
        settings["gradient_antibodies"],
    )
    plan, vectors = plans.plan_controls(known, settings["targets"], settings, store)
    write_safetensors({name: direction.contiguous() for name, direction in known.items()}, snakemake.output.directions)
    write_json(counts, snakemake.output.counts)
    write_safetensors({"vectors": vectors}, snakemake.output.vectors)
    write_parquet(plan, snakemake.output.plan)
