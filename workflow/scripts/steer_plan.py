"""Choose an SAE's candidates, on train and validation antibodies only, and plan their exploration."""

import re
from pathlib import Path

import numpy as np
from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import read_parquet, read_safetensors, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE
from antibody_sae.steering import arms, candidates, consistency, criteria, directions, output, plans, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found = snakemake.params, snakemake.input
    settings, layer = params.steering, int(snakemake.wildcards.layer)
    model = models.load(params.model)
    expected = {**model.provenance, "layer": layer, "model_dtype": model.dtype_name}
    store = Store(Path(found.manifest).parent, expected)
    sae = SAE.load(Path(found.sae).parent, store.provenance())
    wanted = targets.read(found.targets)
    labels = labelling.load(Path(found.labels).parent)
    tables = read_safetensors(found.scores), read_parquet(found.best), read_safetensors(found.directions)
    pushed = output.by_target(model, layer, sae, wanted, params.species)
    known = candidates.gather(sae, store, labels, list(wanted), *tables, pushed)
    chosen = criteria.choose(known, settings["criteria"], settings["candidates"])
    seed, rms = settings["seed"] + int(snakemake.wildcards.seed), directions.typical_length(store)
    stored = [(kind, rows) for path in found.levers for kind, rows in read_safetensors(path).items()]
    levers = {kind: rows for kind, rows in stored if re.fullmatch(arms.SPARSE, kind)}
    plan = plans.explore_sae(sae, known, chosen, levers, wanted, settings, rms, seed)
    latents, middle = plan.table["latent"].dropna().astype(int).tolist(), float(np.median(np.abs(settings["norms"])))
    tested = criteria.tested(known, list(wanted), latents)
    even = consistency.of_latents(model, layer, sae, latents, labels, wanted, params.species, middle * rms)
    write_parquet(tested.merge(even, on=["latent", "concept"]), snakemake.output.tested)
    write_safetensors({"vectors": plan.vectors}, snakemake.output.vectors)
    write_parquet(plan.table, snakemake.output.plan)
