"""One vocabulary of species for reader, numbering and models.

A name of ours (`NAMES`) is what tables and configurations hold. Databases' words become names (`canonical`), names
become the profiles and germlines that number them (`profile`) and the tag under which a model reads them (`tag`). What
is not known is None, never a default: the caller counts it, or asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antibody_sae.sections import SequencesSection

_WORDS = {
    "human": ("homo sapiens", "homsap", "9606", "humans", "h sapiens"),
    "mouse": ("mus musculus", "musmus", "10090", "mice", "house mouse", "murine", "m musculus"),
    "rat": ("rattus norvegicus", "ratnor", "10116", "rats", "norway rat", "brown rat", "r norvegicus"),
    "rabbit": ("oryctolagus cuniculus", "orycun", "9986", "rabbits", "european rabbit", "o cuniculus"),
    "rhesus": ("macaca mulatta", "macmul", "9544", "rhesus monkey", "rhesus macaque", "m mulatta"),
    "pig": ("sus scrofa", "susscr", "9823", "pigs", "domestic pig", "swine", "porcine"),
    "cow": ("bos taurus", "bostau", "9913", "cows", "cattle", "bovine"),
    "alpaca": ("vicugna pacos", "lama pacos", "vicpac", "30538", "alpacas"),
    "llama": ("lama glama", "lamgla", "9844", "llamas"),
    "camel": (
        "camelus dromedarius", "camelus bactrianus", "camelus ferus", "camdro", "cambac", "9838", "9837", "camels",
        "arabian camel", "bactrian camel", "dromedary",
    ),
    "camelid": ("camelidae", "camelids", "camelus", "lama", "vicugna", "9835"),
}  # fmt: skip
"""Words of databases for each name: scientific, common, IMGT's six letters, NCBI's taxon."""
NAMES = tuple(_WORDS)
_CAMELIDS = ("camelid", "camel", "alpaca", "llama")
"""Told apart by databases, but of one kind for models and germlines."""
PROFILES = {
    "human": "HKL", "mouse": "HKL", "rat": "HKL", "rabbit": "HKL", "rhesus": "HKL", "pig": "HKL", "alpaca": "H",
    "cow": "HKL",
}  # fmt: skip
"""What numbering offers: species, and the chain types of which it has V germlines."""
_NAMED = {word: name for name, words in _WORDS.items() for word in (name, *words)}
_PHRASE = re.compile(r"\b(?:" + "|".join(sorted(_NAMED, key=len, reverse=True)) + r")\b")
_MIXED = re.compile(r"\b(?:humani[sz]ed|chimer\w*|transgen\w*)\b")


def canonical(text: str) -> str | None:
    """Our name of a species from a database's words ("Mus musculus (house mouse)" -> mouse), None if it is not known.

    The words begin with the species' name; a strain or a comment may follow (mouse_C57BL/6). Words that name two
    species, or say that the genes are another species' (a humanized mouse), are None too.
    """
    words = re.sub(r"[\W_]+", " ", text.lower()).strip().removeprefix("ncbitaxon ").removeprefix("taxon ")
    found = list(_PHRASE.finditer(words))
    named = {_NAMED[match.group()] for match in found}
    if len(named) > 1:
        named.discard("camelid")  # the genus in front of an animal's own name
    if not found or found[0].start() or len(named) != 1 or _MIXED.search(words):
        return None
    return named.pop()


def profile(name: str) -> str:
    """The species whose profiles and germlines number a name's chains: alpaca's for all camelids."""
    return "alpaca" if name in _CAMELIDS else name


def tag(name: str, offered: Sequence[str]) -> str | None:
    """The word of a model's own (`offered`) for a species: IgLM reads all camelids as camel; None if it has none."""
    alike = (name, *_CAMELIDS) if name in _CAMELIDS else (name,)
    return next((word for word in alike if word in offered), None)


def mistakes(sequences: SequencesSection, numbered: Sequence[str], model: str, offered: Sequence[str]) -> Iterator[str]:
    """What cannot work of a configuration's species, before any job: `sequences` is its section, `numbered` are
    numbering.species, `offered` the species tags of the model (empty where it has none)."""
    name = sequences["species"]
    if canonical(name) != name:
        near = canonical(name)
        hint = f"write {near}" if near else f"known are {', '.join(NAMES)}"
        yield f"sequences.species: {name!r} is no name of a species here; {hint}"
        return
    for key, one in (("sequences.species", name), *(("numbering.species", one) for one in numbered)):
        if offered and tag(one, offered) is None:
            yield f"{key}: model {model} cannot read or write {one} antibodies, only those of {', '.join(offered)}"
    if sequences["source"] == "generate" and profile(name) not in numbered:
        yield (
            f"numbering.species: {', '.join(numbered)}, but sequences.species asks for {name} antibodies; "
            f"add {profile(name)}"
        )
    for letter, types, title in (("H", "H", "heavy"), ("L", "KL", "light")):
        if letter in sequences["chains"] and not any(set(types) & set(PROFILES[one]) for one in numbered):
            yield f"numbering.species: there are no germlines of {title} chains of {', '.join(numbered)}"
