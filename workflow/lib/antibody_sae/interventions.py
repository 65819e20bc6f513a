"""Change what a language model writes by changing its residual stream: the interventions, and where they act.

Two ways to turn latent j of an SAE to `strength` times the largest activation m_j it has on training data:
 - addition: x + strength m_j scale d_j, at every position alike;
 - delta-clamp: x + (strength m_j - z_j(x)) scale d_j, which is x + decode(clamped code) - decode(code), so that what
   the SAE does not reconstruct stays (Templeton et al. 2024, "Scaling Monosemanticity", appendix on steering).
Strength 0 adds nothing; a clamp at 0 removes the latent. Negative strengths suppress.

>>> steering = push(sae, {29: 1.0}, where=Where("CDR3"))
>>> model.generate(100, seed=1, layer=2, edit=Edit(model, [steering]))
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from antibody_sae.antibody import REGIONS
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE, preactivations

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel

_EARLIEST_CDR3 = 40
"""Residues before which no cysteine ends framework 3: models also write chains that lack part of framework 1."""
_BEFORE_CYSTEINE = "YFHSCWTLV"
"""Residues seen at IMGT 103; almost always Y."""


@dataclass(frozen=True)
class Where:
    """The positions that an intervention acts on, by the residue that the model is about to write there.

    Position p of the residual stream decides token p + 1. With w(p) the number of residues read up to p, an
    intervention "from residue n on" acts where w(p) >= n: residue n (0-based) is the first that it can change. Tags
    before the first residue count as w = 0. A region acts while that region is written: FR1 to FR3 by the residue
    counts in `counts` (as many residues as the region has before it and at its end in most training chains), CDR3 and
    FR4 by an online rule, because their start varies. CDR3 opens after the first cysteine that follows at least 40
    residues and one of YFHSCWTLV (IMGT 103, 104), and closes once [WF]-G-x-G (118 to 121) has been read, so the first
    four residues of FR4 are still written under it: the model decides there that CDR3 ends. FR4 is what follows.
    """

    region: str | None = None
    start: int = 0
    stop: int | None = None
    """Residues written at most (exclusive); None: to the end."""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Region -> (residues before it, residues up to its end), see `typical_counts`."""

    def __post_init__(self) -> None:
        if self.region is not None and self.region not in REGIONS:
            raise InputError(f"where: region {self.region!r} is none of {', '.join(REGIONS)}")
        if self.region in REGIONS[:5] and self.region not in self.counts:
            raise InputError(f"where: no chain of this run has a numbered {self.region}; give residue counts instead")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InputError(f"where: residues {self.start} to {self.stop} are none; from must be >= 0 and < to")

    @property
    def everywhere(self) -> bool:
        return self.region is None and self.start == 0 and self.stop is None

    def mask(self, tokens: Tensor, before: int, ids: Mapping[str, int]) -> Tensor:
        """[batch, T] bool: the positions of tokens [batch, T] that are acted on.

        `before` is the number of tags before the first residue, `ids` the model's residue tokens.
        """
        written = torch.arange(tokens.shape[1], device=tokens.device) - (before - 1)
        if self.region in ("CDR3", "FR4"):
            return self._online(tokens, written, ids)
        start, stop = (self.start, self.stop) if self.region is None else self.counts[self.region]
        inside = written >= start if start > 0 else torch.ones_like(written, dtype=torch.bool)
        if stop is not None:
            inside = inside & (written < stop)
        return inside.expand(tokens.shape)

    def _online(self, tokens: Tensor, written: Tensor, ids: Mapping[str, int]) -> Tensor:
        def among(letters: str) -> Tensor:
            return torch.isin(tokens, torch.tensor([ids[r] for r in letters], device=tokens.device))

        def shifted(seen: Tensor, by: int) -> Tensor:
            moved = torch.zeros_like(seen)
            moved[:, by:] = seen[:, : seen.shape[1] - by]
            return moved

        cysteine = among("C") & shifted(among(_BEFORE_CYSTEINE), 1) & (written > _EARLIEST_CDR3)
        opened = cysteine.cumsum(1) > 0
        glycine = among("G")
        motif = glycine & shifted(glycine, 2) & shifted(among("WF") & opened, 3)
        closed = motif.cumsum(1) > 0
        return opened & ~closed if self.region == "CDR3" else closed


