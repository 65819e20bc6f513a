"""Vectors trained by following the rate derivative on sequences drawn under the present vector.

The trained vector is what "steerable at all" is judged by: the best that a vector of one length can do with a target
before the sequences become unlikely. Each round draws sequences under the vector, measures the target's rate on them
(which the vector has not seen, so that it is a validation), and turns the vector towards the derivative there. Its
length is held; where a round's sequences are not good enough it is shortened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.interventions import Edit, Intervention, Where, parse_where
from antibody_sae.models import starts
from antibody_sae.steering import credit as crediting
from antibody_sae.steering import targets
from antibody_sae.steering.control_map import control_map, places
from antibody_sae.steering.credit import Probe
from antibody_sae.steering.directions import unit
from antibody_sae.steering.outcomes import label_concepts, mean_log_likelihood, number_texts

if TYPE_CHECKING:
    from antibody_sae.concepts.labels import Labels
    from antibody_sae.models.model import AntibodyModel, Encoded
    from antibody_sae.sections import LabelSections, Span, SteeringSection, Writing

SHORTER = 0.7
"""What the length is multiplied by where a round's sequences are not good enough."""
HISTORY = ["round", "norm", "rate", "valid", "perplexity_ratio", "accepted"]
"""What is kept of each round."""
PATIENCE = 2
"""Rounds without a better rate after which training ends."""


@dataclass(frozen=True)
class Judged:
    """What is known of some texts."""

    outcome: np.ndarray
    """[n, targets] 0 or 1: valid, and has the target."""
    valid: np.ndarray
    """[n] bool"""
    region: Sequence[np.ndarray]
    """A text: [residues] index into SIDED_REGIONS, -1 outside the domain; empty where it is not valid."""

    def of(self, rows: slice) -> Judged:
        """Of some of the texts."""
        return Judged(self.outcome[rows], self.valid[rows], self.region[rows])


@dataclass(frozen=True)
class Drawn:
    """Sequences that were written."""

    texts: list[str]
    passages: list[Encoded]
    judged: Judged
    log_likelihood: np.ndarray
    """[n] mean (nats a token) of the model without a vector; nan of no residues."""

    def mean_log_likelihood(self, rows: slice = slice(None)) -> float:
        """Over all tokens of some of them."""
        return mean_log_likelihood(self.texts[rows], self.log_likelihood[rows])


Judge = Callable[[Sequence[str]], Judged]


def catalogue_judge(targets: Sequence[str], writing: Writing, settings: LabelSections) -> Judge:
    """Judges by the numbering and the catalogue; `settings` holds the sections `numbering` and `concepts`."""

    def judge(texts: Sequence[str]) -> Judged:
        found = number_texts(texts, writing, settings["numbering"])
        held = label_concepts(found, targets, settings["concepts"], writing["species"])
        place = {text: i for i, text in enumerate(found.antibodies["text"])}
        at = np.array([place[text] for text in texts])
        side = np.where(found.residues["chain"] == "H", "H-", "L-")
        names = [s + r if isinstance(r, str) else None for s, r in zip(side, found.residues["region"], strict=True)]
        codes = pd.Series(pd.Categorical(names, categories=SIDED_REGIONS).codes, index=found.residues["antibody_id"])
        by_id = {key: rows.to_numpy() for key, rows in codes.groupby(level=0, sort=False)}
        ids = found.antibodies["antibody_id"].to_numpy()
        region = [by_id.get(ids[i], np.empty(0, np.int8)) for i in at]
        return Judged(held[at].astype(float), found.antibodies["valid"].to_numpy(bool)[at], region)

    return judge


@dataclass(frozen=True)
class Unsteered:
    """What the model writes without a push: shared by all targets."""

    texts: list[str]
    passages: list[Encoded]
    judged: Judged
    values: crediting.Values
    probe: Probe
    credit: list[np.ndarray]
    """A passage: [residues + 1, targets]."""
    log_likelihood: float
    """Mean log-likelihood (nats a token)."""


@dataclass(frozen=True)
class Base(Unsteered):
    """And what moves it."""

    terms: Tensor
    """[n, targets, d_model]; their mean over n is the rate derivative."""
    control_map: pd.DataFrame
    """See control_map.control_map."""

    @property
    def rates(self) -> np.ndarray:
        """[targets] share of all sequences that are valid and have the target."""
        return np.asarray(self.judged.outcome.mean(0))

    @property
    def derivative(self) -> Tensor:
        """[targets, d_model]"""
        return self.terms.mean(0)


