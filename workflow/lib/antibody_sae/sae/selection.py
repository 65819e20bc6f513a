"""CPU kernels that choose the active latents of a token and compute their values.

Shapes: B tokens, d = d_model, K latents, m columns of the codes. Every kernel runs on one thread and releases the GIL.
"""

from __future__ import annotations

import numpy as np

from antibody_sae.sae.kernels import jit


@jit
def _threshold(values, n, k, high, slack):
    """A number that k to k + slack of values[:n] reach, by bisection on the value from 1 to high.

    Where ties leave no such number, it is the k-th largest; 1 where fewer than k are positive. Bisection is a few
    vectorised counting passes (eight int32 lanes at a time); a quickselect mispredicts half of its branches.
    """
    low, high = np.int64(1), np.int64(high)
    while low < high:
        middle = low + (high - low + 1) // 2
        bound = values.dtype.type(middle)
        count = np.int32(0)
        for i in range(n):
            count = np.int32(count + np.int32(values[i] >= bound))
        if count >= k:
            low = middle
            if count <= k + slack:
                break
        else:
            high = middle - 1
    return low


@jit
def _groups(k, width):
    """Interleaved groups of a row, a power of two: so many that few hold two of the k largest entries."""
    groups = 64
    while groups < 16 * k:
        groups *= 2
    return width if 2 * groups > width else groups


@jit
def _maxima(row, maxima):
    """The largest entry of each of the G interleaved groups g, g + G, g + 2 G, ... of a row, in one vectorised pass."""
    groups = maxima.shape[0]
    for g in range(groups):
        maxima[g] = row[g]
    for start in range(groups, row.shape[0], groups):
        piece = row[start : start + groups]  # a slice of its own, so that the loop is vectorised
        for g in range(piece.shape[0]):
            one, other = maxima[g], piece[g]
            maxima[g] = one if one > other else other


@jit
def _reaching(row, maxima, bound, groups, indices, keys):
    """Entries of a row that reach `bound`, ascending by index; only groups that hold one are looked at. Returns their
    number. groups [> G], indices and keys [> that number]: scratch, and written."""
    n_groups = 0
    for g in range(maxima.shape[0]):  # branch-free: a mispredicted branch costs more than the store
        groups[n_groups] = g
        n_groups += maxima[g] >= bound
    n = 0
    for start in range(0, row.shape[0], maxima.shape[0]):
        for c in range(n_groups):
            j = start + groups[c]
            if j >= row.shape[0]:
                break
            indices[n] = j
            keys[n] = row[j]
            n += row[j] >= bound
    return n


