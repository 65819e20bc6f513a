"""An SAE of this run and its namesake of another run, each judged on the other's test antibodies."""

from pathlib import Path

from antibody_sae import splits
from antibody_sae.activations import Store
from antibody_sae.concepts import abroad, labelling, transfer
from antibody_sae.io import read_json, read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    found, params = snakemake.input, snakemake.params
    layer, name, sides = int(snakemake.wildcards.layer), snakemake.wildcards.sae, []
    abroad.check(*(read_json(path) for path in found.manifests[::-1]), params.runs[1])
    for run, folder in zip(map(Path, params.runs), params.saes, strict=True):
        store = Store(run / "activations" / f"layer{layer}", {"layer": layer})
        sides.append(
            transfer.Side(
                run.name,
                int(folder.rpartition("-seed")[2]),
                store,
                SAE.load(run / "saes" / folder, store.provenance()),
                labelling.load(run / "concepts"),
                read_parquet(run / "concepts" / folder / "best.parquet"),
                splits.residue_mask(run, "test"),
                transfer.clonotypes(read_parquet(run / "numbering" / "chains.parquet")),
            )
        )
    made = transfer.transfer(*sides, params.concepts)
    for table, path in zip(made, snakemake.output, strict=True):
        write_parquet(table.assign(layer=layer, sae=name), path)
