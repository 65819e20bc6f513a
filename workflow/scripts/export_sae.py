"""Write an SAE as a folder for others: SAELens's files and this project's, with a model card."""

from pathlib import Path

from antibody_sae.io import read_json
from antibody_sae.jobs import job
from antibody_sae.models import presets
from antibody_sae.sae import exchange
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    found, params = snakemake.input, snakemake.params
    folder = Path(snakemake.output[0]).parent
    sae = SAE.load(Path(found.sae).parent)
    exchange.publish(sae, read_json(found.metrics), presets.resolve(params.model), folder)
