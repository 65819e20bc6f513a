"""Fused CPU kernels of the prefix-weighted autoencoder: loss, exact gradients, update.

Shapes: B tokens, d = d_model, K latents, m active latents of a token (its code), in ascending order of index.
With v_t = z_t d_(i_t), r_t = v_1 + ... + v_t and T_t = P(l >= i_t), the survival function of the prefix law p,

    sum_l p(l) ||y - D Lambda_l z||^2 = ||y||^2 + sum_t T_t (||y - r_t||^2 - ||y - r_(t-1)||^2)
    d/dv_t = 2 (S_t - T_t (y - r_t)),   S_t = sum over s > t of T_s v_s

(the objective of arXiv:2512.02194, summed over every prefix; TopK is T = 1). A token's two walks over its code keep
the residual y - r_t and half the gradient S_t - T_t (y - r_t) in cache, so the cost is O(m d) a token whatever K is,
and no [B, K] reconstruction, no [B, m, d] tensor and no dense gradient of the encoder ever exists.

Losses and gradients are sums over the model's dimensions, so `walk` takes a band of WIDTH of them at a time: what it
reads and writes at random, a band of the decoder and of its gradient, lies closely packed (`pack`) and stays within the
cache and within reach of the processor's page tables. Whole rows of both do neither from 2,048 latents on.

Every kernel runs on one thread and releases the GIL; callers give each thread its own tokens (selection), bands (walk)
or latents (update), so the result depends on the number of threads only, never on timing. The kernels compile for
float32 (training) and float64 (the tests' reference).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

WIDTH = 128
"""Dimensions of a band: a compile-time constant, so that the loops over them are unrolled."""


class Rows(NamedTuple):
    """What belongs to each latent: the weights, or one of Adam's moments of them."""

    encoder: Any  # [K, d]
    bias: Any  # [K]
    decoder: Any  # [K, d]


class Entries(NamedTuple):
    """The active entries of B codes grouped by latent, see `by_latent`."""

    starts: Any
    """int64 [K + 1]: entries of latent i are at starts[i]:starts[i + 1]."""
    tokens: Any
    """int32 [>= B m], their rows in the codes."""
    slots: Any
    """int32 [>= B m], their columns in the codes."""


class Adam(NamedTuple):
    """One step of arXiv:1412.6980, algorithm 1."""

    unit: float  # what gradients are multiplied by first
    rate: float  # learning rate over 1 - beta1^step
    correction: float  # 1 - beta2^step
    beta1: float
    beta2: float
    epsilon: float


# Sums may be reordered (vectorised), but NaN and Inf keep their meaning. Compiled once, cached on disk.
_FASTMATH = {"contract", "reassoc", "nsz"}


def jit(function):
    return njit(function, nogil=True, cache=True, fastmath=_FASTMATH, error_model="numpy")


@jit
def pack(rows, bands):
    """Write rows [n, d] to bands [ceil(d / WIDTH), n, WIDTH], with zeros beyond d."""
    d = rows.shape[1]
    for band in range(bands.shape[0]):
        left = band * WIDTH
        width = min(WIDTH, d - left)
        for i in range(rows.shape[0]):
            bands[band, i, :width] = rows[i, left : left + width]
            bands[band, i, width:] = 0


@jit
def walk(y, decoder, survival, indices, values, start, stop, weight, d_values, d_decoder, d_target, residual):
    """One band's part of the prefix-weighted loss of the codes[:, start:stop] against y, and of its exact gradients.

    Parameters
    ----------
    y : [B, WIDTH]
        What to reconstruct.
    decoder : [K, WIDTH]
    survival : [K]
        T(i) = P(l >= i), the weight of all prefixes that hold latent i.
    indices, values : [B, m]
        A token's latents ascend; free places, which hold K, follow them.
    weight : float
        What the gradients are multiplied by.
    d_values : [B, m]
        Added to: gradient with respect to the values, those that are 0 too.
    d_decoder : [K, WIDTH]
        Added to.
    d_target : [WIDTH]
        Added to: gradient with respect to a bias added to every prefix' reconstruction.
    residual : [B, WIDTH]
        Written: y minus the full reconstruction.

    Returns
    -------
    (float, float)
        Sums over the tokens, without `weight`: the prefix-weighted squared error and that of the full code.

    Notes
    -----
    Backwards, g_t = S_t - T_t (y - r_t) is not summed anew: g_(t-1) = g_t - (T_(t-1) - T_t) (y - r_(t-1)).
    """
    number = y.dtype.type
    n_latents = decoder.shape[0]
    error = np.empty(WIDTH, y.dtype)
    g = np.empty(WIDTH, y.dtype)
    twice = number(2 * weight)
    loss, full = 0.0, 0.0
    for b in range(y.shape[0]):
        target, left = y[b], residual[b]
        norm = number(0)
        for c in range(WIDTH):
            error[c] = target[c]
            norm += error[c] * error[c]
        token_loss = norm
        last = stop
        for t in range(start, stop):
            i = indices[b, t]
            if i == n_latents:
                last = t
                break
            z, row = values[b, t], decoder[i]
            after = number(0)
            for c in range(WIDTH):
                error[c] -= z * row[c]
                after += error[c] * error[c]
            token_loss += survival[i] * (after - norm)
            norm = after
        loss += token_loss
        full += norm
        for c in range(WIDTH):
            left[c] = error[c]
            g[c] = 0
        share = number(0)
        for t in range(last - 1, start - 1, -1):
            i, z = indices[b, t], values[b, t]
            row, gradient = decoder[i], d_decoder[i]
            change = survival[i] - share
            share = survival[i]
            scaled = twice * z
            dot = number(0)
            for c in range(WIDTH):
                now = g[c] - change * error[c]
                g[c] = now
                dot += now * row[c]
                gradient[c] += scaled * now
                error[c] += z * row[c]
            d_values[b, t] += twice * dot
        # the prefixes before a token's first latent are empty, their error is the target itself
        empty = number(1) - share
        for c in range(WIDTH):
            d_target[c] += twice * (g[c] - empty * target[c])
    return loss, full


