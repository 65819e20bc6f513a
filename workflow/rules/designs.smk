# Steered libraries: `snakemake designs` builds each entry of the section `designs`. Written under a lever, judged by models
# that had no part in it (each a rule of its own, off unless a design names it), and laid out as files to order from.

DESIGNS = config["designs"]


wildcard_constraints:
    design="|".join(DESIGNS) or "none",
    judge="oasis|antiberty|flashtap",


rule design_natural:
    input:
        lambda wildcards: readers.find(DESIGNS[wildcards.design]["natural"]),
    output:
        accepted=f"{OUT}/designs/{{design}}/natural.parquet",
        rejected=f"{OUT}/designs/{{design}}/natural-rejected.parquet",
    log:
        f"{OUT}/logs/design_natural-{{design}}.log",
    benchmark:
        f"{OUT}/benchmarks/design_natural-{{design}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 3),
        runtime=minutes(60),
    params:
        paths=lambda wildcards, input: list(input),
        sequences=READING,
        species=config["numbering"]["species"],
        code=code("read_sequences.py"),
    script:
        "../scripts/read_sequences.py"


rule design:
    input:
        saes=design_saes("config.json"),
        weights=design_saes("sae.safetensors"),
        effects=design_levers("effects.parquet", "latent"),
        sparse=design_levers("levers.safetensors", "sparse"),
        trained=design_trained,
        manifest=design_manifest,
        counts=design_counts,
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        splits=f"{OUT}/splits/antibodies.parquet",
        natural=design_natural,
    output:
        chains=f"{OUT}/designs/{{design}}/chains.parquet",
        about=f"{OUT}/designs/{{design}}/about.json",
    log:
        f"{OUT}/logs/design-{{design}}.log",
    benchmark:
        f"{OUT}/benchmarks/design-{{design}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 0),
        runtime=minutes(120),
        gpu=0,
    params:
        model=config["model"],
        design=lambda wildcards: DESIGNS[wildcards.design],
        layer=lambda wildcards: design_layer(DESIGNS[wildcards.design]),
        targets=STEERING["targets"],
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("design.py"),
    script:
        "../scripts/design.py"


rule judge:
    input:
        chains=f"{OUT}/designs/{{design}}/chains.parquet",
    output:
        scores=f"{OUT}/designs/{{design}}/judge-{{judge}}.parquet",
    log:
        f"{OUT}/logs/judge-{{design}}-{{judge}}.log",
    benchmark:
        f"{OUT}/benchmarks/judge-{{design}}-{{judge}}.tsv"
    conda:
        "../../envs/oracles.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 0),
        runtime=minutes(120),
    params:
        partner=lambda wildcards: DESIGNS[wildcards.design]["partner"],
        code=code("judge.py"),
    script:
        "../scripts/judge.py"


rule design_files:
    input:
        chains=f"{OUT}/designs/{{design}}/chains.parquet",
        about=f"{OUT}/designs/{{design}}/about.json",
        scores=lambda wildcards: [
            f"{OUT}/designs/{wildcards.design}/judge-{judge}.parquet" for judge in DESIGNS[wildcards.design]["judges"]
        ],
    output:
        fasta=f"{OUT}/designs/{{design}}.fasta",
        table=f"{OUT}/designs/{{design}}.tsv",
        picked=f"{OUT}/designs/{{design}}-picked.csv",
        recipe=f"{OUT}/designs/{{design}}.json",
        page=f"{OUT}/designs/{{design}}/page.json",
    log:
        f"{OUT}/logs/design_files-{{design}}.log",
    benchmark:
        f"{OUT}/benchmarks/design_files-{{design}}.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 5),
        runtime=minutes(30),
    params:
        judges=lambda wildcards: DESIGNS[wildcards.design]["judges"],
        pick=lambda wildcards: DESIGNS[wildcards.design]["pick"],
        code=code("design_files.py"),
    script:
        "../scripts/design_files.py"


rule designs:
    input:
        expand(
            f"{OUT}/designs/{{design}}{{suffix}}",
            design=DESIGNS,
            suffix=[".fasta", ".tsv", "-picked.csv", ".json"],
        ),
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
