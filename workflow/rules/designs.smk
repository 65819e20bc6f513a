# Steered libraries: `snakemake designs` builds each entry of the section `designs`.


def design_branch(wildcards):
    """Layer, and folder of the SAE, that a design uses: its own choice, else the run's first."""
    asked = config["designs"][wildcards.design]
    sae = asked["sae"] or next(iter(SAES))
    return asked["layer"] or LAYERS[0], f"{sae}-seed{SEEDS[0] if asked['sae_seed'] is None else asked['sae_seed']}"


def design_file(stage, name):
    """A file of the design's SAE, as an input function."""

    def path(wildcards):
        layer, branch = design_branch(wildcards)
        return f"{OUT}/{stage}/layer{layer}/{branch}/{name}"

    return path


def design_effects(wildcards):
    """What chose the latent, where the design does not name it."""
    asked = config["designs"][wildcards.design]
    return [] if asked["latents"] else design_file("steering", "effects.parquet")(wildcards)


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
        numbering={key: config["numbering"][key] for key in ("species", "scheme")},
        concepts=LABELS,
        code=code("design.py"),
    script:
        "../scripts/design.py"


rule designs:
    input:
        expand(f"{OUT}/designs/{{design}}.{{suffix}}", design=config["designs"], suffix=["fasta", "tsv"]),
