# What the stages share. Rules read like those in activations.smk: its own sections of the configuration and `code`,
# the hash of its script and of the library modules behind it, are its params, so that a change reruns just what it touches.

OUT = f"results/{config['run']}"
LAYERS = config["activations"]["layers"]
SAES = settings.saes(config)
SEEDS = config["saes"]["seeds"]
ONE_SAE = "layer{layer}/{sae}-seed{seed}"
EVERY_SAE = expand(ONE_SAE, layer=LAYERS, sae=SAES, seed=SEEDS)
SHARDS = expand(
    f"{OUT}/activations/layer{{layer}}/shard-{{shard}}.safetensors",
    shard=range(config["activations"]["shards"]),
    allow_missing=True,
)


wildcard_constraints:
    chunk=r"\d+",
    shard=r"\d+",
    layer=r"\d+",
    seed=r"\d+",
    sae="|".join(SAES),


def code(script):
    """Hash of workflow/scripts/<script> and the library modules it uses."""
    return source.source_hash(str(HERE / "workflow" / "scripts" / script))


def memory(base, per_input=3):
    """mem_mb: `base` MB plus `per_input` times the input's size, half as much again at each further attempt."""

    def mem_mb(wildcards, input, attempt):
        return int((base + per_input * input.size_mb) * (1 + 0.5 * (attempt - 1)))

    return mem_mb


def minutes(base):
    """runtime: `base` minutes, doubled at each further attempt."""

    def runtime(wildcards, attempt):
        return base * 2 ** (attempt - 1)

    return runtime


def pick(section, *keys):
    """These keys of a section of the configuration: what a rule's param holds decides when it reruns."""
    return {key: config[section][key] for key in keys}


def of_units(name, units=None):
    """A steering file of each of a layer's units, its SAEs and `controls`."""
    units = ["controls", *UNITS] if units is None else units
    return expand(f"{STEER}/{{unit}}/{name}", unit=units, allow_missing=True)


def every_steered(name):
    return [f"{OUT}/steering/layer{each['layer']}/{each['sae']}-seed{each['seed']}/{name}" for each in STEERED]


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
