"""Which token decides a property, and how the property's rate moves with a push: the rate derivative.

For sequences x that a model draws under a vector v added to its residual stream, and a property f(x),

    d/dv E[f] = E[ sum over t of A_t d/dv log p_v(x_t | x_<t) ]

for every credit A_t that differs from f(x) by a function of x_<t (Williams 1992; Sutton et al. 2000). With A_t = f - Ef
the tokens after the decision are noise that drowns it. With A_t = V(x_<=t) - V(x_<t), V(x_<=t) = E[f | x_<=t], a token
counts by what it decided. All tokens keep their terms: those before the region that holds the property are covariances,
and a push before a region is what moves it. Two sources of credit:
 - a probe of the activations estimates V (`fit`), one a tick of the clock, cross-fitted and calibrated;
 - where f is a sum over residues, what is still to come is known of every sequence (`to_go`), less its mean.
p_v is the distribution that was drawn from: temperature, top_p and the ban on tags included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.interventions import Where
from antibody_sae.io import progress
from antibody_sae.numbering import tables

if TYPE_CHECKING:
    from antibody_sae.sections import Writing

if TYPE_CHECKING:  # transformers takes seconds to import, and credit needs no model
    from antibody_sae.models.model import AntibodyModel, Encoded

FOLDS = 5
RIDGES = (0.03, 0.3, 3.0)
"""Penalties tried, in multiples of the mean variance of a feature."""
FEWEST = 40
"""Passages that a clock tick needs for a probe of its own; at a rarer one V stays what it was."""
NEWS = 2.0
"""Nats of log-likelihood out of fold that a tick must bring, in all; else V stays: a hundred ticks' noise adds up."""
_OPENS = re.compile("[YFHSCWTLV]C")
_CLOSES = re.compile("[WF]G.G")
_BEFORE_CYSTEINE = 40
"""As interventions.Where: residues before which no cysteine ends framework 3."""
_TICKS = 1024
"""Ticks of one stage of the clock; no chain is as long."""


def clock(residues: str) -> np.ndarray:
    """[n] int64: where the model stands once it has read residue i, from what was read alone.

    Residues since the chain's start, since the cysteine that opens CDR3, or since the motif that closes it, each stage
    with numbers of its own. IMGT numbers will not do: a CDR's depend on its length, which is decided later.
    """
    marks = [0]
    for pattern in cycle((_OPENS, _CLOSES)):
        found = pattern.search(residues, marks[-1] + (_BEFORE_CYSTEINE if pattern is _OPENS else 0))
        if not found:
            break
        marks.append(found.end() - 1)
    place = np.arange(len(residues))
    stage = np.searchsorted(marks, place, side="right") - 1
    ticks: np.ndarray = stage * _TICKS + place - np.array(marks)[stage]
    return ticks


# --- what is expected of a sequence, read so far ----------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """V(x_<=t) after every residue of some passages."""

    start: np.ndarray
    """[targets] V of nothing read: the rate."""
    read: list[np.ndarray]
    """A passage: [residues, targets]."""
    outcome: np.ndarray
    """[passages, targets] f, 0 or 1."""


@dataclass(frozen=True)
class _Tick:
    """The probe of one tick of the clock, the mean of its folds'."""

    weight: np.ndarray
    """[d, targets] of the score."""
    middle: np.ndarray
    """[d] mean activation, whose score is 0."""
    logistic: np.ndarray
    """[targets, 3]: of 1, of the log odds before, of the score."""

    def read(self, x: np.ndarray, before: np.ndarray) -> np.ndarray:
        """[n, targets] V after residues with activations x [n, d], where it was `before` [n, targets]."""
        w = self.logistic
        return _logistic(w[:, 0] + w[:, 1] * _odds(before) + w[:, 2] * ((x - self.middle) @ self.weight))


