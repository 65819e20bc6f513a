"""ANARCI's numbering and germlines, in-process and many times faster: identical where ANARCI is right.

ANARCI (Dunbar & Deane 2016, doi:10.1093/bioinformatics/btv552) calls `hmmscan` with all 29 of its profiles,
filters the hits by species afterwards, and then numbers and assigns germlines residue by residue in Python.
Here
 - HMMER runs in-process (pyhmmer), on the allowed species' profiles only; where none of them reaches the
   threshold, all profiles are searched, which is what ANARCI reverts to. E-values stay those of the
   29-profile search (Z = 29);
 - a profile whose Forward score cannot belong to a domain above the threshold is dropped before its
   alignment;
 - each distinct chain is done once, and ANARCI's own numbering functions run once for each distinct alignment
   pattern (they look at the states, not at the residues);
 - germline identities are a matrix product.

It differs where ANARCI is wrong:
 - its rhesus heavy and kappa profiles are shifted against IMGT's positions and are not searched (a human profile takes
   their place), and its shifted germlines are mended (see `germlines`);
 - a profile that puts the conserved cysteines elsewhere loses to one that keeps them at 23 and 104 with no lower
   germline identity;
 - a chain without cysteines at 23 and 104 is not "ok";
 - one allowed species without germlines of a chain type does not cost the others theirs;
 - no residue of a His tag is part of the domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import anarci
import numpy as np
import pyhmmer
from anarci.anarci import get_hmm_length, number_sequence_from_alignment

from antibody_sae.antibody import RESIDUES
from antibody_sae.numbering import germlines
from antibody_sae.numbering.checks import ANCHORS, FIRST, LAST, MISPLACED, OK, anchored
from antibody_sae.numbering.germlines import Germline
from antibody_sae.species import PROFILES

SCHEMES = ("imgt", "chothia", "kabat", "martin", "aho")
SPECIES = tuple(PROFILES)
INSERTIONS = ("", *ascii_uppercase, *(2 * letter for letter in ascii_uppercase))
BORDERS = {
    ("imgt", "H"): (27, 39, 56, 66, 105, 118),
    ("imgt", "L"): (27, 39, 56, 66, 105, 118),
    ("kabat", "H"): (31, 36, 50, 66, 95, 103),
    ("kabat", "L"): (24, 35, 50, 57, 89, 98),
    ("chothia", "H"): (26, 33, 52, 57, 95, 103),
    ("chothia", "L"): (24, 35, 50, 57, 89, 98),
    ("martin", "H"): (26, 33, 52, 57, 95, 103),
    ("martin", "L"): (24, 35, 50, 57, 89, 98),
    ("aho", "H"): (24, 43, 57, 70, 107, 139),
    ("aho", "L"): (24, 43, 57, 73, 107, 139),
}
"""First numbers of CDR1, FR2, CDR2, FR3, CDR3 and FR4 in each scheme's own numbers. IMGT: Lefranc 2003; Kabat
1991; Chothia & Lesk 1987 (also for Martin's numbering, Abhinandan & Martin 2008, which corrects Chothia's);
AHo: the definitions of North, Lehmann & Dunbrack 2011, which are made in AHo's numbers."""

_SOUND = {"rhesus_H": "human_H", "rhesus_K": "human_K", "rat_H": "mouse_H"}
"""Profiles searched in place of those that are shifted (rhesus: as its germlines, see `germlines`) or not there."""
_BITS = 80.0  # ANARCI's threshold for a domain
_BITS_J = 10.0  # ... and when it looks for a J region behind a long CDR3
# 80 bits are P = 1e-26 with these profiles. A Forward score of P > 1e-20 (60 bits) leaves 20 bits for the
# difference between a sequence's filter score and a domain's score, which is a difference of composition
# corrections.
_FORWARD_P = 1e-20
_HIS_TAG = 5  # histidines in a row that are a tag; tags have six and more, and one may be lost to the domain
_BLOCK = 1000  # distinct chains searched at a time: bounds the memory of their alignments
_ALIGNMENTS = 4096  # alignments whose numbers are kept: natural repertoires need hundreds
_PROTEIN = re.compile(r"[ACDEFGHIKLMNPQRSTVWYBJZOUX]+")  # HMMER's amino acid alphabet
_ALPHABET = pyhmmer.easel.Alphabet.amino()

