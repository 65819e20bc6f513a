"""Keys and values of what was written, and attention over them one token at a time.

With one query a row attention is no matrix product but a walk through what was kept, and costs what reading it once
from memory costs; each head's share is asked for while the head before is worked on. The kernels serve float32 on a
CPU; they run on one thread a block of rows and release the GIL. What they give a row depends on that row alone. In
bfloat16 two plain products do it; a GPU has transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "antibody_sae"
"""What transformers calls this attention."""
GROWTH = 32
"""Tokens by which the buffers of a bfloat16 model grow on the CPU."""
_LINE = 16
"""float32 numbers of a cache line."""
# Sums may be reordered (vectorised), but NaN and Inf keep their meaning. Compiled once, cached on disk.
_FASTMATH = {"contract", "reassoc", "nsz"}
_LOG2E = np.float32(np.log2(np.e))
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(np.log(2) ** i / np.prod(np.arange(1.0, i + 1))) for i in range(1, 7))
"""Taylor's series of 2^f: its error is 1.3e-7 at |f| <= 1/2."""
_SMALLEST, _HALF, _ONE = np.float32(-126), np.float32(0.5), np.float32(1)


def _jit(function: Any) -> Any:
    return njit(function, nogil=True, cache=True, fastmath=_FASTMATH, error_model="numpy")


