# Stage 7: steering. Every kind of arm goes through two stages: exploration tries each length with few sequences, and
# confirmation writes fresh ones under the length that was chosen. In each: plan, write in chunks, number once. What needs no
# SAE is done once a layer, under the name `controls`; every SAE has a branch of its own.

STEER = f"{OUT}/steering/layer{{layer}}"
STEERING = config["steering"]
WRITING = pick("sequences", "chains", "species", "temperature", "top_p", "prompt")
WRITING["complete"] = not GENERATE or config["sequences"]["complete"]
LABELS = pick("concepts", "bins", "metadata", "position_pairs")
TARGETS = f"{OUT}/steering/targets.json"
FEW = ["levers"] * ("sparse" in STEERING["levers"]) + ["trained_levers"] * bool(STEERING["lever_trained"])
UNITS = {layer: [f"{sae}-seed{seed}" for sae in TRAINED[layer] for seed in SEEDS[sae]] for layer in STEERED_LAYERS}
STEERED = [
    {"sae": sae, "architecture": prefixes.kind_of(SAES[sae]), "seed": seed, "layer": layer}
    for layer in STEERED_LAYERS
    for sae in TRAINED[layer]
    for seed in SEEDS[sae]
]


wildcard_constraints:
    unit=r"controls|(" + "|".join(SAES) + r")-seed\d+",
    stage="explore|confirm",


rule steer_targets:
    input:
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
    output:
        TARGETS,
    log:
        f"{OUT}/logs/steer_targets.log",
    benchmark:
        f"{OUT}/benchmarks/steer_targets.tsv"
    priority: 2  # quick, and it says what cannot work
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 5),
        runtime=minutes(10),
    params:
        targets=STEERING["targets"],
        passages=settings.passages(config),
        code=code("steer_targets.py"),
    script:
        "../scripts/steer_targets.py"


rule steer_controls:
    input:
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        levers=f"{STEER}/levers/directions.safetensors",
        places=f"{STEER}/levers/places.json",
    output:
        plan=f"{STEER}/controls/explore/plan.parquet",
        vectors=f"{STEER}/controls/explore/vectors.safetensors",
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
    params:
        steering=pick("steering", "levers", "norms", "random_latents", "explore_n", "baseline", "seed"),
        code=code("steer_controls.py"),
    script:
        "../scripts/steer_controls.py"


rule steer_levers:
    input:
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
    output:
        directions=f"{STEER}/levers/directions.safetensors",
        places=f"{STEER}/levers/places.json",
        training=f"{STEER}/levers/training.parquet",
        reliability=f"{STEER}/levers/reliability.parquet",
        control_map=f"{STEER}/levers/control_map.parquet",
    log:
        f"{OUT}/logs/steer_levers-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_levers-layer{{layer}}.tsv"
    priority: 1  # long, and what much waits for: it starts as early as it can
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
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
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
        steering=pick("steering", "lever_sizes", "lever_signs"),
        code=code("steer_sparse.py"),
    script:
        "../scripts/steer_sparse.py"


rule steer_trained_sparse:
    input:
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        directions=f"{STEER}/levers/directions.safetensors",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
    output:
        vectors=f"{STEER}/{{sae}}-seed{{seed}}/trained_levers.safetensors",
        table=f"{STEER}/{{sae}}-seed{{seed}}/trained_levers.parquet",
        training=f"{STEER}/{{sae}}-seed{{seed}}/trained_levers-history.parquet",
    log:
        f"{OUT}/logs/steer_trained_sparse-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_trained_sparse-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
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
            "where",
            "gradient_antibodies",
            "lever_trained",
            "lever_signs",
            "lever_length",
            "lever_rounds",
            "perplexity_bound",
            "n",
            "seed",
        ),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_trained_sparse.py"),
    script:
        "../scripts/steer_trained_sparse.py"


