# Stage 5: sparse autoencoders, one job each, trained or loaded; with two seeds or more, how far the seeds agree; and what
# `snakemake export` writes for others.

EXPORTED = [
    "README.md",
    *(file for each in (checkpoints.SAELENS, checkpoints.OWN) for file in (each.about, each.weights)),
]


rule train_sae:
    input:
        manifest=stage_of("activations", "manifest.json"),
        shards=shards_of,
        splits=f"{OUT}/splits/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
    output:
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        config=f"{OUT}/saes/{ONE_SAE}/config.json",
        history=f"{OUT}/saes/{ONE_SAE}/history.parquet",
    log:
        f"{OUT}/logs/train_sae-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/train_sae-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    wildcard_constraints:
        sae="|".join(sae for sae in SAES if sae not in LOADED) or "none",
    conda:
        "../../envs/environment.yaml"
    threads: config["saes"]["threads"]
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(120),
        gpu=0,
    params:
        run=lambda wildcards, input: str(Path(input.splits).parents[1]),
        model=lambda wildcards: presets.known_as(model_of(wildcards)),
        device=config["model"]["device"],
        settings=lambda wildcards: SAES[wildcards.sae],
        checkpoint=f"{OUT}/checkpoints/saes/{ONE_SAE}.safetensors",
        code=code("train_sae.py"),
    script:
        "../scripts/train_sae.py"


rule load_sae:
    input:
        checkpoint=lambda wildcards: checkpoints.recognise(SAES[wildcards.sae]["load"]).files,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
        splits=f"{OUT}/splits/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
    output:
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        config=f"{OUT}/saes/{ONE_SAE}/config.json",
    log:
        f"{OUT}/logs/load_sae-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/load_sae-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    wildcard_constraints:
        sae="|".join(LOADED) or "none",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
    params:
        run=lambda wildcards, input: str(Path(input.splits).parents[1]),
        names=[config["model"]["name"], presets.resolve(config["model"]).checkpoint],
        load=lambda wildcards: SAES[wildcards.sae]["load"],
        code=code("load_sae.py"),
    script:
        "../scripts/load_sae.py"


rule evaluate_sae:
    input:
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        manifest=stage_of("activations", "manifest.json"),
        shards=shards_of,
        splits=f"{OUT}/splits/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
        antibodies=f"{OUT}/sequences/antibodies.parquet",
    output:
        f"{OUT}/saes/{ONE_SAE}/metrics.json",
    log:
        f"{OUT}/logs/evaluate_sae-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate_sae-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
        gpu=0,
    params:
        run=lambda wildcards, input: str(Path(input.splits).parents[1]),
        model=model_of,
        code=code("evaluate_sae.py"),
    script:
        "../scripts/evaluate_sae.py"


rule compare_seeds:
    input:
        weights=lambda wildcards: of_seeds(wildcards, "sae.safetensors"),
        metrics=lambda wildcards: of_seeds(wildcards, "metrics.json"),
    output:
        stability=f"{OUT}/saes/layer{{layer}}/{{sae}}-stability.json",
        matches=f"{OUT}/saes/layer{{layer}}/{{sae}}-matches.parquet",
    log:
        f"{OUT}/logs/compare_seeds-layer{{layer}}-{{sae}}.log",
    benchmark:
        f"{OUT}/benchmarks/compare_seeds-layer{{layer}}-{{sae}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 0),
        runtime=minutes(30),
    params:
        seeds=lambda wildcards: SEEDS[wildcards.sae],
        code=code("compare_seeds.py"),
    script:
        "../scripts/compare_seeds.py"


rule export_sae:
    input:
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        metrics=f"{OUT}/saes/{ONE_SAE}/metrics.json",
    output:
        expand(f"{OUT}/export/{ONE_SAE}/{{file}}", file=EXPORTED, allow_missing=True),
    log:
        f"{OUT}/logs/export_sae-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/export_sae-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    localrule: True  # a second's work, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        model=model_of,
        code=code("export_sae.py"),
    script:
        "../scripts/export_sae.py"


rule export:
    input:
        expand(f"{OUT}/export/{{sae}}/README.md", sae=EVERY_SAE),
    localrule: True  # it only names what is to be made
