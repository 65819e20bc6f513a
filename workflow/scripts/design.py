"""Write one library of the section `designs`, and what it is compared with."""

from antibody_sae.designs import build, outputs
from antibody_sae.io import read_json, read_parquet, write_json, write_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found = snakemake.params, snakemake.input
    asked, name, layer = params.design, snakemake.wildcards.design, params.layer
    model = models.load(params.model)
    levers = build.read_levers(found, params.targets, {**model.provenance, "layer": layer})
    chains, about = build.build(
        name,
        asked,
        model,
        layer,
        levers,
        read_json(found.counts)[params.writing["chains"]] if found.counts else {},
        {"writing": params.writing, "numbering": params.numbering, "concepts": params.concepts},
        build.training_texts(read_parquet(found.antibodies), read_parquet(found.splits), params.writing["chains"]),
        read_parquet(found.natural) if found.natural else None,
    )
    config = {key: params[key] for key in ("model", "design", "layer", "writing", "numbering", "concepts")}
    about["recipe"] = outputs.recipe(config, params.code, model.provenance, levers.hashes)
    write_parquet(chains, snakemake.output.chains)
    write_json(about, snakemake.output.about)
