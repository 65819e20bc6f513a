"""Training throughput and quality of our SAEs beside dictionary_learning and SAELens, in turns in one process.

    python tests/benchmarks/sae_throughput.py --activations results/default/activations/layer2

Needs the peers of envs/peers.txt. Every contestant makes full training steps (forward, AuxK switched on, backward,
optimizer, constraints) on the same batches of real activations; a ratio compares the shortest step times. Prints one
JSON line last: the instruction set, and each ratio's value with the float32 encoder and, where the processor multiplies
it in hardware, with the bfloat16 encoder (peers always run in float32). ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell make a newer processor an AVX2 one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from antibody_sae import hardware
from antibody_sae.activations import Store
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from torch import Tensor

warnings.filterwarnings("ignore")
os.environ.setdefault("WANDB_MODE", "disabled")
Step = Callable[[Tensor], Any]
FRACTIONS = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
DTYPES = ("float32", "bfloat16") if hardware.bfloat16_in_hardware() else ("float32",)
"""Of our encoder."""
RATES = (1 / 4, 1 / 2, 1, 4 / 3)
TYPES: dict[str, dict[str, Any]] = {
    "topk": {},
    "ordered": {"architecture": "ordered"},
    "matryoshka": {"architecture": "matryoshka"},
    "batchtopk": {"activation": "batchtopk"},
    "ordered batchtopk": {"architecture": "ordered", "activation": "batchtopk"},
    "abstopk": {"activation": "abstopk"},
    "jumprelu": {"activation": "jumprelu"},
}
"""Ours."""
SHARED = ("topk", "matryoshka", "batchtopk", "jumprelu")
"""Those that both peers have."""


def load(folder: Path, d: int, n: int = 200_000) -> Tensor:
    """[<= n, d] activations scaled and centred; columns beyond d_model are those of the residue before."""
    store = Store(folder)
    x = torch.cat([acts.float() for acts, _ in store.blocks()])[:n]
    x = (x - torch.tensor(store.manifest["mean"])) / store.manifest["scale"]
    return torch.cat([x[1:], x[:-1, : d - x.shape[1]]], 1) if d > x.shape[1] else x


def ours(kind: str, d: int, latents: int, k: int, batch: int, steps: int, dtype: str, x: Tensor) -> Trainer:
    settings = Settings(
        **TYPES[kind], latents=latents, k=k, batch_size=batch, tokens=batch * steps, encoder_dtype=dtype,
        k_warmup=0.0, dead_after=10_000_000,  # as in dictionary_learning: AuxK on, no latent dead yet
    )  # fmt: skip
    return Trainer(settings, x[:16384], 1.0, threads=torch.get_num_threads())


def dictionary_learning(
    kind: str, d: int, latents: int, k: int, batch: int, steps: int, rate: float | None = Settings.learning_rate
) -> tuple[Step, Step]:
    """(training step, reconstruction) of dictionary_learning's trainer; rate None: its own, which follows the width."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {
        "steps": steps, "activation_dim": d, "dict_size": latents, "layer": 2, "lm_name": "iglm", "device": "cpu",
        "lr": rate, "warmup_steps": int(Settings.warmup * steps), "seed": 0,
        "decay_start": int((1 - Settings.decay) * steps),
    }  # fmt: skip
    counter = iter(range(10**9))
    if kind == "jumprelu":
        if rate is None:
            del common["lr"]
        jump = JumpReluTrainer(target_l0=k, sparsity_warmup_steps=int(0.2 * steps), **common)
        return lambda x: jump.update(next(counter), x), lambda x: jump.ae(x)
    if kind == "matryoshka":
        trainer = MatryoshkaBatchTopKTrainer(group_fractions=FRACTIONS, k=k, **common)
    else:
        trainer = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}[kind](k=k, **common)
    ae = trainer.ae  # its threshold needs 1,000 steps to settle; both classes also select k of the (batch's) codes
    return lambda x: trainer.update(next(counter), x), lambda x: ae.decode(ae.encode(x, use_threshold=False))


