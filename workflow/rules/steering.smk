# Stage 7: steering. Plan (on train and validation data), write in chunks, number once, compare. What needs no SAE is
# done once a layer, under the name `controls`; every SAE has a branch of its own.

STEER = f"{OUT}/steering/layer{{layer}}"
STEERING = config["steering"]
WRITING = pick("sequences", "chains", "species", "temperature", "top_p", "prompt")
WRITING["complete"] = not GENERATE or config["sequences"]["complete"]
LABELS = pick("concepts", "bins", "metadata", "position_pairs")
STEERED = [
    {"sae": sae, "architecture": SAES[sae]["architecture"], "seed": seed, "layer": layer}
    for layer in LAYERS
    for sae in SAES
    for seed in SEEDS
]


wildcard_constraints:
    unit=r"controls|(" + "|".join(SAES) + r")-seed\d+",


rule steer_controls:
    input:
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        antibodies=f"{OUT}/sequences/antibodies.parquet",
    output:
        plan=f"{STEER}/controls/plan.parquet",
        vectors=f"{STEER}/controls/vectors.safetensors",
        directions=f"{STEER}/controls/directions.safetensors",
        counts=f"{STEER}/controls/counts.json",
    log:
        f"{OUT}/logs/steer_controls-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_controls-layer{{layer}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
        gpu=0,
    params:
        model=config["model"],
        steering=pick(
            "steering",
            "targets",
            "where",
            "gradient_antibodies",
            "norms",
            "random_latents",
            "random_n",
            "n",
            "baseline",
            "seed",
        ),
        chains=WRITING["chains"],
        code=code("steer_controls.py"),
    script:
        "../scripts/steer_controls.py"


rule steer_levers:
    input:
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
    output:
        directions=f"{STEER}/levers/directions.safetensors",
        training=f"{STEER}/levers/training.parquet",
        reliability=f"{STEER}/levers/reliability.parquet",
        control_map=f"{STEER}/levers/control_map.parquet",
    log:
        f"{OUT}/logs/steer_levers-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_levers-layer{{layer}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(120),
        gpu=0,
    params:
        model=config["model"],
        steering=pick(
            "steering",
            "targets",
            "where",
            "gradient_antibodies",
            "levers",
            "lever_length",
            "lever_rounds",
            "perplexity_bound",
            "n",
            "seed",
        ),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_levers.py"),
    script:
        "../scripts/steer_levers.py"


rule steer_sparse:
    input:
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        sae=f"{OUT}/saes/layer{{layer}}/{{sae}}-seed{{seed}}/config.json",
        weights=f"{OUT}/saes/layer{{layer}}/{{sae}}-seed{{seed}}/sae.safetensors",
        directions=f"{STEER}/levers/directions.safetensors",
    output:
        vectors=f"{STEER}/{{sae}}-seed{{seed}}/levers.safetensors",
        table=f"{STEER}/{{sae}}-seed{{seed}}/levers.parquet",
    log:
        f"{OUT}/logs/steer_sparse-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_sparse-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 5),
        runtime=minutes(30),
    params:
        steering=pick("steering", "targets", "lever_sizes"),
        code=code("steer_sparse.py"),
    script:
        "../scripts/steer_sparse.py"


rule steer_plan:
    input:
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
        sae=f"{OUT}/saes/layer{{layer}}/{{sae}}-seed{{seed}}/config.json",
        weights=f"{OUT}/saes/layer{{layer}}/{{sae}}-seed{{seed}}/sae.safetensors",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        directions=f"{STEER}/controls/directions.safetensors",
    output:
        plan=f"{STEER}/{{sae}}-seed{{seed}}/plan.parquet",
        vectors=f"{STEER}/{{sae}}-seed{{seed}}/vectors.safetensors",
        tested=f"{STEER}/{{sae}}-seed{{seed}}/tested.parquet",
    log:
        f"{OUT}/logs/steer_plan-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_plan-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
    params:
        steering=pick(
            "steering",
            "targets",
            "criteria",
            "candidates",
            "strengths",
            "norms",
            "methods",
            "random_latents",
            "random_n",
            "n",
            "seed",
        ),
        code=code("steer_plan.py"),
    script:
        "../scripts/steer_plan.py"