rule steer_plan:
    input:
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        scores=f"{OUT}/concepts/{ONE_SAE}/scores.safetensors",
        best=f"{OUT}/concepts/{ONE_SAE}/best.parquet",
        directions=f"{STEER}/controls/directions.safetensors",
        levers=expand(f"{STEER}/{{sae}}-seed{{seed}}/{{file}}.safetensors", file=FEW, allow_missing=True),
    output:
        plan=f"{STEER}/{{sae}}-seed{{seed}}/explore/plan.parquet",
        vectors=f"{STEER}/{{sae}}-seed{{seed}}/explore/vectors.safetensors",
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
        model=config["model"],
        steering=lambda wildcards: {
            **pick("steering", "criteria", "candidates", "norms", "random_latents", "seed"),
            "explore_n": settings.explored(config, int(wildcards.layer)),
        },
        species=WRITING["species"],
        code=code("steer_plan.py"),
    script:
        "../scripts/steer_plan.py"


rule steer_generate:
    input:
        plan=f"{STEER}/{{unit}}/{{stage}}/plan.parquet",
        vectors=f"{STEER}/{{unit}}/{{stage}}/vectors.safetensors",
        counts=f"{STEER}/controls/counts.json",
    output:
        f"{STEER}/{{unit}}/{{stage}}/sequences-{{chunk}}.parquet",
    log:
        f"{OUT}/logs/steer_generate-layer{{layer}}-{{unit}}-{{stage}}-{{chunk}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_generate-layer{{layer}}-{{unit}}-{{stage}}-{{chunk}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 0),
        runtime=minutes(120),
        gpu=0,
    params:
        model=config["model"],
        steering=pick("steering", "where", "seed", "chunks"),
        writing=WRITING,
        code=code("steer_generate.py"),
    script:
        "../scripts/steer_generate.py"


rule steer_outcomes:
    input:
        targets=TARGETS,
        sequences=expand(
            f"{STEER}/{{{{unit}}}}/{{{{stage}}}}/sequences-{{chunk}}.parquet",
            chunk=range(STEERING["chunks"]),
            allow_missing=True,
        ),
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        splits=f"{OUT}/splits/antibodies.parquet",
    output:
        f"{STEER}/{{unit}}/{{stage}}/outcomes.parquet",
    log:
        f"{OUT}/logs/steer_outcomes-layer{{layer}}-{{unit}}-{{stage}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_outcomes-layer{{layer}}-{{unit}}-{{stage}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 5),
        runtime=minutes(60),
    params:
        steering=pick("steering", "scored"),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_outcomes.py"),
    script:
        "../scripts/steer_outcomes.py"


rule steer_doses:
    input:
        targets=TARGETS,
        plans=of_units("explore/plan.parquet"),
        outcomes=of_units("explore/outcomes.parquet"),
    output:
        f"{STEER}/doses.parquet",
    log:
        f"{OUT}/logs/steer_doses-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_doses-layer{{layer}}.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 5),
        runtime=minutes(30),
    params:
        steering=pick("steering", "perplexity_bound"),
        code=code("steer_doses.py"),
    script:
        "../scripts/steer_doses.py"


rule steer_confirm:
    input:
        plan=f"{STEER}/{{unit}}/explore/plan.parquet",
        vectors=f"{STEER}/{{unit}}/explore/vectors.safetensors",
        doses=f"{STEER}/doses.parquet",
    output:
        plan=f"{STEER}/{{unit}}/confirm/plan.parquet",
        vectors=f"{STEER}/{{unit}}/confirm/vectors.safetensors",
    log:
        f"{OUT}/logs/steer_confirm-layer{{layer}}-{{unit}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_confirm-layer{{layer}}-{{unit}}.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 5),
        runtime=minutes(10),
    params:
        steering=pick("steering", "n", "random_n"),
        code=code("steer_confirm.py"),
    script:
        "../scripts/steer_confirm.py"