@intrinsic
def _fetch(typing, array, place):  # type: ignore[no-untyped-def]
    """Ask for the cache line of number `place` of an array's memory, which may lie behind its end, to be brought near.
    The processor's own foresight ends at each page of 4 KB: by asking, 1.2 times as much is read a second."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        where = builder.bitcast(builder.gep(data, [values[1]]), byte)
        builder.call(prefetch, [where, number(0), number(1), number(1)])  # for reading, into the second cache, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@_jit
def _exp2(x, bits, powers):  # type: ignore[no-untyped-def]
    """x = 2^x in place, for x <= 127: loops that the compiler vectorises, which it cannot with a call of the C library,
    nor with a loop that writes `bits` and reads `powers` (3 times as slow). `bits` int32 and `powers` float32 share
    their memory and are at least as long as x."""
    for i in range(len(x)):
        y = _SMALLEST if x[i] < _SMALLEST else x[i]
        whole = np.floor(y + _HALF)
        f = y - whole
        x[i] = ((((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f) + _ONE
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for i in range(len(x)):
        x[i] *= powers[i]


@lru_cache
def _attend(d: int) -> Callable[..., None]:
    """The kernel for heads of d dimensions, a constant that lets the compiler keep a head's sums in registers."""

    @_jit
    def attend(query, keys, values, filled, scale, out):  # type: ignore[no-untyped-def]
        """out = softmax(scale query keys^T) values over the first `filled` tokens. query, out [rows, heads, d]; keys,
        values [rows, key heads, room, d], all float32; fewer key heads than heads are shared."""
        rows, heads = query.shape[:2]
        shared = heads // keys.shape[1]
        weight = np.empty(filled, np.float32)
        bits = np.empty(filled, np.int32)
        powers = bits.view(np.float32)
        q, total = np.empty(d, np.float32), np.empty(d, np.float32)
        for row in range(rows):
            for head in range(heads):
                k, v = keys[row, head // shared], values[row, head // shared]
                for i in range(d):
                    q[i] = query[row, head, i] * scale * _LOG2E
                    total[i] = 0
                for t in range(filled):
                    for i in range(0, d, _LINE):
                        _fetch(k, k.size + t * d + i)  # type: ignore[call-arg]
                    score = np.float32(0)
                    for i in range(d):
                        score += q[i] * k[t, i]
                    weight[t] = score
                largest = weight[0]
                for t in range(1, filled):
                    largest = max(largest, weight[t])
                for t in range(filled):
                    weight[t] -= largest
                _exp2(weight, bits, powers)
                norm = np.float32(0)
                for t in range(filled):
                    for i in range(0, d, _LINE):
                        _fetch(v, v.size + t * d + i)  # type: ignore[call-arg]
                    norm += weight[t]
                    for i in range(d):
                        total[i] += weight[t] * v[t, i]
                for i in range(d):
                    out[row, head, i] = total[i] / norm

    return attend  # type: ignore[no-any-return]


@_jit
def _gelu(x):  # type: ignore[no-untyped-def]
    """x [rows, d] = x / (1 + exp(-2 sqrt(2/pi) (x + .044715 x^3))) in place: tanh GELU (Hendrycks & Gimpel 2016)."""
    d = x.shape[1]
    y = np.empty(d, np.float32)
    bits = np.empty(d, np.int32)
    powers = bits.view(np.float32)
    outer = np.float32(-2 * np.sqrt(2 / np.pi)) * _LOG2E
    inner = np.float32(0.044715)
    for row in range(len(x)):
        for i in range(d):
            z = outer * x[row, i] * (_ONE + inner * x[row, i] * x[row, i])
            y[i] = -_SMALLEST if z > -_SMALLEST else z
        _exp2(y, bits, powers)
        for i in range(d):
            x[row, i] /= _ONE + y[i]


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _by_rows(kernel: Callable[[slice], None], rows: int) -> None:
    """Run a kernel on blocks of rows, one a thread of torch's."""
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        return kernel(slice(0, rows))
    edges = [rows * i // threads for i in range(threads + 1)]
    list(_pool(threads).map(lambda i: kernel(slice(edges[i], edges[i + 1])), range(threads)))
    return None


class Gelu(nn.Module):
    """The tanh GELU; while writing in float32 on a CPU by the kernel, 4 times as fast, in the memory of its input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
            return functional.gelu(x, approximate="tanh")
        flat = x.view(-1, x.shape[-1]).numpy()
        _by_rows(lambda rows: _gelu(flat[rows]), len(flat))
        return x


def _memory(n: int, like: Tensor) -> Tensor:
    """[n] of a tensor's kind; on the CPU in numpy's memory, which asks Linux for huge pages (a tenth of attention)."""
    if like.device.type != "cpu":
        return like.new_empty(n)
    return torch.from_numpy(np.empty(n * like.itemsize, np.uint8)).view(like.dtype)


class Buffer(DynamicLayer):
    """Keys and values of one block, in memory that a model keeps from one batch to the next.

    transformers' own dynamic cache copies everything at every token, which took 3/4 of the time of a generation. In
    bfloat16 on the CPU what is in use grows by GROWTH tokens at a time and is contiguous, because a product of bfloat16
    matrices first copies what is not: `attention` reads all of it, and hides what is not filled yet.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory: tuple[Tensor, Tensor] | None = None
        self._keys: Tensor
        self._values: Tensor

    def start(self, length: int) -> Buffer:
        """Forget what was read; up to `length` tokens will come."""
        self.length = -(-length // GROWTH) * GROWTH
        self.filled, self.room, self.is_initialized = 0, 0, False
        return self

    def _grow(self, keys: Tensor, values: Tensor, room: int) -> None:
        """Room for so many tokens, keeping what was read."""
        old = [t[:, :, : self.filled].clone() for t in (self._keys, self._values)] if self.filled else []
        sizes = [t.shape[0] * t.shape[1] * t.shape[3] for t in (keys, values)]
        needed = [size * self.length for size in sizes]
        if self._memory is None or any(m.numel() < n for m, n in zip(self._memory, needed, strict=True)):
            self._memory = _memory(needed[0], keys), _memory(needed[1], values)
        key_memory, value_memory = (m[: size * room] for m, size in zip(self._memory, sizes, strict=True))
        rows, heads = keys.shape[:2]
        self._keys = key_memory.view(rows, heads, room, keys.shape[3])
        self._values = value_memory.view(rows, heads, room, values.shape[3])
        if values.dtype != torch.float32:
            self._values[:, :, self.filled :] = 0  # hidden by a weight of 0, which leaves a nan a nan
        for now, before in zip((self._keys, self._values), old, strict=False):
            now[:, :, : self.filled] = before
        self.room, self.is_initialized = room, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.filled + key_states.shape[2]
        on_cpu = key_states.device.type == "cpu"
        if end > self.room:
            grows = on_cpu and key_states.dtype != torch.float32
            self._grow(key_states, value_states, -(-end // GROWTH) * GROWTH if grows else self.length)
        self._keys[:, :, self.filled : end] = key_states
        self._values[:, :, self.filled : end] = value_states
        self.filled = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        if on_cpu:  # a model that changes its keys after this loses the mark, and is served by the views
            self.keys.whole = self._keys, self._values  # type: ignore[attr-defined]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row indices[i] was; only rows that move are copied, so those that stay must not be
        wanted elsewhere before theirs is overwritten: a row that moves comes from one that is not moved onto."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for kept in (self._keys, self._values):
            kept[moved, :, : self.filled] = kept[indices[moved], :, : self.filled]
        self._keys, self._values = self._keys[: len(indices)], self._values[: len(indices)]

    def get_seq_length(self) -> int:
        return self.filled


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """One query token on the CPU: our own; else transformers'. query [rows, heads, T, d] -> [rows, T, heads, d]."""
    if query.shape[2] > 1 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    filled = key.shape[2]
    key, value = getattr(key, "whole", (key, value))
    if query.dtype == torch.float32:
        out = torch.empty(len(query), query.shape[1], query.shape[3])
        arrays = [t.numpy() for t in (query[:, :, 0], key, value, out)]
        kernel = _attend(query.shape[3])

        def block(rows: slice) -> None:
            q, k, v, o = (a[rows] for a in arrays)
            kernel(q, k, v, filled, np.float32(scale), o)

        _by_rows(block, len(query))
        return out[:, None], None
    if key.shape[1] != query.shape[1]:  # grouped-query attention
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = ((query * scale) @ key.transpose(-1, -2)).float()
    scores[..., filled:] = -torch.inf  # room for tokens to come
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
