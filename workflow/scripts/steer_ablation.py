"""Hold an SAE's candidates at 0 on antibodies that have their target."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.sae.model import SAE
from antibody_sae.steering import ablation, targets

snakemake = globals()["snakemake"]

with job(snakemake):
    params, found = snakemake.params, snakemake.input
    layer = int(snakemake.wildcards.layer)
    model = models.load(params.model)
    store = Store(Path(found.manifest).parent, {**model.provenance, "layer": layer, "model_dtype": model.dtype_name})
    table = ablation.ablate(
        model,
        layer,
        SAE.load(Path(found.sae).parent, store.provenance()),
        labelling.load(Path(found.labels).parent),
        ablation.arms_of(read_parquet(found.plan)),
        targets.read(found.targets),
        params.steering["ablation"],
        params.writing,
        {"numbering": params.numbering, "concepts": params.concepts},
        params.steering["seed"],
    )
    write_parquet(table, snakemake.output[0])
