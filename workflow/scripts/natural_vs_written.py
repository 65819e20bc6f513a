"""What the input holds beside what the model writes without steering."""

import pandas as pd
from antibody_sae.io import atomic, read_parquet
from antibody_sae.jobs import job
from antibody_sae.report import nature

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    frames = []
    for plan, outcomes in zip(found.plans, found.outcomes, strict=True):
        arms = read_parquet(plan, columns=["arm", "kind", "chains"])
        unsteered = arms[arms["kind"] == "none"]
        frames.append(read_parquet(outcomes).merge(unsteered, on="arm", validate="many_to_one"))
    table = nature.by_chains(
        read_parquet(found.antibodies, columns=["antibody_id", "heavy", "light"]),
        read_parquet(found.chains),
        read_parquet(found.splits),
        pd.concat(frames, ignore_index=True),
        snakemake.params.bins["v_identity"],
    )
    with atomic(snakemake.output[0]) as part:
        table.to_csv(part, index=False, float_format="%.6g")
