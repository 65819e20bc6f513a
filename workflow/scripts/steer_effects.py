"""Compare the confirmed arms of each layer with its random ones."""

from pathlib import Path

import pandas as pd
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.steering import effects, measured, targets

snakemake = globals()["snakemake"]


def arms(folder: Path, units: list[str], stage: str) -> dict[str, pd.DataFrame]:
    return {
        unit: measured.joined(
            *(read_parquet(folder / unit / stage / f"{name}.parquet") for name in ("plan", "outcomes"))
        )
        for unit in [effects.LAYER, *units]
    }


with job(snakemake):
    found = snakemake.input
    wanted = targets.read(found.targets)
    for lengths, units in zip(found.doses, snakemake.params.units, strict=True):
        folder = Path(lengths).parent
        compared = effects.effects(
            arms(folder, units, "confirm"),
            arms(folder, units, "explore"),
            read_parquet(lengths),
            {unit: read_parquet(folder / unit / "tested.parquet") for unit in units},
            wanted,
            snakemake.params.steering["perplexity_bound"],
        )
        for unit, (table, side_effects) in compared.items():
            write_parquet(table, folder / unit / "effects.parquet")
            write_parquet(side_effects, folder / unit / "side_effects.parquet")
