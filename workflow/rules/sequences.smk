# Stage 1: antibodies from the model, in chunks with a seed each, or from files.

SEQUENCE_CHUNKS = range(config["sequences"]["chunks"])
GENERATION = {
    key: config["sequences"][key]
    for key in ("n", "chunks", "chains", "species", "temperature", "top_p", "prompt", "seed")
}


rule generate:
    output:
        accepted=f"{OUT}/sequences/chunks/accepted-{{chunk}}.parquet",
        rejected=f"{OUT}/sequences/chunks/rejected-{{chunk}}.parquet",
    log:
        f"{OUT}/logs/generate-{{chunk}}.log",
    benchmark:
        f"{OUT}/benchmarks/generate-{{chunk}}.tsv"
    threads: 1
    resources:
        mem_mb=memory(2500),
        runtime=minutes(240),
        gpu=0,
    params:
        model=config["model"],
        sequences=GENERATION,
        species=config["numbering"]["species"],
        checkpoints=f"{OUT}/checkpoints/sequences",
        code=code("generate.py"),
    script:
        "../scripts/generate.py"


rule merge_sequences:
    input:
        accepted=expand(f"{OUT}/sequences/chunks/accepted-{{chunk}}.parquet", chunk=SEQUENCE_CHUNKS),
        rejected=expand(f"{OUT}/sequences/chunks/rejected-{{chunk}}.parquet", chunk=SEQUENCE_CHUNKS),
    output:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        rejected=f"{OUT}/sequences/rejected.parquet",
        summary=f"{OUT}/sequences/summary.json",
    log:
        f"{OUT}/logs/merge_sequences.log",
    benchmark:
        f"{OUT}/benchmarks/merge_sequences.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000, 2),
        runtime=minutes(60),
    params:
        drop=config["sequences"]["drop_lowest_likelihood"],
        code=code("merge_sequences.py"),
    script:
        "../scripts/merge_sequences.py"
