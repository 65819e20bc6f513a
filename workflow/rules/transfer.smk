# Another run of the same model beside this one, where transfer.from names its folder: each SAE is judged on the other
# run's test antibodies. The other run's files are inputs as they lie there; no rule of this run makes them.

if OTHER:

    rule transfer:
        input:
            manifests=of_runs("activations/layer{layer}/manifest.json"),
            saes=of_saes("saes", "config.json", "sae.safetensors"),
            best=of_saes("concepts", "best.parquet"),
            labels=of_runs("concepts/labels.json", "concepts/labels.safetensors"),
            tables=of_runs("numbering/chains.parquet", "splits/antibodies.parquet"),
            shards=SHARDS,
        output:
            summary=f"{OUT}/transfer/{ONE_SAE}/summary.parquet",
            concepts=f"{OUT}/transfer/{ONE_SAE}/concepts.parquet",
            latents=f"{OUT}/transfer/{ONE_SAE}/latents.parquet",
        log:
            f"{OUT}/logs/transfer-layer{{layer}}-{{sae}}-seed{{seed}}.log",
        benchmark:
            f"{OUT}/benchmarks/transfer-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(4000, 0),
            runtime=minutes(60),
        params:
            runs=RUNS,
            saes=both_saes,
            concepts=pick("concepts", "bootstrap", "seed"),
            code=code("transfer.py"),
        script:
            "../scripts/transfer.py"

    rule transfer_tables:
        input:
            summaries=expand(f"{OUT}/transfer/{{sae}}/summary.parquet", sae=list(NAMESAKES)),
            concepts=expand(f"{OUT}/transfer/{{sae}}/concepts.parquet", sae=list(NAMESAKES)),
            steering=of_runs("tables/steering_by_criterion.csv"),
        output:
            summary=report(
                f"{OUT}/tables/transfer.csv",
                category="Tables",
                labels={"table": "Transfer between runs"},
                caption="../report/transfer.rst",
            ),
            concepts=f"{OUT}/tables/transfer_concepts.csv",
        log:
            f"{OUT}/logs/transfer_tables.log",
        benchmark:
            f"{OUT}/benchmarks/transfer_tables.tsv"
        localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 5),
            runtime=minutes(10),
        params:
            runs=[Path(run).name for run in RUNS],
            code=code("transfer_tables.py"),
        script:
            "../scripts/transfer_tables.py"
