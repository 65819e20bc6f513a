"""Residual stream of this shard's antibodies, one file a layer."""

from antibody_sae import activations
from antibody_sae.io import read_parquet
from antibody_sae.jobs import job
from antibody_sae.models import model as models

snakemake = globals()["snakemake"]

with job(snakemake):
    settings, shard = snakemake.params.activations, int(snakemake.wildcards.shard)
    chains = read_parquet(snakemake.input.chains)
    table = activations.numbered(
        read_parquet(snakemake.input.antibodies, columns=["antibody_id", "heavy", "light", "species"]), chains
    )
    share = min(
        1.0, (settings["max_tokens"] or float("inf")) / max(1, chains.loc[chains["status"] == "ok", "length"].sum())
    )
    start, stop = (len(table) * i // settings["shards"] for i in (shard, shard + 1))
    activations.harvest(
        models.load(snakemake.params.model),
        table.iloc[start:stop],
        settings["layers"],
        list(snakemake.output),
        settings["dtype"],
        share,
    )
