# Stage 3: train, validation and test, whole clonotype clusters at a time.


rule split:
    input:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
    output:
        f"{OUT}/splits/antibodies.parquet",
    log:
        f"{OUT}/logs/split.log",
    benchmark:
        f"{OUT}/benchmarks/split.tsv"
    priority: 2  # quick, and it says what cannot work
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 30),
        runtime=minutes(30),
    params:
        splits=config["splits"],
        code=code("split.py"),
    script:
        "../scripts/split.py"