rule steer_effects:
    input:
        targets=TARGETS,
        doses=expand(f"{STEER}/doses.parquet", layer=STEERED_LAYERS),
        tested=every_steered("tested.parquet"),
        explored=every_unit("explore/outcomes.parquet"),
        confirmed=every_unit("confirm/outcomes.parquet"),
        plans=[every_unit(f"{stage}/plan.parquet") for stage in ("explore", "confirm")],
    output:  # of all layers: their SAEs may differ, and outputs cannot depend on a wildcard
        effects=every_steered("effects.parquet"),
        side_effects=every_steered("side_effects.parquet"),
    log:
        f"{OUT}/logs/steer_effects.log",
    benchmark:
        f"{OUT}/benchmarks/steer_effects.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 5),
        runtime=minutes(30),
    params:
        units=list(UNITS.values()),
        steering=pick("steering", "perplexity_bound"),
        code=code("steer_effects.py"),
    script:
        "../scripts/steer_effects.py"


rule steer_ablation:
    input:
        targets=TARGETS,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        sae=f"{OUT}/saes/{ONE_SAE}/config.json",
        weights=f"{OUT}/saes/{ONE_SAE}/sae.safetensors",
        labels=f"{OUT}/concepts/labels.json",
        values=f"{OUT}/concepts/labels.safetensors",
        plan=f"{STEER}/{{sae}}-seed{{seed}}/explore/plan.parquet",
    output:
        f"{STEER}/{{sae}}-seed{{seed}}/ablation.parquet",
    log:
        f"{OUT}/logs/steer_ablation-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/steer_ablation-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 5),
        runtime=minutes(60),
        gpu=0,
    params:
        model=config["model"],
        steering=pick("steering", "ablation", "seed"),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_ablation.py"),
    script:
        "../scripts/steer_ablation.py"


rule ablation_table:
    input:
        every_steered("ablation.parquet"),
    output:
        report(
            f"{OUT}/tables/ablation.csv",
            category="Tables",
            labels={"table": "Ablation"},
            caption="../report/ablation.rst",
        ),
    log:
        f"{OUT}/logs/ablation_table.log",
    benchmark:
        f"{OUT}/benchmarks/ablation_table.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000, 5),
        runtime=minutes(10),
    params:
        about=STEERED,
        code=code("one_table.py"),
    script:
        "../scripts/one_table.py"


rule steer_alternatives:
    input:
        targets=TARGETS,
        plan=expand(f"{STEER}/controls/explore/plan.parquet", layer=STEERED_LAYERS[:1]),
        outcomes=expand(f"{STEER}/controls/explore/outcomes.parquet", layer=STEERED_LAYERS[:1]),
        counts=expand(f"{STEER}/controls/counts.json", layer=STEERED_LAYERS[:1]),
    output:
        report(
            f"{OUT}/tables/alternatives.csv",
            category="Tables",
            labels={"table": "Instead of steering"},
            caption="../report/alternatives.rst",
        ),
    log:
        f"{OUT}/logs/steer_alternatives.log",
    benchmark:
        f"{OUT}/benchmarks/steer_alternatives.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 0),
        runtime=minutes(60),
        gpu=0,
    params:
        model=config["model"],
        layer=STEERED_LAYERS[:1],
        steering=pick("steering", "alternatives", "n", "explore_n", "perplexity_bound", "seed"),
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("steer_alternatives.py"),
    script:
        "../scripts/steer_alternatives.py"


rule steer_tables:
    input:
        effects=every_steered("effects.parquet"),
        matches=expand(f"{OUT}/saes/{{sae}}-matches.parquet", sae=SEVERAL),
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
        across_seeds=f"{OUT}/tables/latents_across_seeds.csv",
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
        [every_steered(f"{file}.safetensors") for file in FEW],
        expand(f"{OUT}/steering/layer{{layer}}/levers/directions.safetensors", layer=STEERED_LAYERS),
