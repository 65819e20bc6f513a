"""Number what was written under a plan, each distinct sequence once, and see which concepts it has."""

from pathlib import Path

import pandas as pd
from antibody_sae.concepts import labelling
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.steering import outcomes, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    params, settings = snakemake.params, snakemake.params.steering
    labels = labelling.load(Path(snakemake.input.labels).parent)
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light"])
    written = pd.concat([read_parquet(path) for path in snakemake.input.sequences], ignore_index=True)
    splits = read_parquet(snakemake.input.splits)
    rows = [
        outcomes.outcomes(
            own.drop(columns="chains").sort_values(["arm", "row"], ignore_index=True),
            [*targets.read(snakemake.input.targets), *outcomes.frequent(labels)],
            {**params.writing, "chains": chains},
            {"numbering": params.numbering, "concepts": params.concepts},
            outcomes.training_sequences(antibodies, splits, chains),
            settings["scored"],
        )
        for chains, own in written.groupby("chains", sort=False)
    ]
    write_parquet(pd.concat(rows).sort_values(["arm", "row"], ignore_index=True), snakemake.output[0])
