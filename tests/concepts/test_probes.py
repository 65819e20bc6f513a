"""Linear probes are least squares."""

from __future__ import annotations

import numpy as np
import pytest
from antibody_sae.concepts import probes
from concept_world import csr
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score


def test_ridge_probe_is_least_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)) * [1, 2, 3, 4, 5, 6] + 3
    y = rng.random((400, 2)) < 0.3
    moments = probes.Moments(6, 2)
    for part in np.split(np.arange(400), 4):
        moments.add(x[part], csr(y[part]))
    weight, intercept = moments.ridge(0.1)
    model = Ridge(alpha=0.1 * 400).fit((x - x.mean(0)) / x.std(0), y.astype(float))
    np.testing.assert_allclose(x @ weight + intercept, model.predict((x - x.mean(0)) / x.std(0)), atol=1e-8)
    dense = probes.Moments(6, 2)
    positive = np.maximum(x, 0).astype(np.float32)
    dense.add(positive.astype(float), csr(y))
    thin = probes.Moments(6, 2)
    thin.add_sparse(csr(positive), csr(y))
    np.testing.assert_allclose(thin.ridge(0.1)[0], dense.ridge(0.1)[0], rtol=1e-5)
    scores = probes.sparse_scores(*csr(positive), weight.astype(np.float32), intercept.astype(np.float32))
    np.testing.assert_allclose(scores, positive @ weight + intercept, rtol=1e-4, atol=1e-5)


def test_probes_read_what_is_linear(found):
    rows = found.best.set_index("concept")
    assert rows.loc["motif=planted", "f1_probe_raw"] > 0.99
    assert rows.loc["motif=planted", "f1_probe_codes"] > 0.99
    assert rows.loc["motif=rare", "f1_probe_raw"] < 0.2
    assert 0.3 < rows.loc["motif=planted", "f1_neuron"] < 1  # no neuron is a latent here
    assert rows.loc["motif=planted", "f1_shuffled"] < 0.6


def test_the_auroc_of_a_probe_is_that_of_its_test_scores():
    rng = np.random.default_rng(1)
    y = rng.random((500, 2)) < [0.3, 0.02]
    values = (0.2 * y + rng.normal(0.3, 0.15, y.shape)).astype(np.float32)
    scores = probes.Scores(2)
    scores.add(False, rng.random((100, 2)), csr(rng.random((100, 2)) < 0.5))
    for part in np.split(np.arange(500), 5):
        scores.add(True, values[part], csr(y[part]))
    rows = scores.rows("probe_raw", "residue", "none", ["a=b", "c=d"], "least squares")
    assert rows["auroc"].tolist() == pytest.approx([roc_auc_score(y[:, c], values[:, c]) for c in range(2)], abs=2e-3)
