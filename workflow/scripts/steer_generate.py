"""Write this chunk's share of a plan's sequences, and score the first ones of each arm."""

import zlib
from pathlib import Path

from antibody_sae.interventions import parse_where
from antibody_sae.io import read_json, read_parquet, read_safetensors, write_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE
from antibody_sae.steering import sampling

snakemake = globals()["snakemake"]

with job(snakemake):
    params, unit = snakemake.params, snakemake.wildcards.unit
    settings, layer = params.steering, int(snakemake.wildcards.layer)
    model = models.load(params.model)
    plan = read_parquet(snakemake.input.plan)
    where = parse_where(settings["where"], read_json(snakemake.input.counts))
    sae = SAE.load(Path(snakemake.input.sae[0]).parent) if snakemake.input.sae else None
    written = sampling.generate(
        model,
        layer,
        sampling.to_interventions(plan, read_safetensors(snakemake.input.vectors)["vectors"], where, sae),
        plan["n"].tolist(),
        params.writing,
        [settings["seed"], layer, zlib.crc32(unit.encode())],
        int(snakemake.wildcards.chunk),
        settings["chunks"],
    )
    written["log_likelihood"] = sampling.log_likelihoods(
        model, written, params.writing, params.species, settings["scored"]
    )
    write_parquet(written, snakemake.output[0])
