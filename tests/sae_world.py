"""What the tests of sae share."""

from __future__ import annotations

from pathlib import Path

import torch
from antibody_sae.activations import Store
from antibody_sae.io import write_json, write_safetensors

D = 16
SMALL = {"latents": 48, "k": 4, "batch_size": 64, "tokens": 64 * 60, "dead_after": 500, "learning_rate": 3e-3}
ARCHITECTURES = ("topk", "ordered", "matryoshka")
ACTIVATIONS = ("topk", "batchtopk", "abstopk", "jumprelu")


def data(n: int, seed: int = 0) -> torch.Tensor:
    """Sparse combinations of 40 directions, off centre and scaled."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(40, D, generator=torch.Generator().manual_seed(99)), dim=1)
    code = torch.rand(n, 40, generator=g) * (torch.rand(n, 40, generator=g) < 0.1)
    return 5 + 3 * code @ directions + 0.05 * torch.randn(n, D, generator=g)


def make_store(folder: Path, x: torch.Tensor, shards: int = 3, **changes) -> Store:
    entries = []
    for i in range(shards):
        rows = slice(len(x) * i // shards, len(x) * (i + 1) // shards)
        ids = torch.arange(rows.start, rows.stop)
        name = f"shard-{i}.safetensors"
        digest = write_safetensors({"activations": x[rows].contiguous(), "residue_id": ids}, folder / name)
        entries.append({"file": name, "n": len(ids), "sha256": digest})
    manifest = {
        "format": 1, "model": "stub", "revision": None, "weights_sha256": "w", "tokenizer_sha256": "t", "layer": 2,
        "hook": "h.1", "model_dtype": "float32", "dtype": "float32", "n": len(x), "d_model": D,
        "mean": x.mean(0).tolist(), "scale": float((x - x.mean(0)).square().mean().sqrt()), "shards": entries,
    }  # fmt: skip
    write_json({**manifest, **changes}, folder / "manifest.json")
    return Store(folder)
