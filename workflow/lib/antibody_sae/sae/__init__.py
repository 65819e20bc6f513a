"""Sparse autoencoders: one prefix-weighted TopK SAE, its training and its evaluation.

`SAE` and `Codes` come with their first use: torch and numba take seconds to import, and tables ask for names alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antibody_sae.sae.model import SAE, Codes

__all__ = ["SAE", "Codes"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("antibody_sae.sae.model"), name)