State = tuple[int, str]
"""(profile state 1..128, 'm' match | 'i' insertion | 'd' deletion), as in ANARCI's state vectors."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a domain's n residues. Arrays are shared between chains: do not write to them."""

    imgt: np.ndarray
    """[n] int16, IMGT numbers; 0 for a residue that only AHo counts into the domain."""
    insertion: np.ndarray
    """[n] int8, IMGT insertion letters as indices into INSERTIONS."""
    number: np.ndarray
    """[n] int16, numbers of the scheme asked for."""
    number_insertion: np.ndarray
    """[n] int8, insertion letters of the scheme, as indices into INSERTIONS."""
    region: np.ndarray
    """[n] int8, index into REGIONS by the scheme's own CDR definition."""
    first: int
    last: int
    """IMGT positions of the first and the last residue."""
    anchors: tuple[int, ...]
    """Index of the residue at each of ANCHORS; -1 where there is none."""


class Numbered(NamedTuple):
    """One chain. `status` is OK or says why the chain cannot be used; numbers are there if one domain was numbered."""

    status: str
    chain: str | None = None
    """H, K or L."""
    start: int = -1
    end: int = -1
    """The variable domain is chain[start:end], 0-based half-open."""
    numbers: Numbers | None = None
    germline: Germline = Germline()
    profile: str | None = None
    """The profile that numbered it, such as human_H."""
    conserved: str | None = None
    """Its residues at IMGT 23, 41, 104 and 118 ("CWCW", light chains "CWCF"); '-' where it has none."""

    @property
    def complete(self) -> bool:
        """Whether this is a whole variable domain: no residue is missing at its ends."""
        return self.numbers is not None and self.numbers.first in FIRST and self.numbers.last in LAST


@dataclass(frozen=True)
class _Domain:
    """One domain found in a chain; `states` and the residues from `start` on correspond, deletions left
    out."""

    profile: str
    states: tuple[State, ...]
    start: int
    end: int

    @property
    def chain(self) -> str:
        return self.profile.split("_")[1]


def number(chains: Sequence[str], species: Sequence[str] = ("human",), scheme: str = "imgt") -> list[Numbered]:
    """Number chains as `anarci.run_anarci(allowed_species=species, assign_germline=True)` does.

    `species` limits the profiles and the germlines (names as in SPECIES); `scheme` is one of SCHEMES. The
    result has one entry a chain, in order; a chain that cannot be numbered has a status that says why, and
    never raises.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not one of {', '.join(SCHEMES)}")
    distinct = dict.fromkeys(chain.upper() for chain in chains)
    result: dict[str, Numbered] = {}
    remaining = iter(distinct)
    while block := list(islice(remaining, _BLOCK)):
        result.update(_number_block(block, tuple(species), scheme))
    return [result[chain.upper()] for chain in chains]


def split_pairs(sequences: Sequence[str], species: Sequence[str] = ("human",)) -> list[tuple[str | None, str | None]]:
    """Cut heavy+light sequences without separator after the heavy V domain: (heavy, light) each.

    Where only one variable domain is found the sequence is that chain and the other is None; where none is
    found or the order is not heavy then light, the whole sequence comes back as heavy (and will fail to be
    numbered with the reason).
    """
    upper = [sequence.upper() for sequence in sequences]
    valid = [s for s in dict.fromkeys(upper) if _PROTEIN.fullmatch(s)]
    found = dict(zip(valid, _align(valid, tuple(species)), strict=True))
    pairs: list[tuple[str | None, str | None]] = []
    for sequence in upper:
        domains = found.get(sequence, [])
        kinds = "".join(domain.chain for domain in domains)
        if kinds in ("HK", "HL"):
            heavy, light = domains
            # With two domains ANARCI extends neither end; what is left of the heavy profile is heavy.
            missing = get_hmm_length(*heavy.profile.split("_")) - heavy.states[-1][0]
            cut = min(heavy.end + missing, light.start)
            pairs.append((sequence[:cut], sequence[cut:]))
        elif kinds in ("K", "L"):
            pairs.append((None, sequence))
        else:
            pairs.append((sequence, None))
    return pairs


def split_chains(texts: Sequence[str], chains: str, species: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """(heavy, light) of what a model wrote as `chains` (H, L or HL)."""
    if chains == "HL":
        return split_pairs(texts, species)
    return [(text or None, None) if chains == "H" else (None, text or None) for text in texts]


class _Hit(NamedTuple):
    """A domain hit with the figures that ANARCI reads from hmmscan's report, so rounded as they are
    printed."""

    evalue: float
    rank: tuple[float, str]
    """Order of the report: the sequence's P-value, then the profile's name."""
    bits: float
    start: int
    end: int
    profile: str
    domain: pyhmmer.plan7.Domain


@lru_cache(maxsize=1)
def _profiles() -> dict[str, pyhmmer.plan7.OptimizedProfile[Any]]:
    """ANARCI's 29 profiles by name (species_chain), ready to search."""
    background = pyhmmer.plan7.Background(_ALPHABET)
    profiles = {}
    with pyhmmer.plan7.HMMFile(Path(anarci.__file__).parent / "dat" / "HMMs" / "ALL.hmm") as file:
        for hmm in file:
            profile = pyhmmer.plan7.Profile(hmm.M, _ALPHABET)
            profile.configure(hmm, background, 100)  # type: ignore[arg-type]
            profiles[hmm.name] = profile.to_optimized()
    return profiles