@dataclass(frozen=True)
class Workbench:
    """Where and how vectors are tried."""

    model: AntibodyModel
    layer: int
    where: Where
    writing: Writing
    """How the model writes: keys of the `sequences` section, among them chains, species, temperature, top_p, prompt."""
    targets: Sequence[str]
    judge: Judge

    def draw(self, vectors: Sequence[Tensor], n: int, seed: int) -> Drawn:
        """n sequences under each of the vectors [d_model] (raw units), side by side; without any, n in all. What did
        not end by itself is not valid."""
        chains, species = self.writing["chains"], self.writing["species"]
        arms = [arm for vector in vectors for arm in [Intervention(vector=vector, where=self.where)] * n]
        edit = Edit(self.model, arms, chains, species) if arms else None
        written = self.model.generate(len(arms) or n, seed=seed, layer=self.layer, edit=edit, **self.writing)
        texts = [w.text for w in written]
        sides = [(text, None) if "H" in chains else (None, text) for text in texts]
        passages = [self.model.encode(heavy, light, species, chains)[0] for heavy, light in sides]
        judged, ended = self.judge(texts), np.array([w.ended for w in written])
        judged = Judged(judged.outcome * ended[:, None], judged.valid & ended, judged.region)
        return Drawn(texts, passages, judged, np.array([w.log_likelihood for w in written], float))

    def credit(
        self, texts: Sequence[str], passages: Sequence[Encoded], judged: Judged, probe: Probe | None = None
    ) -> tuple[list[np.ndarray], crediting.Values, Probe]:
        """(credit a passage [residues + 1, targets], V, its probe); the probe is fitted on them where there is none.

        Targets that are bins of a sum over residues get the exact credit of that sum, in units of its slope: of the
        regression of the target on it.
        """
        features = [np.empty((0, self.model.d_model), np.float32)] * len(texts)
        for i, acts in self.model.hidden(passages, [self.layer]):
            features[i] = acts[self.layer].float().cpu().numpy()
        clocks = [crediting.clock(text) for text in texts]
        if probe is None:
            values, probe = crediting.fit(features, clocks, judged.outcome)
        else:
            values = probe.values(features, clocks, judged.outcome)
        given = len(self.writing.get("prompt", ""))
        start = starts.LENGTH if self.writing.get("complete") and not given else 0
        credit = crediting.differences(values, given, start)
        for j, target in enumerate(self.targets):
            parts = [
                crediting.residue_parts(target, text, region) if ok else np.zeros(len(text))
                for text, region, ok in zip(texts, judged.region, judged.valid, strict=True)
            ]
            sums = [p for p in parts if p is not None]
            if len(sums) < len(parts):
                continue
            total = np.array([p.sum() for p in sums])
            slope = np.cov(total, judged.outcome[:, j])[0, 1] / max(total.var(), 1e-9)
            for c, exact in zip(credit, crediting.to_go(sums, clocks, given), strict=True):
                c[:, j] = slope * exact
        return credit, values, probe

    def unsteered(self, n: int, seed: int) -> Unsteered:
        """Draw n sequences without a push; the probe of V is fitted on them."""
        drawn = self.draw([], n, seed)
        credit, values, probe = self.credit(drawn.texts, drawn.passages, drawn.judged)
        return Unsteered(
            drawn.texts, drawn.passages, drawn.judged, values, probe, credit, drawn.mean_log_likelihood()
        )  # fmt: skip

    def base(self, n: int, seed: int) -> Base:
        """`unsteered`, and the derivatives there."""
        found = self.unsteered(n, seed)
        terms, mapped = control_map(
            self.model, self.layer, self.where, found.passages, found.credit, found.judged.region, self.targets,
            self.writing,
        )  # fmt: skip
        return Base(**vars(found), terms=terms, control_map=mapped)

    def train(
        self, base: Unsteered, first: Mapping[int, Tensor], length: float, n: int, seed: int, **options: Any
    ) -> dict[int, TrainedVector]:
        """The trained vector of each target that `first` has a direction [d_model] of, n sequences a round; options as
        `search`'s."""
        start = (float(base.judged.valid.mean()), base.log_likelihood)

        def sample(vectors: Mapping[int, Tensor], number: int) -> dict[int, Round]:
            word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            drawn = self.draw(list(vectors.values()), n, word)
            passages, judged = drawn.passages, drawn.judged
            own = {j: slice(i * n, (i + 1) * n) for i, j in enumerate(vectors)}
            credit: list[np.ndarray] = []
            for j, rows in own.items():
                every, _, _ = self.credit(drawn.texts[rows], passages[rows], judged.of(rows), base.probe)
                credit += [c[:, [j]] for c in every]
            at = torch.stack(list(vectors.values())).repeat_interleave(n, 0)
            terms = crediting.derivatives(self.model, self.layer, passages, credit, self.where, self.writing, at)
            return {
                j: Round(
                    float(judged.outcome[rows, j].mean()), float(judged.valid[rows].mean()),
                    drawn.mean_log_likelihood(rows), terms[rows, 0].mean(0),
                )
                for j, rows in own.items()
            }  # fmt: skip

        return train(sample, {j: search(direction, start, length, **options) for j, direction in first.items()})


