"""What each stage cost, from Snakemake's benchmark files: not in summary.json, which must repeat exactly."""

from __future__ import annotations

import re

import pandas as pd

from antibody_sae.report.run import Run

STAGES = {
    "sequences": r"generate|read_sequences|merge_sequences",
    "numbering": r"number|merge_numbering",
    "splits": r"split",
    "activations": r"harvest|manifest",
    "SAEs": r"train_sae|load_sae|evaluate_sae|compare_seeds",
    "concepts": r"label_concepts|concept_baselines|associate|concept_tables|lineages|lineage_table",
    "steering": r"steer_\w+",
    "transfer": r"transfer|transfer_tables",
}
"""Stage -> its rules, whose names start their benchmark files'."""


def costs(run: Run) -> pd.DataFrame:
    """stage, jobs, minutes (summed over its jobs), peak_gb (of its largest job), from Snakemake's benchmark files."""
    rows = []
    for file in sorted((run.folder / "benchmarks").glob("*.tsv")):
        rule = file.stem.partition("-")[0]
        table = pd.read_csv(file, sep="\t", na_values="-")
        stage = next((name for name, rules in STAGES.items() if re.fullmatch(rules, rule)), None)
        if stage and len(table):
            rows.append(
                {"stage": stage, "minutes": table["s"].iloc[-1] / 60, "peak_gb": table["max_rss"].iloc[-1] / 1024}
            )
    if not rows:
        return pd.DataFrame(columns=["stage", "jobs", "minutes", "peak_gb"])
    grouped = pd.DataFrame(rows).groupby("stage")
    table = grouped.agg(jobs=("minutes", "size"), minutes=("minutes", "sum"), peak_gb=("peak_gb", "max"))
    return table.reindex([s for s in STAGES if s in table.index]).reset_index()
