"""One SAE over its seeds: stability and orderedness, raw and by energy, and each latent's counterpart."""

from itertools import combinations
from pathlib import Path

import pandas as pd
from antibody_sae.io import read_json, write_json, write_parquet
from antibody_sae.jobs import job
from antibody_sae.sae.evaluation import compare, matches
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    saes = {
        seed: (SAE.load(Path(weights).parent), read_json(metrics)["energy"])
        for seed, weights, metrics in zip(
            snakemake.params.seeds, snakemake.input.weights, snakemake.input.metrics, strict=True
        )
    }
    about = {"sae": snakemake.wildcards.sae, "layer": int(snakemake.wildcards.layer)}
    pairs, counterparts = [], []
    for a, b in combinations(saes, 2):
        (one, energy), (other, other_energy) = saes[a], saes[b]
        pairs.append({"seeds": [a, b], **compare(one, other, energy, other_energy)})
        counterparts.append(matches(one, other).assign(**about, seed=a, other_seed=b))
    write_json({"pairs": pairs}, snakemake.output.stability)
    write_parquet(pd.concat(counterparts), snakemake.output.matches)
