"""What a layer's SAEs share: directions that need labels or gradients, and the exploration of arms without a latent."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.interventions import parse_where
from antibody_sae.io import read_json, read_parquet, write_json, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import directions, plans, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    settings = params.steering
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    labels = labelling.load(Path(snakemake.input.labels).parent)
    wanted = read_json(snakemake.input.targets)["targets"]
    panel = targets.panel(labels, wanted)
    counts = targets.typical_counts(labels, panel, params.chains[0])
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"])
    known = directions.directions(store, labels, panel)
    known["rate_derivative"] = directions.rate_gradient(
        model,
        layer,
        antibodies.set_index("antibody_id").loc[labels.ids],
        labels,
        panel,
        parse_where(settings["where"], counts),
        settings["gradient_antibodies"],
    )
    plan = plans.explore_layer(known, wanted, settings, store)
    write_safetensors({name: direction.contiguous() for name, direction in known.items()}, snakemake.output.directions)
    write_json(counts, snakemake.output.counts)
    write_safetensors({"vectors": plan.vectors}, snakemake.output.vectors)
    write_parquet(plan.table, snakemake.output.plan)