@jit
def select_topk(keys, k, allowed, indices):
    """Indices of the k largest positive entries of each row, ascending; free places hold K (no latent).

    Parameters
    ----------
    keys : int16 or int32 [B, K]
        Bit patterns of bfloat16 or float32 numbers: for positive numbers the order of the patterns is the order
        of the numbers, and every negative number has a negative pattern.
    k : int
    allowed : int64 [K] or [0]
        The latents to choose from, ascending; empty for all.
    indices : int32 [B, >= k]
        Written in its first k columns.

    Notes
    -----
    The maxima of G interleaved groups bound the k-th largest entry from below: k groups hold an entry at least as
    large as the k-th largest maximum. So one vectorised pass finds a bound that only slightly more than k entries
    pass, and only the groups that hold them are looked at again. Ties go to the lowest index.
    """
    n_rows, n_latents = keys.shape
    subset = allowed.shape[0] > 0
    width = allowed.shape[0] if subset else n_latents
    row = np.empty(width, keys.dtype)
    maxima = np.empty(_groups(k, width), keys.dtype)
    groups = np.empty(maxima.shape[0] + 1, np.int32)
    candidates = np.empty(width + 1, np.int32)
    candidate_keys = np.empty(width + 1, keys.dtype)
    for b in range(n_rows):
        if subset:
            for j in range(width):
                row[j] = keys[b, allowed[j]]
        else:
            row = keys[b]
        _maxima(row, maxima)
        ceiling = keys.dtype.type(1)
        for g in range(maxima.shape[0]):
            ceiling = max(ceiling, maxima[g])
        bound = keys.dtype.type(_threshold(maxima, maxima.shape[0], k, ceiling, k // 8))
        n_candidates = _reaching(row, maxima, bound, groups, candidates, candidate_keys)
        exact = keys.dtype.type(_threshold(candidate_keys, n_candidates, k, ceiling, 0))
        above = 0
        for c in range(n_candidates):
            above += candidate_keys[c] > exact
        ties = k - above
        n = 0
        for c in range(n_candidates):
            take = candidate_keys[c] > exact
            if candidate_keys[c] == exact and ties > 0:
                ties -= 1
                take = True
            if take:
                j = candidates[c]
                indices[b, n] = allowed[j] if subset else j
                n += 1
        for t in range(n, k):
            indices[b, t] = n_latents


@jit
def reaching(keys, bound, k, counts, indices, found):
    """All entries that reach `bound`, one row after another, ascending in each.

    keys int16 or int32 [B, K], bound >= 1, k: about how many a row has. Written: counts int [B], how many each row has;
    indices int32 [> sum] and found [> sum], their columns and keys. Returns the sum.
    """
    maxima = np.empty(_groups(k, keys.shape[1]), keys.dtype)
    groups = np.empty(maxima.shape[0] + 1, np.int32)
    n = 0
    for b in range(keys.shape[0]):
        _maxima(keys[b], maxima)
        counts[b] = _reaching(keys[b], maxima, bound, groups, indices[n:], found[n:])
        n += counts[b]
    return n


@jit
def cut(counts, indices, keys, least, ties):
    """Keep the entries above `least`, and the first `ties` of those equal to it, of what `reaching` found, in place.

    Returns how many are left.
    """
    n, e = 0, 0
    for b in range(counts.shape[0]):
        first, stop = n, e + counts[b]
        while e < stop:
            equal = keys[e] == least
            if keys[e] > least or (equal and ties > 0):
                ties -= equal
                indices[n], keys[n] = indices[e], keys[e]
                n += 1
            e += 1
        counts[b] = n - first
    return n


@jit
def spread(counts, indices, values, n_latents, code, code_values):
    """Entries one row after another as rows of a rectangle [B, m], filled up with K (no latent) and 0."""
    e = 0
    for b in range(counts.shape[0]):
        for t in range(counts[b]):
            code[b, t], code_values[b, t] = indices[e], values[e]
            e += 1
        for t in range(counts[b], code.shape[1]):
            code[b, t], code_values[b, t] = n_latents, 0


@jit
def take(preactivation, indices, lowest, values):
    """values = the pre-activations at the codes' indices, or `lowest` (0: ReLU) if larger; 0 in free places.

    preactivation [B, K], indices int32 [B, m], values [B, m].
    """
    n_latents = preactivation.shape[1]
    least = values.dtype.type(lowest)
    for b in range(indices.shape[0]):
        for t in range(indices.shape[1]):
            i = indices[b, t]
            values[b, t] = max(preactivation[b, i], least) if i < n_latents else 0


@jit
def activations(y, encoder, bias, indices, lowest, values):
    """values = <encoder[i], y> + bias[i] for the codes' indices i, or `lowest` (0: ReLU) if larger; 0 in free places.

    For codes that a bfloat16 product selected: the values that enter the reconstruction never come from one.
    y [B, d], encoder [K, d], bias [K], indices int32 [B, m], values [B, m].
    """
    n_latents, d = encoder.shape
    least = values.dtype.type(lowest)
    for b in range(y.shape[0]):
        target = y[b]
        for t in range(indices.shape[1]):
            i = indices[b, t]
            values[b, t] = 0
            if i < n_latents:
                row = encoder[i]
                dot = y.dtype.type(0)
                for c in range(d):
                    dot += row[c] * target[c]
                values[b, t] = max(dot + bias[i], least)


@jit
def above(preactivation, slack, y, encoder, bias, threshold, counts, indices, values):
    """Codes of the latents whose pre-activation <encoder[i], y> + bias[i] exceeds their threshold, one after another.

    `preactivation` is a matrix product, whose last bits depend on the number of its rows. So it only says which latents
    come into question, and the dot product of one token and one latent, which does not, decides.

    Parameters
    ----------
    preactivation : [B, K]
    slack : [K]
        How far a product may lie off, for a token of norm 1.
    y, encoder, bias, threshold : [B, d], [K, d], [K], [K]
    counts : int [B]
        Written: active latents of each token.
    indices, values : int32 [>= B K], [>= B K]
        Written: the first token's latents and values, then the second's, ...

    Returns
    -------
    int
        How many there are in all.
    """
    n_latents, d = encoder.shape
    candidates = np.empty(n_latents + 1, np.int32)
    n = 0
    for b in range(y.shape[0]):
        target, row = y[b], preactivation[b]
        norm = y.dtype.type(0)
        for c in range(d):
            norm += target[c] * target[c]
        norm = np.sqrt(norm)
        n_candidates = 0
        for i in range(n_latents):
            candidates[n_candidates] = i
            n_candidates += row[i] + norm * slack[i] > threshold[i]
        first = n
        for e in range(n_candidates):
            i = candidates[e]
            weights = encoder[i]
            dot = y.dtype.type(0)
            for c in range(d):
                dot += weights[c] * target[c]
            dot += bias[i]
            if dot > threshold[i]:
                indices[n], values[n] = i, dot
                n += 1
        counts[b] = n - first
    return n
