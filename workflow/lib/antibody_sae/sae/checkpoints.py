"""Saved dictionaries of this and other libraries: which one wrote a folder, and where it says that its SAE belongs.

Light on purpose: Snakemake's parse asks for a checkpoint's files, and checks what needs no tensor, before any job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antibody_sae.io import InputError, read_json


@dataclass(frozen=True)
class Format:
    """The two files that a library saves a dictionary in."""

    library: str
    about: str
    """JSON: what kind of dictionary it is."""
    weights: str


OWN = Format("antibody-sae", "config.json", "sae.safetensors")
SAELENS = Format("SAELens", "cfg.json", "sae_weights.safetensors")
SPARSIFY = Format("sparsify", "cfg.json", "sae.safetensors")
DICTIONARY_LEARNING = Format("dictionary_learning", "config.json", "ae.pt")
FORMATS = (OWN, SAELENS, SPARSIFY, DICTIONARY_LEARNING)
"""In this order: a folder of `exchange.publish` is read as what it is, with every figure that it holds."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder in one of FORMATS."""

    folder: Path
    format: Format
    about: dict[str, Any]
    """What its JSON says."""

    @property
    def path(self) -> Path:
        """Of its JSON."""
        return self.folder / self.format.about

    @property
    def weights(self) -> Path:
        return self.folder / self.format.weights

    @property
    def files(self) -> list[str]:
        """What a job that loads it depends on."""
        return [str(self.path), str(self.weights)]


def recognise(folder: str | Path) -> Checkpoint:
    """The checkpoint in a folder. Raises InputError where it has none of FORMATS, or its JSON is broken."""
    folder = Path(folder)
    for each in FORMATS:
        if all((folder / name).is_file() for name in (each.about, each.weights)):
            about = read_json(folder / each.about)
            if not isinstance(about, dict):
                raise InputError(f"{folder / each.about}: holds no mapping; copy the checkpoint again")
            return Checkpoint(folder, each, about)
    known = "; ".join(f"{each.library}: {each.about}, {each.weights}" for each in FORMATS)
    have = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else ""
    raise InputError(
        f"{folder}: "
        + (f"no SAE that is known here, it holds {have or 'nothing'}" if folder.is_dir() else "no such folder")
        + f"; give the folder with a checkpoint's two files ({known})"
    )


@dataclass(frozen=True)
class Origin:
    """The activations that a dictionary says it was trained on; None where it does not say."""

    model: str | None = None
    """A name, or the path or hub id that its library was given."""
    weights_sha256: str | None = None
    layer: int | None = None
    """Blocks before the residual stream that it reads, as this project counts them, from 1."""
    hook: str | None = None
    """As its library calls the place."""


_HOOKS = (
    (re.compile(r"blocks\.(\d+)\.hook_resid_post"), 1),
    (re.compile(r"blocks\.(\d+)\.hook_resid_pre"), 0),
    (re.compile(r"(?:.*\.)?(?:h|layers|blocks|layer)\.(\d+)"), 1),
)
"""Names of the residual stream, and what to add to their number for the blocks before it: TransformerLens's after and
before a block, and a block's module in transformers."""


def layer_of(hook: str) -> int | None:
    """Blocks before the residual stream that a hook names; None where it names another place."""
    for pattern, more in _HOOKS:
        if match := pattern.fullmatch(hook):
            return int(match[1]) + more
    return None


def origin(found: Checkpoint) -> Origin:
    """What a checkpoint says of where it belongs. Raises InputError where that is not the residual stream after a
    block."""
    about = found.about
    if found.format is OWN:
        return Origin(about.get("model"), about.get("weights_sha256"), about.get("layer"), about.get("hook"))
    if found.format is SAELENS:
        # before its version 6 these keys stood at the top
        said = {**about, **(about.get("metadata") or {})}
        hook = said.get("hook_name") or said.get("hook_point")
        return Origin(said.get("model_name"), said.get("weights_sha256"), _layer(found, hook), hook)
    if found.format is SPARSIFY:  # it says nothing, but names the folder by the hook
        layer = layer_of(found.folder.resolve().name)
        return Origin(layer=layer, hook=None if layer is None else found.folder.resolve().name)
    trainer = about.get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"{found.path}: `trainer` is missing; dictionary_learning's training writes it, copy it again")
    place = trainer.get("submodule_name")
    if place and re.search("mlp|attn|attention", place):
        raise InputError(_elsewhere(found, "trainer.submodule_name", place))
    block = trainer.get("layer")  # the block whose output it reads, from 0
    return Origin(trainer.get("lm_name"), None, block + 1 if isinstance(block, int) else None, place)


def _layer(found: Checkpoint, hook: str | None) -> int | None:
    if hook is None:
        return None
    layer = layer_of(hook)
    if layer is None:
        raise InputError(_elsewhere(found, "hook_name", hook))
    return layer


def _elsewhere(found: Checkpoint, key: str, place: str) -> str:
    return (
        f"{found.path}: {key} is {place!r}, which is not the residual stream after a block; only SAEs of that can be "
        "loaded"
    )


def check(found: Checkpoint, expected: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise InputError where a checkpoint says that it belongs to another model or layer than `expected` (those of
    `weights_sha256` and `layer` that are known).

    `names`: what the run's model may be called. Names are compared by their last part, without case, and only where no
    hash says more.
    """
    said = origin(found)
    remedy = "an SAE reads the activations of its own model and layer only"
    own, here = said.weights_sha256, expected.get("weights_sha256")
    if own and here:
        if own != here:
            raise InputError(f"{found.path}: weights_sha256 is {own!r}, this run's model has {here!r}; {remedy}")
    elif said.model:
        known = {Path(name).name.casefold() for name in names}
        if Path(said.model).name.casefold() not in known:
            raise InputError(
                f"{found.path}: it was trained on the model {said.model!r}, this run's is {', '.join(names)}; {remedy}"
            )
    if said.layer is not None and "layer" in expected and said.layer != expected["layer"]:
        raise InputError(
            f"{found.path}: it reads the residual stream after block {said.layer} ({said.hook or 'its layer'}), this "
            f"run's is after block {expected['layer']} (activations.layers); {remedy}"
        )
