"""Which latents of a batch are active in training on the CPU, and their values; a way for each of ACTIVATIONS.

A code is a rectangle [B, m] whatever the way: latents ascending in each row, then free places, which hold K (no latent)
and 0. TopK and AbsTopK choose row by row. BatchTopK first lists what reaches a floor a little below the last batch's
least value; where the list holds the batch_size k largest, those are exact, else the floor is lowered. JumpReLU lists
what exceeds its thresholds, and what lies below them within half a bandwidth, with value 0.

Suffixes of names are dimensions, as in trainer: B tokens, D d_model, K latents, M columns of the codes, A of AuxK's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from antibody_sae.sae import selection
from antibody_sae.sae.model import TILE, preactivations, sort_keys
from antibody_sae.sae.settings import Settings

FLOOR = 0.9
"""Of BatchTopK, as a share of the last batch's least value: a quarter more entries than needed reach it."""
Look = Callable[[slice, Tensor, Tensor | None], None]
"""What AuxK makes of some rows: (rows, their pre-activations less what the last one [K] says, that)."""


class BatchCodes(NamedTuple):
    """The codes of a batch, and beside them AuxK's: the largest of each token's dead latents."""

    indices: np.ndarray
    """int32 [B, M], each part ascending; K in free places."""
    values: np.ndarray
    """float32 [B, M]; 0 in free places and, with JumpReLU, where a pre-activation lies just below its threshold."""
    width: int
    """Columns of the code; the others are AuxK's."""
    least: float
    """BatchTopK: the least pre-activation chosen, 0 where all positive ones are."""


