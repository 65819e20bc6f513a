"""Antibody language models: checkpoints with a template, read and written.

`load`, `AntibodyModel` and `Encoded` come with the first use of one of them: torch and transformers take
seconds to import, and Snakemake's parse asks this package for presets alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded, load

__all__ = ["AntibodyModel", "Encoded", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("antibody_sae.models.model"), name)