def benches(
    model: AntibodyModel, layer: int, wanted: Mapping[str, str], labels: Labels, where: str | Span, writing: Writing,
    settings: LabelSections,
) -> Iterator[tuple[Workbench, Mapping[str, tuple[int, int]]]]:  # fmt: skip
    """(workbench, residues of the regions: see Where) for each kind of chains that targets are of; `wanted`: target ->
    chains, `where`: of section `steering`, `settings` as `catalogue_judge`'s."""
    panel = targets.panel(labels, list(wanted))
    for chains, mine in targets.by_chains(wanted).items():
        own: Writing = {**writing, "chains": chains}
        counts = targets.typical_counts(labels, panel, chains[0])
        judge = catalogue_judge(mine, own, settings)
        yield Workbench(model, layer, parse_where(where, counts), own, mine, judge), counts


class Place(TypedDict):
    """Where a target is decided."""

    region: str
    share: float
    """Of the residues of a sequence."""


class Round(NamedTuple):
    """What the sequences drawn under a vector say of it."""

    rate: float
    valid: float
    log_likelihood: float
    """Of the model without the vector."""
    derivative: Tensor
    """[d_model]"""


@dataclass(frozen=True)
class TrainedVector:
    """A vector, and how it came about."""

    vector: Tensor
    """[d_model], raw units; 0 where no round was good enough."""
    aim: Tensor
    """[d_model], the unit direction that `project` was given for it."""
    history: pd.DataFrame
    """One row a round: round, norm, rate, valid, perplexity_ratio, accepted."""


def search(
    first: Tensor,
    baseline: tuple[float, float],
    length: float,
    rounds: int = 4,
    perplexity_bound: float = 1.2,
    valid_bound: float = 0.95,
    mixing: float = 0.5,
    project: Callable[[Tensor], Tensor] = lambda direction: direction,
) -> Generator[Tensor, Round, TrainedVector]:
    """Turn a vector of one length towards the derivative of its target's rate where it is.

    Yields the vector of each round and is sent what fresh sequences under it say. `first`: the first vector's
    direction, the derivative at 0 where nothing better is known; `baseline`: (valid, log-likelihood) without a vector.
    A step goes to (1 - mixing) of the present direction and `mixing` of the derivative's; at rest the two are the same,
    as a maximum at this length demands. `project` takes a direction to the nearest allowed one (latents' levers), from
    which the next step is taken (projected ascent). A round whose valid share falls below `valid_bound` of the
    baseline's, or whose perplexity is above `perplexity_bound` times it, shortens the vector. The best accepted round's
    vector is the result, so its rate is a choice among `rounds`: the rate to report comes from new sequences. Ends
    early after PATIENCE rounds without a better one.
    """
    direction = aim = unit(first)
    best, found, stale = -np.inf, torch.zeros_like(first), 0
    rows = []
    for number in range(1, rounds + 1):
        held = unit(project(direction))
        vector = length * held
        rate, valid, likelihood, derivative = yield vector
        ratio = float(np.exp(baseline[1] - likelihood))
        accepted = valid >= valid_bound * baseline[0] and ratio <= perplexity_bound
        rows.append(dict(zip(HISTORY, (number, length, rate, valid, ratio, accepted), strict=True)))
        if not accepted:
            length *= SHORTER
        elif rate > best:
            best, found, aim, stale = rate, vector, direction, 0
        else:
            stale += 1
            if stale == PATIENCE:
                break
        direction = unit((1 - mixing) * held + mixing * unit(derivative))
    return TrainedVector(found, aim, pd.DataFrame(rows))


