"""What a dictionary can express of a layer's trained vectors with few latents."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.io import read_json, read_safetensors, sha256_file, write_parquet, write_safetensors
from antibody_sae.jobs import job
from antibody_sae.sae.model import SAE
from antibody_sae.steering import sparse, trained

snakemake = globals()["snakemake"]

with job(snakemake):
    settings, layer = snakemake.params.steering, int(snakemake.wildcards.layer)
    targets = read_json(snakemake.input.targets)["targets"]
    store = Store(Path(snakemake.input.manifest).parent, {"layer": layer})
    sae = SAE.load(Path(snakemake.input.sae).parent, store.provenance())
    known = read_safetensors(snakemake.input.directions)
    vectors, table = sparse.levers(sae, known, targets, settings)
    about = {**store.provenance(), "sae_sha256": sha256_file(snakemake.input.weights), "targets": targets}
    write_safetensors(vectors, snakemake.output.vectors, trained.provenance(about))
    write_parquet(table, snakemake.output.table)
