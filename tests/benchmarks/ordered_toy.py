"""The toy table of arXiv:2512.02194 with the exact Ordered loss, beside vanilla TopK and Matryoshka.

    python tests/benchmarks/ordered_toy.py

d 80, a true dictionary of 100 unit rows, 100,000 tokens of 5 distinct rows drawn with Zipf(1.2) frequencies and
half-normal coefficients; 10 seeds of every SAE. The three share every setting but the prefix law
(and the sorting of latents by energy, which is for a law with an order), in float32. Prints one JSON line
last: stability over pairs of seeds, stability and orderedness against the true dictionary (its rows in order of
frequency), and the mean squared error. The published row of the Ordered SAE is .664, .814, .734, .00725.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations

import numpy as np
import torch
from antibody_sae import hardware
from antibody_sae.sae.evaluation import agreement
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from torch import Tensor

D, LATENTS, K, TOKENS, ZIPF = 80, 100, 5, 100_000, 1.2
BATCH, STEPS = 1024, 4000
COMMON = {
    "latents": LATENTS, "k": K, "batch_size": BATCH, "learning_rate": 5e-3, "k_start": LATENTS, "k_warmup": 0.6,
    "dead_after": 50_000, "encoder_dtype": "float32",
}  # fmt: skip
ARCHITECTURES = {
    "ordered": {"architecture": "ordered", "law": "zipf", "exponent": 0.3, "full_mass": 0.5, "sort_every": 50},
    "topk": {"architecture": "topk"},
    "matryoshka": {"architecture": "matryoshka"},
}


def toy(seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """(tokens [100,000, 80], true dictionary [100, 80] in order of frequency)."""
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((LATENTS, D))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    frequency = np.arange(1, LATENTS + 1.0) ** -ZIPF
    # The K smallest exponential waiting times are a draw without replacement (Efraimidis and Spirakis 2006).
    waiting = rng.exponential(size=(TOKENS, LATENTS)) / frequency
    active = np.argpartition(waiting, K, axis=1)[:, :K]
    code = np.zeros((TOKENS, LATENTS))
    np.put_along_axis(code, active, np.abs(rng.standard_normal((TOKENS, K))), 1)
    return torch.tensor(code @ true, dtype=torch.float32), true


def fit(x: Tensor, settings: Settings, seed: int) -> SAE:
    scale = float((x - x.mean(0)).square().mean().sqrt())
    trainer = Trainer(settings, x, scale, seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(settings.steps):
        trainer.step(x[torch.randint(len(x), (settings.batch_size,), generator=generator)])
    return trainer.sae({})


def table_row(saes: list[SAE], x: Tensor, true: np.ndarray) -> dict[str, float]:
    """The four figures, means over seeds (over pairs of seeds for stability_pairs)."""
    directions = [sae.directions.numpy() for sae in saes]
    against = [agreement(d, true) for d in directions]
    pairs = combinations(directions, 2)
    errors = [float((x - sae.decode(sae.encode(x))).square().mean()) for sae in saes]
    return {
        "stability_pairs": round(float(np.mean([agreement(a, b).stability for a, b in pairs])), 3),
        "stability_true": round(float(np.mean([a.stability for a in against])), 3),
        "orderedness_true": round(float(np.mean([a.orderedness for a in against])), 3),
        "mse": round(float(np.mean(errors)), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings to try on all three")
    parser.add_argument("--only", choices=ARCHITECTURES)
    arguments = parser.parse_args()
    pairs = (setting.split("=") for setting in arguments.set)
    tried = {key: json.loads(value) if value[0].isdigit() else value for key, value in pairs}
    x, true = toy()
    result = {}
    for name, own in ARCHITECTURES.items():
        if arguments.only in (None, name):
            settings = Settings(**{**COMMON, "tokens": BATCH * arguments.steps, **own, **tried})
            result[name] = table_row([fit(x, settings, seed) for seed in range(arguments.seeds)], x, true)
            print(name, result[name], file=sys.stderr)
    print(json.dumps({"instruction_set": hardware.instruction_set(), "encoder_dtype": "float32", **result}))


if __name__ == "__main__":
    main()