@dataclass(frozen=True)
class Probe:
    """V of sequences that it was not fitted on."""

    start: np.ndarray
    """[targets] the rate among those that it was fitted on."""
    ticks: Mapping[int, _Tick]

    def values(self, features: Sequence[np.ndarray], clocks: Sequence[np.ndarray], outcome: np.ndarray) -> Values:
        """As `fit`, of passages drawn where the rates are another's: all log odds move by the start's difference."""
        start = outcome.mean(0)
        shift = _odds(start) - _odds(self.start)
        odds, rows_of, where = _walk(clocks)
        found = np.zeros((odds, outcome.shape[1]))
        for tick, rows, who, at in where:
            before = np.where((at > 0)[:, None], found[rows - 1], start)
            if tick in self.ticks:
                x = np.stack([features[i][j] for i, j in zip(who, at, strict=True)]).astype(np.float32)
                found[rows] = _logistic(_odds(self.ticks[tick].read(x, _logistic(_odds(before) - shift))) + shift)
            else:
                found[rows] = before
        return Values(start, np.split(found, rows_of[1:-1]), outcome)


_Group = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""(tick, its rows, their passages, their places in these)."""


def _walk(clocks: Sequence[np.ndarray]) -> tuple[int, np.ndarray, list[_Group]]:
    """(residues in all, [passages + 1] the row where each passage starts, the groups in the order in which they are
    read)."""
    offset = np.cumsum([0, *(len(c) for c in clocks)])
    ticks = np.concatenate([np.empty(0, np.int64), *clocks])
    owner = np.repeat(np.arange(len(clocks)), np.diff(offset))
    order = np.argsort(ticks, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(ticks[order])) + 1) if len(ticks) else []
    return len(ticks), offset, [(int(ticks[g[0]]), g, owner[g], g - offset[owner[g]]) for g in groups]


def fit(
    features: Sequence[np.ndarray], clocks: Sequence[np.ndarray], outcome: np.ndarray, seed: int = 0
) -> tuple[Values, Probe]:
    """V by probes of activations: features a passage [residues, d], outcome [passages, targets] of 0 and 1.

    At each tick of the clock one ridge regression a target, FOLDS-fold, with the penalty of the lowest error out of
    fold, and a logistic regression of the outcome on that score and on V before the residue: it calibrates, lets V come
    to rest at 0 and 1 once all is decided, and keeps what the activations forget (a model that writes framework 4 no
    longer holds CDR3's charge). The values are out of fold: no probe saw the passage that it speaks of.
    """
    n, targets = outcome.shape
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    start = outcome.mean(0)
    total, offset, groups = _walk(clocks)
    found = np.zeros((total, targets))
    probes = {}
    for tick, rows, who, at in groups:
        before = np.where((at > 0)[:, None], found[rows - 1], start)
        if len(rows) < FEWEST:
            found[rows] = before
            continue
        x = np.stack([features[i][j] for i, j in zip(who, at, strict=True)]).astype(np.float32)
        score, weight, middle = _ridge(x, outcome[who], fold[who])
        logistic = np.empty((targets, 3))
        for j in range(targets):
            z = np.stack([np.ones(len(who)), _odds(before[:, j]), score[:, j]], 1)
            v, logistic[j] = _calibrate(z, outcome[who, j], fold[who])
            if _log_likelihood(v, outcome[who, j]) < _log_likelihood(before[:, j], outcome[who, j]) + NEWS:
                v, logistic[j] = before[:, j], (0.0, 1.0, 0.0)
            found[rows, j] = v
        probes[tick] = _Tick(weight, middle, logistic)
    return Values(start, np.split(found, offset[1:-1]), outcome), Probe(start, probes)


def _ridge(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(out-of-fold scores [n, targets] of y by x [n, d], the folds' mean weights [d, targets], the mean of x [d]), each
    target at its best penalty, scores in units of the variance of y: as a change of log odds.

    A score has no mean of y in it: the mean without a fold goes against the fold's own, and a regression on the scores
    would find that out.
    """
    middle, mean = x.mean(0), y.mean(0)
    x, y = x - middle, y - mean
    grams = [x[fold == k].T @ x[fold == k] for k in range(FOLDS)]
    products = [x[fold == k].T @ y[fold == k] for k in range(FOLDS)]
    gram, product = sum(grams), sum(products)
    unit = float(np.trace(gram)) / x.shape[1] + 1e-12
    scores = np.zeros((len(RIDGES), *y.shape))
    weights = np.zeros((len(RIDGES), x.shape[1], y.shape[1]))
    for k in range(FOLDS):
        for r, ridge in enumerate(RIDGES):
            left = gram - grams[k] + ridge * unit * np.eye(x.shape[1], dtype=x.dtype)
            weight = scipy.linalg.solve(left, product - products[k], assume_a="pos")
            scores[r, fold == k] = x[fold == k] @ weight
            weights[r] += weight / FOLDS
    best = ((scores - y) ** 2).mean(1).argmin(0)
    variance = mean * (1 - mean) + 1e-9
    return (
        np.take_along_axis(scores, best[None, None], 0)[0] / variance,
        np.take_along_axis(weights, best[None, None], 0)[0] / variance,
        middle,
    )


def _calibrate(z: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(out-of-fold probabilities [n] of y [n], the folds' mean weights [3]): logistic regression on z [n, 3] (1, log
    odds before, score), by Newton's method, drawn towards "V stays what it was"."""
    prior, penalty = np.array([0.0, 1.0, 0.0]), np.diag([1.0, 10.0, 1.0])

    def loss(weight: np.ndarray, z: np.ndarray, y: np.ndarray) -> float:
        x = z @ weight
        return float((np.logaddexp(0, x) - y * x).sum() + (weight - prior) @ penalty @ (weight - prior) / 2)

    out, mean = np.empty(len(y)), np.zeros(3)
    for k in range(FOLDS):
        zk, yk, weight = z[fold != k], y[fold != k], prior
        now = loss(weight, zk, yk)
        for _ in range(10):
            p = _logistic(zk @ weight)
            slope = zk.T @ (yk - p) - penalty @ (weight - prior)
            step = np.linalg.solve((zk * (p * (1 - p))[:, None]).T @ zk + penalty, slope)
            tried = loss(weight + step, zk, yk)
            while tried > now and np.abs(step).max() > 1e-3:  # far from the end Newton's steps are too long
                step = step / 2
                tried = loss(weight + step, zk, yk)
            if np.abs(step).max() < 1e-3:
                break
            weight, now = weight + step, tried
        out[fold == k] = _logistic(z[fold == k] @ weight)
        mean += weight / FOLDS
    return out, mean


def _log_likelihood(v: np.ndarray, y: np.ndarray) -> float:
    return float(np.log(np.where(y > 0, v, 1 - v) + 1e-3).sum())


def _odds(p: np.ndarray) -> np.ndarray:
    return np.log((p + 1e-3) / (1 - p + 1e-3))


def _logistic(x: np.ndarray) -> np.ndarray:
    shares: np.ndarray = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return shares


def reliability(found: Values, groups: Sequence[np.ndarray], n_groups: int) -> dict[str, np.ndarray]:
    """How much of each target is decided, and known, by the time a group of residues has been read.

    groups: a passage [residues] the group (IMGT position, region) of each residue, -1 for none. Returns [n_groups,
    targets] each: n, explained = 1 - mean (f - V)^2 / variance of f among these passages, and calibration, the mean
    distance between V and the outcome's share in ten bins of V. nan where a group is empty.
    """
    group = np.concatenate([g[: len(v)] for g, v in zip(groups, found.read, strict=True)])
    v = np.concatenate(found.read)
    f = np.concatenate([np.broadcast_to(o, r.shape) for o, r in zip(found.outcome, found.read, strict=True)])
    v, f, group = v[group >= 0], f[group >= 0], group[group >= 0]

    def total(values: np.ndarray, cell: np.ndarray, cells: int) -> np.ndarray:
        sums = [np.bincount(c, weights=w, minlength=cells) for c, w in zip(cell.T, values.T, strict=True)]
        return np.stack(sums, 1).astype(float)  # of nothing at all numpy counts in integers

    cell = np.broadcast_to(group[:, None].astype(np.int64), v.shape)  # ten bins of a light region pass int8's end
    n = total(np.ones_like(v), cell, n_groups)
    share = np.divide(total(f, cell, n_groups), n, out=np.full_like(n, np.nan), where=n > 0)
    error = np.divide(total((f - v) ** 2, cell, n_groups), n, out=np.full_like(n, np.nan), where=n > 0)
    variance = share * (1 - share)
    explained = 1 - np.divide(error, variance, out=np.full_like(n, np.nan), where=variance > 0)
    bins = cell * 10 + np.minimum((v * 10).astype(int), 9)
    gap = np.abs(total(f - v, bins, n_groups * 10)).reshape(n_groups, 10, -1).sum(1)
    return {"n": n, "explained": explained, "calibration": np.divide(gap, n, out=np.full_like(n, np.nan), where=n > 0)}


# --- credit --------------------------------------------------------------------------------------------------------


def differences(found: Values, given: int = 0, start: int = 0) -> list[np.ndarray]:
    """Credit [residues + 1, targets] of a passage's residues and of its stop token: V(x_<=t) - V(x_<t).

    All of a sequence adds up to f - V(nothing read): the stop token brings what V did not know. The first `given`
    residues are a prompt: the model did not choose them, and they get none. The first `start` residues were drawn
    together, in proportion to the model's probability of each whole start: their score has a mean, so that each of them
    has the credit of all, whose mean is 0.
    """
    out = []
    for v, f in zip(found.read, found.outcome, strict=True):
        credit = np.diff(np.concatenate([found.start[None], v, f[None]]), axis=0)
        if 0 < start <= len(v):
            credit[:start] = v[start - 1] - found.start
        credit[:given] = 0
        out.append(credit)
    return out


def to_go(parts: Sequence[np.ndarray], clocks: Sequence[np.ndarray], given: int = 0) -> list[np.ndarray]:
    """Credit [residues + 1] where f is the sum of parts [residues]: what the residue and all later ones add, less the
    mean of that among the passages at the same tick before it."""
    rest = [np.concatenate([np.cumsum(p[::-1])[::-1], [0.0]]) for p in parts]
    before = [np.concatenate([[-1], c]) for c in clocks]
    ticks, cell = np.unique(np.concatenate(before), return_inverse=True)
    together = np.concatenate(rest)
    mean = np.bincount(cell, together, len(ticks)) / np.bincount(cell, minlength=len(ticks))
    credit = np.split(together - mean[cell], np.cumsum([len(r) for r in rest])[:-1])
    for c in credit:
        c[:given] = 0
    return credit


def residue_parts(target: str, residues: str, region: np.ndarray) -> np.ndarray | None:
    """[n] what each residue adds to what the target is a bin of: CDR3's length, net charge or hydropathy; None for
    targets that are no open bin of a sum. region [n]: index into SIDED_REGIONS.

    A bin of the mean hydropathy from h on is one of the sum of hydropathy less h. Bins below an edge count against.
    """
    found = re.fullmatch(r"cdr3-(length|charge|hydropathy)=([HL]):(<|>=)(-?[0-9.]+)", target)
    if not found:
        return None
    what, side, sense, edge = found.groups()
    inside = (region == SIDED_REGIONS.index(f"{side}-CDR3")).astype(float)
    each: np.ndarray = {
        "length": np.ones(len(residues)),
        "charge": np.array([tables.CHARGE.get(r, 0) for r in residues], float),
        "hydropathy": np.array([tables.HYDROPATHY[r] - float(edge) for r in residues], float),
    }[what]
    parts: np.ndarray = inside * each * (1 if sense == ">=" else -1)
    return parts


def plain(outcome: np.ndarray, lengths: Sequence[int], given: int = 0) -> list[np.ndarray]:
    """Credit [residues + 1, targets] of the plain estimator: f - E f for every token."""
    out = []
    for f, n in zip(outcome - outcome.mean(0), lengths, strict=True):
        credit = np.repeat(f[None], n + 1, 0)
        credit[:given] = 0
        out.append(credit)
    return out


# --- the derivative ------------------------------------------------------------------------------------------------


def log_probabilities(
    logits: Tensor, tokens: Tensor, allowed: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """[...] log p of tokens [...] under what generation draws from: logits [..., vocabulary], allowed [vocabulary].

    A token that generation cannot draw (a tag; outside the top_p) has a constant 0, so its derivative is 0.
    """
    logits = logits.float().masked_fill(~allowed, -torch.inf) / temperature
    if top_p < 1:
        p, index = logits.softmax(-1).sort(-1, descending=True)
        outside = (p.cumsum(-1) - p >= top_p).scatter(-1, index, p.cumsum(-1) - p >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    log_p = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return log_p.masked_fill(~torch.isfinite(log_p), 0.0)


@dataclass(frozen=True)
class PassageBatch:
    """Some passages side by side, right-padded."""

    rows: list[int]
    tokens: Tensor
    """[batch, T]"""
    credit: Tensor
    """[batch, T, targets] of each token; 0 for tags and padding."""


def batches(
    model: AntibodyModel, passages: Sequence[Encoded], credit: Sequence[np.ndarray], before: int, size: int = 32
) -> Iterator[PassageBatch]:
    """Passages of like length together; credit a passage [residues + 1, ...] goes to the residues and the token after
    the last; `before` tags come before the first. Passages without credit are left out."""
    order = sorted((i for i, c in enumerate(credit) if c.any()), key=lambda i: len(passages[i].tokens))
    starts = range(0, len(order), size)
    for start in progress(starts, len(starts), "likelihood gradients"):
        rows = order[start : start + size]
        width = max(len(passages[i].tokens) for i in rows)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        weights = torch.zeros(len(rows), width, credit[rows[0]].shape[1])
        for b, i in enumerate(rows):
            tokens[b, : len(passages[i].tokens)] = torch.from_numpy(passages[i].tokens)
            at = np.flatnonzero(passages[i].residue >= 0)
            at = np.append(at, at[-1] + 1 if len(at) else before)
            at = at[at < len(passages[i].tokens)]
            weights[b, at] = torch.from_numpy(credit[i][: len(at)]).float()
        yield PassageBatch(rows, tokens.to(model.device), weights.to(model.device))


def allowed_tokens(model: AntibodyModel, chains: str, species: str) -> Tensor:
    """[vocabulary] bool: what generation may draw."""
    allowed = torch.zeros(model.vocabulary, dtype=torch.bool)
    allowed[[*model.residue_tokens.values(), model.stop_token(chains, species)]] = True
    return allowed.to(model.device)


def derivatives(
    model: AntibodyModel,
    layer: int,
    passages: Sequence[Encoded],
    credit: Sequence[np.ndarray],
    where: Where,
    writing: Writing,
    at: Tensor | None = None,
) -> Tensor:
    """[passages, targets, d_model] each passage's term of the derivative of E[f] with respect to a vector added after
    block `layer` where `where` acts; at the vectors `at` [passages, d_model] (or one for all [d_model]) under which
    they were drawn, or at 0.

    credit: a passage [residues + 1, targets]. `writing`: chains, species, temperature, top_p of section `sequences`.
    """
    targets = credit[0].shape[1]
    out = torch.zeros(len(passages), targets, model.d_model)
    allowed = allowed_tokens(model, writing["chains"], writing["species"])
    before = len(model.prefix(writing["chains"], writing["species"]))
    for batch in batches(model, passages, credit, before):
        acted = where.mask(batch.tokens, before, model.residue_tokens).float()[..., None]
        with torch.enable_grad():
            vector = torch.zeros(len(batch.rows), 1, model.d_model, device=model.device)
            if at is not None:
                vector = vector + at.expand(len(passages), -1)[batch.rows, None].to(model.device)
            vector.requires_grad_()
            log_p = _log_p(model, layer, batch.tokens, acted, vector, allowed, writing)
            wanted = [j for j in range(targets) if batch.credit[..., j].any()]
            for j in wanted:
                loss = (log_p * batch.credit[:, 1:, j]).sum()
                (gradient,) = torch.autograd.grad(loss, vector, retain_graph=j != wanted[-1])
                out[batch.rows, j] = gradient[:, 0].cpu()
    return out


def _log_p(
    model: AntibodyModel, layer: int, tokens: Tensor, acted: Tensor, vector: Tensor, allowed: Tensor,
    writing: Writing,
) -> Tensor:  # fmt: skip
    """[batch, T - 1] log p of each token after the first with `vector` added after block `layer` where acted."""

    def change(hidden: Tensor) -> Tensor:
        return (hidden.float() + acted * vector).to(hidden.dtype)

    with model.hooked(layer, change):
        logits = model.logits(tokens)[:, :-1]
    return log_probabilities(logits, tokens[:, 1:], allowed, writing["temperature"], writing["top_p"])


def mean_norm(terms: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [..., d], squared length of the true mean [...]) of terms [n, ..., d].

    The squared length of a mean of n noisy terms is too large by their variance over n; this estimate is not
    (|sum|^2 - sum of |.|^2) / (n (n - 1)), and can be negative where there is nothing.
    """
    n = len(terms)
    total, squares = terms.double().sum(0), (terms.double() ** 2).sum((0, -1))
    return (total / n).float(), (((total**2).sum(-1) - squares) / max(1, n * (n - 1))).float()
