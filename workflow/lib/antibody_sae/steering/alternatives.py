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
from antibody_sae.steering.outcomes import mean_log_likelihood
from antibody_sae.steering.price import price

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


@dataclass(frozen=True)
class Bias:
    """Residues favoured where `where` acts."""

    nats: Mapping[str, float]
    """Residue -> what is added to its logit."""
    where: Where = _EVERYWHERE


class _Biased:
    """Biases as an `edit` that leaves the residual stream alone: it reads which tokens were written, for the head."""

    def __init__(self, model: AntibodyModel, biases: Sequence[Bias], before: int) -> None:
        distinct = list({id(each): each for each in biases}.values())
        number = {id(each): i for i, each in enumerate(distinct)}
        self._kind = torch.tensor([number[id(each)] for each in biases], device=model.device)
        self._added = torch.zeros(len(distinct), model.vocabulary, device=model.device)
        for i, each in enumerate(distinct):
            for residue, nats in each.nats.items():
                if residue not in model.residue_tokens:
                    raise InputError(
                        f"logit bias: {residue!r} is no residue; they are {', '.join(model.residue_tokens)}"
                    )
                self._added[i, model.residue_tokens[residue]] = nats
        # which of the biases act where: as in interventions.Edit, told once and not at every token
        self._masks = [
            (where, torch.tensor([each.where == where for each in distinct], device=model.device))
            for where in {id(each.where): each.where for each in distinct}.values()
        ]
        self._before, self._ids = before, model.residue_tokens
        self._now: tuple[Tensor, Tensor] | None = None

    def kinds(self, rows: Tensor) -> Tensor:
        return self._kind[rows] if len(self._kind) > 1 else torch.zeros_like(rows)

    def __call__(self, hidden: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        kinds = self.kinds(rows)
        acted = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        for where, mine in self._masks:
            acted |= where.mask(tokens, self._before, self._ids) & mine[kinds][:, None]
        self._now = acted, self._added[kinds]
        return hidden

    def change(self, module: Any, inputs: Any, output: Tensor) -> Tensor:
        """A pass without the edit reads what the model itself would have written."""
        if self._now is None:
            return output
        (acted, added), self._now = self._now, None
        return output + acted[:, -output.shape[1] :, None] * added[:, None]


@contextmanager
def logit_bias(
    model: AntibodyModel, biases: Sequence[Bias], chains: str = "H", species: str = "human"
) -> Iterator[_Biased]:
    """Within it, generating with the yielded `edit` (at any layer) adds biases to the logits: one for all rows of the
    call, or one a row."""
    edit = _Biased(model, biases, len(model.prefix(chains, species)))
    handle = model.head.register_forward_hook(edit.change)
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

    def compare(self, texts: Sequence[str], ended: np.ndarray, log_likelihood: np.ndarray) -> pd.DataFrame:
        """One row a target and way of `settings["alternatives"]`, and one of rejection: concept, chains, way, what (the
        prompt, or the region), strength, and `_figures`. texts: unsteered sequences; [n] whether they ended by
        themselves, and their mean log_likelihood (nats a token)."""
        judged, unsteered = self.judge(texts), mean_log_likelihood(texts, log_likelihood)
        ways, chains = self.settings["alternatives"], self.writing["chains"]
        found: dict[tuple[int, str], dict[str, Any]] = {}
        told: dict[int, tuple[str, dict[str, float]]] = {}
        for j in range(len(self.targets)):
            found[j, "rejection"] = {**_figures(texts, ended, judged, j), "perplexity_ratio": 1.0}
            has = judged.valid & ended & (judged.outcome[:, j] > 0)
            if has.any():
                told[j] = telling(texts, judged, has)
                if "prompt" in ways:
                    found[j, "prompt"] = self._prompt(texts, has, j, unsteered)
        own = {j: (region, bias) for j, (region, bias) in told.items() if region[0] == chains[0]}
        if "logit_bias" in ways and own:
            found |= {(j, "logit_bias"): figures for j, figures in self._biases(own, unsteered).items()}
        if "infill" in ways and len(chains) == 1 and can_infill(self.model):
            for region in dict.fromkeys(region for region, _ in own.values()):
                figures = self._infill(region, texts, judged, unsteered)
                found |= {(j, "infill"): figures[j] for j, (where, _) in own.items() if where == region}
        order = {way: i for i, way in enumerate(("rejection", *ways))}
        rows = [
            {"concept": self.targets[j], "way": way, **found[j, way]}
            for j, way in sorted(found, key=lambda key: (key[0], order[key[1]]))
        ]
        table = pd.DataFrame(rows)
        base = table["concept"].map(table[table["way"] == "rejection"].set_index("concept")["hits"])
        whole = table["concept"].map(table[table["way"] == "rejection"].set_index("concept")["n_valid"])
        odds, low, high = log_odds_ratio(table["hits"], table["n_valid"], base, whole)
        table = table.assign(chains=self.writing["chains"], log_odds=odds, log_odds_low=low, log_odds_high=high)
        return table.reindex(columns=[*dict.fromkeys(["concept", "chains", "way", "what", "strength", *table])])

    def _draw(self, name: str, n: int, **options: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(texts, whether they ended by themselves, log-likelihood of what was written)"""
        seed = [self.settings["seed"], zlib.crc32(name.encode())]
        written = self.model.generate(n, seed=seed, **{**self.writing, **options})
        likelihood = np.array([one.log_likelihood for one in written], float)
        return [one.text for one in written], np.array([one.ended for one in written]), likelihood

    def _whole(self, texts: Sequence[str], unsteered: float) -> float:
        """Perplexity ratio of whole sequences, what was given too."""
        each = sampling.log_likelihoods(self.model, texts, self.writing, self.species)
        return float(np.exp(unsteered - mean_log_likelihood(texts, each)))

    def _prompt(self, texts: Sequence[str], has: np.ndarray, j: int, unsteered: float) -> dict[str, Any]:
        """The start that most of the target's sequences have, given."""
        starts = Counter(text[:PROMPTED] for text, good in zip(texts, has, strict=True) if good)
        start = starts.most_common(1)[0][0]
        found, ended, _ = self._draw(f"{self.targets[j]}/prompt", self.settings["n"], prompt=start)
        figures = _figures(found, ended, self.judge(found), j, len(start))
        return {"what": start, **figures, "perplexity_ratio": self._whole(found, unsteered)}

    def _biases(
        self, told: Mapping[int, tuple[str, Mapping[str, float]]], unsteered: float
    ) -> dict[int, dict[str, Any]]:
        """Residues of a target's region favoured as its sequences have them; the strength is chosen as a push's length
        is (`doses.choose`)."""
        where = {region: Where(region[2:], counts=self.counts) for region, _ in told.values()}

        def tried(arms: Sequence[tuple[int, float]], n: int) -> list[dict[str, Any]]:
            biases = [
                Bias({residue: strength * nats for residue, nats in told[j][1].items()}, where[told[j][0]])
                for j, strength in arms
            ]
            chains, species = self.writing["chains"], self.writing["species"]
            with logit_bias(self.model, [bias for bias in biases for _ in range(n)], chains, species) as edit:
                texts, ended, likelihood = self._draw(f"bias/{n}", len(arms) * n, layer=self.layer, edit=edit)
            judged, out = self.judge(texts), []
            for i, (j, strength) in enumerate(arms):
                rows = slice(i * n, (i + 1) * n)
                ratio = float(np.exp(unsteered - mean_log_likelihood(texts[rows], likelihood[rows])))
                figures = _figures(texts[rows], ended[rows], judged.of(rows), j)
                out.append({"what": told[j][0][2:], "strength": strength, **figures, "perplexity_ratio": ratio})
            return out

        arms = [(j, strength) for j in told for strength in STRENGTHS]
        table = pd.DataFrame(tried(arms, self.settings["explore_n"]))
        able = wilson(table["n_valid"], table["n"], DOUBT)[1] >= COMPLETE
        able &= (table["perplexity_ratio"] <= self.settings["perplexity_bound"]).to_numpy()
        gain = np.where(able & table["rate"].notna(), table["rate"], -1.0).reshape(len(told), len(STRENGTHS))
        chosen = [(j, STRENGTHS[int(row.argmax())]) for j, row in zip(told, gain, strict=True)]
        return dict(zip(told, tried(chosen, self.settings["n"]), strict=True))

    def _infill(self, region: str, texts: Sequence[str], judged: Judged, unsteered: float) -> list[dict[str, Any]]:
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
        found, ratio = self.judge(made), self._whole(made, unsteered)
        return [
            {
                "what": region[2:], **_figures(made, np.array(ends), found, j, np.array(given)),
                "perplexity_ratio": ratio,
            }
            for j in range(len(self.targets))
        ]  # fmt: skip


def _figures(
    texts: Sequence[str], ended: np.ndarray, judged: Judged, j: int, given: int | np.ndarray = 0
) -> dict[str, Any]:
    """n, n_valid, hits, rate with its interval (of complete sequences), valid, distinct (share of the accepted) and
    tokens (`price`)."""
    valid = judged.valid & ended
    accepted = valid & (judged.outcome[:, j] > 0)
    hits, n_valid = int(accepted.sum()), int(valid.sum())
    low, high = wilson(hits, n_valid)
    kept = {text for text, good in zip(texts, accepted, strict=True) if good}
    return {
        "n": len(texts), "n_valid": n_valid, "hits": hits, "rate": hits / n_valid if n_valid else np.nan,
        "rate_low": float(low), "rate_high": float(high), "valid": n_valid / len(texts),
        "distinct": len(kept) / hits if hits else np.nan, "tokens": price(texts, accepted, given),
    }  # fmt: skip


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
