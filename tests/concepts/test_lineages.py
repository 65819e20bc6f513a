"""Labels of a few lineages: a planted signal beats the germline, one that only follows it does not."""

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.concepts import germline, lineages
from antibody_sae.concepts.labels import Labels
from antibody_sae.concepts.rows import Csr
from antibody_sae.report.tabs import concepts as tab
from antibody_sae.sae.model import SAE
from concept_world import NONE, MemoryStore, csr

LINEAGES, MEMBERS, LENGTH, K = 36, 6, 10, 24
THRESHOLDS = [0, 0.5]
NAMES = [*(f"v-gene=IGHV{i}" for i in range(6)), "j-gene=IGHJ4", "target=spike", "target=other"]


def world(seed, planted, genes=(2,)):
    """(SAE, store, labels, metadata) of 216 binders: latent g fires in antibodies of V gene g, as latents do, latent 9
    in those of `genes`, latent 10 in some lineages whatever their genes, the others at random. Binders of spike are
    those of latent 10 where `planted`, else those of `genes`, with one lineage in ten mislabelled."""
    rng = np.random.default_rng(seed)
    gene = rng.permutation(np.repeat(np.arange(6), LINEAGES // 6))
    hidden = rng.random(LINEAGES) < 0.4
    follows = np.isin(gene, genes)
    spike = hidden if planted else follows ^ (rng.random(LINEAGES) < 0.1)
    cluster = np.repeat(np.arange(LINEAGES), MEMBERS)
    n = len(cluster)
    values = np.where(rng.random((n, LENGTH, K)) < 0.1, rng.uniform(0.2, 1, (n, LENGTH, K)), 0)
    values[:, :, [*range(6), 9, 10]] = 0
    values[np.arange(n), 3, gene[cluster]] = 1
    values[follows[cluster], 4, 9] = 1
    values[hidden[cluster], 5, 10] = 1
    antibody = np.zeros((n, len(NAMES)), bool)
    antibody[np.arange(n), gene[cluster]] = True
    antibody[:, 6] = rng.random(n) < 0.5
    antibody[:, 7], antibody[:, 8] = spike[cluster], ~spike[cluster]
    one = torch.eye(K)
    sae = SAE(one, torch.zeros(K), one, torch.zeros(K), 1.0, K, torch.ones(K), torch.ones(K), {})
    ids = np.array([f"a{i}" for i in range(n)])
    labels = Labels(
        ids, [], NAMES, ["H1"], csr(np.zeros((n * LENGTH, 0), bool)), csr(antibody), np.arange(n) * LENGTH,
        np.full(n, LENGTH), (cluster % 3).astype(np.int8), cluster, *np.zeros((4, n * LENGTH), np.int8),
    )  # fmt: skip
    metadata = pd.DataFrame({"antibody_id": ids, "target": np.where(spike[cluster], "spike", "other")})
    return sae, MemoryStore(values.reshape(-1, K).astype(np.float32)), labels, metadata


def spike(seed, planted, genes=(2,)):
    sae, store, labels, metadata = world(seed, planted, genes)
    table = lineages.by_lineage(sae, store, labels, metadata, THRESHOLDS, 500, 1)
    return table.set_index("concept").loc["target=spike"]


def test_a_planted_signal_beats_the_germline():
    for seed in range(2):
        row = spike(seed, planted=True)
        assert row["status"] == "ok"
        assert row["f1"] == 1
        assert row["chosen"].startswith("latent 10 ")
        assert row["f1_germline"] < 0.75
        assert row["beats_germline"]


def test_what_only_follows_the_germline_does_not():
    rows = [spike(seed, planted=False) for seed in range(5)]
    assert not any(row["beats_germline"] for row in rows)
    assert np.mean([row["f1"] for row in rows]) > 0.5, "the latents do find it: they follow the V gene"
    assert all(row["germline"] == "v-gene=IGHV2" for row in rows)


def test_nor_what_follows_several_genes():
    """A latent for a start that three V genes share says in one what no single gene says."""
    rows = [spike(seed, planted=False, genes=(1, 2, 4)) for seed in range(4)]
    assert not any(row["beats_germline"] for row in rows)
    assert np.mean([row["f1"] for row in rows]) > 0.75
    assert np.mean([row["f1_germline"] for row in rows]) > 0.75


def test_labels_of_nothing_do_not():
    rng = np.random.default_rng(5)
    sae, store, labels, metadata = world(0, planted=True)
    shuffled = labels.antibody.idx.copy()
    at = np.isin(shuffled, (7, 8))
    shuffled[at] = np.repeat(7 + (rng.random(LINEAGES) < 0.6), MEMBERS)
    labels = Labels(**{**vars(labels), "antibody": Csr(labels.antibody.ptr, shuffled, NONE)})
    table = lineages.by_lineage(sae, store, labels, metadata, THRESHOLDS, 500, 1)
    assert not table["beats_germline"].any()


def test_few_lineages_are_untestable_and_it_is_said():
    sae, store, labels, metadata = world(1, planted=True)
    few = labels.cluster < 6
    only = metadata.assign(target=metadata["target"].where(few, None))
    table = lineages.by_lineage(sae, store, labels, only, THRESHOLDS, 200, 1).set_index("concept")
    assert table["status"].str.match(r"untestable: \d lineages with(out)? it, 5 needed").all()
    assert (table["antibodies"] == 36).all(), "antibodies of which the column says nothing are left out"
    assert table["f1"].isna().all()


def test_relatives_are_never_chosen_on():
    """One lineage a value: what is chosen on its members would be perfect, and says nothing of the others."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 10)
    features = np.repeat(rng.random((20, 4000)) < 0.5, 10, axis=0)
    y = np.repeat(rng.random(20) < 0.5, 10)
    called = lineages.call(features, y, lineages.votes(clusters), lineages.folds(clusters))
    assert (called.has == y).mean() < 0.8
    assert len(np.unique(lineages.folds(clusters))) == 20


@pytest.mark.parametrize("planted", [True, False])
def test_the_germline_is_a_simple_baseline_of_columns_alone(planted):
    labels = world(3, planted)[2]
    found = germline.rows(labels).set_index("concept")
    assert set(found.index) == {"target=spike", "target=other"}
    assert (found["baseline"] == "germline").all()
    assert (found.loc["target=spike", "f1"] > 0.6) != planted
    without = Labels(**{**vars(labels), "antibody_names": [*NAMES[:7], "motif=a", "motif=b"]})
    assert germline.rows(without).empty


def test_the_report_says_what_beats_the_germline_and_what_could_not_be_tested():
    class Run:
        def csv(self, name):
            assert name == "lineages"
            return table

    sae, store, labels, metadata = world(0, planted=True)
    rows = lineages.by_lineage(sae, store, labels, metadata, THRESHOLDS, 200, 1)
    none = rows.iloc[:1].assign(concept="target=rare", status="untestable: 2 lineages with it, 5 needed", f1=np.nan)
    none[["f1_low", "f1_high", "beats_germline"]] = np.nan, np.nan, None
    table = pd.concat([rows, none], ignore_index=True).assign(sae="TopK", layer=2, seed=0)
    (section,) = tab._lineages(Run())
    assert "1 could not be tested" in section.text
    (shown,) = section.tables
    texts = [[cell["text"] for cell in row] for row in shown.cells]
    assert [row[-1] for row in texts] == ["yes", "no", "–"], "no latent stands for the others"
    assert texts[2][8] == "untestable: 2 lineages with it, 5 needed"


def test_the_regression_leaves_out_what_it_says():
    """Its scores without a lineage are those of a regression that has never seen it: the same calls follow."""
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(12), rng.integers(1, 4, 12))
    x, y = rng.random((len(clusters), 5)) < 0.5, rng.random(len(clusters)) < 0.5
    weight, fold = lineages.votes(clusters), lineages.folds(clusters)
    expected = np.zeros(len(y), bool)
    inside = []
    design = np.column_stack([x, np.ones(len(x))])

    def fitted(rows, penalty, at):
        own, w = design[rows], weight[rows]
        system = own.T @ (own * w[:, None]) + np.diag([penalty] * 5 + [1e-9])
        return design[at] @ np.linalg.solve(system, own.T @ (w * y[rows]))

    for f in np.unique(fold):
        train, best = fold != f, -1.0
        for penalty in lineages.PENALTIES:
            score = np.zeros(len(y))
            for c in np.unique(clusters[train]):
                score[clusters == c] = fitted(train & (clusters != c), penalty, clusters == c)
            for cut in score[train]:
                called = train & (score >= cut - 1e-9)
                f1 = 2 * weight[called & y].sum() / (weight[called].sum() + weight[train & y].sum())
                if f1 > best + 1e-12:
                    best, chosen = f1, (penalty, cut)
        inside.append(best)
        expected[fold == f] = fitted(train, chosen[0], fold == f) >= chosen[1] - 1e-9
    assert max(inside) > 0.5
    found = lineages.regress(x.astype(float), y, clusters)
    assert (found == expected).mean() > 0.9, "ties between equal F1 may fall either way"
