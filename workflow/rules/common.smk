# What the stages share. Rules read like those in activations.smk: its own sections of the configuration and `code`,
# the hash of its script and of the library modules behind it, are its params, so that a change reruns just what it touches.

OUT = f"results/{config['run']}"
LAYERS = config["activations"]["layers"]
SAES = settings.saes(config)
SEEDS = settings.seeds(config)  # of each SAE
PLACES = settings.layers(config)  # of each SAE: the layers it is trained at
ONE_SAE = "layer{layer}/{sae}-seed{seed}"
EVERY = [
    {"layer": layer, "sae": sae, "seed": seed}
    for layer in LAYERS
    for sae in SAES
    if layer in PLACES[sae]
    for seed in SEEDS[sae]
]
EVERY_SAE = [ONE_SAE.format(**each) for each in EVERY]
LOADED = [sae for sae in SAES if "load" in SAES[sae]]  # saved before: they are not trained, and have no history
EVERY_LOADED = [ONE_SAE.format(**each) for each in EVERY if each["sae"] in LOADED]
TRAINED = {layer: list(settings.steered_saes(config, layer)) for layer in LAYERS}  # controls stand beside, unsteered
STEERED_LAYERS = [layer for layer in LAYERS if TRAINED[layer]]
SEVERAL = [f"layer{layer}/{sae}" for layer in LAYERS for sae in TRAINED[layer] if len(SEEDS[sae]) > 1]
SHARDS, RANDOM_SHARDS = (  # of the language model's activations, and of those of its architecture with random weights
    expand(
        f"{OUT}/activations/{folder}layer{{layer}}/shard-{{shard}}.safetensors",
        shard=range(config["activations"]["shards"]),
        allow_missing=True,
    )
    for folder in ("", "random-seed{seed}/")
)


wildcard_constraints:
    chunk=r"\d+",
    shard=r"\d+",
    layer=r"\d+",
    seed=r"\d+",
    sae="|".join(SAES),


# Another run of the same model, whose files are inputs as they lie there (transfer.smk).
OTHER = config["transfer"]["from"]
NAMESAKES = {}
if OTHER:
    OTHER = str(Path(OTHER))
    try:
        NAMESAKES = abroad.namesakes(OTHER, OUT, LAYERS, EVERY_SAE)
        abroad.check_names(OTHER, LAYERS, config["model"])
    except InputError as error:
        raise WorkflowError(str(error))
RUNS = [OUT, OTHER]


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


def model_of(wildcards):
    """The language model that an SAE is trained on."""
    drawn = SAES[wildcards.sae]["random_model"]
    return presets.drawn(config["model"], int(wildcards.seed)) if drawn else config["model"]


def stage_of(stage, name):
    """A layer's file of a stage, as an input function: of the model that the SAE is trained on."""

    def path(wildcards):
        drawn = f"random-seed{wildcards.seed}/" if SAES[wildcards.sae]["random_model"] else ""
        return f"{OUT}/{stage}/{drawn}layer{wildcards.layer}/{name}"

    return path


def shards_of(wildcards):
    """The activations that an SAE is trained on."""
    drawn = SAES[wildcards.sae]["random_model"]
    return [path.format(**wildcards) for path in (RANDOM_SHARDS if drawn else SHARDS)]


def of_seeds(wildcards, name):
    """A file of each seed of an SAE."""
    return [f"{OUT}/saes/{ONE_SAE.format(**wildcards, seed=seed)}/{name}" for seed in SEEDS[wildcards.sae]]


def chunk_files(wildcards):
    return FILES[int(wildcards.chunk) :: len(SEQUENCE_CHUNKS)]


def tracked_files(wildcards):
    """The chunk's files but for names like a{x}.csv, in which Snakemake would see a wildcard."""
    return [path for path in chunk_files(wildcards) if "{" not in path]


def untracked_files(wildcards):
    """Size and time of the others, so that a change of theirs is seen all the same."""
    others = set(chunk_files(wildcards)) - set(tracked_files(wildcards))
    return sorted(f"{path} {os.stat(path).st_size} {os.stat(path).st_mtime_ns}" for path in others)


