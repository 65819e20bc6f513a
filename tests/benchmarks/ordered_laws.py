"""What the prefix law costs and buys: reconstruction against ordered, reproducible early latents, on real activations.

    python tests/benchmarks/ordered_laws.py --activations results/default/activations/layer2

Two seeds of every law, on four fifths of the antibodies' residues; figures from the rest. Prints one JSON line last:
for each law the FVU of all latents and of the first 64 and 256, and, between the seeds, stability and orderedness of
the first 256 and of all latents.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from antibody_sae.activations import Store
from antibody_sae.sae.evaluation import agreement, prefix_errors
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from torch import Tensor

LAWS: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk"},
    "matryoshka": {"architecture": "matryoshka"},
    "harmonic .75": {},
    "harmonic .75, unsorted": {"sort_every": 0},
    "harmonic .5": {"full_mass": 0.5},
    "harmonic 0": {"full_mass": 0.0},
    "zipf .3 .5": {"law": "zipf", "exponent": 0.3, "full_mass": 0.5},
    "geometric 4 .5": {"law": "geometric", "exponent": 4.0, "full_mass": 0.5},
    "uniform .5": {"law": "uniform", "full_mass": 0.5},
    "uniform 0": {"law": "uniform", "full_mass": 0.0},
}
"""Ordered where no architecture is named, sorted every 50 steps unless it says otherwise; the last number is the share
of the law put on the full code."""
PREFIXES = (64, 256)


def fit(x: Tensor, scale: float, settings: Settings, seed: int) -> SAE:
    trainer = Trainer(settings, x[:: max(1, len(x) // 16384)], scale, seed, torch.get_num_threads())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.steps):
        trainer.step(x[torch.randint(len(x), (settings.batch_size,), generator=generator)])
    return trainer.sae({})


def fvu(sae: SAE, x: Tensor) -> np.ndarray:
    """[latents + 1] unexplained share of the variance of x by each prefix."""
    errors = np.sum([prefix_errors(sae, part, sae.encode(part))[0] for part in x.split(4096)], axis=0)
    return errors * sae.scale**2 / float((x - x.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, default=Path("results/default/activations/layer2"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=1_200_000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    store = Store(arguments.activations)
    x = torch.cat([acts.float() for acts, _ in store.blocks()])
    held_out = torch.arange(len(x)) // 1000 % 5 == 0
    result = {}
    for name, own in LAWS.items():
        settings = Settings(**{"architecture": "ordered", **own}, latents=arguments.latents, tokens=arguments.tokens)
        saes = [fit(x[~held_out], store.manifest["scale"], settings, seed) for seed in (0, 1)]
        curves = np.mean([fvu(sae, x[held_out]) for sae in saes], axis=0)
        row = {f"fvu_{n}": curves[n] for n in PREFIXES} | {"fvu": curves[-1]}
        for n in (PREFIXES[-1], arguments.latents):
            same = agreement(*(sae.directions[:n].numpy() for sae in saes))
            row |= {f"stability_{n}": same.stability, f"orderedness_{n}": same.orderedness}
        result[name] = {key: round(float(value), 3) for key, value in row.items()}
        print(name, result[name], file=sys.stderr)
    print(json.dumps({"tokens": arguments.tokens, "latents": arguments.latents, **result}))


if __name__ == "__main__":
    main()
