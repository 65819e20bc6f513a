"""From an entry of the section `designs` to a library: what it asks for, the levers that a run has, the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from antibody_sae import interventions
from antibody_sae.antibody import LETTERS
from antibody_sae.concepts import catalogue
from antibody_sae.designs import handles, parents
from antibody_sae.designs.constraints import Constraints
from antibody_sae.designs.handles import Handle
from antibody_sae.designs.library import Sample, Writer, collect, sample, whole
from antibody_sae.interventions import Intervention, Where
from antibody_sae.io import InputError, read_json, read_parquet, read_safetensors, sha256_file
from antibody_sae.sae.model import SAE
from antibody_sae.steering import alternatives

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel
    from antibody_sae.sections import ConceptsSection, DesignSection, WritingSections
    from antibody_sae.steering.trained import Place

PILOT = 128
"""Sequences that each of several levers is tried on."""
MOST_TRAINING = 20_000
"""Training sequences at most, evenly spaced, among which a design's nearest is looked for."""
LIBRARY, UNSTEERED, FIRST_PILOT = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True)
class Levers:
    """The levers of a run at one layer."""

    saes: Mapping[str, SAE]
    """Name ("ordered-seed0") -> SAE."""
    effects: Mapping[str, pd.DataFrame]
    """Name -> its effects.parquet."""
    vectors: Mapping[str, Mapping[str, Any]]
    """Name ("trained", "sparse ordered-seed0", "located FR1") -> target -> direction [d_model]."""
    places: Mapping[str, Place]
    """Name of located vectors -> where they act."""
    unit: float
    """Root mean square length of the centred residual stream, in raw units."""
    hashes: Mapping[str, str]
    """What was read -> SHA-256."""


NO_LEVERS = Levers({}, {}, {}, {}, float("nan"), {})


def read_levers(found: Any, targets: Sequence[str], provenance: Mapping[str, Any]) -> Levers:
    """Read what the rule `design` was given: saes (config.json), effects, sparse, trained, manifest; each may be empty.

    `targets`: rows of the vectors; `provenance`: what every SAE must have been trained on (model and layer). Of sparse
    levers the one of most latents is taken. Raises InputError where a file is another run's.
    """
    saes = {Path(path).parent.name: SAE.load(Path(path).parent, provenance) for path in found.saes}
    hashes = {Path(path).parent.name: sha256_file(Path(path).with_name("sae.safetensors")) for path in found.saes}
    effects = {Path(path).parent.name: read_parquet(path) for path in found.effects}
    vectors: dict[str, dict[str, Any]] = {}
    places: dict[str, Place] = {}
    if found.trained:
        path, there = found.trained
        stored = read_safetensors(path)
        if "trained" in stored:
            vectors["trained"] = dict(zip(targets, stored["trained"], strict=True))
        for target, place in read_json(there).items():
            name = f"located {place['region']}"
            vectors.setdefault(name, {})[target] = stored["located"][list(targets).index(target)]
            places[name] = place
        hashes["trained"] = sha256_file(path)
    for path in found.sparse:
        stored, name = read_safetensors(path), f"sparse {Path(path).parent.name}"
        key = max((k for k in stored if k.startswith("sparse_")), key=lambda k: int(k.removeprefix("sparse_")))
        vectors[name] = {t: row for t, row in zip(targets, stored[key], strict=True) if float(row.norm()) > 0}
        hashes[name] = sha256_file(path)
    about = read_json(found.manifest[0]) if found.manifest else {"scale": float("nan"), "d_model": 1}
    return Levers(saes, effects, vectors, places, float(about["scale"]) * about["d_model"] ** 0.5, hashes)


def candidates(asked: DesignSection, levers: Levers, counts: Mapping[str, Any]) -> Iterator[Handle]:
    """The ways to push that a design allows, to be tried in this order; `counts`: residues of the regions."""
    where = interventions.parse_where(asked["where"], counts)
    if asked["latents"]:
        act = interventions.push if asked["method"] == "add" else interventions.clamp
        yield Handle("given", act(next(iter(levers.saes.values())), asked["latents"], where))
        return
    if asked["lever"] in ("none", "auto"):
        yield handles.NONE
    known = {**levers.vectors, **{f"latent {name}": _latents(asked, levers, name) for name in levers.saes}}
    for name, directions in known.items():
        if asked["lever"] in ("auto", name.split()[0]) and directions:
            place = levers.places.get(name)
            at = Where(place["region"], counts=counts) if place else where
            unit = levers.unit / place["share"] ** 0.5 if place else levers.unit  # as long in the mean square
            for length in [asked["length"]] if asked["length"] else handles.LENGTHS:
                handle = handles.joint(name, directions, asked["concepts"], length, unit, at)
                if handle is not None:
                    yield handle


def _latents(asked: DesignSection, levers: Levers, name: str) -> dict[str, Any]:
    """Target -> decoder direction of the latent of one SAE that moved it most, for the targets that are asked for."""
    if name not in levers.effects:
        return {}
    effects, sae = levers.effects[name], levers.saes[name]
    steered = effects.loc[effects["kind"] == "latent", "concept"].dropna().unique()
    found = {}
    for concept in asked["concepts"]:
        target = handles.target_for(concept, steered)
        if target is not None:
            try:
                latent, _ = handles.best_latent(effects, target, asked["selected_by"])
            except InputError:  # no latent of this SAE moved it: it is filtered only
                continue
            found[target] = sae.directions[latent].cpu()
    return found


