"""Choose an SAE's candidates and controls, on train and validation antibodies only."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import read_safetensors, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.sae.model import SAE
from antibody_sae.steering import candidates, directions, plans, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    settings = snakemake.params.steering
    store = Store(Path(snakemake.input.manifest).parent, {"layer": int(snakemake.wildcards.layer)})
    sae = SAE.load(Path(snakemake.input.sae).parent, store.provenance())
    labels = labelling.load(Path(snakemake.input.labels).parent)
    panel = targets.panel(labels, settings["targets"])
    known = read_safetensors(snakemake.input.directions)
    found = candidates.associate(sae, store, labels, panel)
    seed = settings["seed"] + int(snakemake.wildcards.seed)
    length = directions.typical_length(store)
    plan, vectors = plans.plan_sae(sae, found, known, settings["targets"], settings, length, seed)
    latents = plan["latent"].dropna().astype(int).tolist()
    tested = candidates.tested_latents(sae, found, known, settings["targets"], latents)
    write_safetensors({"vectors": vectors}, snakemake.output.vectors)
    write_parquet(tested, snakemake.output.tested)
    write_parquet(plan, snakemake.output.plan)
