"""Counting how sparse features and boolean labels meet: the arithmetic under every figure of the concepts stage.

Everything here works on sparse rows (see rows.py). The cost is (active features) x (labels) per row; nothing of size
rows x features or rows x labels is ever built, and memory does not grow with the number of rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.special import stdtr

from antibody_sae.concepts.rows import Csr, Floats, Ints

OCTAVES_BELOW, OCTAVES_ABOVE, MANTISSA = 18, 2, 128
RANK_BINS = (OCTAVES_BELOW + OCTAVES_ABOVE) * MANTISSA
"""AUROC orders activations at bfloat16 resolution, 2^-18 to 2^2 of the feature's scale: one bin a distinct value."""
_LOWEST = (127 - OCTAVES_BELOW) * MANTISSA


@njit(cache=True, nogil=True)
def pool(ptr, idx, val, offsets, columns):  # type: ignore[no-untyped-def]
    """Max- and mean-pool rows offsets[a]:offsets[a + 1]: (ptr, idx, max, mean); the mean counts inactive rows as 0."""
    count = 0
    stamp = np.full(columns, -1, np.int64)
    for a in range(len(offsets) - 1):
        for e in range(ptr[offsets[a]], ptr[offsets[a + 1]]):
            if val[e] > 0 and stamp[idx[e]] != a:
                stamp[idx[e]] = a
                count += 1
    out_ptr = np.zeros(len(offsets), np.int64)
    out_idx, out_max, total = np.empty(count, np.int32), np.empty(count, np.float32), np.empty(count, np.float64)
    stamp[:] = -1
    slot = np.zeros(columns, np.int64)
    n = 0
    for a in range(len(offsets) - 1):
        for e in range(ptr[offsets[a]], ptr[offsets[a + 1]]):
            v, j = val[e], idx[e]
            if v > 0:
                if stamp[j] != a:
                    stamp[j], slot[j] = a, n
                    out_idx[n], out_max[n], total[n] = j, v, 0.0
                    n += 1
                s = slot[j]
                total[s] += v
                if v > out_max[s]:
                    out_max[s] = v
        rows = offsets[a + 1] - offsets[a]
        for s in range(out_ptr[a], n):
            total[s] /= rows
        out_ptr[a + 1] = n
    return out_ptr, out_idx, out_max, total.astype(np.float32)


@njit(cache=True, nogil=True)
def raise_maximum(idx, val, best):  # type: ignore[no-untyped-def]
    """best[j] = max(best[j], every val of column j)."""
    for e in range(len(idx)):
        if val[e] > best[idx[e]]:
            best[idx[e]] = val[e]


def rank_bins(matrix: Csr, scale: Floats) -> Ints:
    """The rank bin [entries] of each value: the upper half of a float32's bits orders positive floats."""
    ratio = matrix.val / np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)[matrix.idx]
    bins: Ints = np.clip((ratio.view(np.int32) >> 16) - _LOWEST, 0, RANK_BINS - 1).astype(np.int16)
    return bins


@njit(cache=True, nogil=True)
def _histogram(idx, val, bins, counts):  # type: ignore[no-untyped-def]
    for e in range(len(idx)):
        if val[e] > 0:
            counts[idx[e], bins[e]] += 1


@njit(cache=True, nogil=True)
def _tally(ptr, idx, val, bins, scale, thresholds, label_ptr, label_idx, hits, active, sums, sum_y, ranks, rank_y):  # type: ignore[no-untyped-def]
    ranked, summed = len(ranks) > 0, len(sum_y) > 0
    for i in range(len(ptr) - 1):
        first, last = label_ptr[i], label_ptr[i + 1]
        for e in range(ptr[i], ptr[i + 1]):
            v, j = val[e], idx[e]
            if not (v > 0 and scale[j] > 0):
                continue
            if summed:
                sums[0, j] += v
                sums[1, j] += np.float64(v) * v
                for q in range(first, last):
                    sum_y[j, label_idx[q]] += v
            if ranked:
                rank = ranks[j, bins[e]]
                for q in range(first, last):
                    rank_y[j, label_idx[q]] += rank
            b, ratio = -1, v / scale[j]
            while b + 1 < len(thresholds) and ratio > thresholds[b + 1]:
                b += 1
            if b >= 0:
                active[j, b] += 1
                for q in range(first, last):
                    hits[j, b, label_idx[q]] += 1


