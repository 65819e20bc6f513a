"""One SAE's k-sparse probes, the latents that its concepts take, and absorption."""

from pathlib import Path

from antibody_sae.activations import Store
from antibody_sae.concepts import labelling, quality
from antibody_sae.concepts.probes import LinearProbe
from antibody_sae.io import read_arrays, read_parquet, write_json, write_parquet
from antibody_sae.jobs import job
from antibody_sae.sae.model import SAE

snakemake = globals()["snakemake"]

with job(snakemake):
    found = snakemake.input
    store = Store(Path(found.manifest).parent, {"layer": int(snakemake.wildcards.layer)})
    measured = quality.measure(
        store,
        SAE.load(Path(found.sae[0]).parent, store.provenance()),
        labelling.load(Path(found.labels[0]).parent),
        read_parquet(found.baselines),
        LinearProbe(**read_arrays(found.probe)),
        snakemake.params.concepts,
    )
    write_json(measured.figures, snakemake.output.figures)
    write_parquet(measured.concepts, snakemake.output.concepts)