def constraints(asked: DesignSection, known: ConceptsSection) -> Constraints:
    """A design's constraints, its concepts among them: high in every design, none in none.

    Raises InputError for a concept of no group of the catalogue; `known`: the section `concepts`.
    """
    limits: dict[str, Any] = dict(asked["constraints"])
    share = {"high": (1.0, 1.0), "none": (0.0, 0.0)}
    rates = {concept: share[value] for concept, value in asked["concepts"].items()}
    rates |= {concept: (float(low), float(high)) for concept, (low, high) in limits["rates"].items()}
    groups = {group.name for group in [*catalogue.groups({**known, "metadata": {}}), catalogue.PAIRS]}
    for concept in rates:
        group, _, value = concept.partition("=")
        if group not in groups or not value:
            raise InputError(f"designs: {concept!r} is no concept; it is group=value, and groups are {sorted(groups)}")
    return Constraints(**{**limits, "rates": rates})


def training_texts(antibodies: pd.DataFrame, splits: pd.DataFrame, chains: str) -> dict[str, str]:
    """Training sequence (heavy and light together) -> antibody_id; at most MOST_TRAINING, evenly spaced."""
    train = splits.loc[splits["split"] == "train", "antibody_id"]
    return _texts(antibodies[antibodies["antibody_id"].isin(train)], chains, MOST_TRAINING)


def _texts(antibodies: pd.DataFrame, chains: str, most: int) -> dict[str, str]:
    sides = [antibodies[LETTERS[letter]].fillna("") for letter in chains]
    joined = sides[0] if len(sides) == 1 else sides[0] + sides[1]
    both = [(str(text), str(name)) for text, name in zip(joined, antibodies["antibody_id"], strict=True) if text]
    if not both:
        return {}
    chosen = np.unique(np.linspace(0, len(both) - 1, min(len(both), most)).round().astype(int))
    return dict(both[i] for i in chosen)


def build(
    name: str,
    asked: DesignSection,
    model: AntibodyModel,
    layer: int,
    levers: Levers,
    counts: Mapping[str, Any],
    sections: WritingSections,
    training: Mapping[str, str],
    natural: pd.DataFrame | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One library and what it is compared with.

    `asked`: the design's entry, every default filled in; `sections`: writing, numbering, concepts; `counts`: residues
    of the regions, for `where`; `natural`: antibodies (antibody_id, heavy, light) or None. Returns one row a chain of
    all sets (column `set`: design, unsteered, natural), and the figures: lever, tried, funnel, price.
    """
    writing = sections["writing"]
    source = asked["from"]
    parent = parents.parent(source, writing["chains"], sections["numbering"]) if source else None
    infill = source is not None and _infills(source["by"], model)
    writer = Writer(
        model, layer, constraints(asked, sections["concepts"]), asked["seed"], writing, sections["numbering"],
        sections["concepts"], parent, infill,
    )  # fmt: skip
    unsteered = sample(writer, Intervention(), asked["baseline"], UNSTEERED, described=True)
    handle, tried = _choose(list(candidates(asked, levers, counts)), writer, unsteered)
    library = collect(writer, handle.intervention, asked["n"], name, training)
    sets = {"design": library.chains, "unsteered": _named(unsteered.chains, "unsteered")}
    if natural is not None:
        sets["natural"] = _natural(writer, natural, asked["baseline"])
    chains = pd.concat([table.assign(set=kind) for kind, table in sets.items() if len(table)], ignore_index=True)
    low, high = unsteered.price_range
    about = {
        "lever": handle.about(),
        "tried": tried,
        "funnel": library.funnel,
        "concepts": dict(asked["concepts"]),
        "judges": list(asked["judges"]),
        "price": {
            "tokens_per_design": library.price,
            "sequences_per_design": library.written / (asked["n"] + library.surplus),
            "rejection_tokens_per_design": unsteered.price if unsteered.accepted else None,
            "rejection_low": low,
            "rejection_high": high,
            "rejection_sequences": unsteered.written,
            "rejection_accepted": unsteered.accepted,
            "ratio": unsteered.price / library.price if unsteered.accepted else None,
        },
    }
    return chains, about


def _infills(by: str, model: AntibodyModel) -> bool:
    if by == "infill" and not alternatives.can_infill(model):
        raise InputError(f"designs: from.by: model {model.spec.name} was not trained to infill; use prompt")
    return by == "infill" or (by == "auto" and alternatives.can_infill(model))


def _choose(found: list[Handle], writer: Writer, unsteered: Sample) -> tuple[Handle, list[dict[str, Any]]]:
    """The only handle, or the cheapest on a pilot of its own; no steering was tried by the comparison already."""
    if not found:
        raise InputError(
            "designs: this run has no lever for any of the design's concepts; add them to steering.targets, name "
            "`latents`, or set lever: none"
        )
    if len(found) == 1:
        return found[0], []
    streams = {id(handle): FIRST_PILOT + i for i, handle in enumerate(found)}

    def price(handle: Handle) -> float:
        if handle.kind == "none":
            return unsteered.price
        return sample(writer, handle.intervention, PILOT, streams[id(handle)], described=False).price

    return handles.cheapest(found, price)


def _named(chains: pd.DataFrame, kind: str) -> pd.DataFrame:
    """With names within the set."""
    if chains.empty:
        return chains
    number = chains.groupby(["batch", "row"], sort=False).ngroup() + 1
    return chains.assign(cell_id=[f"{kind}-{i:04d}" for i in number])


def _natural(writer: Writer, antibodies: pd.DataFrame, n: int) -> pd.DataFrame:
    """`describe` of at most n natural antibodies, evenly spaced; whole domains only, as of the other sets."""
    texts = list(_texts(antibodies, writer.writing["chains"], n))
    written = pd.DataFrame({"text": texts, "ended": True, "row": range(len(texts)), "batch": 0})
    plain = replace(writer, constraints=Constraints())
    return _named(whole(plain, plain.examine(written, 0)), "natural")
