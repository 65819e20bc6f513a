# Stage 5: sparse autoencoders, one job each; with two seeds or more, how far the seeds agree.


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