def saelens(
    kind: str, d: int, latents: int, k: int, batch: int, steps: int, rate: float | None = Settings.learning_rate
) -> tuple[Step, Step]:
    """(training step, reconstruction) of SAELens' trainer (its use_sparse_activations has no CPU backward); rate None:
    its own default, 3e-4."""
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    common = {
        "d_in": d,
        "d_sae": latents,
        "device": "cpu",
        "dtype": "float32",
    }
    torch.manual_seed(0)
    sae: Any
    if kind == "matryoshka":
        widths = (np.cumsum(FRACTIONS) * latents).astype(int).tolist()
        config_of = MatryoshkaBatchTopKTrainingSAEConfig(matryoshka_widths=widths, k=k, **common)
        sae = MatryoshkaBatchTopKTrainingSAE(config_of)
    elif kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=k, **common))
    elif kind == "jumprelu":
        sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**common))
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=k, **common))
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=batch * steps,
        device="cpu", autocast=False, lr=rate or 3e-4, lr_end=0.0, lr_scheduler_name="constant",
        lr_warm_up_steps=int(Settings.warmup * steps), adam_beta1=0.9, adam_beta2=0.999,
        lr_decay_steps=int(Settings.decay * steps), n_restart_cycles=1, train_batch_size_samples=batch,
        dead_feature_window=10**9, feature_sampling_window=10**9, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer: Any = SAETrainer(config, sae, data_provider=iter(()))
    return trainer.step, lambda x: sae(x)


def dense_prefixes(d: int, latents: int, k: int, x: Tensor) -> Step:
    """One Adam step on the same objective, every prefix decoded densely."""
    trainer = ours("ordered", d, latents, k, 64, 100, "float32", x)
    leaf = {name: value.clone().requires_grad_() for name, value in trainer.parameters.items()}
    optimizer = torch.optim.Adam(leaf.values(), lr=1e-3, fused=True)
    p = torch.tensor(-np.diff(np.r_[trainer.settings.survival(), 0.0]), dtype=torch.float32)

    def step(batch: Tensor) -> None:
        y = batch - leaf["pre_bias"]
        hidden = (y @ leaf["encoder"].T + leaf["bias"]).relu()
        top = hidden.topk(k)
        code = torch.zeros_like(hidden).scatter(1, top.indices, top.values)
        loss = sum(p[i] * (y - code[:, : i + 1] @ leaf["decoder"][: i + 1]).square().sum() for i in range(latents))
        optimizer.zero_grad()
        (loss / batch.numel()).backward()  # type: ignore[union-attr]
        optimizer.step()
        with torch.no_grad():
            leaf["decoder"] /= leaf["decoder"].norm(dim=1, keepdim=True)

    return step


def batches(x: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - batch + 1, batch):
            yield x[order[start : start + batch]]


