"""Intervals and tests keep what they promise: by simulation, and against published figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from antibody_sae import significance


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_wilson_covers(p):
    n = 120
    hits = np.random.default_rng(0).binomial(n, p, 20000)
    low, high = significance.wilson(hits, n)
    assert 0.93 < ((low <= p) & (p <= high)).mean() < 0.98
    assert significance.wilson(0, 0) == (0.0, 1.0)


def test_wilson_and_newcombe_give_the_published_figures():
    # Newcombe 1998, Stat. Med. 17:857 (single proportion, 81/263) and 17:873, table II, method 10 (56/70 - 48/80)
    assert np.round(significance.wilson(81, 263), 4).tolist() == [0.2553, 0.3662]
    assert np.round(significance.difference_interval(56, 70, 48, 80), 4).tolist() == [0.0524, 0.3339]


@pytest.mark.parametrize(("p", "p0"), [(0.35, 0.35), (0.5, 0.3), (0.06, 0.02)])
def test_intervals_of_a_change_cover(p, p0):
    rng = np.random.default_rng(1)
    hits, hits0 = rng.binomial(160, p, 20000), rng.binomial(1000, p0, 20000)
    low, high = significance.difference_interval(hits, 160, hits0, 1000)
    assert 0.93 < ((low <= p - p0) & (p - p0 <= high)).mean() < 0.98
    value, low, high = significance.log_odds_ratio(hits, 160, hits0, 1000)
    truth = np.log(p / (1 - p)) - np.log(p0 / (1 - p0))
    assert 0.93 < ((low <= truth) & (truth <= high)).mean() < 0.99
    assert abs(np.mean(value) - truth) < 0.05
    assert np.isnan(significance.log_odds_ratio(0, 0, 3, 10)[0])


def test_two_proportions_keeps_its_level_and_agrees_with_scipy():
    rng = np.random.default_rng(2)
    p = significance.two_proportions(rng.binomial(160, 0.3, 20000), 160, rng.binomial(1000, 0.3, 20000), 1000)
    assert 0.04 < (p < 0.05).mean() < 0.06
    # the pooled z-test squared is Pearson's chi-squared of the two-by-two table
    chi2 = scipy.stats.chi2_contingency([[30, 70], [250, 750]], correction=False)
    assert significance.two_proportions(30, 100, 250, 1000) == pytest.approx(chi2.pvalue)
    assert significance.two_proportions(0, 50, 0, 70) == 1.0


def test_the_bound_of_a_perplexity_ratio_fails_as_often_as_it_says():
    """At a true ratio of exactly the bound, one arm in twenty passes below it."""
    rng = np.random.default_rng(3)
    arm, base = rng.normal(-0.6 - np.log(1.2), 0.3, (4000, 60)), rng.normal(-0.6, 0.25, (4000, 1000))
    bound = significance.ratio_bound(arm.mean(1), arm.std(1, ddof=1), 60, base.mean(1), base.std(1, ddof=1), 1000)
    assert 0.035 < (bound < 1.2).mean() < 0.065
    assert significance.ratio_bound(-0.6, 0.3, 1, -0.6, 0.3, 1000) == np.inf


@pytest.mark.parametrize("n", [96, 512])
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.08])
def test_an_arm_that_is_one_more_random_arm_passes_one_time_in_twenty(spread, n):
    """However the random arms spread, and however many more sequences the arm holds than they do."""
    rng = np.random.default_rng(3)
    p, powerful = [], []
    for _ in range(1000):
        rates = np.clip(0.35 + spread * rng.standard_normal(25), 0.02, 0.98)
        null = significance.null_of(rng.binomial(24, rates[:24]), np.full(24, 24))
        p.append(significance.beyond(null, rng.binomial(n, rates[24]), n, 1.0))
        powerful.append(significance.beyond(null, 0.75 * n, n, 1.0) < 0.01)
    assert np.mean(np.array(p) < 0.05) < 0.065
    assert np.mean(np.array(p) < 0.01) < 0.02
    assert np.mean(np.array(p) < 0.5) > 0.4, "not by never calling anything"
    assert np.mean(powerful) > 0.95
    assert np.isnan(significance.beyond(significance.null_of([3, 4], [9, 9]), 5, 9, 1.0)), "two random arms are no null"


def test_the_detectable_change_is_found_with_the_promised_power():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(800):
        null = significance.null_of(
            rng.binomial(60, np.clip(0.3 + 0.04 * rng.standard_normal(32), 0, 1)), np.full(32, 60)
        )
        change = significance.detectable(null, 120, 0.3, 1.0)
        found.append(significance.beyond(null, rng.binomial(120, 0.3 + change), 120, 1.0) < 0.05)
    assert 0.7 < np.mean(found) < 0.9


@pytest.mark.parametrize(("seeds", "within"), [(1, 0.0), (3, 0.0), (3, 0.8), (5, 0.3), (5, 0.9)])
def test_the_interval_over_targets_misses_one_time_in_twenty(seeds, within):
    """Seeds that agree within a target (correlation `within`) are no further targets."""
    rng = np.random.default_rng(5)
    index = pd.MultiIndex.from_product([range(8), range(seeds)])
    missed = 0
    for _ in range(800):
        target = np.sqrt(within) * rng.standard_normal((8, 1))
        values = (target + np.sqrt(1 - within) * rng.standard_normal((8, seeds))).ravel()
        found = significance.over_targets(pd.Series(values, index=index), draws=300)
        missed += found.low > 0 or found.high < 0
    assert 0.03 <= missed / 800 <= 0.07


def test_a_planted_difference_is_found_and_pairs_are_matched():
    rng = np.random.default_rng(6)
    index = pd.MultiIndex.from_product([list("abcdefgh"), [2], [0, 1, 2]], names=["concept", "layer", "seed"])
    target = np.repeat(rng.standard_normal(8) * 3, 3)  # large differences between targets fall out of the pairs
    first = pd.Series(target + 0.8 + 0.3 * rng.standard_normal(24), index=index)
    second = pd.Series(target + 0.3 * rng.standard_normal(24), index=index)
    found = significance.paired(first, second.sample(frac=1, random_state=0))
    assert found.above
    assert found.low < 0.8 < found.high
    assert significance.paired(second, first).below
    no_seed = second.groupby(level=["concept", "layer"]).mean()  # what depends on no seed stands beside every seed
    assert significance.paired(first, no_seed).above
    assert np.isnan(significance.over_targets(first[["a", "b"]]).low), "two targets are too few"


def test_shares_of_yes_and_no():
    yes = pd.Series([0.0] * 7 + [1.0], index=pd.Index(list("abcdefgh")))
    assert significance.over_targets(yes - 1).below
    assert significance.over_targets(yes * 0 - 1) == (-1.0, -1.0, -1.0, 8)
    half = pd.Series([0.0, 1.0] * 4, index=pd.Index(list("abcdefgh")))
    assert not significance.over_targets(half - 0.5).above


def test_spearman_is_taken_within_targets():
    """Across targets the two go together, within each they do not: that is what is asked."""
    rng = np.random.default_rng(7)
    index = pd.MultiIndex.from_arrays([np.repeat(range(10), 20), np.zeros(200, int)])
    level = np.repeat(np.arange(10.0), 20)
    table = pd.DataFrame({"x": level + rng.standard_normal(200), "y": level + rng.standard_normal(200)}, index=index)
    assert scipy.stats.spearmanr(table["x"], table["y"]).statistic > 0.7
    found = significance.spearman_within(table, "x", "y")
    assert found.low < 0 < found.high
    table["y"] = table["x"] + 0.5 * rng.standard_normal(200)
    assert significance.spearman_within(table, "x", "y").low > 0.5
    assert significance.spearman_within(table.head(3), "x", "y").targets == 0


def test_q_values_are_benjamini_hochberg_over_what_was_tested():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    np.testing.assert_allclose(significance.q_values(p), [[0.03, np.nan], [0.04, 0.04]])
    assert np.isnan(significance.q_values(np.full((2, 2), np.nan))).all()
