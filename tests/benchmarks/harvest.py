"""Harvesting against the bare forward pass to the same layer, and its memory at 2,000 and 50,000 antibodies.

Prints one JSON line last: of_bare_forward (share of the bare pass's speed), peak_mb_2000, peak_mb_50000.
Run: python tests/benchmarks/harvest.py [--quick]
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from antibody_sae import activations, hardware, io
from antibody_sae.models import model as models
from torch import nn


def antibodies(model, n: int, distinct: int = 256) -> pd.DataFrame:
    """n rows that repeat `distinct` generated heavy chains: the harvest does not look at identity."""
    texts = [g.text for g in model.generate(distinct, seed=0)]
    table = pd.DataFrame({"heavy": [texts[i % distinct] for i in range(n)], "light": None, "species": "human"})
    table["antibody_id"] = [io.antibody_id(h, str(i)) for i, h in enumerate(table.heavy)]
    length = table.heavy.str.len()
    table["first_heavy"], table["first_light"] = length.cumsum() - length, -1
    return table


@torch.inference_mode()
def bare(model, passages, layer: int) -> float:
    """Seconds of the forward pass alone over the same batches, through a model cut after the layer."""
    blocks, name = model.blocks, model.hook_prefix.rpartition(".")[2]
    base = model.hf.base_model
    setattr(base, name, nn.ModuleList(list(blocks)[:layer]))
    try:
        batches = [tokens for _, tokens in model._batches(passages)]
        start = time.perf_counter()
        for tokens in batches:
            base(input_ids=tokens, use_cache=False)
        return time.perf_counter() - start
    finally:
        setattr(base, name, blocks)


def peak_mb(n: int, result) -> None:
    """Peak resident memory (MB) of a process that harvests n antibodies with IgLM-S."""
    torch.set_num_threads(1)
    model = models.load({"name": "iglm-s", "dtype": "float32"})
    with tempfile.TemporaryDirectory() as folder:
        activations.harvest(model, antibodies(model, n, 64), [1], [Path(folder) / "shard-0.safetensors"])
    # ru_maxrss of a spawned process starts at its parent's; the kernel's high-water mark of this address space does not
    (high,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    result.put(int(high) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer antibodies, for the test of this script")
    quick = parser.parse_args().quick
    model = models.load({"name": "iglm-s" if quick else "iglm", "dtype": hardware.fast_dtype()})
    table = antibodies(model, 64 if quick else 512)
    passages = [p for h in table.heavy for p in model.encode(h)]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2 if quick else 5):
            floor = bare(model, passages, 2)
            start = time.perf_counter()
            activations.harvest(model, table, [2], [Path(folder) / "shard-0.safetensors"])
            ratios.append(floor / (time.perf_counter() - start))
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for n in (200, 500) if quick else (2000, 50_000):
        result = context.Queue()
        process = context.Process(target=peak_mb, args=(n, result))
        process.start()
        peaks[f"peak_mb_{n}"] = round(result.get(), 1)
        process.join()
    print(json.dumps({"of_bare_forward": round(statistics.median(ratios), 3), **peaks,
                      "instruction_set": hardware.instruction_set(), "dtype": model.dtype_name}))  # fmt: skip


if __name__ == "__main__":
    main()
