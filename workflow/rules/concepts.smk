# Stage 6: which latent stands for what. Labels once a run, baselines once a layer, one association job an SAE.

# by name: `rules.label_concepts.output` beside n shards costs Snakemake n squared (10,000 shards: half a minute a job)
LABELLED = [f"{OUT}/concepts/{name}" for name in ("labels.safetensors", "labels.json", "concepts.parquet")]


rule label_concepts:
    input:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
        residues=f"{OUT}/numbering/residues.parquet",
        splits=f"{OUT}/splits/antibodies.parquet",
    output:
        labels=f"{OUT}/concepts/labels.safetensors",
        names=f"{OUT}/concepts/labels.json",
        concepts=f"{OUT}/concepts/concepts.parquet",
    log:
        f"{OUT}/logs/label_concepts.log",
    benchmark:
        f"{OUT}/benchmarks/label_concepts.tsv"
    priority: 2  # quick, and it says what cannot work
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30),
    params:
        run=lambda wildcards, input: str(Path(input.splits).parents[1]),
        concepts=pick("concepts", "bins", "metadata", "position_pairs", "min_clusters"),
        also=[str(t) for t in config["steering"]["targets"] if t.startswith("position=")],  # however rare
        code=code("label_concepts.py"),
    script:
        "../scripts/label_concepts.py"


rule concept_baselines:
    input:
        labels=LABELLED,
        manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
        shards=SHARDS,
    output:
        table=f"{OUT}/concepts/layer{{layer}}/baselines.parquet",
        probe=f"{OUT}/concepts/layer{{layer}}/probe.safetensors",
    log:
        f"{OUT}/logs/concept_baselines-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/concept_baselines-layer{{layer}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 0),
        runtime=minutes(60),
    params:
        thresholds=config["concepts"]["thresholds"],
        code=code("concept_baselines.py"),
    script:
        "../scripts/concept_baselines.py"


use rule concept_baselines as concept_baselines_random with:
    input:
        labels=LABELLED,
        manifest=f"{OUT}/activations/random-seed{{seed}}/layer{{layer}}/manifest.json",
        shards=RANDOM_SHARDS,
    output:
        table=f"{OUT}/concepts/random-seed{{seed}}/layer{{layer}}/baselines.parquet",
        probe=f"{OUT}/concepts/random-seed{{seed}}/layer{{layer}}/probe.safetensors",
    log:
        f"{OUT}/logs/concept_baselines_random-seed{{seed}}-layer{{layer}}.log",
    benchmark:
        f"{OUT}/benchmarks/concept_baselines_random-seed{{seed}}-layer{{layer}}.tsv"


rule associate:
    input:
        labels=LABELLED,
        baselines=stage_of("concepts", "baselines.parquet"),
        manifest=stage_of("activations", "manifest.json"),
        shards=shards_of,
        sae=expand(f"{OUT}/saes/{ONE_SAE}/{{file}}", file=["sae.safetensors", "config.json"], allow_missing=True),
    output:
        associations=f"{OUT}/concepts/{ONE_SAE}/associations.parquet",
        best=f"{OUT}/concepts/{ONE_SAE}/best.parquet",
        latents=f"{OUT}/latents/{ONE_SAE}.parquet",
        scores=f"{OUT}/concepts/{ONE_SAE}/scores.safetensors",
    log:
        f"{OUT}/logs/associate-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/associate-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
    params:
        model=model_of,
        concepts=pick("concepts", "thresholds", "floor", "q", "bootstrap", "seed"),
        code=code("associate.py"),
    script:
        "../scripts/associate.py"


rule concept_tables:
    input:
        best=expand(f"{OUT}/concepts/{{sae}}/best.parquet", sae=EVERY_SAE),
        latents=expand(f"{OUT}/latents/{{sae}}.parquet", sae=EVERY_SAE),
    output:
        best=report(
            f"{OUT}/tables/best_latents.csv",
            category="Tables",
            labels={"table": "Best latent of each concept"},
            caption="../report/best_latents.rst",
        ),
        interpretable=report(
            f"{OUT}/tables/interpretable.csv",
            category="Tables",
            labels={"table": "Interpretable latents"},
            caption="../report/interpretable.rst",
        ),
        complexity=report(
            f"{OUT}/tables/complexity.csv",
            category="Tables",
            labels={"table": "Complexity of the patterns"},
            caption="../report/complexity.rst",
        ),
    log:
        f"{OUT}/logs/concept_tables.log",
    benchmark:
        f"{OUT}/benchmarks/concept_tables.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000, 10),
        runtime=minutes(10),
    params:
        controls=[name for name, sae in SAES.items() if settings.control_of(sae)],
        code=code("concept_tables.py"),
    script:
        "../scripts/concept_tables.py"


