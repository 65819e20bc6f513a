"""What the run steers towards: the targets that the configuration names, or those of the protocol's rule."""

from pathlib import Path

from antibody_sae.concepts import labelling
from antibody_sae.io import write_json
from antibody_sae.jobs import job
from antibody_sae.steering import targets

snakemake = globals()["snakemake"]

with job(snakemake):
    named, passages = snakemake.params.targets, snakemake.params.passages
    labels = labelling.load(Path(snakemake.input.labels).parent)
    by_rule = (
        [t for chains in passages for t in targets.automatic(labels, chains[0], len(passages) == 1)]
        if named == "auto"
        else []
    )
    chosen = targets.chains_of(by_rule or named, passages)
    panel = targets.panel(labels, list(chosen))
    prevalence = {target: float(share) for target, share in zip(chosen, panel.has.mean(0), strict=True)}
    found = {"targets": list(chosen), "chains": list(chosen.values()), "prevalence": prevalence}
    write_json({**found, "by_rule": named == "auto"}, snakemake.output[0])
