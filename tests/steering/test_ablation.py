"""Ablation on a model whose cause is known: a latent that writes W after W, beside a twin that does nothing."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from antibody_sae.antibody import RESIDUES, SIDED_REGIONS
from antibody_sae.interventions import Intervention
from antibody_sae.sae.model import SAE
from antibody_sae.steering import ablation
from planted import planted_model

TARGET = "v-family=IGHV3"
"""Here: W follows W; residues that do so are said to lie in framework 1, which decides a V family."""
WRITING = {"chains": "H", "species": "human", "temperature": 1.0, "top_p": 1.0, "prompt": "", "complete": False}


def labels_of(texts):
    letters = [np.array([RESIDUES.index(letter) for letter in text], np.int8) for text in texts]
    lengths = np.array([len(text) for text in texts])
    decides = [np.array([i > 0 and text[i - 1 : i + 1] == "WW" for i in range(len(text))]) for text in texts]
    inside, outside = SIDED_REGIONS.index("H-FR1"), SIDED_REGIONS.index("H-CDR3")
    has = np.array(["WW" in text for text in texts])
    return SimpleNamespace(
        split=np.full(len(texts), 2), first=np.cumsum(lengths) - lengths, length=lengths, cluster=np.arange(len(texts)),
        letter=np.concatenate(letters), light=np.zeros(lengths.sum(), np.int8), having=lambda target: has,
        region=np.where(np.concatenate(decides), inside, outside).astype(np.int8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def world():
    model = planted_model()
    texts = [one.text for one in model.generate(500, seed=3, max_residues=30) if "WW" in one.text][:40]
    assert len(texts) == 40
    directions = torch.zeros(6, 16)
    directions[0, 0] = directions[1, 1] = 1.0
    directions[2:, 2:-1] = torch.nn.functional.normalize(
        torch.randn(4, 13, generator=torch.Generator().manual_seed(1)), dim=1
    )
    one = torch.full((6,), 2.0)
    sae = SAE(directions, torch.zeros(6), directions, torch.zeros(16), 1.0, 6, one, one / 20, {})
    return model, sae, labels_of(texts)


def test_only_the_cause_is_necessary(world, monkeypatch):
    def judged(written, concepts, writing, settings, reference, most):
        return written.assign(valid=True, **{TARGET: written["text"].str.contains("WW")})

    monkeypatch.setattr(ablation.outcomes, "outcomes", judged)
    model, sae, labels = world
    arms = pd.DataFrame({
        "concept": TARGET, "kind": ["latent", "latent", "matched_latent"], "latent": [0, 1, 3],
        "selected_by": ["rate_derivative", "f1", None],
    })  # fmt: skip
    table = ablation.ablate(model, 1, sae, labels, arms, {TARGET: "H"}, 40, WRITING, {}, 1)
    by = table.set_index(table["latent"].fillna(-1).astype(int))
    assert (by["antibodies"] == 40).all()
    assert (by["n"] == 40 * ablation.CONTINUED).all()
    cause, twin, matched, none = by.loc[0], by.loc[1], by.loc[3], by.loc[-1]
    assert cause["deciding_high"] < -0.3, "W after W is what it writes"
    assert cause["elsewhere"] > cause["deciding_high"] + 0.3
    assert cause["log_odds_high"] < 0
    assert cause["rate"] < none["rate"]
    for other in (twin, matched):
        assert other["deciding"] > -0.1, "without the twin the final norm leaves the cause a little more"
        assert other["log_odds_low"] < 0 < other["log_odds_high"]
    assert none["kind"] == "none"
    assert pd.isna(none["log_odds"])


def test_the_change_is_that_of_the_clamped_model(world):
    model, _, labels = world
    found = ablation.examples(labels, TARGET, "H", 4)
    assert [cluster for *_, cluster in found] == [0, 10, 20, 30], "evenly spaced"
    heavy, light, decides, _ = found[0]
    assert light == ""
    assert decides.tolist() == [i > 0 and heavy[i - 1 : i + 1] == "WW" for i in range(len(heavy))]
    (log_p,) = ablation.likelihoods(model, 1, "H", "human", [(heavy, light)], Intervention())
    (passage,) = model.encode(heavy)
    total = model.log_likelihood([passage])[0] * (len(heavy) + 1)
    ((_, logits),) = model.next_token_logits([passage])
    assert log_p.sum() + float(logits[-2].log_softmax(-1)[passage.tokens[-1]]) == pytest.approx(total, rel=1e-5)


def test_sequences_go_on_from_just_before_what_decides(world):
    model = world[0]
    arms = [Intervention(), Intervention(vector=torch.zeros(16))]
    written = ablation.continued(model, 1, ["ACW", "", "ACW"], arms, WRITING, [1])
    n = 3 * ablation.CONTINUED
    assert written.groupby("arm").size().tolist() == [n, n]
    assert written.groupby("arm")["row"].nunique().eq(n).all()
    starts = written["text"].str.startswith("ACW").groupby(written["arm"]).sum()
    assert (starts >= 2 * ablation.CONTINUED).all()
    again = ablation.continued(model, 1, ["ACW", "", "ACW"], arms, WRITING, [1])
    pd.testing.assert_frame_equal(written, again)


def test_arms_are_each_targets_candidates_and_matched_latents():
    plan = pd.DataFrame({
        "kind": ["none", "latent", "latent", "latent", "matched_latent", "random_latent", "trained"],
        "concept": [None, "a=1;a=1;b=2", "a=1;a=1;b=2", "b=2", "a=1", None, "a=1"],
        "selected_by": [None, "f1;r;f1", "f1;r;f1", "r", None, None, None],
        "latent": pd.array([None, 4, 4, 5, 9, 7, None], "Int64"),
    })  # fmt: skip
    found = ablation.arms_of(plan)
    assert found.to_numpy(object).tolist() == [
        ["a=1", "latent", 4, "f1;r"], ["b=2", "latent", 4, "f1"], ["b=2", "latent", 5, "r"],
        ["a=1", "matched_latent", 9, None],
    ]  # fmt: skip