def time_in_turns(contestants: dict[str, Step], x: Tensor, batch: int, rounds: int, steps: int = 3) -> dict[str, float]:
    """Least seconds a step (whatever else the machine does only adds to it).

    Each round gives every contestant one step to warm up and `steps` that count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    stream = batches(x, batch, 0)
    for turn in range(rounds + 1):
        for name, step in contestants.items():
            for i in range(steps + 1):
                data = next(stream)
                start = time.perf_counter()
                step(data)
                if turn and i:
                    seconds[name].append(time.perf_counter() - start)
        print(f"round {turn}/{rounds}", file=sys.stderr)
    return {name: min(values) for name, values in seconds.items()}


def measure(folder: Path, d: int, latents: int, k: int, batch: int, rounds: int) -> dict[str, Any]:
    x = load(folder, d)
    steps = 4 * (rounds + 1)
    contestants: dict[str, Step] = {}
    for dtype in DTYPES:
        for kind in TYPES:
            contestants[f"{kind} {dtype}"] = ours(kind, d, latents, k, batch, steps, dtype, x).step
    for kind in SHARED:
        shape = (kind, d, latents, k, batch, steps)
        contestants[f"dictionary_learning {kind}"] = dictionary_learning(*shape)[0]
        contestants[f"saelens {kind}"] = saelens(*shape)[0]
    weight, out = torch.randn(latents, d), torch.empty(batch, latents)
    contestants["encoder matmul"] = lambda y: torch.mm(y, weight.T, out=out)
    s = time_in_turns(contestants, x, batch, rounds)
    matryoshka = min(s["dictionary_learning matryoshka"], s["saelens matryoshka"])
    ratios = {
        f"{kind}_vs_{peer}": {t: s[f"{peer} {kind}"] / s[f"{kind} {t}"] for t in DTYPES}
        for kind in SHARED
        for peer in ("dictionary_learning", "saelens")
    }
    ratios |= {
        "ordered_vs_matryoshka": {t: matryoshka / s[f"ordered {t}"] for t in DTYPES},
        "ordered_cost": {t: s[f"ordered {t}"] / s[f"topk {t}"] for t in DTYPES},
        "topk_step_over_encoder_matmul": {t: s[f"topk {t}"] / s["encoder matmul"] for t in DTYPES},
    }
    rounded = {name: {t: round(v, 2) for t, v in values.items()} for name, values in ratios.items()}
    print(f"d {d}:", rounded, file=sys.stderr)
    return {**rounded, "milliseconds_a_step": {name: round(1000 * v, 1) for name, v in s.items()}}


def prefixes(folder: Path) -> dict[str, Any]:
    d, latents, k, batch = 512, 256, 32, 256
    x = load(folder, d)
    trainer = ours("ordered", d, latents, k, batch, 100, "float32", x)
    s = time_in_turns({"ours": trainer.step, "dense": dense_prefixes(d, latents, k, x)}, x, batch, 2, 2)
    return {"latents": latents, "ratio": round(s["dense"] / s["ours"], 1)}


def quality(folder: Path, latents: int, k: int, batch: int, steps: int) -> dict[str, float]:
    """FVU on held-out rows after `steps` steps of each contestant with k latents a token: same batches, same schedule,
    the peers at their own learning rate and at RATES of ours (JumpReLU's number of latents would not be the same)."""
    x = load(folder, 512)
    block = torch.arange(len(x)) // 1000 % 5 == 0
    x, held_out = x[~block], x[block]
    variance = (held_out - held_out.mean(0)).square().sum()
    result = {}
    contestants: dict[str, tuple[Step, Step]] = {}
    for name in TYPES:
        for dtype in DTYPES:
            trainer = ours(name, 512, latents, k, batch, steps, dtype, x)

            def reconstruct(y: Tensor, trainer: Trainer = trainer) -> Tensor:
                sae = trainer.sae({})
                return sae.decode(sae.encode(y))

            contestants[f"{name} {dtype}"] = trainer.step, reconstruct
    for name in SHARED[:-1]:
        for rate in (None, *(Settings.learning_rate * share for share in RATES)):
            shape = (name, 512, latents, k, batch, steps, rate)
            contestants[f"dictionary_learning {name} {rate or 'own rate'}"] = dictionary_learning(*shape)
            contestants[f"saelens {name} {rate or 'own rate'}"] = saelens(*shape)
    for name, (step, reconstruct) in contestants.items():
        stream = batches(x, batch, 1)
        for _ in range(steps):
            step(next(stream))
        with torch.no_grad():
            error = sum(float((y - reconstruct(y)).square().sum()) for y in held_out.split(batch))
        result[name] = round(error / float(variance), 4)
        print(name, result[name], file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, default=Path("results/default/activations/layer2"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of speed; 0: none")
    parser.add_argument("--fvu-steps", type=int, default=300, help="steps of the comparison of quality; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {}
    if rounds := arguments.rounds:
        result = measure(arguments.activations, 512, 4096, 32, 2048, rounds)
        result["ordered_vs_dense_prefixes"] = prefixes(arguments.activations)
        result["d768_latents6144_batch4096"] = measure(arguments.activations, 768, 6144, 32, 4096, max(2, rounds // 2))
    if arguments.fvu_steps:
        tokens = arguments.fvu_steps * 2048
        result["fvu"] = {"tokens": tokens, **quality(arguments.activations, 2048, 32, 2048, arguments.fvu_steps)}
    print(json.dumps({"threads": arguments.threads, "instruction_set": hardware.instruction_set(), **result}))


if __name__ == "__main__":
    main()
