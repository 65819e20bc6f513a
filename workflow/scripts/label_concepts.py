"""Label residues and antibodies with the catalogue's concepts; say which cannot be tested, and why."""

import sys
from pathlib import Path

from antibody_sae.concepts import labelling
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    settings, said = labelling.settle_metadata(snakemake.params.run, snakemake.params.concepts)
    print(*(f"metadata column {line}" for line in said), sep="\n", file=sys.stderr)
    blocks = labelling.read_blocks(snakemake.params.run, settings)
    labels, groups = labelling.label(blocks, settings, also=snakemake.params.also)
    support = labelling.save(labels, groups, settings, Path(snakemake.output.labels).parent)
    untestable = support[support["status"] != "ok"]
    print(f"{len(support)} concepts, {len(untestable)} of them untestable:", file=sys.stderr)
    for row in untestable.itertuples():
        print(f"  {row.concept}: {row.status.removeprefix('untestable: ')}", file=sys.stderr)