def parse_where(value: Any, counts: Mapping[str, tuple[int, int]] | None = None) -> Where:
    """`where` of a configuration: "all", a region's name, or {from: n, to: m}."""
    if value == "all":
        return Where()
    if isinstance(value, str):
        return Where(region=value, counts=counts or {})
    return Where(start=value.get("from", 0), stop=value.get("to"))


@dataclass(frozen=True)
class Clamp:
    """Latents of one SAE held at fixed activations."""

    sae: SAE
    values: Mapping[int, float]
    """Latent -> activation, in the SAE's units."""


@dataclass(frozen=True)
class Intervention:
    """What is done to one row of a batch; with neither vector nor clamp, nothing. A vector may be given as an array."""

    vector: Tensor | None = None
    """[d_model] float32, added to the residual stream, raw units."""
    clamp: Clamp | None = None
    where: Where = Where()

    def __post_init__(self) -> None:
        if self.vector is not None and not isinstance(self.vector, Tensor):
            object.__setattr__(self, "vector", torch.tensor(np.asarray(self.vector, np.float32)))
        if self.vector is not None and not torch.isfinite(self.vector).all():
            raise InputError("intervention: the added vector is not finite; choose a smaller strength")

    @property
    def norm(self) -> float:
        """Length of the added vector in raw units; nan for a clamp, whose length differs by position."""
        if self.clamp is not None:
            return float("nan")
        return 0.0 if self.vector is None else float(self.vector.norm())


def _latents(sae: SAE, strengths: Mapping[int, float] | Mapping[str, float]) -> dict[int, float]:
    """{latent: strength} with numbers for names (configurations and JSON have "29"), and each of them usable."""
    latents: dict[int, float] = {}
    for name, strength in strengths.items():
        if not re.fullmatch(r"\d+", str(name)) or not int(name) < sae.latents:
            raise InputError(f"latent {name}: this SAE has latents 0 to {sae.latents - 1}")
        latent = int(name)
        if sae.max_activation[latent] <= 0:
            raise InputError(f"latent {latent}: never active on the training data, so it has no scale; choose another")
        latents[latent] = latents.get(latent, 0.0) + float(strength)
    return latents


def push(sae: SAE, strengths: Mapping[int, float] | Mapping[str, float], where: Where = Where()) -> Intervention:
    """Add latents: {latent: multiple of its largest activation}. Raises InputError for latents that cannot be used."""
    latents = _latents(sae, strengths)
    vector = torch.zeros(sae.d_model)
    for latent, strength in latents.items():
        if strength:
            vector += (strength * sae.max_activation[latent] * sae.scale * sae.directions[latent]).cpu()
    return Intervention(vector=vector if latents else None, where=where)


def clamp(sae: SAE, strengths: Mapping[int, float] | Mapping[str, float], where: Where = Where()) -> Intervention:
    """Clamp latents: {latent: multiple of its largest activation}. Raises InputError as `push` does."""
    values = {latent: float(s * sae.max_activation[latent]) for latent, s in _latents(sae, strengths).items()}
    return Intervention(clamp=Clamp(sae, values) if values else None, where=where)


