"""What the prefix law costs and buys: reconstruction against ordered, reproducible early latents, on real activations.

    python tests/benchmarks/ordered_laws.py --run results/default --layer 2

Two seeds of every law, trained on the run's training antibodies and measured on its validation antibodies (whole
clusters of the split; the test antibodies are not read). Prints one JSON line last: the instruction set and the
encoder's dtype, and for each law the FVU of all latents and of the first 64 and 256, and, between the seeds, stability
and orderedness of the first 256 and of all latents: as they are, and once the latents are sorted by energy, so that
what the law earns is told apart from what sorting does. --laws names some of them.
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
from antibody_sae import hardware, splits
from antibody_sae.activations import Store
from antibody_sae.sae.evaluation import agreement, by_energy, prefix_errors, reordered
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.stream import kept
from antibody_sae.sae.trainer import Trainer
from torch import Tensor

LAWS: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk"},
    "topk, sorted": {"architecture": "topk", "sort_every": 50},
    "matryoshka": {"architecture": "matryoshka"},
    "zipf 1 .75": {},
    "zipf 1 .75, unsorted": {"sort_every": 0},
    "zipf 1 .5": {"full_mass": 0.5},
    "zipf 1 0": {"full_mass": 0.0},
    "zipf 1 0, unsorted": {"full_mass": 0.0, "sort_every": 0},
    "zipf .3 .5": {"exponent": 0.3, "full_mass": 0.5},
    "geometric 4 .5": {"law": "geometric", "exponent": 4.0, "full_mass": 0.5},
    "uniform .5": {"law": "uniform", "full_mass": 0.5},
    "uniform 0": {"law": "uniform", "full_mass": 0.0},
}
"""Ordered where no architecture is named, sorted every 50 steps unless it says otherwise; the last number is the share
of the law put on the full code."""
PREFIXES = (64, 256)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def fit(x: Tensor, scale: float, settings: Settings, seed: int) -> SAE:
    trainer = Trainer(settings, x[:: max(1, len(x) // 16384)], scale, seed, torch.get_num_threads(), DEVICE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.steps):
        trainer.step(x[torch.randint(len(x), (settings.batch_size,), generator=generator)])
    return trainer.sae({})


def measure(sae: SAE, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """([latents + 1] unexplained share of the variance of x by each prefix, [latents] summed squared values)."""
    errors, energy = np.zeros(sae.latents + 1), np.zeros(sae.latents)
    for part in x.split(4096):
        codes = sae.encode(part)
        errors += prefix_errors(sae, part, codes)[0]
        energy += np.bincount(codes.indices.flatten(), codes.values.double().square().flatten(), sae.latents)
    return errors * sae.scale**2 / float((x - x.mean(0)).square().sum()), energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("results/default"))
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=1_200_000)
    parser.add_argument("--laws", nargs="+", choices=list(LAWS), default=list(LAWS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    store = Store(arguments.run / "activations" / f"layer{arguments.layer}")
    x, held_out = (
        torch.cat(list(kept(store, splits.residue_mask(arguments.run, name)))) for name in ("train", "validation")
    )
    result = {}
    for name in arguments.laws:
        settings = Settings(
            **{"architecture": "ordered", **LAWS[name]}, latents=arguments.latents, tokens=arguments.tokens
        )
        saes = [fit(x, store.manifest["scale"], settings, seed) for seed in (0, 1)]
        curves, energies = zip(*(measure(sae, held_out) for sae in saes), strict=True)
        ranked = [measure(reordered(sae, by_energy(e)), held_out)[0] for sae, e in zip(saes, energies, strict=True)]
        row = {f"fvu_{n}": np.mean(curves, 0)[n] for n in PREFIXES} | {"fvu": np.mean(curves, 0)[-1]}
        row |= {f"fvu_{n}_by_energy": np.mean(ranked, 0)[n] for n in PREFIXES}
        dictionaries = [sae.directions.numpy() for sae in saes]
        by_its_energy = [d[by_energy(e)] for d, e in zip(dictionaries, energies, strict=True)]
        for n in (PREFIXES[-1], arguments.latents):
            for suffix, both in (("", dictionaries), ("_by_energy", by_its_energy)):
                same = agreement(*(d[:n] for d in both))
                row |= {f"stability_{n}{suffix}": same.stability, f"orderedness_{n}{suffix}": same.orderedness}
        result[name] = {key: round(float(value), 3) for key, value in row.items()}
        print(name, result[name], file=sys.stderr)
    about = {"instruction_set": hardware.instruction_set(DEVICE), "encoder_dtype": hardware.fast_dtype(DEVICE)}
    print(json.dumps({**about, "tokens": arguments.tokens, "latents": arguments.latents, **result}))


if __name__ == "__main__":
    main()