def _names(species: Sequence[str]) -> list[str]:
    """The profiles to search for these species."""
    own = [name for name in _profiles() if name.startswith(tuple(species))]
    return [name for name in own if name not in _SOUND] + [
        sound for name, sound in _SOUND.items() if name.startswith(tuple(species)) and sound not in own
    ]


def _search(sequences: Sequence[str], names: Iterable[str], bits: float, forward_p: float) -> list[list[_Hit]]:
    """Domain hits of at least `bits` bits for each sequence, best E-value first, as in ANARCI's reading of
    hmmscan."""
    block = pyhmmer.easel.DigitalSequenceBlock(
        _ALPHABET,
        [
            pyhmmer.easel.TextSequence(name=str(i).encode(), sequence=sequence).digitize(_ALPHABET)
            for i, sequence in enumerate(sequences)
        ],
    )
    # Z is the number of profiles in ANARCI's database, whichever of them are searched: E-values depend on it.
    pipeline = pyhmmer.plan7.Pipeline(_ALPHABET, Z=len(_profiles()), F3=forward_p)
    hits: list[list[_Hit]] = [[] for _ in sequences]
    for name in names:
        for hit in pipeline.search_hmm(_profiles()[name], block):
            for domain in hit.domains:
                rounded = float(f"{domain.score:.1f}")
                if rounded >= bits:
                    a = domain.alignment
                    rank = (hit.pvalue, name)
                    evalue = float(f"{domain.i_evalue:.2g}")
                    hits[int(hit.name)].append(
                        _Hit(evalue, rank, rounded, a.target_from - 1, a.target_to, name, domain)
                    )
        pipeline.clear()
    for found in hits:
        found.sort(key=lambda hit: (hit.evalue, hit.rank))
    return hits


def _align(sequences: Sequence[str], species: Sequence[str]) -> list[list[_Domain]]:
    """The domains of each sequence in order of position, with the best profile of each."""
    hits = _search(sequences, _names(species), _BITS, _FORWARD_P)
    # ANARCI reverts to any species where the allowed ones have no hit; the full search has HMMER's own
    # thresholds.
    missing = [i for i, found in enumerate(hits) if not found]
    everyone = [name for name in _profiles() if name not in _SOUND]
    for i, found in zip(missing, _search([sequences[i] for i in missing], everyone, _BITS, 1e-5), strict=True):
        hits[i] = found
    return [
        _find_long_cdr3(_domains(found, sequence), sequence) for found, sequence in zip(hits, sequences, strict=True)
    ]


def _rivals(sequence: str, species: Sequence[str], profile: str | None) -> list[_Domain]:
    """The one domain of a sequence as the other profiles align it, best E-value first."""
    (hits,) = _search([sequence], _names(species), _BITS, _FORWARD_P)
    others = {hit.profile: hit for hit in reversed(hits) if hit.profile != profile}
    return [
        _find_long_cdr3(_domains([hit], sequence), sequence)[0]
        for hit in sorted(others.values(), key=lambda hit: (hit.evalue, hit.rank))
    ]


def _domains(hits: Sequence[_Hit], sequence: str) -> list[_Domain]:
    """The best hit at each place, as state vectors (ANARCI: _parse_hmmer_query, _hmm_alignment_to_states)."""
    best: list[_Hit] = []
    for hit in hits:
        if all(hit.start >= other.end or other.start >= hit.end for other in best):
            best.append(hit)
    best.sort(key=lambda hit: hit.start)
    return [_to_domain(hit, sequence, order, len(best)) for order, hit in enumerate(best)]


