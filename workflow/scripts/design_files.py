"""The files of one library: FASTA, AIRR table, plates, the recipe, and what its page shows."""

import json
from pathlib import Path

from antibody_sae.designs import outputs, page
from antibody_sae.io import read_json, read_parquet, write_json
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    found, out, params = snakemake.input, snakemake.output, snakemake.params
    about = read_json(found.about)
    scores = {judge: read_parquet(path) for judge, path in zip(params.judges, found.scores, strict=True)}
    chains = page.join_scores(read_parquet(found.chains), scores)
    library = chains[chains["set"] == "design"].drop(columns="set").dropna(axis=1, how="all")
    lever = json.dumps({**about["lever"], "concepts": about["concepts"]}, sort_keys=True)
    prices = {key: about["price"][key] for key in ("tokens_per_design", "rejection_tokens_per_design")}
    outputs.write(library, Path(out.fasta).with_suffix(""), params.pick, {"lever": lever, **prices})
    write_json(page.page(chains, about, outputs.picked(library, params.pick)), out.page)
    write_json(about, out.recipe)