def of_units(name):
    """A steering file of each of a layer's units, `controls` and its SAEs, as an input function."""

    def paths(wildcards):
        folder = STEER.format(layer=wildcards.layer)
        return [f"{folder}/{unit}/{name}" for unit in ["controls", *UNITS[int(wildcards.layer)]]]

    return paths


def every_unit(name):
    """A steering file of each unit of every layer that is steered."""
    return [f"{STEER.format(layer=layer)}/{unit}/{name}" for layer in UNITS for unit in ["controls", *UNITS[layer]]]


def every_steered(name):
    return [f"{OUT}/steering/layer{each['layer']}/{each['sae']}-seed{each['seed']}/{name}" for each in STEERED]


def design_uses(asked, kind):
    """Whether a design draws on levers of a kind: latent, sparse, trained, located."""
    kinds = config["steering"]["levers"] if asked["lever"] == "auto" else [asked["lever"]]
    return kind in kinds and not asked["latents"]


def design_layer(asked):
    """The layer that a design pushes at."""
    return asked["layer"] or STEERED_LAYERS[0]


def design_sae_folders(asked):
    """Folders of the SAEs that a design may draw on: the one it names, the first where it names latents, else all of one
    seed."""
    seed, names = asked["sae_seed"], TRAINED.get(design_layer(asked), [])
    names = names[:1] if asked["latents"] else names
    names = [asked["sae"]] if asked["sae"] else [name for name in names if seed is None or seed in SEEDS[name]]
    return [f"{name}-seed{SEEDS.get(name, [0])[0] if seed is None else seed}" for name in names]


def design_files_of(stage, name, used):
    """A file of each SAE of a design that meets `used`, as an input function."""

    def paths(wildcards):
        asked = config["designs"][wildcards.design]
        folder = f"{OUT}/{stage}/layer{design_layer(asked)}"
        return [f"{folder}/{branch}/{name}" for branch in design_sae_folders(asked)] if used(asked) else []

    return paths


def design_saes(name):
    """A file of each SAE whose latents are pushed."""
    return design_files_of("saes", name, lambda asked: asked["latents"] or design_uses(asked, "latent"))


def design_levers(name, kind):
    """What the steering stage knows of each SAE."""
    return design_files_of("steering", name, lambda asked: design_uses(asked, kind))


def design_trained(wildcards):
    """The layer's trained vectors, and where the located ones act."""
    asked = config["designs"][wildcards.design]
    folder = f"{OUT}/steering/layer{design_layer(asked)}/levers"
    used = design_uses(asked, "trained") or design_uses(asked, "located")
    return [f"{folder}/directions.safetensors", f"{folder}/places.json"] if used else []


def design_manifest(wildcards):
    """What says how long a push is."""
    asked = config["designs"][wildcards.design]
    if asked["lever"] == "none" or asked["latents"]:
        return []
    return [f"{OUT}/activations/layer{design_layer(asked)}/manifest.json"]


def design_counts(wildcards):
    """Residues of the regions, where a push acts on one."""
    asked = config["designs"][wildcards.design]
    of_region = isinstance(asked["where"], str) and asked["where"] != "all"
    if not of_region and not design_uses(asked, "located"):
        return []
    return f"{OUT}/steering/layer{design_layer(asked)}/controls/counts.json"


def design_natural(wildcards):
    """Natural antibodies to compare with: files that the design names, or the run's own where it read files."""
    if config["designs"][wildcards.design]["natural"]:
        return f"{OUT}/designs/{wildcards.design}/natural.parquet"
    return f"{OUT}/sequences/antibodies.parquet" if config["sequences"]["source"] == "file" else []


def of_runs(*names):
    """These files of both runs."""
    return [f"{run}/{name}" for run in RUNS for name in names]


def both_saes(wildcards):
    """Folders of an SAE and of its namesake in the other run, below saes/ and concepts/."""
    own = ONE_SAE.format(**wildcards)
    return [own, NAMESAKES[own]]


def of_saes(stage, *names):
    """These files of both SAEs, as an input function."""

    def paths(wildcards):
        return [
            f"{run}/{stage}/{sae}/{name}" for run, sae in zip(RUNS, both_saes(wildcards), strict=True) for name in names
        ]

    return paths