def _to_domain(hit: _Hit, sequence: str, order: int, n_domains: int) -> _Domain:
    alignment = hit.domain.alignment
    columns = "".join(
        "i" if state == "." else "d" if residue == "-" else "m"
        for state, residue in zip(alignment.hmm_sequence, alignment.target_sequence, strict=True)
    )
    first, last = alignment.hmm_from - 1, alignment.hmm_to  # 0-based half-open range of states
    start, end = hit.start, hit.end
    # Unmatched residues at the start of the first domain (up to 4) count as the states that the profile has
    # there.
    if order == 0 and 0 < first < 5:
        extend = min(start, first - start) if first > start else first
        columns, first, start = "m" * extend + columns, first - extend, start - extend
    # ... and at the end, where half of framework 4 was recognised and there is no second domain.
    profile_length = get_hmm_length(*hit.profile.split("_"))
    if n_domains == 1 and end < len(sequence) and 123 < last < profile_length:
        extend = min(profile_length - last, len(sequence) - end)
        columns, end = columns + "m" * extend, end + extend
    tag = _tag(sequence, end)
    return _Domain(hit.profile, _states(first, columns[: len(columns) - tag]), start, end - tag)


def _tag(sequence: str, end: int) -> int:
    """How many residues before `end` are a His tag's: they are taken in where framework 4 lacks its last ones."""
    inside = end - len(sequence[:end].rstrip("H"))
    behind = len(sequence) - end - len(sequence[end:].lstrip("H"))
    return inside if inside + behind >= _HIS_TAG else 0


@lru_cache(maxsize=_ALIGNMENTS)
def _states(first: int, columns: str) -> tuple[State, ...]:
    """State vector of an alignment whose first column is profile state `first` (0-based)."""
    states = []
    state = first + 1
    for column in columns:
        states.append((state, column))
        state += column != "i"
    return tuple(states)


def _find_long_cdr3(domains: list[_Domain], sequence: str) -> list[_Domain]:
    """Look for a J region behind a CDR3 so long that the alignment ended before it (ANARCI: check_for_j)."""
    if len(domains) != 1:
        return domains
    domain = domains[0]
    if domain.states[-1][0] >= 120 or domain.end - 1 + 30 >= len(sequence) or (104, "m") not in domain.states:
        return domains
    v_states = domain.states[: domain.states.index((104, "m")) + 1]
    behind = domain.start + sum(kind != "d" for _, kind in v_states)  # the residue after the conserved cysteine
    rest = sequence[behind:]
    found = _domains(_search([rest], _profiles(), _BITS_J, 1e-5)[0], rest)
    if not found or found[0].states[-1][0] < 126 or found[0].states[0][0] > 117:
        return domains
    # Everything between the cysteine and the J region is CDR3.
    before_j = found[0].start + sum(kind != "d" for state, kind in found[0].states if state < 117)
    j_states = tuple((state, kind) for state, kind in found[0].states if state >= 117 and kind != "d")
    cdr3 = tuple((105 + i, "m") if i < 11 else (116, "i") for i in range(before_j))
    return [replace(domain, states=v_states + cdr3 + j_states, end=behind + before_j + len(j_states))]


def _number_block(chains: Sequence[str], species: tuple[str, ...], scheme: str) -> dict[str, Numbered]:
    result = {chain: Numbered(_unfit(chain)) for chain in chains if not _PROTEIN.fullmatch(chain)}
    fit = [chain for chain in chains if chain not in result]
    singles: list[tuple[str, _Domain]] = []
    for chain, domains in zip(fit, _align(fit, species), strict=True):
        kinds = [domain.chain for domain in domains]
        if not kinds:
            result[chain] = Numbered("no antibody domain found")
        elif any(kind not in "HKL" for kind in kinds):
            result[chain] = Numbered("T-cell receptor domain, not an antibody")
        elif len(kinds) > 1:
            result[chain] = Numbered(f"{len(kinds)} antibody domains ({'+'.join(kinds)}) in one chain: split it first")
        else:
            singles.append((chain, domains[0]))
    for (chain, _), numbered in zip(singles, _label(singles, species, scheme), strict=True):
        result[chain] = _better(chain, numbered, species, scheme) if numbered.status == MISPLACED else numbered
    return result


def _unfit(chain: str) -> str:
    bad = sorted(set(chain) - set(RESIDUES))
    return f"not amino acids: {' '.join(map(repr, bad[:5]))}" if bad else "empty chain"


def _label(chains: Sequence[tuple[str, _Domain]], species: tuple[str, ...], scheme: str) -> list[Numbered]:
    """Numbers and germlines of chains by the alignments given."""
    result: dict[int, Numbered] = {}
    for kind in "HKL":
        members = [i for i, (_, domain) in enumerate(chains) if domain.chain == kind]
        aligned = np.full((len(members), 128), ord("-"), np.uint8)
        for row, i in enumerate(members):
            chain, domain = chains[i]
            columns, offsets = _match_offsets(domain.states)
            aligned[row, columns] = np.frombuffer(chain.encode(), np.uint8)[domain.start + offsets]
        for i, germline in zip(members, germlines.assign(aligned, kind, species), strict=True):
            result[i] = _numbered(*chains[i], germline, scheme)
    return [result[i] for i in range(len(chains))]


