"""How complete variable domains begin: the first residues of the germline V genes."""

from __future__ import annotations

from anarci.germlines import all_germlines

from antibody_sae.io import InputError
from antibody_sae.species import profile

LENGTH = 3
"""Residues of a start."""


def starts(chains: str, species: str) -> list[str]:
    """The first LENGTH residues of the species' germline V genes that begin at IMGT 1 or 2, sorted.

    `chains`: H, L (kappa and lambda alike), or HL, where the heavy chain comes first. No start is the beginning of
    another, so sequences fall into disjoint classes by them. Raises InputError for a species without germlines.
    """
    genes = [
        gene
        for chain in ("H" if "H" in chains else "KL")
        for gene in all_germlines["V"].get(chain, {}).get(profile(species), {}).values()
    ]
    found = {gene.replace("-", "")[:LENGTH] for gene in genes if len(gene) - len(gene.lstrip("-")) < 2}
    if not found:
        raise InputError(
            f"sequences.complete: no germline V genes of {species} {'heavy' if 'H' in chains else 'light'} chains say "
            "how a complete domain begins; set complete: false, or a prompt"
        )
    return sorted(found)
