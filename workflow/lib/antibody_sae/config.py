"""A run's configuration: defaults, and checks that need no job.

Runs while Snakemake parses, so nothing heavy is imported here.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema
import yaml

from antibody_sae import species
from antibody_sae.io import InputError
from antibody_sae.models import presets
from antibody_sae.sae import checkpoints

if TYPE_CHECKING:
    from antibody_sae.sections import Config, NamedSAE

LIBRARY = Path(__file__).parent
SCHEMA = LIBRARY.parents[1] / "schemas" / "config.schema.yaml"


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    return schema


def _resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/$defs/")
    return {**_schema()["$defs"][name], **{k: v for k, v in schema.items() if k != "$ref"}}


def _fill(value: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Put the schema's defaults where the value says nothing."""
    if schema.get("title") == "SAE":  # its defaults come after saes.shared: see saes
        return
    for key, part in schema.get("properties", {}).items():
        part = _resolve(part)
        if key not in value and "default" in part:
            value[key] = copy.deepcopy(part["default"])
        if isinstance(value.get(key), dict):
            _fill(value[key], part)
    extra = _resolve(schema["additionalProperties"]) if isinstance(schema.get("additionalProperties"), dict) else None
    for key in value if extra is not None else ():
        if key not in schema.get("properties", {}) and isinstance(value[key], dict):
            _fill(value[key], extra or {})


REMOVED = {
    "steering.strengths": "gone since 0.2.0, delete it: vectors are compared at the lengths in steering.norms",
    "steering.methods": "gone since 0.2.0, delete it: vectors are added; designs have a `method`",
}
"""Keys of earlier versions, and what to do about them."""


def _message(error: Any) -> str:
    place = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [k for k in error.instance if k not in known]
        hints = []
        for key in unknown:
            whole = ".".join(filter(None, [place, key]))
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
            hints.append(f"unknown key {whole!r}; {REMOVED.get(whole, hint)}")
        return "; ".join(hints)
    if error.validator == "oneOf" and "description" in error.schema:
        return f"{place}: not {error.instance!r}. {error.schema['description']}"
    return f"{place or 'the whole file'}: {error.message}"


def complete(config: Mapping[str, Any]) -> Config:
    """The configuration with every default filled in, checked as far as no job is needed.

    Raises InputError that lists every mistake by its key, with a suggestion where one is near.
    """
    full = copy.deepcopy(dict(config))
    for section, part in _schema()["properties"].items():  # an empty `steering:` in YAML is None
        if full.get(section) is None and part.get("type") == "object":
            full.pop(section, None)
    train = (full.get("saes") or {}).get("train")
    if isinstance(train, dict):  # `topk: null` drops an SAE of config.yaml: Snakemake merges mappings key by key
        full["saes"]["train"] = {name: own for name, own in train.items() if own is not None}
        if not full["saes"]["train"]:
            raise InputError("config: saes.train: every SAE is null; give one, such as `topk: {architecture: topk}`")
    errors = sorted(jsonschema.Draft202012Validator(_schema()).iter_errors(full), key=lambda e: list(map(str, e.path)))
    if errors:
        raise InputError("config: " + "\n        ".join(_message(e) for e in errors))
    _fill(full, _schema())
    full["sequences"].setdefault("complete", full["sequences"]["source"] == "generate")
    mistakes = list(_mistakes(cast("Config", full)))
    if mistakes:
        raise InputError("config: " + "\n        ".join(mistakes))
    train = full["saes"]["train"]
    full = dict(_canonical(full))
    full["saes"]["train"] = {name: full["saes"]["train"][name] for name in train}  # their order is the user's
    return cast("Config", full)


def _canonical(value: Any) -> Any:
    """The value with its keys in one order: Snakemake compares params as text, and a moved key is no change."""
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    return value


