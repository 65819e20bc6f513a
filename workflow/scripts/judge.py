"""Let one judge score a library and what it is compared with."""

import pandas as pd
from antibody_sae.designs import judges
from antibody_sae.io import read_parquet, write_parquet
from antibody_sae.jobs import job

snakemake = globals()["snakemake"]

with job(snakemake):
    judge = snakemake.wildcards.judge
    print(judges.licences([judge]))
    antibodies = judges.judged(read_parquet(snakemake.input.chains))
    scores = judges.run(judge, antibodies, snakemake.params.partner)
    write_parquet(pd.concat([antibodies[["set", "cell_id"]], scores], axis=1), snakemake.output.scores)
