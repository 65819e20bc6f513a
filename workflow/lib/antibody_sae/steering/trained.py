"""Vectors trained by following the rate derivative on sequences drawn under the present vector.

The trained vector is what "steerable at all" is judged by: the best that a vector of one length can do with a target
before the sequences become unlikely. Each round draws sequences under the vector, measures the target's rate on them
(which the vector has not seen, so that it is a validation), and turns the vector towards the derivative there. Its
length is held; where a round's sequences are not good enough it is shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.interventions import Edit, Intervention, Where
from antibody_sae.steering import credit as crediting
from antibody_sae.steering.credit import Probe
from antibody_sae.steering.directions import unit
from antibody_sae.steering.outcomes import label_concepts, number_texts

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Encoded

SHORTER = 0.7
"""What the length is multiplied by where a round's sequences are not good enough."""
STARTS = 3
"""Residues of a start that complete domains are drawn with."""
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


Judge = Callable[[Sequence[str]], Judged]


def catalogue_judge(targets: Sequence[str], writing: Mapping[str, Any], settings: Mapping[str, Any]) -> Judge:
    """Judges by the numbering and the catalogue; `settings` holds the sections `numbering` and `concepts`."""

    def judge(texts: Sequence[str]) -> Judged:
        found = number_texts(texts, writing, settings["numbering"])
        held = label_concepts(found, targets, settings["concepts"], writing["species"])
        place = {text: i for i, text in enumerate(found.antibodies["text"])}
        at = np.array([place[text] for text in texts])
        side = np.where(found.residues["chain"] == "H", "H-", "L-")
        names = pd.Series(side, index=found.residues.index) + found.residues["region"].astype("string")
        codes = pd.Series(pd.Categorical(names, categories=SIDED_REGIONS).codes, index=found.residues["antibody_id"])
        by_id = {key: rows.to_numpy() for key, rows in codes.groupby(level=0, sort=False)}
        ids = found.antibodies["antibody_id"].to_numpy()
        region = [by_id.get(ids[i], np.empty(0, np.int8)) for i in at]
        return Judged(held[at].astype(float), found.antibodies["valid"].to_numpy(bool)[at], region)

    return judge


@dataclass(frozen=True)
class Round:
    """Sequences drawn under one vector, and how the targets' rates move there."""

    n: int
    rates: np.ndarray
    """[targets] share of all sequences that are valid and have the target."""
    valid: float
    log_likelihood: float
    """Mean log-likelihood (nats a token) under the unsteered model."""
    derivative: Tensor
    """[targets, d_model]"""


@dataclass(frozen=True)
class Workbench:
    """Where and how vectors are tried."""

    model: AntibodyModel
    layer: int
    where: Where
    writing: Mapping[str, Any]
    """How the model writes: keys of the `sequences` section, among them chains, species, temperature, top_p, prompt."""
    targets: Sequence[str]
    judge: Judge

    def draw(self, vector: Tensor | None, n: int, seed: int) -> tuple[list[str], list[Encoded]]:
        """(texts, passages) of n sequences drawn under a vector [d_model] in raw units."""
        edit = None
        if vector is not None:
            pushed = Intervention(vector=vector, where=self.where)
            edit = Edit(self.model, [pushed], self.writing["chains"], self.writing["species"])
        written = self.model.generate(n, seed=seed, layer=self.layer, edit=edit, **self.writing)
        texts = [w.text for w in written]
        chains, species = self.writing["chains"], self.writing["species"]
        sides = [(text, None) if "H" in chains else (None, text) for text in texts]
        return texts, [self.model.encode(heavy, light, species, chains)[0] for heavy, light in sides]

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
        start = STARTS if self.writing.get("complete") and not given else 0
        credit = crediting.differences(values, given, start)
        for j, target in enumerate(self.targets):
            parts = [
                crediting.residue_parts(target, text, region) if ok else np.zeros(len(text))
                for text, region, ok in zip(texts, judged.region, judged.valid, strict=True)
            ]
            if any(p is None for p in parts):
                continue
            total = np.array([p.sum() for p in parts])
            slope = np.cov(total, judged.outcome[:, j])[0, 1] / max(total.var(), 1e-9)
            for c, exact in zip(credit, crediting.to_go(parts, clocks, given), strict=True):
                c[:, j] = slope * exact
        return credit, values, probe

    def round(self, vector: Tensor | None, n: int, seed: int, probe: Probe | None) -> Round:
        """What n sequences drawn under a vector say of it."""
        texts, passages = self.draw(vector, n, seed)
        judged = self.judge(texts)
        credit, _, _ = self.credit(texts, passages, judged, probe)
        terms = crediting.derivatives(self.model, self.layer, passages, credit, self.where, self.writing, vector)
        sizes = np.array([len(text) + 1 for text in texts])
        likelihood = float((self.model.log_likelihood(passages) * sizes).sum() / sizes.sum())
        return Round(n, judged.outcome.mean(0), float(judged.valid.mean()), likelihood, terms.mean(0))


@dataclass(frozen=True)
class Trained:
    """A vector, and how it came about."""

    vector: Tensor
    """[d_model], raw units; 0 where no round was good enough."""
    history: pd.DataFrame
    """One row a round: round, norm, rate, valid, perplexity_ratio, accepted."""


def train(
    sample: Callable[[Tensor, int], tuple[float, float, float, Tensor]],
    first: Tensor,
    baseline: tuple[float, float],
    length: float,
    rounds: int = 4,
    perplexity_bound: float = 1.2,
    valid_bound: float = 0.95,
    mixing: float = 0.5,
    project: Callable[[Tensor], Tensor] = lambda direction: direction,
) -> Trained:
    """Turn a vector of one length towards the derivative of its target's rate where it is.

    sample(vector, round) -> (rate, valid, log-likelihood, derivative [d_model]) on fresh sequences. `first`: the
    derivative at 0, whose direction the first vector has; `baseline`: (valid, log-likelihood) without a vector. A step
    goes to (1 - mixing) of the present direction and `mixing` of the derivative's; at rest the two are the same, as a
    maximum at this length demands. `project` takes a direction to the nearest allowed one (latents' levers). A round
    whose valid share falls below `valid_bound` of the baseline's, or whose perplexity is above `perplexity_bound` times
    it, shortens the vector. The best accepted round's vector is the result, so its rate is a choice among `rounds`: the
    rate to report comes from new sequences. Ends early after PATIENCE rounds without a better one.
    """
    direction = unit(first)
    best, found, stale = -np.inf, torch.zeros_like(first), 0
    rows = []
    for number in range(1, rounds + 1):
        vector = length * unit(project(direction))
        rate, valid, likelihood, derivative = sample(vector, number)
        ratio = float(np.exp(baseline[1] - likelihood))
        accepted = valid >= valid_bound * baseline[0] and ratio <= perplexity_bound
        rows.append(
            {"round": number, "norm": length, "rate": rate, "valid": valid, "perplexity_ratio": ratio,
             "accepted": accepted}
        )  # fmt: skip
        if not accepted:
            length *= SHORTER
        elif rate > best:
            best, found, stale = rate, vector, 0
        else:
            stale += 1
            if stale == PATIENCE:
                break
        direction = unit((1 - mixing) * direction + mixing * unit(derivative))
    return Trained(found, pd.DataFrame(rows))