rule steer_generate:
    input:
        plan=f"{STEER}/{{unit}}/plan.parquet",
        vectors=f"{STEER}/{{unit}}/vectors.safetensors",
        counts=f"{STEER}/controls/counts.json",
        sae=clamped_sae,
    output:
        f"{STEER}/{{unit}}/sequences-{{chunk}}.parquet",
    log:
        f"{OUT}/logs/steer_generate-layer{{layer}}-{{unit}}-{{chunk}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_generate-layer{{layer}}-{{unit}}-{{chunk}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 0),
        runtime=minutes(120),
        gpu=0,
    params:
        model=config["model"],
        steering=pick("steering", "where", "scored", "seed", "chunks"),
        writing=WRITING,
        species=config["numbering"]["species"],
        code=code("steer_generate.py"),
    script:
        "../scripts/steer_generate.py"


rule steer_outcomes:
    input:
        sequences=expand(
            f"{STEER}/{{{{unit}}}}/sequences-{{chunk}}.parquet", chunk=range(STEERING["chunks"]), allow_missing=True
        ),
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        splits=f"{OUT}/splits/antibodies.parquet",
    output:
        f"{STEER}/{{unit}}/outcomes.parquet",
    log:
        f"{OUT}/logs/steer_outcomes-layer{{layer}}-{{unit}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_outcomes-layer{{layer}}-{{unit}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 5),
        runtime=minutes(60),
    params:
        steering=pick("steering", "targets", "scored"),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_outcomes.py"),
    script:
        "../scripts/steer_outcomes.py"


rule steer_effects:
    input:
        plan=f"{STEER}/{{sae}}-seed{{seed}}/plan.parquet",
        tested=f"{STEER}/{{sae}}-seed{{seed}}/tested.parquet",
        outcomes=f"{STEER}/{{sae}}-seed{{seed}}/outcomes.parquet",
        controls_plan=f"{STEER}/controls/plan.parquet",
        controls=f"{STEER}/controls/outcomes.parquet",
    output:
        effects=f"{STEER}/{{sae}}-seed{{seed}}/effects.parquet",
        side_effects=f"{STEER}/{{sae}}-seed{{seed}}/side_effects.parquet",
    log:
        f"{OUT}/logs/steer_effects-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_effects-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 5),
        runtime=minutes(30),
    params:
        steering=pick("steering", "perplexity_bound"),
        code=code("steer_effects.py"),
    script:
        "../scripts/steer_effects.py"


rule steer_tables:
    input:
        effects=every_steered("effects.parquet"),
        side_effects=every_steered("side_effects.parquet"),
        tested=every_steered("tested.parquet"),
    output:
        mapping=report(
            f"{OUT}/tables/mapping_vs_steering.csv",
            category="Tables",
            labels={"table": "Mapping against steering"},
            caption="../report/mapping.rst",
        ),
        criteria=report(
            f"{OUT}/tables/steering_by_criterion.csv",
            category="Tables",
            labels={"table": "Steering by criterion"},
            caption="../report/criteria.rst",
        ),
        claims=f"{OUT}/tables/claims.json",
    log:
        f"{OUT}/logs/steer_tables.log",
    benchmark:
        f"{OUT}/benchmarks/steer_tables.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 5),
        runtime=minutes(30),
    params:
        about=STEERED,
        code=code("steer_tables.py"),
    script:
        "../scripts/steer_tables.py"


rule levers:
    input:
        every_steered("levers.safetensors") if "sparse" in STEERING["levers"] else [],
        expand(f"{OUT}/steering/layer{{layer}}/levers/directions.safetensors", layer=LAYERS),
