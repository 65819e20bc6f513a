"""What a layer's SAEs share: directions that need no SAE, and the exploration of arms without a latent."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import read_json, read_safetensors, write_json, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.steering import directions, plans, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    found, settings = snakemake.input, snakemake.params.steering
    store = Store(Path(found.manifest).parent, {"layer": int(snakemake.wildcards.layer)})
    labels = labelling.load(Path(found.labels).parent)
    wanted = targets.read(found.targets)
    panel = targets.panel(labels, list(wanted))
    known = directions.directions(store, labels, panel) | read_safetensors(found.levers)
    steered = {kind: rows for kind, rows in known.items() if kind != "trained" or "trained" in settings["levers"]}
    plan = plans.explore_layer(steered, wanted, settings, store, read_json(found.places))
    write_safetensors({name: rows.contiguous() for name, rows in known.items()}, snakemake.output.directions)
    counts = {chains: targets.typical_counts(labels, panel, chains[0]) for chains in targets.by_chains(wanted)}
    write_json(counts, snakemake.output.counts)
    write_safetensors({"vectors": plan.vectors}, snakemake.output.vectors)
    write_parquet(plan.table, snakemake.output.plan)
