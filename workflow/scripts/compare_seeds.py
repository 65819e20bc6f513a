"""Stability and orderedness of one SAE over its seeds, for all latents and for the first ones."""

from itertools import combinations
from pathlib import Path

from antibody_sae.io import write_json
from antibody_sae.jobs import job
from antibody_sae.sae.evaluation import compare
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    saes = {
        seed: SAE.load(Path(path).parent) for seed, path in zip(snakemake.params.seeds, snakemake.input, strict=True)
    }
    pairs = [{"seeds": [a, b], **compare(saes[a], saes[b])} for a, b in combinations(saes, 2)]
    write_json({"pairs": pairs}, snakemake.output[0])
