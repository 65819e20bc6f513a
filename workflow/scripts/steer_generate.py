"""Write this chunk's share of a plan's sequences."""

import zlib

from antibody_sae.interventions import Intervention
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
    where = sampling.wheres(plan, settings["where"], read_json(found.counts))
    vectors = read_safetensors(found.vectors)["vectors"]
    written = sampling.write(
        model,
        layer,
        plan,
        [Intervention(vector=v, where=w) for v, w in zip(vectors, where, strict=True)],
        params.writing,
        [settings["seed"], layer, zlib.crc32(f"{wildcards.unit}/{wildcards.stage}".encode())],
        int(wildcards.chunk),
        settings["chunks"],
    )
    write_parquet(written, snakemake.output[0])
