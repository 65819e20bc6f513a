"""Write this chunk's share of a plan's sequences, and score the first ones of each arm."""

import zlib

from antibody_sae.interventions import Intervention, parse_where
from antibody_sae.io import read_json, read_parquet, read_safetensors, write_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import sampling

snakemake = globals()["snakemake"]

with job(snakemake):
    params, wildcards, found = snakemake.params, snakemake.wildcards, snakemake.input
    settings, layer = params.steering, int(wildcards.layer)
    model = models.load(params.model)
    plan = read_parquet(found.plan)
    where = parse_where(settings["where"], read_json(found.counts))
    written = sampling.generate(
        model,
        layer,
        [Intervention(vector=vector, where=where) for vector in read_safetensors(found.vectors)["vectors"]],
        plan["n"].tolist(),
        params.writing,
        [settings["seed"], layer, zlib.crc32(f"{wildcards.unit}/{wildcards.stage}".encode())],
        int(wildcards.chunk),
        settings["chunks"],
    )
    unsteered = plan.loc[plan["kind"] == "none", "arm"].tolist()
    written["log_likelihood"] = sampling.log_likelihoods(
        model, written, params.writing, params.species, settings["scored"], unsteered
    )
    write_parquet(written, snakemake.output[0])
