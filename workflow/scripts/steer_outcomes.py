"""Number what was written under a plan, each distinct sequence once, and see which concepts it has."""

from pathlib import Path

import pandas as pd
from antibody_sae.concepts import labelling
from antibody_sae.io import read_json, read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.steering import outcomes

snakemake = globals()["snakemake"]

with job(snakemake):
    params, settings = snakemake.params, snakemake.params.steering
    labels = labelling.load(Path(snakemake.input.labels).parent)
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light"])
    written = pd.concat([read_parquet(path) for path in snakemake.input.sequences], ignore_index=True)
    rows = outcomes.outcomes(
        written.sort_values(["arm", "row"], ignore_index=True),
        [*read_json(snakemake.input.targets)["targets"], *outcomes.frequent(labels)],
        params.writing,
        {"numbering": params.numbering, "concepts": params.concepts},
        outcomes.training_sequences(antibodies, read_parquet(snakemake.input.splits), params.writing["chains"]),
        settings["scored"],
    )
    write_parquet(rows, snakemake.output[0])
