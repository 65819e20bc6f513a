"""Sequences of more than one variable domain, cut into one piece a domain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from anarci.anarci import get_hmm_length

from antibody_sae.numbering import anarci


def domains(sequences: Sequence[str], species: Sequence[str] = ("human",)) -> list[list[tuple[str, str]]]:
    """[(H, K or L; piece)] of each sequence, cut between its variable domains: in the middle of a linker, or where the
    first domain's profile ends. Empty where there is no domain, or the sequence is no protein."""
    valid = [s for s in dict.fromkeys(sequences) if anarci._PROTEIN.fullmatch(s)]
    found = dict(zip(valid, anarci._align(valid, tuple(species)), strict=True))
    pieces: list[list[tuple[str, str]]] = []
    for sequence in sequences:
        here = found.get(sequence, [])
        cuts = [0]
        for one, other in pairwise(here):
            missing = get_hmm_length(*one.profile.split("_")) - one.states[-1][0]
            linker = other.start - one.end - missing - (other.states[0][0] - 1)
            cuts.append(min(one.end + missing + max(linker, 0) // 2, other.start))
        ends = [*cuts[1:], len(sequence)]
        pieces.append([(d.chain, sequence[a:b]) for d, a, b in zip(here, cuts, ends, strict=False)])
    return pieces
