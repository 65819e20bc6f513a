"""Which checkpoint a run's `model:` section means, and how residues are written for it.

Light on purpose: Snakemake's parse asks it for the number of layers before any job starts.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antibody_sae.io import InputError

if TYPE_CHECKING:
    from antibody_sae.sections import DrawnModel, ModelSection


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint plus a template."""

    name: str
    checkpoint: str
    """A local folder or a hub id."""
    templates: Mapping[str, str]
    """What the model reads, by chains ("H", "L", "HL"), as in `[HEAVY][{species}]{heavy}[SEP]`; the text after the
    last chain is the token that ends a sequence."""
    species: tuple[str, ...] = ()
    """Species that the template's {species} can name; empty where the model has no species tag."""
    revision: str | None = None
    """Revision of a hub checkpoint."""
    remote_code: bool = False
    """Whether the checkpoint's own Python code may run (only where the config says so by name)."""
    remote_code_required: bool = False
    """Whether the checkpoint is of no class of transformers' own."""
    packaged: bool = False
    """Weights inside the PyPI package `iglm`: a .bin file, read with weights_only."""
    layers: int | None = None
    """Number of blocks where no config.json is at hand to say so."""
    licence: str = ""


IGLM_LICENCE = "IgLM's weights are licensed for non-commercial, academic use only"
_IGLM = {
    "templates": {"H": "[HEAVY][{species}]{heavy}[SEP]", "L": "[LIGHT][{species}]{light}[SEP]"},
    "species": ("camel", "human", "mouse", "rabbit", "rat", "rhesus"),
    "packaged": True,
    "licence": IGLM_LICENCE,
}
PRESETS: dict[str, dict[str, Any]] = {
    "iglm": {"checkpoint": "IgLM", **_IGLM},
    "iglm-s": {"checkpoint": "IgLM-S", **_IGLM},
    "p-iggen": {
        "checkpoint": "ollieturnbull/p-IgGen",
        "templates": {"HL": "1{heavy}{light}2"},
        "layers": 4,
        "licence": "BSD-3-Clause",
    },
    "progen2-oas": {
        "checkpoint": "hugohrban/progen2-oas",
        "templates": {"H": "1{heavy}2", "L": "1{light}2"},
        "layers": 27,
        "licence": "BSD-3-Clause",
        "remote_code_required": True,
    },
}


def drawn(model: ModelSection, seed: int) -> DrawnModel:
    """The `model:` section of the same architecture with its weights drawn anew."""
    return {**model, "drawn": seed}


def drawn_with(model: ModelSection | DrawnModel) -> int | None:
    """Seed of the weights of a section made by `drawn`."""
    seed = model.get("drawn")
    return seed if isinstance(seed, int) else None


def known_as(model: ModelSection | DrawnModel) -> str:
    """The name that what is computed with a model carries: drawn weights are never taken for others."""
    seed = drawn_with(model)
    return model["name"] if seed is None else f"{model['name']} with random weights, seed {seed}"


def resolve(model: ModelSection) -> ModelSpec:
    """The checkpoint and template that a config's `model:` section names.

    Raises InputError for an unknown preset without a path, missing files, or remote code that is not allowed.
    """
    name = model["name"]
    preset = dict(PRESETS.get(name, {}))
    if model.get("path"):
        preset.update(checkpoint=str(model["path"]), packaged=False, layers=None)
    if template := model.get("template"):
        preset["templates"] = dict(template)
    if "checkpoint" not in preset:
        raise InputError(
            f"model.name: {name!r} is none of {', '.join(sorted(PRESETS))}; for a model of your own set model.path "
            "(a folder or a hub id) and model.template"
        )
    if "templates" not in preset:
        raise InputError(f"model.template: {name!r} needs one, such as {{H: '1{{heavy}}2'}}")
    if preset.get("packaged"):
        preset["checkpoint"] = str(_packaged(preset["checkpoint"]))
    if model.get("remote_code") and not model.get("revision"):
        raise InputError("model.revision: pin the commit whose remote code you allow (40 hex digits)")
    if preset.get("remote_code_required") and not model.get("remote_code"):
        raise InputError(
            f"model.name: {name} brings its own Python code; read it, then set model.remote_code: true and "
            "model.revision to the commit you read"
        )
    spec = ModelSpec(name=name, revision=model.get("revision"), remote_code=bool(model.get("remote_code")), **preset)
    folder = Path(spec.checkpoint)
    if (folder.is_absolute() or spec.checkpoint.startswith(".")) and not (folder / "config.json").is_file():
        raise InputError(f"model.path: {folder} has no config.json; give the folder of a transformers checkpoint")
    return spec


def _packaged(checkpoint: str) -> Path:
    found = importlib.util.find_spec("iglm")  # finds the package without importing it: its code pins old versions
    if found is None or not found.submodule_search_locations:
        raise InputError("model.name: IgLM's weights come with the package iglm; install it: pip install iglm==0.1.0")
    return Path(found.submodule_search_locations[0]) / "trained_models" / checkpoint


def layer_count(spec: ModelSpec) -> int | None:
    """Number of blocks, from config.json where it is at hand; None if only the hub knows."""
    path = Path(spec.checkpoint) / "config.json"
    if path.is_file():
        config: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))
        return config.get("num_hidden_layers") or config.get("n_layer")
    return spec.layers