@jit
def by_latent(indices, values, k, entries, silence, energy):
    """Group the active entries of the codes [B, m] by latent (a counting sort, tokens ascending in each group).

    Those are the ones that are not 0. Written: entries (Entries). silence [K] is set to 0 for the latents that are
    active in the first k columns, and their squared values are added to energy float64 [K].
    """
    starts = entries.starts
    n_latents = starts.shape[0] - 1
    for i in range(n_latents + 1):
        starts[i] = 0
    n, m = indices.shape
    for b in range(n):
        for t in range(m):
            if values[b, t] != 0:
                starts[indices[b, t] + 1] += 1
                if t < k:
                    silence[indices[b, t]] = 0
                    energy[indices[b, t]] += np.float64(values[b, t]) ** 2
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    for b in range(n):
        for t in range(m):
            if values[b, t] != 0:
                i = indices[b, t]
                entries.tokens[place[i]] = b
                entries.slots[place[i]] = t
                place[i] += 1


@jit
def threshold_gradient(indices, values, d_values, stop, threshold, bandwidth, d_loss, d_number):
    """How the loss, and the number of active latents, change with the logarithms of JumpReLU's thresholds [K].

    Added to d_loss [K] and d_number [K], by codes[:, :stop].

    The codes hold every latent whose pre-activation h exceeds threshold - bandwidth / 2, with value 0 up to the
    threshold. Straight through a rectangle (arXiv:2407.14435, equations 11 and 12), with w = 1 where |h - threshold| <
    bandwidth / 2 and else 0: d value / d threshold = -w threshold / bandwidth, d active / d threshold = -w / bandwidth.
    """
    n_latents = threshold.shape[0]
    for b in range(indices.shape[0]):
        for t in range(stop):
            i = indices[b, t]
            if i == n_latents:
                break
            theta = threshold[i]
            if values[b, t] < theta + bandwidth / 2:
                d_number[i] -= theta / bandwidth
                d_loss[i] -= theta * theta * d_values[b, t] / bandwidth


@jit
def _encoder_gradient(y, d_values, entries, i, gradient):
    """gradient [d] = sum over latent i's entries of their d_value times their token; returns the bias' gradient."""
    d = y.shape[1]
    tokens, slots = entries.tokens, entries.slots
    total = y.dtype.type(0)
    for c in range(d):
        gradient[c] = 0
    e, stop = entries.starts[i], entries.starts[i + 1]
    while e + 4 <= stop:  # four tokens a pass: the sum is loaded and stored once for the four
        g0, g1 = d_values[tokens[e], slots[e]], d_values[tokens[e + 1], slots[e + 1]]
        g2, g3 = d_values[tokens[e + 2], slots[e + 2]], d_values[tokens[e + 3], slots[e + 3]]
        y0, y1, y2, y3 = y[tokens[e]], y[tokens[e + 1]], y[tokens[e + 2]], y[tokens[e + 3]]
        for c in range(d):
            gradient[c] += g0 * y0[c] + g1 * y1[c] + g2 * y2[c] + g3 * y3[c]
        total += g0 + g1 + g2 + g3
        e += 4
    while e < stop:
        g, row = d_values[tokens[e], slots[e]], y[tokens[e]]
        for c in range(d):
            gradient[c] += g * row[c]
        total += g
        e += 1
    return total


@jit
def gradients(y, d_values, entries, d_decoder, encoder, found, d_input):
    """The dense gradients, for tests and diagnosis; `update` computes the same and never stores them.

    Written: found (Rows) and d_input [d] (through the encoder's input). d_decoder [bands, K, WIDTH]: from `walk`.
    """
    d_input[:] = 0
    for i in range(encoder.shape[0]):
        found.bias[i] = _encoder_gradient(y, d_values, entries, i, found.encoder[i])
        found.decoder[i] = d_decoder[:, i].copy().reshape(-1)[: y.shape[1]]
        d_input += found.bias[i] * encoder[i]


