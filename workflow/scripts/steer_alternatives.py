"""What an engineer would do instead of steering: each target by prompt, logit bias and infilling."""

import pandas as pd
from antibody_sae.antibody import LETTERS
from antibody_sae.io import atomic, read_json, read_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models
from antibody_sae.steering import alternatives, targets, trained

snakemake = globals()["snakemake"]

with job(snakemake), atomic(snakemake.output[0]) as part:
    params, found = snakemake.params, snakemake.input
    model, sections = models.load(params.model), {"numbering": params.numbering, "concepts": params.concepts}
    plan, written, counts = read_parquet(found.plan[0]), read_parquet(found.outcomes[0]), read_json(found.counts[0])
    tables = []
    for chains, mine in targets.by_chains(targets.read(found.targets)).items():
        none = plan.loc[(plan["kind"] == "none") & (plan["chains"] == chains), "arm"].iloc[0]
        own, writing = written[written["arm"] == none], {**params.writing, "chains": chains}
        texts = ["".join(parts) for parts in own[[LETTERS[letter] for letter in chains]].fillna("").to_numpy()]
        desk = alternatives.Desk(
            model,
            params.layer[0],
            mine,
            trained.catalogue_judge(mine, writing, sections),
            params.steering,
            writing,
            params.numbering["species"],
            counts[chains],
        )
        tables.append(desk.compare(texts, own["ended"].to_numpy(bool), own["log_likelihood"].to_numpy(float)))
    pd.concat(tables).to_csv(part, index=False, float_format="%.6g")
