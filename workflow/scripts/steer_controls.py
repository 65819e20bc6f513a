"""What a layer's SAEs share: supervised directions, the gradient of each target's rate, and arms without a latent."""

from pathlib import Path

from antibody_sae import catalogue, models, steering
from antibody_sae.activations import Store
from antibody_sae.interventions import parse_where
from antibody_sae.io import read_parquet, write_json, write_parquet, write_safetensors
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    settings = params.steering
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    labels = catalogue.load(Path(snakemake.input.labels).parent)
    panel = steering.panel(labels, settings["targets"])
    counts = steering.typical_counts(labels, panel, params.chains[0])
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"])
    known = steering.directions(store, labels, panel)
    known["rate_gradient"] = steering.rate_gradient(
        model,
        layer,
        antibodies.set_index("antibody_id").loc[labels.ids],
        labels,
        panel,
        parse_where(settings["where"], counts),
        settings["gradient_antibodies"],
    )
    plan, vectors = steering.plan_controls(known, settings["targets"], settings, store)
    write_safetensors({name: direction.contiguous() for name, direction in known.items()}, snakemake.output.directions)
    write_json(counts, snakemake.output.counts)
    write_safetensors({"vectors": vectors}, snakemake.output.vectors)
    write_parquet(plan, snakemake.output.plan)
