"""What a push moves beside its target."""

import numpy as np
import pandas as pd
from antibody_sae.steering import selectivity

TARGETS = {"j-gene=IGHJ6": "H"}
CONCEPTS = ["j-gene=IGHJ6", "j-gene=IGHJ4", "cdr3-length=H:>=22", *(f"v-gene=IGHV1-{i}" for i in range(40))]


def table(rates, n):
    """Arms with exactly these rates, [arms, concepts]."""
    hits = {f"hits:{name}": np.round(n * column) for name, column in zip(CONCEPTS, np.transpose(rates), strict=True)}
    return pd.DataFrame({"n_valid": n, **hits})


def arms(changes, n, seed=None):
    """Arms of n sequences that move the target by .4 and its own region's other concepts by .3, and V genes by
    `changes`; sampled where there is a seed. No steering: 0.3 of everything."""
    rates = np.array([[0.7, 0.0, 0.6, *np.clip(0.3 + change * np.resize([1, -1], 40), 0, 1)] for change in changes])
    if seed is not None:
        rates = np.random.default_rng(seed).binomial(n, rates) / n
    none = table([[0.3] * len(CONCEPTS)], 100_000)
    baseline = pd.DataFrame([none.iloc[0]], index=list(TARGETS))
    return selectivity.off_target(table(rates, n), baseline, TARGETS)[:, 0]


def test_only_what_other_residues_decide_counts():
    np.testing.assert_allclose(arms([0.0, 0.1, 0.3], 100_000), [0, 0.1, 0.3], atol=0.003)
    assert ("H", "CDR3") in selectivity.decided("cdr3-length=H:>=22") & selectivity.decided("j-gene=IGHJ6")
    assert not selectivity.decided("v-family=IGHV4") & selectivity.decided("position=H107:G")
    assert selectivity.decided("v-family=IGKV1").isdisjoint(selectivity.decided("v-family=IGHV4"))
    assert selectivity.decided("donor=x") >= selectivity.decided("j-gene=IGHJ6"), "a column may lie anywhere"


def test_few_sequences_are_no_side_effect():
    """Of 40 sequences each V gene's share misses by .07; that is taken off."""
    quiet, loud = (np.mean([arms([change], 40, seed)[0] for seed in range(30)]) for change in (0.0, 0.15))
    assert quiet < 0.025
    assert abs(loud - 0.15) < 0.02


def test_nothing_to_look_at_is_no_figure():
    none = pd.DataFrame([{"n_valid": 10, "hits:j-gene=IGHJ6": 3}], index=list(TARGETS))
    assert np.isnan(selectivity.off_target(none.reset_index(drop=True), none, TARGETS)).all()
    empty = table([[0.0] * len(CONCEPTS)], 0)
    baseline = pd.DataFrame([table([[0.3] * len(CONCEPTS)], 100).iloc[0]], index=list(TARGETS))
    assert np.isnan(selectivity.off_target(empty, baseline, TARGETS)).all()
