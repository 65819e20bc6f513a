"""What an engineer would do instead of steering, and what each way costs: tokens written for one accepted sequence.

Rejection keeps what the unsteered model happens to write. A prompt fixes the first residues: a germline's N terminus. A
logit bias favours residues as such in one region. Infilling writes a region of unsteered sequences anew, read in their
context (IgLM alone was made for it). All are sampled as the model samples, and judged as steered sequences are; what a
way needs to know of a target it takes from unsteered sequences, and its figures come from fresh ones.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antibody_sae.antibody import RESIDUES, SIDED_REGIONS
from antibody_sae.interventions import Where
from antibody_sae.io import InputError
from antibody_sae.significance import log_odds_ratio, wilson
from antibody_sae.steering import sampling
from antibody_sae.steering.doses import COMPLETE, DOUBT

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel
    from antibody_sae.sections import SteeringSection, Writing
    from antibody_sae.steering.trained import Judge, Judged

_EVERYWHERE = Where()
PROMPTED = 10
"""Residues of a prompt."""
STRENGTHS = (1.0, 2.0, 4.0)
"""Times the difference in composition that a logit bias is explored at."""
STRONGEST = 3.0
"""Nats of that difference at most."""
PARENTS = 8
"""Unsteered sequences of which a region is infilled."""
LONGEST_SPAN = 45
"""Residues of an infilled region at most."""


def price(
    texts: Sequence[str], accepted: Sequence[bool] | np.ndarray, given: int | Sequence[int] | np.ndarray = 0
) -> float:
    """Tokens written (residues and stop; `given` residues are read, not written, of all texts or of each) for each
    distinct accepted sequence; inf where none was."""
    kept = {text for text, good in zip(texts, accepted, strict=True) if good}
    residues = np.array([len(text) for text in texts]) - np.broadcast_to(given, len(texts))
    return float((residues.clip(min=0) + 1).sum()) / len(kept) if kept else float("inf")


@contextmanager
def logit_bias(
    model: AntibodyModel,
    bias: Mapping[str, float],
    where: Where = _EVERYWHERE,
    chains: str = "H",
    species: str = "human",
) -> Iterator[Any]:
    """Within it, generating with the yielded `edit` (at any layer) adds `bias` (residue -> nats) to the logits where
    `where` acts: the edit leaves the residual stream alone and reads only which tokens were written."""
    added = torch.zeros(model.vocabulary, device=model.device)
    for residue, nats in bias.items():
        if residue not in model.residue_tokens:
            raise InputError(f"logit bias: {residue!r} is no residue; there are {', '.join(model.residue_tokens)}")
        added[model.residue_tokens[residue]] = nats
    before = len(model.prefix(chains, species))
    acted: list[Tensor] = []

    def edit(hidden: Tensor, tokens: Tensor, *rows: Tensor) -> Tensor:
        acted.append(where.mask(tokens, before, model.residue_tokens))
        return hidden

    def change(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if not acted:  # a pass without the edit reads what the model itself would have written
            return output
        return output + acted.pop()[:, -output.shape[1] :, None] * added

    handle = model.head.register_forward_hook(change)
    try:
        yield edit
    finally:
        handle.remove()


def can_infill(model: AntibodyModel) -> bool:
    """Whether the model was trained to infill: IgLM, whose template ends in [SEP]."""
    return model.spec.packaged


def filler(model: AntibodyModel, chains: str, species: str, left: str, right: str) -> AntibodyModel:
    """The same weights under a template that reads a chain with a span masked, and writes the span and its end:
    `[HEAVY][HUMAN] left [MASK] right [SEP] span [CLS]` (Shuai et al. 2023, Cell Systems 14:979)."""
    place = "{heavy}" if chains == "H" else "{light}"
    tags = model.spec.templates[chains].partition(place)[0].replace("{species}", species.upper())
    return model.under(replace(model.spec, templates={chains: f"{tags}{left}[MASK]{right}[SEP]{place}[CLS]"}))


@dataclass(frozen=True)
class Desk:
    """Where the ways are tried, for the targets of one kind of chains."""

    model: AntibodyModel
    layer: int
    """Of the edit that a logit bias rides on; it changes nothing there."""
    targets: Sequence[str]
    judge: Judge
    settings: SteeringSection
    writing: Writing
    species: Sequence[str]
    """Germlines searched."""
    counts: Mapping[str, tuple[int, int]]
    """Residues of the regions, see Where."""

    def compare(self, texts: Sequence[str], ended: np.ndarray) -> pd.DataFrame:
        """One row a target and way of `settings["alternatives"]`, and one of rejection: concept, chains, way, what (the
        prompt, or the region), strength, n, and `_figures`. texts: unsteered sequences, `ended` [n] by themselves."""
        judged = self.judge(texts)
        likelihood = self._likelihood(texts)
        rows = []
        spans: dict[str, dict[int, dict[str, Any]]] = {}
        for j, target in enumerate(self.targets):
            none = self._figures(texts, ended, judged, j, likelihood)
            rows.append({"concept": target, "way": "rejection", **none})
            has = judged.valid & ended & (judged.outcome[:, j] > 0)
            region, bias = telling(texts, judged, has)
            for way in self.settings["alternatives"] if has.any() else []:
                found: dict[str, Any] | None = None
                if way == "prompt":
                    found = self._prompt(texts, has, j, likelihood)
                elif region[0] == self.writing["chains"][0] and way == "logit_bias":
                    found = self._bias(region, bias, j, likelihood)
                elif region[0] == self.writing["chains"] and can_infill(self.model):
                    if region not in spans:
                        spans[region] = self._infill(region, texts, judged, likelihood)
                    found = spans[region][j]
                if found is not None:
                    rows.append({"concept": target, "way": way, **found})
        table = pd.DataFrame(rows)
        base = table["concept"].map(table[table["way"] == "rejection"].set_index("concept")["hits"])
        whole = table["concept"].map(table[table["way"] == "rejection"].set_index("concept")["n_valid"])
        odds, low, high = log_odds_ratio(table["hits"], table["n_valid"], base, whole)
        table = table.assign(chains=self.writing["chains"], log_odds=odds, log_odds_low=low, log_odds_high=high)
        return table.reindex(columns=[*dict.fromkeys(["concept", "chains", "way", "what", "strength", *table])])

    def _draw(self, name: str, n: int, **options: Any) -> tuple[list[str], np.ndarray]:
        seed = [self.settings["seed"], zlib.crc32(name.encode())]
        written = self.model.generate(n, seed=seed, **{**self.writing, **options})
        return [one.text for one in written], np.array([one.ended for one in written])

    def _likelihood(self, texts: Sequence[str]) -> float:
        """Mean log-likelihood (nats a token) under the model as it is, whatever a way gave or added."""
        each = sampling.log_likelihoods(self.model, texts, self.writing, self.species)
        size = np.array([len(text) + 1.0 for text in texts])
        known = ~np.isnan(each)
        return float(np.average(each[known], weights=size[known])) if known.any() else float("nan")

    def _figures(
        self, texts: Sequence[str], ended: np.ndarray, judged: Judged, j: int, unsteered: float,
        given: int | np.ndarray = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """n, n_valid, hits, rate with its interval (of complete sequences), valid, perplexity_ratio, distinct (share of
        the accepted) and tokens (`price`)."""
        valid = judged.valid & ended
        accepted = valid & (judged.outcome[:, j] > 0)
        hits, n_valid = int(accepted.sum()), int(valid.sum())
        low, high = wilson(hits, n_valid)
        kept = {text for text, good in zip(texts, accepted, strict=True) if good}
        return {
            "n": len(texts), "n_valid": n_valid, "hits": hits, "rate": hits / n_valid if n_valid else np.nan,
            "rate_low": float(low), "rate_high": float(high), "valid": n_valid / len(texts),
            "perplexity_ratio": float(np.exp(unsteered - self._likelihood(texts))),
            "distinct": len(kept) / hits if hits else np.nan, "tokens": price(texts, accepted, given),
        }  # fmt: skip

    def _prompt(self, texts: Sequence[str], has: np.ndarray, j: int, unsteered: float) -> dict[str, Any]:
        """The start that most of the target's sequences have, given."""
        starts = Counter(text[:PROMPTED] for text, good in zip(texts, has, strict=True) if good)
        start = starts.most_common(1)[0][0]
        found, ended = self._draw(f"{self.targets[j]}/prompt", self.settings["n"], prompt=start)
        return {"what": start, **self._figures(found, ended, self.judge(found), j, unsteered, len(start))}

    def _bias(self, region: str, bias: Mapping[str, float], j: int, unsteered: float) -> dict[str, Any]:
        """Residues of a region favoured as the target's sequences have them; the strength is chosen as a push's length
        is (`doses.choose`)."""
        where, writing = Where(region[2:], counts=self.counts), self.writing

        def tried(strength: float, n: int) -> dict[str, Any]:
            nats = {residue: strength * value for residue, value in bias.items()}
            with logit_bias(self.model, nats, where, writing["chains"], writing["species"]) as edit:
                name = f"{self.targets[j]}/{strength}/{n}"
                found, ended = self._draw(name, n, layer=self.layer, edit=edit)
            return {"strength": strength, **self._figures(found, ended, self.judge(found), j, unsteered)}

        explored = pd.DataFrame([tried(strength, self.settings["explore_n"]) for strength in STRENGTHS])
        able = wilson(explored["n_valid"], self.settings["explore_n"], DOUBT)[1] >= COMPLETE
        able &= (explored["perplexity_ratio"] <= self.settings["perplexity_bound"]).to_numpy()
        gain = np.where(able & explored["rate"].notna(), explored["rate"], -1.0)
        return {"what": region[2:], **tried(STRENGTHS[int(gain.argmax())], self.settings["n"])}

    def _infill(self, region: str, texts: Sequence[str], judged: Judged, unsteered: float) -> dict[int, dict[str, Any]]:
        """A region of PARENTS complete sequences written anew: what that gives of each target."""
        code, writing = SIDED_REGIONS.index(region), self.writing
        made: list[str] = []
        ends: list[bool] = []
        given: list[int] = []
        for i in np.flatnonzero([(inside == code).any() for inside in judged.region])[:PARENTS]:
            at = np.flatnonzero(judged.region[i] == code)
            left, right = texts[i][: at[0]], texts[i][at[-1] + 1 :]
            model = filler(self.model, writing["chains"], writing["species"], left, right)
            how: dict[str, Any] = {**writing, "prompt": "", "complete": False, "max_residues": LONGEST_SPAN}
            seed = [self.settings["seed"], zlib.crc32(region.encode()), int(i)]
            for one in model.generate(-(-self.settings["n"] // PARENTS), seed=seed, **how):
                made.append(left + one.text + right)
                ends.append(one.ended)
                given.append(len(left) + len(right))
        found, ended = self.judge(made), np.array(ends)
        each = range(len(self.targets))
        return {
            j: {"what": region[2:], **self._figures(made, ended, found, j, unsteered, np.array(given))} for j in each
        }


def telling(texts: Sequence[str], judged: Judged, has: np.ndarray) -> tuple[str, dict[str, float]]:
    """(the region, as SIDED_REGIONS, whose composition tells the most of which sequences are those of `has`; residue ->
    log ratio of its share there among them to its share among all, at most STRONGEST)."""
    place = {residue: i for i, residue in enumerate(RESIDUES)}
    counts = np.zeros((2, len(SIDED_REGIONS), len(RESIDUES)))
    for text, region, own in zip(texts, judged.region, has, strict=True):
        for residue, code in zip(text[: len(region)], region, strict=True):
            if code >= 0 and residue in place:
                counts[int(own), code, place[residue]] += 1
    smooth = 0.5
    with_it, all_of = counts[1] + smooth, counts.sum(0) + smooth
    ratio = np.log(with_it / with_it.sum(1, keepdims=True)) - np.log(all_of / all_of.sum(1, keepdims=True))
    information = (counts[1] * ratio).sum(1)
    told = int(information.argmax())
    bias = ratio[told].clip(-STRONGEST, STRONGEST)
    return SIDED_REGIONS[told], dict(zip(RESIDUES, bias.tolist(), strict=True))
