"""Write one steered library of the section `designs`."""

import json
from pathlib import Path

from antibody_sae import designs, interventions
from antibody_sae.io import read_json, read_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found, asked = snakemake.params, snakemake.input, snakemake.params.design
    model = models.load(params.model)
    sae = SAE.load(Path(found.sae).parent, {**model.provenance, "layer": params.layer})
    latents = {int(latent): float(strength) for latent, strength in asked["latents"].items()}
    if not latents:
        latent, strength = designs.best_latent(read_parquet(found.effects), asked["concept"], asked["selected_by"])
        latents = {latent: asked["strength"] or strength}
    act = interventions.push if asked["method"] == "add" else interventions.clamp
    where = interventions.parse_where(asked["where"], read_json(found.counts))
    library = designs.design(
        model,
        params.layer,
        act(sae, latents, where),
        asked["n"],
        designs.Constraints(**asked["constraints"]),
        seed=asked["seed"],
        writing=params.writing,
        numbering=params.numbering,
        concepts=params.concepts,
    )
    about = {"sae": params.sae, "layer": params.layer, "latents": latents}
    about |= {key: asked[key] for key in ("method", "where")} | {"model": model.provenance["model"]}
    designs.write(library, snakemake.output.fasta.removesuffix(".fasta"), json.dumps(about))