@njit(cache=True, nogil=True)
def _elements(  # type: ignore[no-untyped-def]
    ptr, idx, val, scale, thresholds, label_ptr, label_idx, chain, number, last, last_chain, stamp, peak, found
):
    """A label's run over adjacent rows of a chain is an element; found[j, b, c] counts those that peak in bin b."""
    for i in range(len(ptr) - 1):
        for q in range(label_ptr[i], label_ptr[i + 1]):
            c = label_idx[q]
            if last[c] != i - 1 or last_chain[c] != chain[i]:
                number[c] += 1
            last[c], last_chain[c] = i, chain[i]
        for e in range(ptr[i], ptr[i + 1]):
            v, j = val[e], idx[e]
            if not (v > 0 and scale[j] > 0):
                continue
            b, ratio = -1, v / scale[j]
            while b + 1 < len(thresholds) and ratio > thresholds[b + 1]:
                b += 1
            if b < 0:
                continue
            for q in range(label_ptr[i], label_ptr[i + 1]):
                c = label_idx[q]
                if stamp[j, c] != number[c]:
                    stamp[j, c], peak[j, c] = number[c], b
                    found[j, b, c] += 1
                elif b > peak[j, c]:
                    found[j, peak[j, c], c] -= 1
                    found[j, b, c] += 1
                    peak[j, c] = b