def _numbered(chain: str, domain: _Domain, germline: Germline, scheme: str) -> Numbered:
    try:
        first, numbers = _numbers(domain.states, scheme, domain.chain, domain.end < len(chain))
    except _CannotNumber as error:
        return Numbered(str(error), domain.chain)
    start = domain.start + first
    end = start + len(numbers.number)
    conserved = "".join("-" if i < 0 else chain[start + i] for i in numbers.anchors)
    found = Numbered(OK, domain.chain, start, end, numbers, germline, domain.profile, conserved)
    if numbers.last < 120:  # without framework 4 the end of CDR3 is not known, nor is the clonotype
        return found._replace(status="no J region: framework 4 is missing or was not found")
    return found if anchored(conserved, numbers.first) else found._replace(status=MISPLACED)


def _better(chain: str, numbered: Numbered, species: tuple[str, ...], scheme: str) -> Numbered:
    """As the best profile numbers it that keeps the cysteines at 23 and 104 at no lower germline identity, if any."""
    rivals = [(chain, domain) for domain in _rivals(chain, species, numbered.profile)]
    for rival in _label(rivals, species, scheme):
        if rival.status == OK and not rival.germline.v_identity < numbered.germline.v_identity:
            return rival
    return numbered


@lru_cache(maxsize=_ALIGNMENTS)
def _match_offsets(states: tuple[State, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(0-based match states that have a residue, that residue's offset in the domain)."""
    columns, offsets = [], []
    offset = 0
    for state, kind in states:
        if kind == "m":
            columns.append(state - 1)
            offsets.append(offset)
        offset += kind != "d"
    return np.array(columns), np.array(offsets)


class _CannotNumber(Exception):
    """Why ANARCI does not number an alignment in a scheme."""


@lru_cache(maxsize=_ALIGNMENTS)
def _numbers(states: tuple[State, ...], scheme: str, chain: str, more: bool) -> tuple[int, Numbers]:
    """(offset of the first residue, numbers) of a state vector; `more`: another residue follows the domain."""
    first, imgt = _positions(states, "imgt", chain, more)
    aligned = dict(enumerate(imgt, start=first))
    if scheme == "imgt":
        own = imgt
    else:
        first, own = _positions(states, scheme, chain, more)
    both = [aligned.get(i, (0, "")) for i in range(first, first + len(own))]
    numbers = np.array([a for a, _ in own], np.int16)
    positions = [a for a, _ in both if a]
    borders = BORDERS[scheme, "H" if chain == "H" else "L"]
    return first, Numbers(
        imgt=np.array([a for a, _ in both], np.int16),
        insertion=np.array([INSERTIONS.index(b) for _, b in both], np.int8),
        number=numbers,
        number_insertion=np.array([INSERTIONS.index(b) for _, b in own], np.int8),
        region=np.searchsorted(borders, numbers, side="right").astype(np.int8),
        first=positions[0],
        last=positions[-1],
        anchors=tuple(both.index((position, "")) if (position, "") in both else -1 for position, _ in ANCHORS.values()),
    )


def _positions(states: tuple[State, ...], scheme: str, chain: str, more: bool) -> tuple[int, list[tuple[int, str]]]:
    """(offset of the first residue, [(number, insertion)]) from ANARCI's own function; raises _CannotNumber.

    That function copies residues without looking at them, so each residue is given a letter of its own, which
    also shows where each of them went.
    """
    n = 0
    vector: list[tuple[State, int | None]] = []
    for state in states:
        vector.append((state, None if state[1] == "d" else n))
        n += state[1] != "d"
    letters = "".join(chr(0x4E00 + i) for i in range(n + more))  # AHo takes the next residue in where there is one
    try:
        numbering, _, _ = number_sequence_from_alignment(vector, letters, scheme=scheme, chain_type=chain)
    except (AssertionError, IndexError) as error:
        raise _CannotNumber(f"cannot be numbered by {scheme}: {error}") from error
    residues = [(ord(letter) - 0x4E00, number, code.strip()) for (number, code), letter in numbering if letter != "-"]
    if not residues:
        raise _CannotNumber(f"cannot be numbered by {scheme}: a loop is longer than it allows")
    first = residues[0][0]
    if any(a[0] + 1 != b[0] or a[1] > b[1] for a, b in pairwise(residues)):
        raise _CannotNumber(f"cannot be numbered by {scheme}: the numbers do not follow the sequence")
    return first, [(number, code) for _, number, code in residues]
