"""Before any job starts: how many antibodies, tokens and bytes, how long here, and whether the disk holds it.

The rates are measured here and now on one thread; what is computed from them is an estimate and says so.
"""

from __future__ import annotations

import gzip
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antibody_sae.config import saes
from antibody_sae.io import InputError, read_json, write_json
from antibody_sae.sequences import readers

RESIDUES = {"H": 121, "L": 108, "HL": 229}
"""Mean residues of a human antibody by its chains; only an estimate is made of it."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_PROBE = 48
"""Sequences of a probe: enough for a stable rate in about two seconds a stage."""
_HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
_LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
"""Trastuzumab's variable domains: chains that every model reads."""


@dataclass(frozen=True)
class Rates:
    """What one thread of this machine does in a second."""

    generated: float
    """Sequences written."""
    harvested: float
    """Residues read, to the last layer asked for."""
    numbered: float
    """Chains."""
    trained: float
    """Tokens of one SAE's training."""


def measure(config: Mapping[str, Any]) -> Rates:
    """Probe the four rates that decide a run's time (a few seconds)."""
    import numpy as np  # torch and transformers too take seconds to import, and once measured nothing needs them
    import torch

    from antibody_sae.models import model as models
    from antibody_sae.numbering import anarci
    from antibody_sae.sae.settings import settings_from
    from antibody_sae.sae.trainer import Trainer

    torch.set_num_threads(1)
    model = models.load(config["model"])
    wanted = config["sequences"]["chains"]
    chains = wanted if wanted in model.spec.templates else wanted[0]  # IgLM reads a pair one chain at a time
    start = time.perf_counter()
    model.generate(_PROBE, chains=chains, batch_size=_PROBE, max_residues=RESIDUES[chains])
    generated = _PROBE / (time.perf_counter() - start)
    probe = [(_HEAVY if "H" in wanted else None, _LIGHT if "L" in wanted else None)] * _PROBE
    # each distinct chain is numbered once, so these differ in their tails
    distinct = [(heavy or light or "") + "S" * i for i, (heavy, light) in enumerate(probe)]
    anarci.number(distinct[:1], config["numbering"]["species"])  # the first call loads the profiles
    start = time.perf_counter()
    anarci.number(distinct, config["numbering"]["species"])
    numbered = _PROBE / (time.perf_counter() - start)
    passages = [p for heavy, light in probe for p in model.encode(heavy, light)]
    start = time.perf_counter()
    states = [s for _, s in model.hidden(passages, config["activations"]["layers"])]
    harvested = _PROBE * RESIDUES[wanted] / (time.perf_counter() - start)
    rows = torch.cat([next(iter(s.values())) for s in states]).float()
    settings = settings_from(next(iter(saes(config).values())))
    trainer = Trainer(settings, rows, float(rows.std()))
    batch = rows[torch.from_numpy(np.arange(settings.batch_size) % len(rows))]
    trainer.step(batch)  # compiles the kernels
    start = time.perf_counter()
    for _ in range(3):
        trainer.step(batch)
    trained = 3 * settings.batch_size / (time.perf_counter() - start)
    return Rates(generated, harvested, numbered, trained)


def count_antibodies(config: Mapping[str, Any]) -> int:
    """Antibodies that the run starts from; for files an estimate from the length of their first megabyte's lines."""
    sequences = config["sequences"]
    if sequences["source"] == "generate":
        return int(sequences["n"])
    return sum(_records(Path(p)) for p in readers.find(sequences["paths"]))


def _records(path: Path) -> int:
    size = path.stat().st_size
    with open(path, "rb") as handle:
        first = handle.read(4)
    if first == b"PAR1":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(path).metadata.num_rows)
    packed = first[:2] == b"\x1f\x8b"
    with gzip.open(path) if packed else open(path, "rb") as text:
        sample = text.read(1 << 20)
        consumed = text.fileobj.tell() if packed else len(sample)  # type: ignore[union-attr]
    lines = sample.count(b">") if sample[:1] == b">" else sample.count(b"\n")
    return max(1, round(lines * max(1.0, size / max(1, consumed))))


