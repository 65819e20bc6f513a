# What the stages share. A rule reads like those in activations.smk: its own sections of the configuration and `code`,
# the hash of its script and of the library modules behind it, are its params, so that a change reruns just what it touches.

OUT = f"results/{config['run']}"
LAYERS = config["activations"]["layers"]
SAES = settings.saes(config)
SEEDS = config["saes"]["seeds"]


wildcard_constraints:
    chunk=r"\d+",
    shard=r"\d+",
    layer=r"\d+",
    seed=r"\d+",
    sae="|".join(SAES),


def code(script):
    """Hash of workflow/scripts/<script> and the library modules it uses."""
    return settings.source_hash(str(HERE / "workflow" / "scripts" / script))


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