def _mistakes(config: Config) -> Iterator[str]:
    spec = presets.resolve(config["model"])
    layers = presets.layer_count(spec)
    for layer in config["activations"]["layers"]:
        if layers is not None and layer > layers:
            yield f"activations.layers: {layer}, but model {spec.name} has layers 1 to {layers}"
    sequences = config["sequences"]
    generated = sequences["source"] == "generate"
    parts = [sequences["chains"]] if generated else passages(config)
    if any(part not in spec.templates for part in parts):
        verb = "writes" if generated else "reads"
        yield f"sequences.chains: model {spec.name} {verb} {' or '.join(spec.templates)}, not {sequences['chains']}"
    if len(parts) > 1:
        yield from _mistakes_of_pairs(config)
    else:
        yield from _mistakes_of_targets(config, parts[0])
    yield from species.mistakes(sequences, config["numbering"]["species"], spec.name, spec.species)
    if config["splits"]["validation"] + config["splits"]["test"] >= 1:
        yield "splits: validation and test leave nothing to train on; make them smaller"
    if config["steering"]["lever_trained"] and "sparse" not in config["steering"]["levers"]:
        yield "steering.lever_trained: trains sparse levers; add sparse to steering.levers, or leave it out"
    if config["saes"]["shared"].get("load"):
        yield "saes.shared.load: a checkpoint is one SAE; give it as `load` of an entry of saes.train"
    for name, sae in saes(config).items():
        if sae.get("load"):
            yield from _mistakes_of_loaded(config, name, spec.checkpoint)
        elif sae["k"] > sae["latents"]:
            yield f"saes.train.{name}: k {sae['k']} > latents {sae['latents']}"
    yield from _mistakes_of_layers(config)


def _mistakes_of_layers(config: Config) -> Iterator[str]:
    harvested = config["activations"]["layers"]
    entries = {f"saes.train.{name}": own for name, own in config["saes"]["train"].items()}
    for place, own in {"saes.shared": config["saes"]["shared"], **entries}.items():
        for layer in own.get("layers") or ():
            if layer not in harvested:
                known = ", ".join(map(str, harvested))
                yield f"{place}.layers: layer {layer} is not harvested; add it to activations.layers (now {known})"
    used = {layer for own in layers(config).values() for layer in own}
    for layer in harvested:
        if layer not in used:
            yield f"activations.layers: no SAE is trained at layer {layer}; leave it out, or add it to one's `layers`"


def _mistakes_of_loaded(config: Config, name: str, checkpoint: str) -> Iterator[str]:
    """Of an entry of saes.train with `load`, as far as no tensor and no weights of the model are read."""
    own = config["saes"]["train"][name]
    if more := sorted(own.keys() - {"load", "layers"}):
        yield f"saes.train.{name}: {', '.join(more)} beside load, but what is loaded is not trained; leave it out"
    try:
        found = checkpoints.recognise(str(own["load"]))
        for layer in layers(config)[name]:
            checkpoints.check(found, {"layer": layer}, [config["model"]["name"], checkpoint])
    except InputError as error:
        yield f"saes.train.{name}.load: {error}"


_COLUMN = "steering.targets: {!r} is a column of the input, which written sequences do not have"


def _named_targets(config: Config) -> Sequence[str]:
    named = config["steering"]["targets"]
    return [] if isinstance(named, str) else named


def _mistakes_of_targets(config: Config, chain: str) -> Iterator[str]:
    """Targets that nothing written in one passage can have; `chain` is H, L or, where that holds both, HL."""
    other = {"H": ("=IGK", "=IGL", "=L", "=K"), "L": ("=IGH", "=H")}.get(chain, ())
    for target in _named_targets(config):
        if target.partition("=")[0] in config["concepts"]["metadata"]:
            yield _COLUMN.format(target)
        elif any(mark in target for mark in other):
            from antibody_sae.concepts import catalogue  # pandas takes half a second, and few runs need this

            group, _, value = target.partition("=")
            known = catalogue.BY_NAME.get(group)
            if known and known.sided and catalogue.side_of(value) not in (None, "", chain):
                yield (
                    f"steering.targets: {target} is of the other chain, and sequences.chains is {chain}; name targets "
                    "of this chain, or set steering.targets: auto"
                )


