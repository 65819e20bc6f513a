"""One SAE's latents against all concepts."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import association, labelling
from antibody_sae.io import read_parquet, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    wildcards, settings = snakemake.wildcards, snakemake.params.concepts
    name = {"sae": wildcards.sae, "seed": int(wildcards.seed), "layer": int(wildcards.layer)}
    model = models.load(snakemake.params.model)
    store = Store(Path(snakemake.input.manifest).parent, {**model.provenance, "layer": name["layer"]})
    sae = SAE.load(Path(snakemake.input.sae[0]).parent, store.provenance())
    folder = Path(snakemake.input.labels[0]).parent
    found = association.associate(
        store,
        sae,
        labelling.load(folder),
        read_parquet(folder / "concepts.parquet"),
        read_parquet(snakemake.input.baselines),
        settings,
        lens=model.logit_lens(sae.scale * sae.directions).numpy(),
        scratch=Path(snakemake.output.best).parent,
    )
    write_safetensors(found.scores, snakemake.output.scores)
    for table, path in zip((found.pairs, found.best, found.latents), snakemake.output[:3], strict=True):
        for column, value in reversed(name.items()):
            table.insert(0, column, value)
        write_parquet(table, path)
