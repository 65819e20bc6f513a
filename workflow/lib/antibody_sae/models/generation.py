"""Writing antibodies with a language model: batches side by side, rows that end leave, complete domains on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from antibody_sae.io import InputError
from antibody_sae.models.starts import starts

if TYPE_CHECKING:
    from antibody_sae.models.model import AntibodyModel, Edit

BATCH = 128
"""Rows of a batch: fixed, because a row's random numbers come from its batch and its place there."""
_MEMORY = {"cpu": 1100 << 20, "cuda": 8 << 30}
"""Bytes of keys and values at most, unless one batch needs more: as many batches are written side by side."""
LONGEST = 160
"""Residues of a chain that are written at most."""
_READ = 2048
"""Tokens of a pass that reads what was written."""
_FEWEST = 4
"""Rows of a pass at least: with fewer the libraries of matrix products take other paths, whose last bits differ."""


@dataclass(frozen=True)
class Generated:
    """One sampled sequence."""

    text: str
    """Residues, without tags; heavy and light run together where the template has no separator."""
    ended: bool
    """Whether the model wrote its stop token."""
    log_likelihood: float | None = field(compare=False)
    """Mean (nats) over what was written, the stop too, of the model without the `edit`; None of no residues. Its last
    bits depend on whether it was read beside the writing or after."""