class Tally:
    """Counts and sums of one set of rows: everything that F1, recall, r and AUROC are made of."""

    def __init__(self, features: int, labels: int, thresholds: Floats, moments: bool = True, elements: bool = False):
        self.thresholds = np.asarray(thresholds, np.float32)
        """Increasing; a feature is positive where value / scale > threshold."""
        t = len(self.thresholds)
        self.rows = 0
        self.positives = np.zeros(labels, np.int64)
        self.hits = np.zeros((features, t, labels), np.int32)
        """Positive rows by the highest threshold passed (cumulated by `true_positives`)."""
        self.active = np.zeros((features, t), np.int64)
        self.sums = np.zeros((2, features))
        """Sum of the values and of their squares."""
        self.sum_y = np.zeros((features, labels) if moments else (0, 0))
        self.ranks = np.zeros((0, 0))
        self.zero_rank = np.zeros(features)
        self.rank_y = np.zeros((0, 0))
        shape = (features, labels) if elements else (0, 0)
        self.found = np.zeros((features, t, labels) if elements else (0, 0, 0), np.int32)
        self.number = np.zeros(labels, np.int64)
        """Elements seen of each label."""
        self._stamp, self._peak = np.full(shape, -1, np.int64), np.zeros(shape, np.int8)

    def rank_by(self, histogram: Ints, rows: int) -> None:
        """Prepare AUROC from the histogram [features, RANK_BINS] of the same rows' values (`add_histogram`)."""
        counts = histogram.astype(np.float64)
        zeros = rows - counts.sum(1)
        self.zero_rank = (zeros + 1) / 2
        below = np.cumsum(counts, 1) - counts
        self.ranks = zeros[:, None] + below + (counts + 1) / 2 - self.zero_rank[:, None]
        self.rank_y = np.zeros((len(self.hits), self.hits.shape[2]))

    def add(self, matrix: Csr, labels: Csr, scale: Floats, chain: Ints | None = None) -> None:
        """Count a block of rows; `chain` [rows] says which rows belong to one chain (needed for elements)."""
        if matrix.rows != labels.rows:
            raise ValueError(f"{matrix.rows} rows of features, {labels.rows} of labels")
        self.rows += matrix.rows
        self.positives += np.bincount(labels.idx, minlength=len(self.positives))
        bins = rank_bins(matrix, scale) if len(self.ranks) else np.empty(0, np.int16)
        scale = scale.astype(np.float32)
        _tally(*matrix, bins, scale, self.thresholds, labels.ptr, labels.idx, self.hits, self.active, self.sums,
               self.sum_y, self.ranks, self.rank_y)  # fmt: skip
        if len(self.found) and chain is not None:
            last, where = np.full(len(self.number), -2, np.int64), np.full(len(self.number), -1, np.int64)
            _elements(*matrix, scale, self.thresholds, labels.ptr, labels.idx, chain, self.number, last, where,
                      self._stamp, self._peak, self.found)  # fmt: skip

    def true_positives(self) -> Ints:
        """[features, thresholds, labels]: positive rows that pass each threshold."""
        return np.cumsum(self.hits[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]

    def predicted(self) -> Ints:
        """[features, thresholds]: rows that pass each threshold."""
        return np.cumsum(self.active[:, ::-1], axis=1)[:, ::-1]

    def f1(self, complement: bool = False) -> Floats:
        """[features, thresholds, labels] 2 TP / (predicted + positives); of the negated features where `complement`."""
        tp, predicted = self.true_positives(), self.predicted()
        if complement:
            tp, predicted = self.positives - tp, self.rows - predicted
        f1: Floats = 2.0 * tp / np.maximum(predicted[:, :, None] + self.positives, 1)
        return f1

    def r(self) -> Floats:
        """[features, labels] point-biserial correlation (Pearson's with a 0/1 label); NaN where one is constant."""
        n, y = self.rows, self.positives.astype(np.float64)
        cov = self.sum_y - np.outer(self.sums[0], y) / n
        sxx, syy = self.spread()
        scale = np.sqrt(np.outer(sxx, syy))
        return np.divide(cov, scale, out=np.full_like(cov, np.nan), where=scale > 0)

    def spread(self) -> tuple[Floats, Floats]:
        """Centred sums of squares of the features [features] and of the labels [labels]."""
        y = self.positives.astype(np.float64)
        sxx = self.sums[1] - self.sums[0] ** 2 / max(self.rows, 1)
        sxx[sxx <= 1e-9 * self.sums[1]] = 0.0
        return sxx, y - y**2 / max(self.rows, 1)

    def auroc(self) -> Floats:
        """[features, labels] P(positive's value > negative's) + P(equal) / 2, by midranks; NaN without both classes."""
        y = self.positives.astype(np.float64)
        pairs = y * (self.rows - y)
        rank_sum = self.rank_y + np.outer(self.zero_rank, y)
        return np.divide(rank_sum - y * (y + 1) / 2, pairs, out=np.full_like(rank_sum, np.nan), where=pairs > 0)

    def element_recall(self) -> Floats:
        """[features, thresholds, labels] share of a label's elements in which the feature passes the threshold."""
        found = np.cumsum(self.found[:, ::-1], axis=1)[:, ::-1]
        share: Floats = np.divide(found, self.number, out=np.full(found.shape, np.nan), where=self.number > 0)
        return share


def add_histogram(matrix: Csr, scale: Floats, counts: Ints) -> None:
    """Add the values' rank bins to counts [features, RANK_BINS]."""
    _histogram(matrix.idx, matrix.val, rank_bins(matrix, scale), counts)


@njit(cache=True, nogil=True)
def _covariances(ptr, idx, val, label_ptr, label_idx, offsets, clusters, sums, fired):  # type: ignore[no-untyped-def]
    features, labels = sums.shape[:2]
    here = np.zeros((features, labels, 2))  # U and the standard deviation of the cluster at hand
    x1, x2, y1 = np.zeros(features), np.zeros(features), np.zeros(labels)
    in_cluster_x, in_cluster_y = np.zeros(features, np.bool_), np.zeros(labels, np.bool_)
    seen_x, seen_y = np.empty(features, np.int64), np.empty(labels, np.int64)
    here_x, here_y, sd_y = np.empty(features, np.int64), np.empty(labels, np.int64), np.empty(labels)
    for g in range(len(clusters) - 1):
        n_seen_x = n_seen_y = 0
        weight = 1.0 / (clusters[g + 1] - clusters[g])
        for a in range(clusters[g], clusters[g + 1]):
            first, last = offsets[a], offsets[a + 1]
            n = last - first
            if n < 2:
                continue
            nx = ny = 0
            for i in range(first, last):
                for q in range(label_ptr[i], label_ptr[i + 1]):
                    c = label_idx[q]
                    if y1[c] == 0:
                        here_y[ny] = c
                        ny += 1
                    y1[c] += 1
                for e in range(ptr[i], ptr[i + 1]):
                    v, j = np.float64(val[e]), idx[e]
                    if v > 0:
                        if x1[j] == 0:
                            here_x[nx] = j
                            nx += 1
                        x1[j] += v
                        x2[j] += v * v
                        for q in range(label_ptr[i], label_ptr[i + 1]):
                            here[j, label_idx[q], 0] += weight * v
            for t in range(ny):
                c = here_y[t]
                sd_y[t] = weight * np.sqrt(max(y1[c] - y1[c] * y1[c] / n, 0.0) / (n - 1))
                if not in_cluster_y[c]:
                    in_cluster_y[c] = True
                    seen_y[n_seen_y] = c
                    n_seen_y += 1
            for s in range(nx):
                j = here_x[s]
                if not in_cluster_x[j]:
                    in_cluster_x[j] = True
                    seen_x[n_seen_x] = j
                    n_seen_x += 1
                sd_x, mean = np.sqrt(max(x2[j] - x1[j] * x1[j] / n, 0.0)), weight * x1[j] / n
                for t in range(ny):
                    c = here_y[t]
                    here[j, c, 0] -= mean * y1[c]
                    here[j, c, 1] += sd_x * sd_y[t]
                x1[j] = 0
                x2[j] = 0
            for t in range(ny):
                y1[here_y[t]] = 0
        for s in range(n_seen_x):
            j = seen_x[s]
            in_cluster_x[j] = False
            fired[j] += 1
            for t in range(n_seen_y):
                c = seen_y[t]
                u, sd = here[j, c, 0], here[j, c, 1]
                sums[j, c, 0] += u
                sums[j, c, 1] += u * u
                sums[j, c, 2] += sd * sd
                here[j, c, 0] = here[j, c, 1] = 0
        for t in range(n_seen_y):
            in_cluster_y[seen_y[t]] = False


class ClusterTest:
    """One-sided test that a feature and a label go together, in which each cluster has one vote.

    Neighbouring residues, and antibodies of one clone, are not independent, so a test that counts residues finds
    everything. Clusters are independent. For each let U_g be its mean association:
    - residue labels: the sum over an antibody's residues of (x - mean x)(y - mean y), with that antibody's own means
      (does the feature sit on the label rather than elsewhere in the same antibody?), averaged over the cluster;
    - antibody labels: (X_g - mean X)(Y_g - mean Y) of the clusters' mean values.
    The statistic is sum U_g / sqrt(V). V is the larger of two estimates of its variance: the robust one, sum U_g^2
    (Liang & Zeger, Biometrika 73:13, 1986, with one score a cluster), which holds for any dependence within a cluster
    but can be far too small by luck when few clusters matter or nearly all residues have the label; and the variance
    under random permutation of the labels (of residues within the antibody, Qx Qy / (n - 1) with Q the centred sums
    of squares, its root averaged over a cluster as if its antibodies were copies; of clusters, Sxx Syy / (G - 1)).
    It is referred to Student's t with (clusters in which the feature fires) - 1 degrees of freedom. One-sided: the
    question is what a latent stands for, not what it avoids.
    """

    def __init__(self, features: int, labels: int):
        self._sums = np.zeros((features, labels, 3))  # side by side: one cache line a pair
        self.total, self.square, self.model = (self._sums[:, :, i] for i in range(3))
        """[features, labels] sum of U_g, of U_g^2, and the permutation variance."""
        self.fired = np.zeros(features, np.int64)
        """Clusters in which the feature is active."""
        self._spread_x, self._spread_y, self._clusters = np.zeros(features), np.zeros(labels), 0

    def add_residues(self, matrix: Csr, labels: Csr, offsets: Ints, clusters: Ints) -> None:
        """Add whole clusters: antibody a is rows offsets[a]:offsets[a + 1], clusters of antibodies likewise."""
        _covariances(*matrix, labels.ptr, labels.idx, offsets, clusters, self._sums, self.fired)

    def add_clusters(self, x: Floats, y: Floats, mean_x: Floats, mean_y: Floats) -> None:
        """Antibody labels: add clusters' means x [clusters, features] and y [clusters, labels], with the means of both
        over all clusters of the split."""
        self.fired += (x > 0).sum(0)
        x, y = x - mean_x, y - mean_y
        self.total += x.T @ y
        self.square += (x**2).T @ (y**2)
        self._spread_x += (x**2).sum(0)
        self._spread_y += (y**2).sum(0)
        self._clusters += len(x)
        self.model[:] = np.outer(self._spread_x, self._spread_y) / max(self._clusters - 1, 1)

    def p_values(self) -> Floats:
        """[features, labels]; NaN with nothing to test: a feature firing in fewer than two clusters, or a constant."""
        variance = np.maximum(self.square, self.model)
        tested = (self.model > 1e-12) & (self.fired >= 2)[:, None]
        z = np.divide(self.total, np.sqrt(variance), out=np.zeros_like(self.total), where=tested)
        p = stdtr(np.maximum(self.fired - 1, 1)[:, None], -z)
        return np.where(tested, p, np.nan)


def cluster_means(matrix: Csr, clusters: Ints, columns: int) -> Floats:
    """[clusters, columns] mean of the rows clusters[g]:clusters[g + 1]."""
    sums = np.add.reduceat(densify(matrix, columns), clusters[:-1].astype(np.int64), axis=0)
    return sums / np.diff(clusters)[:, None]


def densify(matrix: Csr, columns: int) -> Floats:
    """A dense float64 [rows, columns] copy of a block small enough for it (labels become 0/1)."""
    out = np.zeros((matrix.rows, columns))
    rows = np.repeat(np.arange(matrix.rows), np.diff(matrix.ptr))
    out[rows, matrix.idx] = matrix.val if len(matrix.val) else 1.0
    return out


@njit(cache=True, nogil=True)
def _pair_counts(ptr, idx, val, label_ptr, label_idx, group, first, label, cut, counts):  # type: ignore[no-untyped-def]
    stamp = np.full(counts.shape[2], -1, np.int64)
    for i in range(len(ptr) - 1):
        for q in range(label_ptr[i], label_ptr[i + 1]):
            stamp[label_idx[q]] = i
        for e in range(ptr[i], ptr[i + 1]):
            j = idx[e]
            for p in range(first[j], first[j + 1]):
                if val[e] > cut[p]:
                    counts[group[i], 1, p] += 1
                    if stamp[label[p]] == i:
                        counts[group[i], 0, p] += 1


def copies(cluster_ids: Ints, replicates: int, seed: int) -> Floats:
    """[clusters, replicates] how often each cluster is drawn in each replicate, from a generator seeded by the cluster
    itself: the same for every SAE, and whatever the order."""
    draws = [np.random.default_rng((seed, int(c))).poisson(1.0, replicates) for c in cluster_ids]
    return np.array(draws, np.float64).reshape(len(cluster_ids), replicates)


class Bootstrap:
    """Percentile intervals of F1 for chosen (feature, label, threshold) pairs, resampling clusters.

    Each cluster gets Poisson(1) copies in each of the replicates (the online form of the multinomial bootstrap: Hanley
    & MacGibbon 2006), drawn from a generator seeded by the cluster itself: the same clusters are drawn for every pair,
    level and SAE, whatever the order of the blocks, and memory is replicates x pairs.
    """

    def __init__(self, features: Ints, labels: Ints, cuts: Floats, n_features: int, replicates: int, seed: int):
        self.order = np.argsort(features, kind="stable")
        self.first = np.searchsorted(features[self.order], np.arange(n_features + 1))
        self.labels = labels[self.order].astype(np.int64)
        self.cuts = cuts[self.order].astype(np.float32)
        """Absolute: threshold x scale."""
        self.seed, self.replicates, self.clusters = seed, replicates, 0
        self.sums = np.zeros((replicates, 3, len(features)))

    def add(self, matrix: Csr, labels: Csr, group: Ints, cluster_ids: Ints, n_labels: int) -> None:
        """Add whole clusters: row i belongs to cluster_ids[group[i]]."""
        pairs, g = len(self.labels), len(cluster_ids)
        counts = np.zeros((g, 2, max(pairs, n_labels)))
        _pair_counts(*matrix, labels.ptr, labels.idx, group, self.first, self.labels, self.cuts, counts)
        positives = np.zeros((g, n_labels))
        np.add.at(positives, (np.repeat(group, np.diff(labels.ptr)), labels.idx), 1)
        table = np.concatenate([counts[:, :, :pairs], positives[:, None, self.labels]], axis=1)
        draws = copies(cluster_ids, self.replicates, self.seed)
        self.sums += np.einsum("gb,gxp->bxp", draws, table, optimize=True)
        self.clusters += g

    def interval(self, coverage: float = 0.95) -> tuple[Floats, Floats]:
        """(low, high) [pairs] in the order given; NaN with fewer than two clusters."""
        tp, predicted, positives = self.sums[:, 0], self.sums[:, 1], self.sums[:, 2]
        tails = [(1 - coverage) / 2, (1 + coverage) / 2]
        low_high = np.quantile(2 * tp / np.maximum(predicted + positives, 1), tails, axis=0)
        out = np.full((2, len(self.labels)), np.nan)
        if self.clusters >= 2:
            out[:, self.order] = low_high
        return out[0], out[1]