rule measure_quality:
    input:
        labels=LABELLED,
        baselines=stage_of("concepts", "baselines.parquet"),
        probe=stage_of("concepts", "probe.safetensors"),
        manifest=stage_of("activations", "manifest.json"),
        shards=shards_of,
        sae=expand(f"{OUT}/saes/{ONE_SAE}/{{file}}", file=["sae.safetensors", "config.json"], allow_missing=True),
    output:
        concepts=f"{OUT}/concepts/{ONE_SAE}/quality.parquet",
        figures=f"{OUT}/concepts/{ONE_SAE}/quality.json",
    log:
        f"{OUT}/logs/measure_quality-layer{{layer}}-{{sae}}-seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/measure_quality-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 0),
        runtime=minutes(60),
    params:
        concepts=pick("concepts", "min_clusters", "bootstrap", "seed"),
        code=code("measure_quality.py"),
    script:
        "../scripts/measure_quality.py"


rule dictionary_tables:
    input:
        configs=expand(f"{OUT}/saes/{{sae}}/config.json", sae=EVERY_SAE),
        weights=expand(f"{OUT}/saes/{{sae}}/sae.safetensors", sae=EVERY_SAE),
        metrics=expand(f"{OUT}/saes/{{sae}}/metrics.json", sae=EVERY_SAE),
        figures=expand(f"{OUT}/concepts/{{sae}}/quality.json", sae=EVERY_SAE),
        concepts=expand(f"{OUT}/concepts/{{sae}}/quality.parquet", sae=EVERY_SAE),
        stability=expand(f"{OUT}/saes/{{sae}}-stability.json", sae=SEVERAL),
    output:
        dictionaries=report(
            f"{OUT}/tables/dictionaries.csv",
            category="Tables",
            labels={"table": "Dictionaries side by side"},
            caption="../report/dictionaries.rst",
        ),
        concepts=f"{OUT}/tables/dictionary_concepts.csv",
    log:
        f"{OUT}/logs/dictionary_tables.log",
    benchmark:
        f"{OUT}/benchmarks/dictionary_tables.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 5),
        runtime=minutes(10),
    params:
        about=EVERY,
        code=code("dictionary_tables.py"),
    script:
        "../scripts/dictionary_tables.py"


if config["concepts"]["metadata"]:

    rule lineages:
        input:
            labels=LABELLED,
            antibodies=f"{OUT}/sequences/antibodies.parquet",
            manifest=f"{OUT}/activations/layer{{layer}}/manifest.json",
            shards=SHARDS,
            sae=expand(f"{OUT}/saes/{ONE_SAE}/{{file}}", file=["sae.safetensors", "config.json"], allow_missing=True),
        output:
            f"{OUT}/concepts/{ONE_SAE}/lineages.parquet",
        log:
            f"{OUT}/logs/lineages-layer{{layer}}-{{sae}}-seed{{seed}}.log",
        benchmark:
            f"{OUT}/benchmarks/lineages-layer{{layer}}-{{sae}}-seed{{seed}}.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(4000, 0),
            runtime=minutes(60),
        params:
            concepts=pick("concepts", "metadata", "thresholds", "bootstrap", "seed"),
            code=code("lineages.py"),
        script:
            "../scripts/lineages.py"

    rule lineage_table:
        input:
            expand(f"{OUT}/concepts/{{sae}}/lineages.parquet", sae=EVERY_SAE),
        output:
            report(
                f"{OUT}/tables/lineages.csv",
                category="Tables",
                labels={"table": "Columns of the input, lineage by lineage"},
                caption="../report/lineages.rst",
            ),
        log:
            f"{OUT}/logs/lineage_table.log",
        benchmark:
            f"{OUT}/benchmarks/lineage_table.tsv"
        localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=memory(1000, 5),
            runtime=minutes(10),
        params:
            code=code("one_table.py"),
        script:
            "../scripts/one_table.py"
