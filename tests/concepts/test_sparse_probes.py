"""k-sparse probes are logistic regressions on the latents that go with a concept, judged on rows they never saw."""

from __future__ import annotations

import numpy as np
import pytest
from antibody_sae.concepts import sparse_probes
from antibody_sae.concepts.sparse_probes import KS, SplitRows
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

LATENTS, CLUSTER = 30, 5
CONCEPTS = ("one", "three", "noisy", "null", "not asked")


def make(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes [n, LATENTS], labels [n, concepts]): latent 0 is `one`; latents 1, 2, 3 split `three` between them;
    4 and 5 lean towards `noisy`."""
    rng = np.random.default_rng(seed)
    x = (rng.random((n, LATENTS)) < 0.1) * rng.uniform(0.5, 2, (n, LATENTS))
    y = np.zeros((n, len(CONCEPTS)), bool)
    y[:, 0] = rng.random(n) < 0.1
    x[:, 0] = y[:, 0] * rng.uniform(1, 2, n)
    y[:, 1] = rng.random(n) < 0.3
    x[:, 1:4] = 0
    x[np.arange(n), 1 + rng.integers(0, 3, n)] = y[:, 1] * rng.uniform(1, 2, n)
    y[:, 2] = rng.random(n) < 1 / (1 + np.exp(2 - 2 * x[:, 4] - x[:, 5]))
    y[:, 3:] = rng.random((n, 2)) < 0.2
    return x.astype(np.float32), y


def rows(x: np.ndarray, y: np.ndarray) -> SplitRows:
    return SplitRows(sparse.csc_array(x), sparse.csc_array(y.astype(np.float32)), np.arange(len(x)) // CLUSTER)


WORLD = [make(n, seed) for n, seed in ((3000, 1), (1500, 2), (1500, 3))]
ASKED = np.array([True, True, True, True, False])


@pytest.fixture(scope="module")
def probed():
    return sparse_probes.probe([rows(*split) for split in WORLD], ASKED, seed=0)


def test_a_probe_is_the_regression_that_another_library_fits(probed):
    (x, y), validation, test = WORLD
    for c, i in ((1, 1), (2, 1), (2, 3)):
        chosen = probed.latents[c, : KS[i]]
        spread = x.std(0)[chosen]
        model = LogisticRegression(C=1 / sparse_probes.PENALTY, tol=1e-8, max_iter=1000)
        model.fit(x[:, chosen] / spread, y[:, c])
        scores = [model.decision_function(split[0][:, chosen] / spread) for split in (validation, test)]
        assert probed.auroc[c, i] == pytest.approx(roc_auc_score(test[1][:, c], scores[1]), abs=2e-3)
        cuts = np.unique(scores[0])
        best = max(cuts, key=lambda cut: f1_score(validation[1][:, c], scores[0] >= cut))
        assert probed.f1_validation[c, i] == pytest.approx(f1_score(validation[1][:, c], scores[0] >= best), abs=5e-3)
        assert probed.f1[c, i] == pytest.approx(f1_score(test[1][:, c], scores[1] >= best), abs=0.01)


def test_latents_go_by_their_correlation(probed):
    x, y = WORLD[0]
    r = [np.corrcoef(x[:, j], y[:, 2])[0, 1] for j in range(LATENTS)]
    assert probed.latents[2, : KS[-1]].tolist() == np.argsort(r)[::-1][: KS[-1]].tolist()


def test_a_concept_takes_as_many_latents_as_it_was_split_into(probed):
    assert probed.takes[:2].tolist() == [1, 3]
    assert set(probed.latents[1, :3]) == {1, 2, 3}
    assert probed.f1[0, 0] == 1
    assert probed.f1[1, 0] < 0.6 < probed.f1[1, 1] < 0.9
    assert probed.f1[1, 2] > 0.99, "four latents hold all three"


def test_a_concept_without_latents_is_at_chance(probed):
    assert probed.auroc[3] == pytest.approx(0.5, abs=0.06)
    spread = np.sqrt((probed.influence[3] ** 2).sum(-1))
    assert (np.abs(probed.auroc[3] - 0.5) < 3 * spread).all()
    assert np.isnan(probed.auroc[4]).all(), "what is not asked has no figures"


def test_the_influence_of_clusters_is_that_of_leaving_them_out(probed):
    x, y = WORLD[2]
    chosen = probed.latents[2, :1]
    scores = x[:, chosen[0]]
    for cluster in (0, 7):
        kept = np.arange(len(x)) // CLUSTER != cluster
        without = roc_auc_score(y[kept, 2], scores[kept])
        moved = roc_auc_score(y[:, 2], scores) - without
        assert probed.influence[2, 0, cluster] == pytest.approx(moved, abs=1e-4)
    assert probed.influence[2, 0].sum() == pytest.approx(0, abs=1e-5)


def test_test_rows_choose_nothing(probed):
    other = sparse_probes.probe([rows(*split) for split in (*WORLD[:2], make(1500, 9))], ASKED, seed=0)
    for name in ("latents", "takes", "f1_validation"):
        np.testing.assert_array_equal(getattr(other, name), getattr(probed, name))
    assert (other.f1[2] != probed.f1[2]).all()


def test_counts_are_those_of_the_figures(probed):
    hits, predicted, positives = probed.counts[2, 2].sum(-1)
    assert probed.f1[2, 2] == pytest.approx(2 * hits / (predicted + positives))
    assert positives == WORLD[2][1][:, 2].sum()


def test_many_rows_are_thinned_without_bias(probed, monkeypatch):
    monkeypatch.setattr(sparse_probes, "MOST", 400)
    thin = sparse_probes.probe([rows(*split) for split in WORLD], ASKED, seed=0)
    np.testing.assert_allclose(thin.auroc[:3], probed.auroc[:3], atol=0.02)
    np.testing.assert_allclose(thin.f1[:3], probed.f1[:3], atol=0.05)


def test_dead_latents_and_few_latents_are_no_error():
    nothing = [rows(np.zeros((40, 3), np.float32), np.arange(40)[:, None] % 2 == 0) for _ in range(3)]
    found = sparse_probes.probe(nothing, np.array([True]), seed=0)
    assert found.auroc[0].tolist() == [0.5] * len(KS)
    assert (found.latents == -1).all()
    assert found.takes.tolist() == [1]
