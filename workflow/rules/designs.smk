# Steered libraries: `snakemake designs` builds each entry of the section `designs`.


wildcard_constraints:
    design="|".join(config["designs"]) or "none",


rule design:
    input:
        sae=design_file("saes", "config.json"),
        weights=design_file("saes", "sae.safetensors"),
        counts=lambda wildcards: f"{OUT}/steering/layer{design_branch(wildcards)[0]}/controls/counts.json",
        effects=design_effects,
    output:
        fasta=f"{OUT}/designs/{{design}}.fasta",
        table=f"{OUT}/designs/{{design}}.tsv",
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
        design=lambda wildcards: config["designs"][wildcards.design],
        layer=lambda wildcards: design_branch(wildcards)[0],
        sae=lambda wildcards: design_branch(wildcards)[1],
        writing=WRITING,
        numbering=pick("numbering", "species", "scheme"),
        concepts=LABELS,
        code=code("design.py"),
    script:
        "../scripts/design.py"


rule designs:
    input:
        expand(f"{OUT}/designs/{{design}}.{{suffix}}", design=config["designs"], suffix=["fasta", "tsv"]),
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