class Chooser:
    """Reads the parameters where they lie, so it follows the training."""

    def __init__(
        self,
        settings: Settings,
        parameters: Mapping[str, Tensor],
        encoder: Tensor,
        threads: int,
        each_thread: Callable[[Callable[[int], Any]], list[Any]],
    ) -> None:
        """parameters: see Trainer; encoder [K, D]: the number type of the product that chooses."""
        self.settings, self.parameters, self.encoder = settings, parameters, encoder
        self.threads, self.each_thread = threads, each_thread
        self._weight, self._bias = parameters["encoder"].numpy(), parameters["bias"].numpy()
        self._half = encoder.dtype == torch.bfloat16
        self._signed = settings.activation == "abstopk"
        self._floor = 0.0

    def __call__(self, acts_BD: Tensor, k: int, dead: np.ndarray) -> BatchCodes:
        """The codes of the batch; dead: latents that AuxK may use."""
        aux = min(self.settings.aux_k, len(dead))
        dead_BA, values_BA = self._rectangle(len(acts_BD), aux)

        def beside(tile: slice, hidden_BK: Tensor, less_K: Tensor | None = None) -> None:
            if aux:
                hidden_BK = hidden_BK if less_K is None else hidden_BK + less_K.to(hidden_BK.dtype)
                selection.select_topk(self._keys(hidden_BK), aux, dead, dead_BA[tile])
                self._fill(acts_BD[tile], hidden_BK, dead_BA[tile], values_BA[tile])

        ways = {"batchtopk": self._of_batch, "jumprelu": self._above_thresholds}
        way = ways.get(self.settings.activation, self._of_rows)
        indices_BM, values_BM, least = way(acts_BD, k, beside)
        width = indices_BM.shape[1]
        if aux:
            indices_BM, values_BM = np.hstack([indices_BM, dead_BA]), np.hstack([values_BM, values_BA])
        return BatchCodes(indices_BM, values_BM, width, least)

    # -- the ways ------------------------------------------------------------------------------------------------

    def _of_rows(self, acts_BD: Tensor, k: int, beside: Look) -> tuple[np.ndarray, np.ndarray, float]:
        indices_BM, values_BM = self._rectangle(len(acts_BD), k)

        def look(tile: slice) -> None:
            hidden_BK = self._product(acts_BD[tile])
            selection.select_topk(self._keys(hidden_BK), k, _ALL_LATENTS, indices_BM[tile])
            self._fill(acts_BD[tile], hidden_BK, indices_BM[tile], values_BM[tile])
            beside(tile, hidden_BK, None)

        self._each_tile(len(acts_BD), look)
        return indices_BM, values_BM, 0.0

    def _of_batch(self, acts_BD: Tensor, k: int, beside: Look) -> tuple[np.ndarray, np.ndarray, float]:
        n = len(acts_BD)
        while True:
            bound = max(1, int(sort_keys(torch.tensor([self._floor], dtype=self.encoder.dtype))[0]))
            counts_B, indices, keys = self._reaching(acts_BD, bound, k, beside)
            if len(keys) >= n * k or bound == 1:
                break
            self._floor /= 2
        wanted = min(n * k, len(keys))
        limit = np.partition(keys, len(keys) - wanted)[len(keys) - wanted] if wanted else keys.dtype.type(1)
        left = selection.cut(counts_B, indices, keys, limit, wanted - np.count_nonzero(keys > limit))
        numbers = self._numbers(keys[:left])
        least = float(numbers.min()) if wanted == n * k else 0.0
        self._floor = FLOOR * least
        indices_BM, values_BM = self._spread(counts_B, indices, numbers)
        if self._half:
            self._fill_all(acts_BD, indices_BM, values_BM)
        return indices_BM, values_BM, least

    def _above_thresholds(self, acts_BD: Tensor, k: int, beside: Look) -> tuple[np.ndarray, np.ndarray, float]:
        """With the biases lowered by what a pre-activation must exceed, those that do are positive."""
        threshold_K = self.parameters["threshold"].exp()
        lowest_K = threshold_K - self.settings.bandwidth / 2
        counts_B, indices, keys = self._reaching(acts_BD, 1, k, beside, lowest_K)
        indices_BM, values_BM = self._spread(counts_B, indices, self._numbers(keys) + lowest_K.numpy()[indices])
        if self._half:
            self._fill_all(acts_BD, indices_BM, values_BM)
        values_BM[values_BM <= np.append(threshold_K.numpy(), np.inf)[indices_BM]] = 0
        return indices_BM, values_BM, 0.0

    # -- what they share -----------------------------------------------------------------------------------------

    def _reaching(
        self, acts_BD: Tensor, bound: int, k: int, beside: Look, less_K: Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(how many each row has [B], their latents, their keys) of the pre-activations, less `less_K`, whose sort keys
        reach `bound`, one row after another."""
        counts_B = np.empty(len(acts_BD), dtype=np.int64)
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def look(tile: slice) -> None:
            hidden_BK = self._product(acts_BD[tile], less_K)
            keys_BK = sort_keys(hidden_BK)
            room = np.empty(keys_BK.size + 1, np.int32), np.empty(keys_BK.size + 1, keys_BK.dtype)
            m = selection.reaching(keys_BK, bound, k, counts_B[tile], *room)
            found[tile.start] = room[0][:m].copy(), room[1][:m].copy()
            beside(tile, hidden_BK, less_K)

        self._each_tile(len(acts_BD), look)
        indices, keys = (np.concatenate([found[start][i] for start in sorted(found)]) for i in range(2))
        return counts_B, indices, keys

    def _each_tile(self, n: int, look: Callable[[slice], None]) -> None:
        """look(rows) of n rows, TILE at a time; each thread has its own."""

        def part(thread: int) -> None:
            first, last = (n * i // self.threads for i in (thread, thread + 1))
            for start in range(first, last, TILE):
                look(slice(start, min(start + TILE, last)))

        self.each_thread(part)

    def _product(self, acts_BD: Tensor, less_K: Tensor | None = None) -> Tensor:
        """[B, K] pre-activations, less `less_K`, in the number type of `encoder`."""
        dtype, bias_K = self.encoder.dtype, self.parameters["bias"]
        return preactivations(
            acts_BD.to(dtype), self.encoder, (bias_K if less_K is None else bias_K - less_K).to(dtype)
        )

    def _keys(self, hidden_BK: Tensor) -> np.ndarray:
        return sort_keys(hidden_BK.abs() if self._signed else hidden_BK)

    def _numbers(self, keys: np.ndarray) -> np.ndarray:
        """The float32 numbers whose sort keys these are."""
        numbers: np.ndarray = (keys.astype(np.int32) << 16 if self._half else keys).view(np.float32)
        return numbers

    def _fill(self, acts_BD: Tensor, hidden_BK: Tensor | None, indices_BM: np.ndarray, values_BM: np.ndarray) -> None:
        """The values at chosen indices; those that enter the reconstruction never come from a bfloat16 product."""
        lowest = -np.inf if self._signed else 0.0
        if hidden_BK is None or hidden_BK.dtype == torch.bfloat16:
            selection.activations(acts_BD.numpy(), self._weight, self._bias, indices_BM, lowest, values_BM)
        else:
            selection.take(hidden_BK.numpy(), indices_BM, lowest, values_BM)

    def _fill_all(self, acts_BD: Tensor, indices_BM: np.ndarray, values_BM: np.ndarray) -> None:
        self._each_tile(len(acts_BD), lambda tile: self._fill(acts_BD[tile], None, indices_BM[tile], values_BM[tile]))

    def _spread(self, counts_B: np.ndarray, indices: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices_BM, values_BM = self._rectangle(len(counts_B), int(counts_B.max()))
        selection.spread(counts_B, indices, values, len(self._bias), indices_BM, values_BM)
        return indices_BM, values_BM

    @staticmethod
    def _rectangle(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        return np.empty((n, m), dtype=np.int32), np.empty((n, m), dtype=np.float32)


_ALL_LATENTS = np.empty(0, dtype=np.int64)
