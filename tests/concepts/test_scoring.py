"""The arithmetic against other libraries and against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae import significance
from antibody_sae.concepts import rows as sparse_rows
from antibody_sae.concepts import scoring, selection
from antibody_sae.concepts.rows import Csr
from concept_world import csr
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score


@pytest.fixture(scope="module")
def random_rows():
    """(values [n, 9] with ties and an inactive column, labels [n, 6] with one that is empty, chain of each row)."""
    rng = np.random.default_rng(1)
    n = 3000
    x = (rng.random((n, 9)) < 0.3) * np.round(rng.gamma(1.0, 1.0, (n, 9)), 1)
    x = x.astype(np.float32)
    x[:, 8] = 0
    y = rng.random((n, 6)) < [0.5, 0.1, 0.02, 0.3, 0.9, 0.0]
    y[:, 3] |= x[:, 0] > 1
    y[:, 2] = np.repeat(rng.random(n // 5) < 0.1, 5)
    return x, y, np.arange(n) // 100


def tally_of(x, y, chain, thresholds=(0, 0.15, 0.5, 0.6, 0.8), pieces=3):
    scale = x.max(0)
    histogram = np.zeros((x.shape[1], scoring.RANK_BINS), np.int32)
    scoring.add_histogram(csr(x), scale, histogram)
    tally = scoring.Tally(x.shape[1], y.shape[1], np.array(thresholds), elements=True)
    tally.rank_by(histogram, len(x))
    for rows in np.split(np.arange(len(x)), pieces):
        tally.add(csr(x[rows]), csr(y[rows]), scale, chain[rows])
    return tally, scale


def test_figures_agree_with_scikit_learn(random_rows):
    x, y, chain = random_rows
    tally, scale = tally_of(x, y, chain)
    f1, r, auroc = tally.f1(), tally.r(), tally.auroc()
    choice = selection.choose_thresholds(tally)
    figures = selection.at_choice(tally, choice)
    for j in range(8):
        for c in range(5):
            for t, threshold in enumerate(tally.thresholds):
                assert f1[j, t, c] == pytest.approx(f1_score(y[:, c], x[:, j] / scale[j] > threshold, zero_division=0))
            positive = x[:, j] / scale[j] > tally.thresholds[choice.threshold[j, c]]
            assert figures["precision"][j, c] == pytest.approx(precision_score(y[:, c], positive))
            assert figures["recall"][j, c] == pytest.approx(recall_score(y[:, c], positive))
            assert figures["f1"][j, c] == pytest.approx(f1[j, :, c].max())
            assert auroc[j, c] == pytest.approx(roc_auc_score(y[:, c], x[:, j]), abs=1e-3)
            assert r[j, c] == pytest.approx(np.corrcoef(x[:, j], y[:, c])[0, 1], abs=1e-9)
    assert np.isnan(auroc[:, 5]).all()
    assert np.isnan(r[:, 5]).all()
    assert np.isnan(r[8]).all()
    np.testing.assert_allclose(auroc[8, :5], 0.5)


def test_auroc_is_exact_at_the_resolution_it_states(random_rows):
    _, y, chain = random_rows
    x = (random_rows[0] > 0) * torch.rand(3000, 9).bfloat16().float().numpy()
    x[:, :] /= 1  # bfloat16 values, scale 1
    x[0] = 1
    tally, _ = tally_of(x, y, chain)
    for j in range(8):
        assert tally.auroc()[j, 1] == pytest.approx(roc_auc_score(y[:, 1], x[:, j]), abs=1e-12)


def test_element_recall_counts_runs_within_a_chain(random_rows):
    x, y, chain = random_rows
    tally, scale = tally_of(x, y, chain)
    got = tally.element_recall()
    for c in (2, 3, 4):
        runs, previous = [], None
        for i in np.flatnonzero(y[:, c]):
            if previous is None or previous[-1] != i - 1 or chain[i] != chain[i - 1] or i % 1000 == 0:
                runs.append([])
            runs[-1].append(i)
            previous = runs[-1]
        assert any(len(run) > 1 for run in runs)
        for t, threshold in enumerate(tally.thresholds):
            for j in (0, 3):
                hit = [(x[run, j] / scale[j] > threshold).any() for run in runs]
                assert got[j, t, c] == pytest.approx(np.mean(hit))


def test_pooling_is_the_maximum_and_the_mean():
    x = np.array([[1, 0, 2], [3, 0, 0], [0, 0, 5], [0, 0, 0]], np.float32)
    ptr, idx, top, mean = scoring.pool(*csr(x), np.array([0, 2, 3, 4]), 3)
    assert ptr.tolist() == [0, 2, 3, 3]
    assert idx.tolist() == [0, 2, 2]
    assert top.tolist() == [3, 2, 5]
    assert mean.tolist() == [2, 1, 5]


def test_signed_features_keep_both_directions():
    dense = scoring.densify(sparse_rows.signed_csr(np.array([[1.0, -2.0], [0.5, 3.0]])), 4)
    assert dense.tolist() == [[1, 0, 0, 2], [0.5, 0, 3, 0]]


def clones(rng, clusters=60, size=8, length=20, latents=40, labels=15, planted=0):
    """Families of near-identical antibodies: (values, residue labels, offsets, clusters, antibody labels)."""
    rate = rng.choice([0.01, 0.1, 0.4], latents)
    shape = clusters, 1, length, latents
    x = np.repeat((rng.random(shape) < rate) * rng.gamma(1, 1, shape), size, 1)
    share = rng.choice([0.02, 0.2, 0.6, 0.95], labels)
    y = np.repeat(rng.random((clusters, 1, length, labels)) < share, size, 1)
    z = np.repeat(rng.random((clusters, 1, labels)) < share, size, 1)
    x[..., :planted] = np.where(y[..., :planted], 1.0, 0.0) * (rng.random(x[..., :planted].shape) < 0.7)
    n = clusters * size
    offsets, bounds = np.arange(n + 1) * length, np.arange(clusters + 1) * size
    return (x.reshape(-1, latents).astype(np.float32), y.reshape(-1, labels), offsets, bounds, z.reshape(n, labels))


def test_chance_among_clones_is_not_discovered():
    """Nothing is true, residues come in families of 8 clones: hardly a run may discover anything. A test that takes
    residues for independent finds crowds in the same data, so this is not empty."""
    rng = np.random.default_rng(0)
    runs, naive, small = [], 0, []
    for _ in range(20):
        x, y, offsets, clusters, z = clones(rng)
        test = scoring.ClusterTest(x.shape[1], y.shape[1])
        test.add_residues(csr(x), csr(y), offsets, clusters)
        p = test.p_values()
        small.append(np.nanmean(p < 0.01))
        ptr, idx, top, _ = scoring.pool(*csr(x), offsets, x.shape[1])
        pooled = Csr(ptr, idx, top)
        means = [scoring.cluster_means(m, clusters, n) for m, n in ((pooled, x.shape[1]), (csr(z), z.shape[1]))]
        antibodies = scoring.ClusterTest(x.shape[1], z.shape[1])
        antibodies.add_clusters(*means, *(m.mean(0) for m in means))
        q = significance.q_values(np.concatenate([p.ravel(), antibodies.p_values().ravel()]))
        runs.append((q < 0.05).any())
        residues = scoring.Tally(x.shape[1], y.shape[1], np.zeros(1))
        residues.add(csr(x), csr(y), np.ones(x.shape[1]))
        r = np.nan_to_num(residues.r())
        naive += (significance.q_values(norm.sf(r * np.sqrt(len(x)))) < 0.05).sum()
    assert np.mean(runs) <= 0.1
    assert np.mean(small) <= 0.015
    assert naive > 500


def test_shuffled_labels_keep_the_promise_beside_true_ones():
    """Six true pairs among 600: most are found, and false ones are at most their promised share of the discoveries."""
    rng = np.random.default_rng(1)
    false, power = [], []
    for _ in range(10):
        x, y, offsets, clusters, _ = clones(rng, planted=6)
        test = scoring.ClusterTest(x.shape[1], y.shape[1])
        test.add_residues(csr(x), csr(y), offsets, clusters)
        found = significance.q_values(test.p_values()) < 0.05
        truth = np.eye(x.shape[1], y.shape[1], dtype=bool)
        truth[6:] = False
        power.append(found[truth].mean())
        false.append((found & ~truth).sum() / max(found.sum(), 1))
    assert np.mean(power) > 0.8
    assert np.mean(false) <= 0.05


def test_cluster_test_equals_its_definition():
    rng = np.random.default_rng(4)
    x, y, offsets, clusters, z = clones(rng, clusters=12, size=3)
    x *= rng.random(x.shape) < 0.9
    test = scoring.ClusterTest(x.shape[1], y.shape[1])
    half = 6  # in two blocks
    cut = offsets[clusters[half]]
    test.add_residues(csr(x[:cut]), csr(y[:cut]), offsets[: clusters[half] + 1], clusters[: half + 1])
    test.add_residues(csr(x[cut:]), csr(y[cut:]), offsets[clusters[half] :] - cut, clusters[half:] - clusters[half])
    a, b = (v.reshape(36, 20, -1).astype(float) for v in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    u = np.einsum("rij,rik->rjk", a, b).reshape(12, 3, a.shape[2], b.shape[2]).mean(1)
    sd = np.sqrt(np.einsum("rj,rk->rjk", (a**2).sum(1), (b**2).sum(1)) / 19)
    sd = sd.reshape(12, 3, *u.shape[1:]).mean(1)
    np.testing.assert_allclose(test.total, u.sum(0), atol=1e-6)
    np.testing.assert_allclose(test.square, (u**2).sum(0), atol=1e-6)
    np.testing.assert_allclose(test.model, (sd**2).sum(0), atol=1e-6)
    assert (test.fired == (x.reshape(12, 60, -1) > 0).any(1).sum(0)).all()
    n, p = 12, test.p_values()
    s, variance = u.sum(0)[0, 0], max((u**2).sum(0)[0, 0], (sd**2).sum(0)[0, 0])
    assert p[0, 0] == pytest.approx(student.sf(s / np.sqrt(variance), test.fired[0] - 1))
    x, z = x.astype(float).reshape(12, 60, -1).mean(1), z.reshape(12, 3, -1).mean(1)
    antibodies = scoring.ClusterTest(x.shape[1], z.shape[1])
    for rows in (slice(5), slice(5, n)):
        antibodies.add_clusters(x[rows], z[rows], x.mean(0), z.mean(0))
    u = (x - x.mean(0))[:, :, None] * (z - z.mean(0))[:, None]
    np.testing.assert_allclose(antibodies.square, (u**2).sum(0), atol=1e-9)
    np.testing.assert_allclose(antibodies.model, np.outer(x.var(0, ddof=1), z.var(0) * n), atol=1e-9)


def test_bootstrap_agrees_with_resampling_clusters():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(80), 10)
    y = np.repeat(rng.random(80) < 0.3, 10) & (rng.random(800) < 0.8)
    x = (y ^ (rng.random(800) < 0.15)).astype(np.float32)[:, None]
    ids = np.arange(80) * 17
    boot = scoring.Bootstrap(np.array([0]), np.array([0]), np.array([0.5]), 1, 2000, seed=0)
    for part in np.split(np.arange(80), [30, 31]):
        rows = np.isin(groups, part)
        boot.add(csr(x[rows]), csr(y[rows, None]), groups[rows] - part[0], ids[part], 1)
    low, high = boot.interval()
    draws = []
    for _ in range(2000):
        pick = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 80, 80)])
        draws.append(2 * (y[pick] & (x[pick, 0] > 0.5)).sum() / (y[pick].sum() + (x[pick, 0] > 0.5).sum()))
    np.testing.assert_allclose([low[0], high[0]], np.quantile(draws, [0.025, 0.975]), atol=0.03)
    assert low[0] < f1_score(y, x[:, 0] > 0.5) < high[0]


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(60):
        family = np.repeat(rng.random(60) < 0.5, 10)  # a whole cluster is right or wrong
        y = np.ones(600, bool)
        boot = scoring.Bootstrap(np.array([0]), np.array([0]), np.array([0.5]), 1, 300, seed=0)
        x = csr(family.astype(np.float32)[:, None])
        boot.add(x, csr(y[:, None]), np.repeat(np.arange(60), 10), np.arange(60), 1)
        low, high = boot.interval()
        hits += low[0] <= 2 * 0.5 / 1.5 <= high[0]
    assert hits >= 52  # 57 expected of 60
