"""Stability and orderedness of one SAE over its seeds, for all latents and for the first ones, raw and by energy."""

from itertools import combinations
from pathlib import Path

from antibody_sae.io import read_json, write_json
from antibody_sae.jobs import job
from antibody_sae.sae.evaluation import compare
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    saes = {
        seed: (SAE.load(Path(weights).parent), read_json(metrics)["energy"])
        for seed, weights, metrics in zip(
            snakemake.params.seeds, snakemake.input.weights, snakemake.input.metrics, strict=True
        )
    }
    pairs = []
    for a, b in combinations(saes, 2):
        (one, energy), (other, other_energy) = saes[a], saes[b]
        pairs.append({"seeds": [a, b], **compare(one, other, energy, other_energy)})
    write_json({"pairs": pairs}, snakemake.output[0])
