"""What the run steers towards: the targets that the configuration names, or those of the protocol's rule."""

from pathlib import Path

from antibody_sae.concepts import labelling
from antibody_sae.io import write_json
from antibody_sae.jobs import job
from antibody_sae.steering import targets

snakemake = globals()["snakemake"]

with job(snakemake):
    named, chains = snakemake.params.targets, snakemake.params.chains
    labels = labelling.load(Path(snakemake.input.labels).parent)
    chosen = list(targets.automatic(labels, chains[0])) if named == "auto" else named
    panel = targets.panel(labels, chosen)
    prevalence = {target: float(share) for target, share in zip(chosen, panel.has.mean(0), strict=True)}
    write_json({"targets": chosen, "prevalence": prevalence, "by_rule": named == "auto"}, snakemake.output[0])