def train(
    sample: Callable[[Mapping[int, Tensor], int], Mapping[int, Round]],
    searches: Mapping[int, Generator[Tensor, Round, TrainedVector]],
) -> dict[int, TrainedVector]:
    """Several searches round by round, so that their sequences are written side by side: sample(vectors that are asked
    about, round) -> what is found of each."""
    found: dict[int, TrainedVector] = {}
    asked = {key: next(one) for key, one in searches.items()}
    number = 0
    while asked:
        number += 1
        answers, following = sample(asked, number), {}
        for key in asked:
            try:
                following[key] = searches[key].send(answers[key])
            except StopIteration as end:
                found[key] = end.value
        asked = following
    return found


def levers(
    bench: Workbench, base: Base, settings: SteeringSection, typical_length: float,
    counts: Mapping[str, tuple[int, int]] = {},
) -> tuple[dict[str, Tensor], pd.DataFrame, dict[str, Place]]:  # fmt: skip
    """(kind -> [targets, d_model] of unit directions, history of the training: concept, where and columns of
    `TrainedVector`, the places of located targets).

    `rate_derivative`, and where `settings` (the `steering` section) asks for them `trained` and `located`: trained to
    act only in the region where the target is decided (`places`), 0 where there is none. A target that no round was
    good enough for keeps its derivative, and the history says so. A located vector is longer by 1 / sqrt(share of the
    residues it acts on): over the whole sequence it has the mean square of one that acts everywhere. `counts`: residues
    of the regions, see Where.
    """
    derivative = unit(base.derivative)
    found = {"rate_derivative": derivative.contiguous()}
    history = [pd.DataFrame(columns=["concept", "where", *HISTORY])]
    located: dict[str, Place] = {}

    def train(where: str, bench: Workbench, only: Sequence[int], share: float = 1.0) -> Tensor:
        made = torch.zeros_like(derivative)
        length = settings["lever_length"] * typical_length / share**0.5
        options = {"rounds": settings["lever_rounds"], "perplexity_bound": settings["perplexity_bound"]}
        first = {j: base.derivative[j] for j in only}
        for j, one in bench.train(base, first, length, settings["n"], settings["seed"], **options).items():
            made[j] = unit(one.vector) if one.vector.any() else derivative[j]
            history.append(one.history.assign(concept=bench.targets[j], where=where)[history[0].columns])
        return made

    if {"trained", "sparse"} & set(settings["levers"]):
        found["trained"] = train("", bench, range(len(bench.targets)))
    if "located" in settings["levers"]:
        found["located"] = torch.zeros_like(derivative)
        codes = np.concatenate([np.empty(0, np.int8), *base.judged.region])
        for target, sided in places(base.control_map, bench.layer).items():
            region, share = sided[2:], float((codes == SIDED_REGIONS.index(sided)).mean())
            there, j = replace(bench, where=Where(region, counts=counts)), bench.targets.index(target)
            found["located"] += train(region, there, [j], share)
            located[target] = {"region": region, "share": share}
    return found, pd.concat(history, ignore_index=True), located


def together(parts: Sequence[tuple[Sequence[str], Mapping[str, Tensor]]], targets: Sequence[str]) -> dict[str, Tensor]:
    """Vectors by kind ([some targets, d_model]) of several parts of the targets, as [targets, d_model]."""
    order = [target for some, _ in parts for target in some]
    rows = [order.index(target) for target in targets]
    return {kind: torch.cat([vectors[kind] for _, vectors in parts])[rows].contiguous() for kind in parts[0][1]}


def reliability(base: Base, targets: Sequence[str]) -> pd.DataFrame:
    """One row a target and region: concept, region, n, explained, calibration; see `credit.reliability`."""
    pairs = base.judged.region, base.values.read
    region = [r if len(r) == len(v) else np.full(len(v), -1) for r, v in zip(*pairs, strict=True)]
    figures = crediting.reliability(base.values, region, len(SIDED_REGIONS))
    table = pd.DataFrame(
        {"concept": np.tile(targets, len(SIDED_REGIONS)), "region": np.repeat(SIDED_REGIONS, len(targets))}
    )
    for name, values in figures.items():
        table[name] = values.ravel()
    return table[table["n"] > 0].reset_index(drop=True)


def provenance(about: Mapping[str, Any]) -> dict[str, str]:
    """What a file of levers belongs to, as the metadata of safetensors: one entry, as that format keeps no order."""
    return {"provenance": json.dumps(about)}
