# Stage 4: the residual stream of every residue. One forward pass harvests all layers.


rule harvest:
    input:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
    output:
        expand(f"{OUT}/activations/layer{{layer}}/shard-{{{{shard}}}}.safetensors", layer=LAYERS),
    log:
        f"{OUT}/logs/harvest-{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/harvest-{{shard}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500),
        runtime=minutes(120),
        gpu=0,
    params:
        model=config["model"],
        activations=config["activations"],
        code=code("harvest.py"),
    script:
        "../scripts/harvest.py"


use rule harvest as harvest_random with:
    output:
        expand(
            f"{OUT}/activations/random-seed{{{{seed}}}}/layer{{layer}}/shard-{{{{shard}}}}.safetensors",
            layer=LAYERS,
        ),
    log:
        f"{OUT}/logs/harvest_random-seed{{seed}}-{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/harvest_random-seed{{seed}}-{{shard}}.tsv"
    params:
        model=lambda wildcards: presets.drawn(config["model"], int(wildcards.seed)),
        activations=config["activations"],
        code=code("harvest.py"),


rule manifest:
    input:
        SHARDS,
    output:
        f"{OUT}/activations/layer{{layer}}/manifest.json",
    log:
        f"{OUT}/logs/manifest-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/manifest-layer{{layer}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000, 0),
        runtime=minutes(30),
    params:
        code=code("manifest.py"),
    script:
        "../scripts/manifest.py"


use rule manifest as manifest_random with:
    input:
        RANDOM_SHARDS,
    output:
        f"{OUT}/activations/random-seed{{seed}}/layer{{layer}}/manifest.json",
    log:
        f"{OUT}/logs/manifest_random-seed{{seed}}-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/manifest_random-seed{{seed}}-layer{{layer}}.tsv"
