# Stage 1: antibodies from the model, in chunks with a seed each, or from files.

from antibody_sae.sequences import readers

GENERATE = config["sequences"]["source"] == "generate"
try:
    FILES = [] if GENERATE else readers.find(config["sequences"]["paths"])
except InputError as error:
    raise WorkflowError(str(error))
if GENERATE:
    SEQUENCE_CHUNKS = range(config["sequences"]["chunks"])
else:  # files whose chains are joined are read together
    SEQUENCE_CHUNKS = range(1 if config["sequences"]["join"] else min(config["sequences"]["chunks"], len(FILES)))


READING = pick(
    "sequences",
    "chains",
    "species",
    "format",
    "columns",
    "metadata",
    "pair_pattern",
    "join",
    "translate",
    "min_length",
    "max_length",
)  # what reading a file depends on


if GENERATE:

    rule generate:
        output:
            accepted=f"{OUT}/sequences/chunks/accepted-{{chunk}}.parquet",
            rejected=f"{OUT}/sequences/chunks/rejected-{{chunk}}.parquet",
        log:
            f"{OUT}/logs/generate-{{chunk}}.log",
        benchmark:
            f"{OUT}/benchmarks/generate-{{chunk}}.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(2500),
            runtime=minutes(240),
            gpu=0,
        params:
            model=config["model"],
            sequences=pick(
                "sequences", "n", "chunks", "chains", "species", "temperature", "top_p", "prompt", "complete", "seed"
            ),
            species=config["numbering"]["species"],
            checkpoints=f"{OUT}/checkpoints/sequences",
            code=code("generate.py"),
        script:
            "../scripts/generate.py"

else:

    rule read_sequences:
        input:
            tracked_files,
        output:
            accepted=f"{OUT}/sequences/chunks/accepted-{{chunk}}.parquet",
            rejected=f"{OUT}/sequences/chunks/rejected-{{chunk}}.parquet",
        log:
            f"{OUT}/logs/read_sequences-{{chunk}}.log",
        benchmark:
            f"{OUT}/benchmarks/read_sequences-{{chunk}}.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 0),
            runtime=minutes(120),
        params:
            paths=chunk_files,
            untracked=untracked_files,
            sequences=READING,
            species=config["numbering"]["species"],
            code=code("read_sequences.py"),
        script:
            "../scripts/read_sequences.py"


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
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 2),
        runtime=minutes(60),
    params:
        drop=config["sequences"]["drop_lowest_likelihood"],
        code=code("merge_sequences.py"),
    script:
        "../scripts/merge_sequences.py"