@jit
def adam(parameter, gradient, first, second, step):
    """One step of Adam in place; step: Adam."""
    number = parameter.dtype.type
    keep1, keep2 = number(step.beta1), number(step.beta2)
    new1, new2 = number(1 - step.beta1), number(1 - step.beta2)
    scale = number(1 / np.sqrt(step.correction))
    rate, epsilon, unit = number(step.rate), number(step.epsilon), number(step.unit)
    for c in range(parameter.shape[0]):
        g = unit * gradient[c]
        m = keep1 * first[c] + new1 * g
        v = keep2 * second[c] + new2 * g * g
        first[c] = m
        second[c] = v
        parameter[c] -= rate * m / (np.sqrt(v) * scale + epsilon)


@jit
def update(part, parts, frozen, y, d_values, entries, d_decoder, weights, first, second, step, d_input, bands, half):
    """Gradients and Adam step of latents part, part + parts, ...: a row's gradient lives in the cache only.

    A decoder row loses the gradient's part along itself, and is scaled back to unit norm after the step (as in
    arXiv:2406.04093). Latents below `frozen` keep their weights.

    Parameters
    ----------
    y, d_values, entries : [B, d], [B, m], Entries
    d_decoder : [bands, K, WIDTH]
        From `walk`; set to zero.
    weights, first, second : Rows
        Changed in place: the parameters and Adam's moments.
    step : Adam
    d_input : [d]
        Added to: gradient through the encoder's input.
    bands : [bands, K, WIDTH]
        Written: the decoder, packed.
    half : uint16 [K, d] or [0, 0]
        Written: the encoder in bfloat16, rounded to nearest even.
    """
    n_latents, d = weights.encoder.shape
    number = weights.encoder.dtype.type
    gradient = np.empty(d, weights.encoder.dtype)
    scalar = np.empty(1, weights.encoder.dtype)
    for i in range(part, n_latents, parts):
        one = slice(i, i + 1)
        scalar[0] = _encoder_gradient(y, d_values, entries, i, gradient)
        row = weights.encoder[i]
        through = scalar[0]
        for c in range(d):
            d_input[c] += through * row[c]
        if i >= frozen:
            adam(row, gradient, first.encoder[i], second.encoder[i], step)
            adam(weights.bias[one], scalar, first.bias[one], second.bias[one], step)
        row = weights.decoder[i]
        for band in range(bands.shape[0]):
            left = band * WIDTH
            width = min(WIDTH, d - left)
            gradient[left : left + width] = d_decoder[band, i, :width]
            d_decoder[band, i] = 0
        if i >= frozen:
            along = number(0)
            for c in range(d):
                along += gradient[c] * row[c]
            for c in range(d):
                gradient[c] -= along * row[c]
            adam(row, gradient, first.decoder[i], second.decoder[i], step)
            norm = number(0)
            for c in range(d):
                norm += row[c] * row[c]
            inverse = number(1) / np.sqrt(norm)
            for c in range(d):
                row[c] *= inverse
            for band in range(bands.shape[0]):
                left = band * WIDTH
                width = min(WIDTH, d - left)
                bands[band, i, :width] = row[left : left + width]
    if half.shape[0]:
        bits = weights.encoder.view(np.uint32)
        for i in range(part, n_latents, parts):
            for c in range(d):
                u = bits[i, c]
                half[i, c] = np.uint16((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@jit
def prefix_errors(y, decoder, indices, values, errors, cosine_target, cosines):
    """Squared error of every prefix at once: errors [K + 1] += the change that each active latent makes.

    errors[0] += ||y||^2 and errors[i + 1] += ||y - r_t||^2 - ||y - r_(t-1)||^2 for latent i, so its running sum at
    l is the error of the prefix of l latents. cosines [B]: written, the cosine of y + cosine_target and its
    reconstruction.
    """
    d = decoder.shape[1]
    error = np.empty(d, y.dtype)
    for b in range(y.shape[0]):
        norm = 0.0
        for c in range(d):
            error[c] = y[b, c]
            norm += error[c] * error[c]
        errors[0] += norm
        for t in range(indices.shape[1]):
            z = values[b, t]
            if z > 0:
                i = indices[b, t]
                row = decoder[i]
                after = 0.0
                for c in range(d):
                    error[c] -= z * row[c]
                    after += error[c] * error[c]
                errors[i + 1] += after - norm
                norm = after
        dot, ours, theirs = 0.0, 0.0, 0.0
        for c in range(d):
            target = y[b, c] + cosine_target[c]
            guess = target - error[c]
            dot += target * guess
            ours += guess * guess
            theirs += target * target
        cosines[b] = dot / np.sqrt(max(ours * theirs, 1e-30))
