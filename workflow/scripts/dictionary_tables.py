"""The dictionaries of the run side by side, as a whole and concept by concept."""

from pathlib import Path

from antibody_sae.concepts import dictionaries
from antibody_sae.io import atomic, read_arrays, read_json, read_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    files = zip(found.configs, found.weights, found.metrics, found.figures, found.concepts, strict=True)
    saes = [
        dictionaries.Dictionary(
            **about,
            config=read_json(config),
            metrics=read_json(metrics),
            figures=read_json(figures),
            concepts=read_parquet(concepts),
            directions=read_arrays(weights)["decoder.weight"],
        )
        for about, (config, weights, metrics, figures, concepts) in zip(snakemake.params.about, files, strict=True)
    ]
    stability = {
        (int(Path(path).parent.name.removeprefix("layer")), Path(path).name.removesuffix("-stability.json")): read_json(
            path
        )["pairs"]
        for path in found.stability
    }
    tables = dictionaries.side_by_side(saes, stability), dictionaries.by_concept(saes)
    for table, path in zip(tables, snakemake.output, strict=True):
        with atomic(path) as part:
            table.to_csv(part, index=False, float_format="%.6g")
