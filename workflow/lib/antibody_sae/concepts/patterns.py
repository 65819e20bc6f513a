"""How a latent is active: where along the chain, on which residues, how widely, and on which antibodies most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from antibody_sae.antibody import RESIDUES, SIDED_REGIONS
from antibody_sae.concepts.codes import CodeBlock, CodeFile
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Csr, Floats, Ints, codes_csr

TOP = 10
"""Top-activating antibodies of a latent, from validation and test, one a cluster."""


@njit(cache=True, nogil=True)
def _profile(ptr, idx, val, place, region, letter, by_place, by_region, by_letter):  # type: ignore[no-untyped-def]
    for i in range(len(ptr) - 1):
        for e in range(ptr[i], ptr[i + 1]):
            v, j = val[e], idx[e]
            if v > 0:
                by_place[j, place[i]] += v
                by_region[j, region[i]] += v
                by_letter[j, letter[i]] += v


@njit(cache=True, nogil=True)
def _span(ptr, idx, val, offsets, antibodies, active, extent):  # type: ignore[no-untyped-def]
    latents = len(antibodies)
    stamp, first, last = np.full(latents, -1, np.int64), np.zeros(latents, np.int64), np.zeros(latents, np.int64)
    for a in range(len(offsets) - 1):
        for i in range(offsets[a], offsets[a + 1]):
            for e in range(ptr[i], ptr[i + 1]):
                j = idx[e]
                if val[e] > 0:
                    active[j] += 1
                    if stamp[j] != a:
                        stamp[j], first[j] = a, i
                        antibodies[j] += 1
                        extent[j] += 1
                        last[j] = i
                    else:
                        extent[j] += i - last[j]
                        last[j] = i


@njit(cache=True, nogil=True)
def _top(ptr, idx, val, antibodies, clusters, top_value, top_antibody):  # type: ignore[no-untyped-def]
    latents, depth = top_value.shape
    stamp, best, who = np.full(latents, -1, np.int64), np.zeros(latents, np.float32), np.zeros(latents, np.int64)
    seen = np.empty(latents, np.int64)
    for g in range(len(clusters) - 1):
        n = 0
        for a in range(clusters[g], clusters[g + 1]):
            for e in range(ptr[a], ptr[a + 1]):
                j = idx[e]
                if stamp[j] != g:
                    stamp[j], best[j] = g, np.float32(0)
                    seen[n] = j
                    n += 1
                if val[e] > best[j]:
                    best[j], who[j] = val[e], antibodies[a]
        for s in range(n):
            j = seen[s]
            place = depth
            while place > 0 and best[j] > top_value[j, place - 1]:
                place -= 1
            if place < depth:
                for t in range(depth - 1, place, -1):
                    top_value[j, t], top_antibody[j, t] = top_value[j, t - 1], top_antibody[j, t - 1]
                top_value[j, place], top_antibody[j, place] = best[j], who[j]


class Patterns:
    """Running description of all latents."""

    def __init__(self, latents: int, labels: Labels):
        self.labels = labels
        sizes = len(labels.positions) + 1, len(SIDED_REGIONS) + 1, len(RESIDUES) + 1  # the last: none
        self.mass = tuple(np.zeros((latents, size)) for size in sizes)
        """Sums of activations [latents, n] by IMGT position, region and residue."""
        self.residues = tuple(np.zeros(size) for size in sizes)
        self.antibodies, self.active, self.extent = (np.zeros(latents, np.int64) for _ in range(3))
        """[latents]: antibodies where it is active, its active residues, residues from its first to its last one."""
        self.total = np.zeros(2, np.int64)
        """Residues and antibodies seen."""
        self.top_value, self.top_antibody = np.zeros((latents, TOP), np.float32), np.full((latents, TOP), -1, np.int64)

    def add_residues(self, ids: Ints, indices: Ints, values: Floats) -> None:
        """Add codes [n, k] of residues in any order."""
        of_residue = self.labels.position, self.labels.region, self.labels.letter
        at = [np.asarray(a[ids], np.int64) % len(n) for a, n in zip(of_residue, self.residues, strict=True)]
        _profile(*codes_csr(indices, values), *at, *self.mass)
        for total, place in zip(self.residues, at, strict=True):
            total += np.bincount(place, minlength=len(total))

    def add_antibodies(self, block: CodeBlock) -> None:
        """Add whole antibodies."""
        _span(*block.codes, block.offsets, self.antibodies, self.active, self.extent)
        self.total += len(block.ids), len(block.antibodies)

    def add_examples(self, block: CodeBlock, largest: Csr) -> None:
        """Add whole clusters to the search for top-activating antibodies; `largest` [antibodies] is their max-pool."""
        _top(*largest, block.antibodies, block.clusters, self.top_value, self.top_antibody)

    def measures(self, j: int) -> dict[str, float]:
        """Complexity of latent j's pattern."""
        antibodies = int(self.antibodies[j])
        return {
            "density": float(self.active[j] / max(self.total[0], 1)),
            "antibodies": float(antibodies / max(self.total[1], 1)),
            "span": float(self.active[j] / antibodies) if antibodies else float("nan"),
            "extent": float(self.extent[j] / antibodies) if antibodies else float("nan"),
            "entropy_region": entropy(self.mass[1][j]),
            "entropy_residue": entropy(self.mass[2][j]),
        }

    def examples(self, codes: CodeFile) -> list[dict[str, Any]]:
        """Per latent its top-activating antibodies with the residues (0-based, heavy then light) and values."""
        columns = "top_antibodies", "top_values", "top_residues", "top_activations"
        out: list[dict[str, Any]] = [{column: [] for column in columns} for _ in range(len(self.top_value))]
        found: dict[tuple[int, int], tuple[Ints, Floats]] = {}
        wanted: dict[int, list[int]] = {}
        for j, t in zip(*np.nonzero(self.top_antibody >= 0), strict=True):
            wanted.setdefault(int(self.top_antibody[j, t]), []).append(int(j))
        for a, latents in wanted.items():
            ptr, latent, value = codes.read(a)
            place = np.repeat((codes.residues(a) - self.labels.first[a]).astype(np.int16), np.diff(ptr))
            order = np.argsort(latent, kind="stable")
            left, right = (np.searchsorted(latent[order], latents, side=s) for s in ("left", "right"))
            for j, i0, i1 in zip(latents, left, right, strict=True):
                pick = order[i0:i1]
                found[j, a] = place[pick], value[pick]
        for j in range(len(self.top_value)):
            for t in range(TOP):
                a = int(self.top_antibody[j, t])
                if a >= 0:
                    residues, values = found[j, a]
                    out[j]["top_antibodies"].append(str(self.labels.ids[a]))
                    out[j]["top_values"].append(float(self.top_value[j, t]))
                    out[j]["top_residues"].append(residues.tolist())
                    out[j]["top_activations"].append([round(float(v), 4) for v in values])
        return out

    def profiles(self, j: int) -> dict[str, Any]:
        """Mean activation by IMGT position (where not 0), by region and by residue."""
        place, region, letter = (
            m[j][:-1] / np.maximum(n[:-1], 1) for m, n in zip(self.mass, self.residues, strict=True)
        )
        at = np.flatnonzero(place)
        return {
            "profile_positions": [self.labels.positions[p] for p in at],
            "profile_values": place[at].astype(np.float32),
            "profile_regions": region.astype(np.float32),
            "profile_residues": letter.astype(np.float32),
        }


def entropy(mass: Floats) -> float:
    """Shannon entropy in bits of non-negative masses; NaN if all are 0."""
    total = mass.sum()
    share = mass[mass > 0] / total if total > 0 else np.empty(0)
    return float(-(share * np.log2(share)).sum() + 0.0) if len(share) else float("nan")