class Edit:
    """Interventions as the `edit` of AntibodyModel's methods.

    One intervention for all rows, or one a row of the call (the call must then be for no more rows than the list).
    Rows with nothing to do keep their bits. Raises InputError where the residual stream is not finite.
    """

    def __init__(
        self, model: AntibodyModel, interventions: Sequence[Intervention], chains: str = "H", species: str = "human"
    ) -> None:
        self._before = len(model.prefix(chains, species))
        self._ids = model.residue_tokens
        distinct = list({id(each): each for each in interventions}.values())
        number = {id(each): i for i, each in enumerate(distinct)}
        self._kind = torch.tensor([number[id(each)] for each in interventions], device=model.device)
        active = [
            (i, each)
            for i, each in enumerate(distinct)
            if each.clamp is not None or (each.vector is not None and bool(each.vector.any()))
        ]

        def chosen(kinds: Sequence[int]) -> Tensor:
            """[distinct interventions] bool"""
            mine = torch.zeros(len(distinct), dtype=torch.bool)
            mine[list(kinds)] = True
            return mine.to(model.device)

        self._masks: list[tuple[Where, Tensor]] = []
        wheres: list[Where] = []
        for _, each in active:
            if each.where not in wheres:
                wheres.append(each.where)
        for where in wheres:
            self._masks.append((where, chosen([i for i, each in active if each.where == where])))
        self._vectors: Tensor | None = None
        added = [(i, each.vector) for i, each in active if each.vector is not None]
        if added:
            self._vectors = torch.zeros(len(distinct), model.d_model, device=model.device)
            for i, vector in added:
                self._vectors[i] = vector
        self._clamps: list[tuple[SAE, Tensor, Tensor, Tensor]] = []
        for sae in {id(each.clamp.sae): each.clamp.sae for _, each in active if each.clamp}.values():
            held = [(i, each.clamp) for i, each in active if each.clamp and each.clamp.sae is sae]
            width = max(len(c.values) for _, c in held)
            latents = torch.zeros(len(distinct), width, dtype=torch.long)
            targets = torch.full((len(distinct), width), torch.nan)  # nan: no latent to hold
            for i, c in held:
                latents[i, : len(c.values)] = torch.tensor(list(c.values))
                targets[i, : len(c.values)] = torch.tensor(list(c.values.values()))
            mine = chosen([i for i, _ in held])
            self._clamps.append((sae.to(model.device), latents.to(model.device), targets.to(model.device), mine))

    def kinds(self, rows: Tensor) -> Tensor:
        """[batch] which of the distinct interventions each row is under; see models.Edit."""
        if len(self._kind) == 1:
            return torch.zeros_like(rows)
        if int(rows.max()) >= len(self._kind):
            raise InputError(f"{len(self._kind)} interventions for {int(rows.max()) + 1} rows; give one, or one a row")
        return self._kind[rows]

    def __call__(self, hidden: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """hidden [batch, t, d_model], tokens [batch, T], rows [batch] -> hidden; see models.Edit."""
        kinds = self.kinds(rows)
        if not self._masks:
            return hidden
        batch, t = hidden.shape[:2]
        change: Tensor | None = None
        at: Tensor | None = None
        if not all(where.everywhere for where, _ in self._masks):
            at = torch.zeros(batch, t, dtype=torch.bool, device=hidden.device)
            for where, mine in self._masks:
                at |= where.mask(tokens, self._before, self._ids)[:, -t:] & mine[kinds][:, None]
            if not at.any():
                return hidden
        if self._vectors is not None:
            change = self._vectors[kinds][:, None, :]
            if at is not None:
                change = change * at[..., None]
        for sae, latents, targets, mine in self._clamps:
            held = mine[kinds][:, None].expand(batch, t)
            row, place = (held if at is None else held & at).nonzero(as_tuple=True)
            delta = _clamp_delta(sae, hidden[row, place], latents[kinds[row]], targets[kinds[row]])
            scattered = torch.zeros(batch, t, hidden.shape[-1], device=hidden.device)
            scattered[row, place] = delta
            change = scattered if change is None else change + scattered
        if change is None:
            return hidden
        return (hidden.float() + change).to(hidden.dtype)


def _clamp_delta(sae: SAE, x: Tensor, latents: Tensor, targets: Tensor) -> Tensor:
    """decode(clamped code) - decode(code) of activations x [n, d_model]; each row's latents and targets [n, m], nan
    for "leave".

    A code is zero but for the preactivations above their threshold, or for the k largest positive ones. So most rows
    need only their own latents'; where one of these k is positive, the whole preactivation says whether k others exceed
    it.
    """
    y = sae.center(x)
    now = ((y[:, None, :] * sae.encoder_weight[latents]).sum(-1) + sae.encoder_bias[latents]).clamp(min=0)
    if sae.threshold is not None:
        now *= now > sae.threshold[latents]
    elif len(unsure := (now > 0).any(1).nonzero()[:, 0]):
        every = preactivations(y[unsure], sae.encoder_weight, sae.encoder_bias)
        above = (every[:, None, :] > every.gather(1, latents[unsure])[:, :, None]).sum(-1)
        now[unsure] *= above < sae.k
    difference = torch.nan_to_num(targets - now, nan=0.0)
    return sae.scale * (difference[:, :, None] * sae.directions[latents]).sum(1)
