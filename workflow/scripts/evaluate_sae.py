"""Measure a trained SAE on the test split."""

from pathlib import Path

from antibody_sae import splits
from antibody_sae.activations import Store
from antibody_sae.io import read_parquet, write_json
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae import evaluation
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]
SPLICED = 100  # antibodies of the cross-entropy with the reconstruction spliced in

with job(snakemake):
    params, layer = snakemake.params, int(snakemake.wildcards.layer)
    model = models.load(params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": layer})
    sae = SAE.load(Path(snakemake.input.sae).parent, store.provenance())
    metrics = evaluation.evaluate(sae, store, splits.residue_mask(params.run, "test"))
    antibodies = read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"])
    split = read_parquet(snakemake.input.splits, columns=["antibody_id", "split"])
    held_out = antibodies[antibodies["antibody_id"].isin(split.loc[split["split"] == "test", "antibody_id"])]
    passages = [
        passage
        for row in held_out.head(SPLICED).itertuples()
        for passage in model.encode(
            row.heavy if isinstance(row.heavy, str) else None,
            row.light if isinstance(row.light, str) else None,
            row.species,
        )
    ]
    metrics |= evaluation.splice(sae, model, passages, layer, store.manifest["mean"])
    write_json(metrics, snakemake.output[0])
