"""Feature absorption: another latent speaks for a concept where the concept's own latents are silent.

After Chanin et al., arXiv:2409.14507, with residues for tokens. On a test residue that has the concept, and of which
the linear probe on the raw activations says so, the concept is *missed* where none of its own latents is active (those
that its k-sparse probe takes), and *absorbed* where, besides, one other latent speaks for it: its direction has a
cosine of at least COSINE with the probe's, and what it adds to the probe's score is at least SHARE of all that speaks
for the concept (of the whole evidence in the activation, and of what all active latents add). The published measure
ablates latents by the gradient of a logit; the projection on the probe needs no logit, and is what SAEBench takes for
it, with these constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import sparse

from antibody_sae.concepts.rows import Floats, Ints

COSINE = 0.025
SHARE = 0.4
CALLED = 0.6
"""F1 of the probe on the raw activations below which it says too little of a concept to judge by."""


@dataclass(frozen=True)
class Absorbed:
    """Counts on test residues; arrays by concept."""

    called: Ints
    """[concepts, clusters] residues that have the concept, and of which the probe says so."""
    missed: Ints
    """[concepts, clusters] of these, those on which none of the concept's own latents is active."""
    absorbed: Ints
    """[concepts, clusters] of these, those on which another latent speaks for the concept."""
    by: list[dict[int, int]]
    """By concept: absorbing latents and how many residues each absorbs, most first."""


@njit(cache=True, nogil=True)
def _judge(ptr, idx, val, label_ptr, label_idx, evidence, own, adds, cosine, out):  # type: ignore[no-untyped-def]
    """out [entries]: -1 not called, -2 not missed, -3 missed, else the absorbing latent."""
    for i in range(len(ptr) - 1):
        for e in range(label_ptr[i], label_ptr[i + 1]):
            c = label_idx[e]
            if np.isnan(evidence[e]):
                continue
            silent, best, most, speaking = True, -1, 0.0, 0.0
            for t in range(ptr[i], ptr[i + 1]):
                j = idx[t]
                if own[c, j]:
                    silent = False
                    break
                added = val[t] * adds[j, c]
                if added > 0:
                    speaking += added
                if added > most and cosine[j, c] >= COSINE:
                    best, most = j, added
            if not silent:
                out[e] = -2
            elif best >= 0 and most >= SHARE * max(speaking, evidence[e]):
                out[e] = best
            else:
                out[e] = -3


def absorbed(
    features: sparse.csr_array, labels: sparse.csr_array, evidence: Floats, cluster: Ints, clusters: int,
    own: np.ndarray, directions: Floats, probe: Floats, scale: float,
) -> Absorbed:  # fmt: skip
    """Count the test residues on which concepts are missed and absorbed.

    features [n, latents], labels [n, concepts] with an entry where a residue has a concept, evidence [entries]: what
    the activation adds to the probe's score there (nan where the probe does not call it); cluster [n]; own [concepts,
    latents] bool; directions [latents, d_model], unit rows; probe [d_model, concepts]; scale: of one unit of a code.
    """
    weight = directions @ probe  # [latents, concepts]: a unit of the latent adds `scale` times this
    cosine = weight / np.maximum(np.linalg.norm(probe, axis=0), 1e-12)
    verdict = np.full(labels.nnz, -1, np.int64)
    _judge(
        features.indptr, features.indices, features.data, labels.indptr, labels.indices,
        evidence.astype(np.float64), own, scale * weight, cosine, verdict,
    )  # fmt: skip
    row = np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr))
    key = labels.indices.astype(np.int64) * clusters + cluster[row]
    shape = labels.shape[1], clusters
    called, missed, taken = (
        np.bincount(key[hit], minlength=shape[0] * clusters).reshape(shape)
        for hit in (verdict != -1, (verdict == -3) | (verdict >= 0), verdict >= 0)
    )
    by: list[dict[int, int]] = []
    for c in range(shape[0]):
        latents, times = np.unique(verdict[(labels.indices == c) & (verdict >= 0)], return_counts=True)
        order = np.argsort(-times, kind="stable")
        by.append({int(latents[i]): int(times[i]) for i in order})
    return Absorbed(called, missed, taken, by)
