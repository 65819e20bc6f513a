# Stage 2: ANARCI's numbering and germlines of every chain, in chunks of antibodies.

NUMBERING_CHUNKS = range(config["numbering"]["chunks"])


rule number:
    input:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
    output:
        chains=f"{OUT}/numbering/chunks/chains-{{chunk}}.parquet",
        residues=f"{OUT}/numbering/chunks/residues-{{chunk}}.parquet",
    log:
        f"{OUT}/logs/number-{{chunk}}.log",
    benchmark:
        f"{OUT}/benchmarks/number-{{chunk}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 0),
        runtime=minutes(60),
    params:
        numbering=config["numbering"],
        complete=config["sequences"]["complete"],
        code=code("number.py"),
    script:
        "../scripts/number.py"


rule merge_numbering:
    input:
        chains=expand(f"{OUT}/numbering/chunks/chains-{{chunk}}.parquet", chunk=NUMBERING_CHUNKS),
        residues=expand(f"{OUT}/numbering/chunks/residues-{{chunk}}.parquet", chunk=NUMBERING_CHUNKS),
    output:
        chains=f"{OUT}/numbering/chains.parquet",
        residues=f"{OUT}/numbering/residues.parquet",
        summary=f"{OUT}/numbering/summary.json",
    log:
        f"{OUT}/logs/merge_numbering.log",
    benchmark:
        f"{OUT}/benchmarks/merge_numbering.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 0),
        runtime=minutes(60),
    params:
        scheme=config["numbering"]["scheme"],
        code=code("merge_numbering.py"),
    script:
        "../scripts/merge_numbering.py"