def _mistakes_of_pairs(config: Config) -> Iterator[str]:
    """Of pairs whose chains the model reads, and steering so writes, one at a time."""
    from antibody_sae.concepts import catalogue  # pandas takes half a second, and few runs need this

    why = f"model {config['model']['name']} writes one chain of a pair at a time"
    for target in _named_targets(config):
        group, _, value = target.partition("=")
        if group not in catalogue.BY_NAME:
            yield _COLUMN.format(target)
        elif not catalogue.BY_NAME[group].sided:
            yield f"steering.targets: {why}, and {target} may lie in either; take a concept that names its chain"
        elif not catalogue.side_of(value):
            yield f"steering.targets: {target!r} names no chain (H, K or L)"
    if config["sequences"]["prompt"]:
        yield f"sequences.prompt: {why}, and a prompt starts one of them; leave it empty, or set sequences.chains: H"
    if config["designs"]:
        yield f"designs: {why}; design in a run of its own, with sequences.chains: H or L"


def passages(config: Config) -> list[str]:
    """What the model reads and writes of an antibody: `["HL"]`, or its chains one at a time, `["H", "L"]`."""
    chains = config["sequences"]["chains"]
    return [chains] if chains in presets.resolve(config["model"]).templates else list(chains)


def saes(config: Config) -> dict[str, NamedSAE]:
    """Settings of each SAE by name: defaults, then saes.shared, then its own entry of saes.train; of one that is loaded
    `load`, and what is asked of every SAE."""
    defaults = {key: part["default"] for key, part in _schema()["$defs"]["sae"]["properties"].items()}
    full: dict[str, Any] = {}
    for name, own in config["saes"]["train"].items():
        if own.get("load"):
            full[name] = {"load": own["load"], "architecture": "loaded", "random_model": False}
            continue
        full[name] = {**defaults, **config["saes"]["shared"], **own}
        del full[name]["seeds"], full[name]["load"], full[name]["layers"]
    return full


def seeds(config: Config) -> dict[str, list[int]]:
    """Seeds of each SAE by name: its own where it has some, else those of all; of one that is loaded, the first."""
    every = config["saes"]["shared"].get("seeds") or config["saes"]["seeds"]
    train = config["saes"]["train"]
    return {name: every[:1] if own.get("load") else own.get("seeds") or every for name, own in train.items()}


def layers(config: Config) -> dict[str, list[int]]:
    """Layers that each SAE is trained at, by name: its own where it has some, else all that are harvested; in the order
    of activations.layers."""
    shared, every = config["saes"]["shared"].get("layers"), config["activations"]["layers"]
    asked = {name: own.get("layers") or shared or every for name, own in config["saes"]["train"].items()}
    return {name: [layer for layer in every if layer in own] for name, own in asked.items()}


def control_of(sae: NamedSAE) -> str | None:
    """What an SAE is a control of claim 1 by: `untrained`, `random_model`, or None. A control is not steered."""
    if sae.get("load"):
        return None
    return "random_model" if sae["random_model"] else None if sae["tokens"] else "untrained"


def steered_saes(config: Config, layer: int) -> dict[str, list[int]]:
    """Seeds of each SAE that is steered at a layer, by name: of all that are trained there but the controls."""
    own, there = seeds(config), layers(config)
    return {name: own[name] for name, sae in saes(config).items() if control_of(sae) is None and layer in there[name]}


def explored(config: Config, layer: int) -> int:
    """Each SAE's share of steering.explore_n: exploration is shared by a layer's SAEs."""
    return -(-config["steering"]["explore_n"] // max(1, sum(map(len, steered_saes(config, layer).values()))))
