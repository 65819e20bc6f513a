"""A training step and generation on a GPU: our SAEs beside sparsify's fused path, writing beside its forward passes.

    python tests/benchmarks/gpu.py [--rounds 5]

Needs a CUDA device and, for the comparison, sparsify (envs/peers.txt). Every contestant makes full training steps
(forward, AuxK switched on and no latent dead, backward, Adam, unit decoder rows) on the same batches, which lie on the
device; speed does not depend on what they hold, so they are drawn with a spectrum like that of activations. A ratio
compares the shortest step times, taken in turns. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from antibody_sae import hardware
from antibody_sae.models import model as models
from antibody_sae.models.generation import BATCH, side_by_side
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from torch import Tensor

Step = Callable[[Tensor], Any]


def data(n: int, d: int) -> Tensor:
    """[n, d] on the device; variances fall as those of a residual stream do, roughly."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, d + 1) ** -0.5
    x = torch.randn(n, d, generator=generator) * spectrum
    return (x / x.square().mean().sqrt()).cuda()


def ours(architecture: str, d: int, latents: int, k: int, batch: int, x: Tensor) -> Step:
    settings = Settings(
        architecture=architecture, latents=latents, k=k, batch_size=batch, tokens=batch * 10_000, k_warmup=0.0,
        dead_after=10**12,
    )  # fmt: skip
    return Trainer(settings, x[:16384].cpu(), 1.0, device="cuda").step


def sparsify(d: int, latents: int, k: int) -> Step:
    """Its SparseCoder as its trainer steps it, with fused Adam in place of the 8-bit one (bitsandbytes)."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    coder = SparseCoder(d, SparseCoderConfig(num_latents=latents, k=k), device="cuda", dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3, fused=True)
    fired = torch.zeros(latents, dtype=torch.int64, device="cuda")

    def step(x: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=fired > 10**12)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            fired.add_(len(x))
            fired[out.latent_indices.flatten()] = 0

    return step


def time_in_turns(
    contestants: dict[str, Step], x: Tensor, batch: int, rounds: int, steps: int = 20
) -> dict[str, float]:
    """Least seconds a step of several rounds of `steps`, the device waited for at both ends."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(rounds + 1):
        for name, step in contestants.items():
            for i in range(3):
                step(x[i * batch : (i + 1) * batch])
            torch.cuda.synchronize()
            start = time.perf_counter()
            for i in range(steps):
                at = i * batch % (len(x) - batch)
                step(x[at : at + batch])
            torch.cuda.synchronize()
            if turn:
                best[name] = min(best[name], (time.perf_counter() - start) / steps)
    return best


def training(d: int, latents: int, k: int, batch: int, rounds: int, peer: bool) -> dict[str, Any]:
    x = data(batch * 16, d)
    contestants = {name: ours(name, d, latents, k, batch, x) for name in ("topk", "ordered")}
    if peer:
        contestants["sparsify"] = sparsify(d, latents, k)
    weight = torch.randn(latents, d, device="cuda")
    contestants["encoder matmul"] = lambda y: y @ weight.T
    s = time_in_turns(contestants, x, batch, rounds)
    ratios = {"ordered_cost": s["ordered"] / s["topk"], "topk_over_encoder_matmul": s["topk"] / s["encoder matmul"]}
    if peer:
        ratios |= {f"{name}_vs_sparsify": s["sparsify"] / s[name] for name in ("topk", "ordered")}
    return {
        **{name: round(value, 2) for name, value in ratios.items()},
        "milliseconds_a_step": {name: round(1000 * value, 3) for name, value in s.items()},
    }


@torch.inference_mode()
def writing(n: int) -> dict[str, Any]:
    """Chains a second, and the share of that time which as many bare forward passes of one token take."""
    model = models.load({"name": "iglm", "dtype": "auto", "device": "cuda"})
    model.generate(2 * BATCH, seed=9, complete=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    written = model.generate(n, seed=1, complete=True)
    seconds = time.perf_counter() - start
    rows = min(n, BATCH * side_by_side(model))
    steps, passes = max(len(one.text) for one in written), -(-n // rows)
    token = torch.full((rows, 1), model.prefix("H")[0], device="cuda")
    model.hf(input_ids=token)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        model.hf(input_ids=token)
    torch.cuda.synchronize()
    floor = (time.perf_counter() - start) * passes
    return {"chains_per_second": round(n / seconds, 1), "rows": rows, "of_forward": round(floor / seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chains", type=int, default=8192)
    arguments = parser.parse_args()
    try:
        import sparsify as _  # noqa: F401

        peer = True
    except ImportError as error:
        print(f"without sparsify: {error}", file=sys.stderr)
        peer = False
    result = {
        "d512_latents4096": training(512, 4096, 32, 2048, arguments.rounds, peer),
        "d768_latents6144_batch4096": training(768, 6144, 32, 4096, arguments.rounds, peer),
        "writing": writing(arguments.chains),
    }
    print(json.dumps({"device": hardware.instruction_set("cuda"), **result}))


if __name__ == "__main__":
    main()