def steered(config: Mapping[str, Any]) -> int:
    """About how many sequences the steering stage writes (fewer where criteria agree on a latent)."""
    steering = config["steering"]
    norms, targets = len(steering["norms"]), len(steering["targets"])
    random = steering["random_latents"] * norms * steering["random_n"]
    chosen = targets * len(steering["criteria"]) * steering["candidates"]
    doses = len(steering["strengths"]) * len(steering["methods"]) + norms
    arms = chosen * doses + 2 * targets * norms  # each target has a matched latent and a shuffled sign
    trained = len(saes(config)) * len(config["saes"]["seeds"])
    sequences = trained * (arms * steering["n"] + random)
    sequences += 3 * targets * norms * steering["n"] + random + steering["baseline"]
    return int(len(config["activations"]["layers"]) * sequences)


def estimate(config: Mapping[str, Any], rates: Rates, cores: int, d_model: int) -> tuple[str, int]:
    """The table, and the bytes that the run will write."""
    n = count_antibodies(config)
    sequences, activations = config["sequences"], config["activations"]
    chains = sequences["chains"]
    tokens = n * RESIDUES[chains]
    kept = min(tokens, activations["max_tokens"] or tokens)
    per_layer = kept * (d_model * _BYTES[activations["dtype"]] + 8)
    layers = len(activations["layers"])
    trained = saes(config).values()
    jobs = layers * len(config["saes"]["seeds"]) * len(trained)
    work = {  # seconds on one thread, and the threads that can share it
        "generate": (n / rates.generated, sequences["chunks"]),
        "number": (n * len(chains) / rates.numbered, config["numbering"]["chunks"]),
        "harvest": (tokens / rates.harvested, activations["shards"]),
        "train": (
            sum(s["tokens"] for s in trained) / len(trained) * jobs / rates.trained,
            jobs * config["saes"]["threads"],
        ),
        "steer": (  # each SAE's arms, and each layer's controls, in chunks
            steered(config) * (1 / rates.generated + 1 / rates.numbered),
            config["steering"]["chunks"] * (jobs + layers),
        ),
    }
    if sequences["source"] != "generate":
        del work["generate"]
    total = layers * per_layer + tokens * 40  # a residue's row in the tables
    lines = [
        f"antibodies        {n:>14,}" + ("" if sequences["source"] == "generate" else "  (estimated from the files)"),
        f"tokens            {tokens:>14,}  ({RESIDUES[chains]} residues an antibody)",
        f"activations       {per_layer / 1e9:>14.2f}  GB a layer, {layers} layer{'s' if layers > 1 else ''}"
        + (f", {kept:,} residues kept" if kept < tokens else ""),
    ]
    for name, (seconds, threads) in work.items():
        lines.append(f"time to {name:<10}{_duration(seconds / min(cores, threads)):>14}  on {cores} cores")
    return "\n".join(lines), int(total)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def check(config: Mapping[str, Any], cores: int, folder: str | Path) -> str:
    """The table for a run that will live in `folder`; rates are kept there and measured once a model and SAE shape.

    Raises InputError where the free disk space is less than the run will write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = repr([config["model"], config["activations"]["layers"], next(iter(saes(config).values()))])
    saved = folder / "preflight.json"
    known = read_json(saved) if saved.is_file() else {}
    if known.get("key") != key:
        from antibody_sae.models import model as models

        rates = measure(config)
        known = {"key": key, "rates": rates.__dict__, "d_model": models.load(config["model"]).d_model}
        write_json(known, saved)
    table, total = estimate(config, Rates(**known["rates"]), cores, known["d_model"])
    free = shutil.disk_usage(folder).free
    table += f"\ndisk              {total / 1e9:>14.2f}  GB needed, {free / 1e9:,.1f} GB free"
    if total > free:
        raise InputError(
            f"{folder}: this run writes about {math.ceil(total / 1e9):,} GB and {free / 1e9:,.1f} GB are free; free "
            "some, set activations.max_tokens, or put results/ on a larger disk\n" + table
        )
    return table
