"""What a study of so many targets, seeds and sequences can see: simulations with the project's own functions.

    python tests/benchmarks/power.py --targets 8 --seeds 5 --n 40 --random-latents 12 --random-n 16

Prints two figures. Across targets: the share of simulated studies in which the difference of two SAE types' log odds
ratios has its interval above 0, by the true difference in nats (targets have it more or less by `--between`, each arm
differs by `--within`). Of one arm: the smallest change of a share of 0.25 that is found with 80 % power, where random
latents move it by `--spread` nats.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from antibody_sae.significance import detectable, log_odds_ratio, null_of, paired

BASELINE = 2048


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def found(difference: float, asked: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Whether one simulated study sees the difference."""
    targets, seeds = asked.targets, asked.seeds
    index = pd.MultiIndex.from_product([range(targets), range(seeds)])
    base = np.repeat(np.log(1 / 3) + 0.3 * rng.standard_normal(targets), seeds)
    gain = np.repeat(difference + asked.between * rng.standard_normal(targets), seeds)
    odds = []
    for more in (gain, 0.0):
        moved = base + 0.4 + more + asked.within * rng.standard_normal(targets * seeds)
        hits = rng.binomial(asked.n, logistic(moved))
        odds.append(pd.Series(log_odds_ratio(hits, asked.n, logistic(base) * BASELINE, BASELINE)[0], index=index))
    return paired(*odds, draws=400).above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("targets", 8),
        ("seeds", 5),
        ("n", 40),
        ("random-latents", 12),
        ("random-n", 16),
        ("runs", 60),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, share in (("between", 0.4), ("within", 0.4), ("spread", 0.3)):
        parser.add_argument(f"--{name}", type=float, default=share)
    asked, rng = parser.parse_args(), np.random.default_rng(0)
    for difference in (0.4, 0.6, 0.8):
        share = np.mean([found(difference, asked, rng) for _ in range(asked.runs)])
        print(f"a difference of {difference} nats is found in {share:.0%} of {asked.runs} studies", flush=True)
    arms = []
    for _ in range(asked.runs):
        rates = logistic(np.log(1 / 3) + asked.spread * rng.standard_normal(asked.random_latents))
        null = null_of(rng.binomial(asked.random_n, rates), np.full(asked.random_latents, asked.random_n))
        arms.append(detectable(null, asked.n, 0.25, 1))
    print(f"one arm: a change of +{100 * np.nanmedian(arms):.0f} points of a share of 25 % is found with 80 % power")


if __name__ == "__main__":
    main()