def side_by_side(model: AntibodyModel, tokens: int = LONGEST + 2, batch_size: int = BATCH) -> int:
    """Batches of sequences of up to so many tokens that are written at once; it changes no text."""
    kept = 2 * model.n_layers * model.d_model * model.dtype.itemsize * tokens * batch_size
    return max(1, _MEMORY[model.device.type] // kept)


@torch.inference_mode()
def generate(
    model: AntibodyModel,
    n: int,
    *,
    chains: str = "H",
    species: str = "human",
    seed: int | Sequence[int] = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    prompt: str = "",
    complete: bool = False,
    max_residues: int | None = None,
    layer: int | None = None,
    edit: Edit | None = None,
    batches: Sequence[int] | None = None,
    batch_size: int = BATCH,
    progress: Callable[[int], object] | None = None,
) -> list[Generated]:
    """Sample n sequences, or of these the ones in `batches`; only residues and the stop token can be written.

    Row r of batch b draws its numbers, one a token, from a generator seeded by (seed, b) alone, whatever the others do
    and however many batches are written side by side. So its text is a function of (seed, b, r), as far as a row of a
    matrix product does not depend on how many rows there are. On the processors tested (torch with MKL) it does not, to
    the last bit, from 4 rows on, and fewer are never passed; elsewhere a last bit can move a token whose draw falls
    within about 1e-6 of a border, one in some million.

    `complete` draws the first residues from the model's own distribution over `starts`, then lets it go on: that is
    what keeping the sequences with such a start would give, at the cost of no sequence thrown away. A `prompt` is a
    start of the user's own, and replaces it. `edit` changes the residual stream after block `layer` at every position
    (see models.Edit), that of the start included. `max_residues`: LONGEST for each of `chains` unless told otherwise.
    Raises InputError where the model's output is not finite, or no complete start can be drawn.
    """
    writer = _Writer(model, chains, species, temperature, top_p, layer, edit)
    first = starts(chains, species) if complete and not prompt else []
    most = LONGEST * len(chains) if max_residues is None else max_residues
    steps = min(most, model.max_tokens - len(writer.prefix)) + 1
    wanted = range(-(-n // batch_size)) if batches is None else batches
    width = side_by_side(model, len(writer.prefix) + steps, batch_size)
    words = list(seed) if isinstance(seed, Sequence) else [seed]
    results: list[Generated] = []
    for i in range(0, len(wanted), width):
        group = wanted[i : i + width]
        sizes = [min(batch_size, n - b * batch_size) for b in group]
        draws = [
            np.random.default_rng([*words, b]).random((steps + 1, batch_size))[:, :size]
            for b, size in zip(group, sizes, strict=True)
        ]
        rows = torch.arange(len(results), len(results) + sum(sizes), device=model.device)
        numbers = torch.from_numpy(np.concatenate(draws, 1)).to(model.device)
        results += writer.write(rows, numbers, prompt, first, steps)
        if progress is not None:
            progress(len(rows))
    return results


class _Writer:
    """What all passes of one call share."""

    def __init__(
        self, model: AntibodyModel, chains: str, species: str, temperature: float, top_p: float,
        layer: int | None, edit: Edit | None,
    ) -> None:  # fmt: skip
        self.model, self.temperature, self.top_p, self.layer = model, temperature, top_p, layer
        self.edit = None if layer is None else edit
        self.prefix = model.prefix(chains, species)
        self.stop = model.stop_token(chains, species)
        self.letters = {token: residue for residue, token in model.residue_tokens.items()}
        self.banned = torch.full((model.vocabulary,), -torch.inf, device=model.device)
        self.banned[[*self.letters, self.stop]] = 0.0

    def _logits(
        self,
        new: Tensor,
        tokens: Tensor,
        rows: Tensor,
        keep: int,
        cache: Cache | None,
        use_cache: bool = True,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """float32 logits [batch, keep, vocabulary] of the last tokens, and the cache, after reading new [batch, t], the
        last of tokens [batch, T]; rows [batch] are the rows' numbers in the call. What the edit is given goes to
        `before`: (states [slots, T, d_model], the batch's slots)."""
        options = {"past_key_values": cache, "use_cache": use_cache, "logits_to_keep": keep}
        if self.edit is None or self.layer is None:
            out = self.model.hf(input_ids=new, **options)
        else:
            edit, place = self.edit, slice(tokens.shape[1] - new.shape[1], tokens.shape[1])

            def change(hidden: Tensor) -> Tensor:
                if before is not None:
                    before[0][before[1], place] = hidden
                return edit(hidden, tokens, rows)

            with self.model.hooked(self.layer, change):
                out = self.model.hf(input_ids=new, **options)
        logits = out.logits[:, -keep:].float()
        if not torch.isfinite(logits).all():
            raise InputError(
                f"model {self.model.spec.name}: its output is not finite; choose a smaller strength or float32"
            )
        return logits, out.past_key_values

    def write(self, rows: Tensor, draws: Tensor, prompt: str, first: Sequence[str], steps: int) -> list[Generated]:
        """The sequences of `rows` of the call; draws [steps + 1, rows]: one for the start, one a token."""
        device, n = self.model.device, len(rows)
        slot = torch.arange(n, device=device)  # which of `rows` each row of the pass is
        slot = torch.cat([slot, slot[:1].expand(max(0, _FEWEST - n))])
        head = torch.tensor(self.prefix, device=device).expand(n, -1)
        if first:
            begun = self._draw_starts(first, rows, draws[0])
        else:
            begun = torch.tensor([self.model.residue_tokens[r] for r in prompt], dtype=torch.long, device=device)
            begun = begun.expand(n, -1)
        read, most = head.shape[1], head.shape[1] + steps
        tokens = torch.full((n, most), self.stop, device=device)
        filled = read + begun.shape[1]
        tokens[:, :filled] = torch.cat([head, begun], 1)
        new, cache = tokens[slot, :filled], self.model.cache(most)
        changes = self.edit is not None and self.layer is not None
        # what the edit is given, from which the rest of the model reads on; 0, as a nan would spread from any place
        states = torch.zeros(n, most, self.model.d_model, dtype=self.model.dtype, device=device) if changes else None
        said = torch.zeros(n, device=device)  # log-likelihood so far
        over = torch.zeros(n, dtype=torch.bool, device=device)
        keep = begun.shape[1] + 1  # the first pass tells of the start too
        while filled < most:
            kept = None if states is None else (states, slot)
            logits, cache = self._logits(new, tokens[slot, :filled], rows[slot], keep, cache, before=kept)
            allowed = logits[:, -1] + self.banned
            new = _sample(allowed, draws[filled - read + 1, slot], self.temperature, self.top_p)[:, None]
            tokens[slot, filled] = new[:, 0]
            filled += 1
            if not changes:
                log_p = logits.log_softmax(-1).gather(2, tokens[slot, filled - keep : filled, None])[..., 0].sum(1)
                said[slot] += log_p.masked_fill(over[slot], 0)
            keep, ended = 1, new[:, 0] == self.stop
            over[slot] |= ended
            if ended.all():
                break
            if ended.any() and hasattr(cache, "batch_select_indices"):
                stay = _closed_ranks(ended)
                cache.batch_select_indices(stay)
                slot, new = slot[stay], new[stay]
        tokens = tokens[:, :filled]
        stops = tokens[:, read:] == self.stop
        ends = read + torch.where(over, stops.int().argmax(1) + 1, filled - read)
        if states is not None:
            said = self._read(tokens, read, ends, states)
        rows_of = zip(tokens[:, read:].tolist(), (ends - read).tolist(), over.tolist(), said.tolist(), strict=True)
        return [self._generated(row[:size], ended, total) for row, size, ended, total in rows_of]

    def _generated(self, row: list[int], ended: bool, said: float) -> Generated:
        text = "".join(self.letters[token] for token in (row[:-1] if ended else row))
        return Generated(text, ended, said / len(row) if text else None)

    def _read(self, tokens: Tensor, first: int, ends: Tensor, states: Tensor) -> Tensor:
        """[rows] log-likelihood without the edit of tokens [rows, T] from `first` to `ends` [rows], read on from the
        states [rows, T, d_model] that the edit was given: it changes nothing before."""
        said = torch.empty(len(tokens), device=tokens.device)
        for some in ends.argsort().split(max(1, _READ // tokens.shape[1])):
            last = int(ends[some].max())
            logits = self.model.logits(tokens[some, : last - 1], self.layer, states[some, : last - 1])
            log_p = logits[:, first - 1 :].float().log_softmax(-1).gather(2, tokens[some, first:last, None])[..., 0]
            inside = torch.arange(first, last, device=tokens.device) < ends[some, None]
            said[some] = (log_p * inside).sum(1)
        return said

    def _draw_starts(self, first: Sequence[str], rows: Tensor, draw: Tensor) -> Tensor:
        """[rows, residues] tokens of one of the starts `first` (of equal length) for each row, in proportion to the
        probability that the model under the row's intervention writes it with the temperature and top_p of the call.

        P(abc) = P(a) P(b | a) P(c | ab): one pass over the distinct ab under each kind of intervention.
        """
        device = self.model.device
        ids = torch.tensor([[self.model.residue_tokens[r] for r in one] for one in first], device=device)
        stems, owner = ids[:, :-1].unique(dim=0, return_inverse=True)
        read = torch.cat([torch.tensor(self.prefix, device=device).expand(len(stems), -1), stems], 1)
        kinds, kind = getattr(self.edit, "kinds", torch.zeros_like)(rows).unique(return_inverse=True)
        one_of = torch.stack([rows[(kind == i).nonzero()[0, 0]] for i in range(len(kinds))])
        tokens = read.repeat(len(kinds), 1)
        logits, _ = self._logits(
            tokens, tokens, one_of.repeat_interleave(len(stems)), ids.shape[1], None, use_cache=False
        )
        log_p = _probabilities(logits + self.banned, self.temperature, self.top_p).log()
        log_p = log_p.view(len(kinds), len(stems), *log_p.shape[1:])[:, owner]
        p = log_p.gather(3, ids[None, :, :, None].expand(len(kinds), -1, -1, -1))[..., 0].sum(2).exp()
        if not (p.sum(1) > 0).all():
            raise InputError(
                f"sequences.complete: under top_p {self.top_p} the model writes none of the starts "
                f"{', '.join(first[:5])} ... of complete domains; raise top_p, or set complete: false"
            )
        cumulative = p.cumsum(1)[kind]
        return ids[torch.searchsorted(cumulative, draw[:, None] * cumulative[:, -1:], right=True)[:, 0]]


def _closed_ranks(ended: Tensor) -> Tensor:
    """[m] which rows of [batch] go on, as rows that stay where they are or come from behind into a gap. m is at least
    _FEWEST: where fewer go on, the first of them fills up."""
    going = (~ended).nonzero()[:, 0]
    m = max(len(going), _FEWEST)
    stay = torch.arange(m, device=ended.device)
    gaps = ended[:m].nonzero()[:, 0]
    stay[gaps] = going[0]
    behind = going[going >= m]
    stay[gaps[: len(behind)]] = behind
    return stay


def _probabilities(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """float64 [..., vocabulary], not normalised for top_p < 1: the smallest set that reaches it (Holtzman 2020)."""
    p = (logits / temperature).softmax(-1).double()
    if top_p >= 1:
        return p
    ordered, index = p.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    p = torch.zeros_like(p).scatter(-1, index, ordered)
    return p / p.sum(-1, keepdim=True)


def _sample(logits: Tensor, draw: Tensor, temperature: float, top_p: float) -> Tensor:
    """[batch] tokens by inverting the cumulative distribution at draw [batch] in [0, 1); logits [batch, vocabulary]."""
    cumulative = _probabilities(logits, temperature, top_p).cumsum(-1)
    return torch.searchsorted(cumulative, (draw.double() * cumulative[:, -1])[:, None], right=True)[:, 0]
