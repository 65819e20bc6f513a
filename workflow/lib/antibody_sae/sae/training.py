"""Train a sparse autoencoder on stored activations: streaming, exact gradients, resumable to the bit, evaluated.

What depends on chance (the decoder's start, the order of the rows) is drawn from counters: (seed, epoch, window). So a
run's position is its step number, and a checkpoint holds weights, optimizer moments and counters, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from antibody_sae.activations import Store
from antibody_sae.io import InputError, progress, read_safetensors, write_safetensors
from antibody_sae.sae.model import SAE
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.stream import Stream, statistics
from antibody_sae.sae.trainer import Trainer

HISTORY = ("step", "tokens", "loss", "fvu", "aux_loss", "dead", "k", "lr")


# -- a run -------------------------------------------------------------------------------------------------------


@contextmanager
def _noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM only sets a flag (in the main thread; elsewhere Python allows no handlers)."""
    noticed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noticed.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: noticed.set())
    try:
        yield noticed.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _identity(store: Store, keep: np.ndarray, settings: Settings, seed: int) -> dict[str, str]:
    """What a checkpoint must agree on with the run that continues it."""
    about = {k: v for k, v in asdict(settings).items() if k != "checkpoint_seconds"}
    shards = [shard["sha256"] for shard in store.manifest["shards"]]
    return {
        "settings": json.dumps({**about, "seed": seed}, sort_keys=True),
        "activations": hashlib.sha256("".join(shards).encode()).hexdigest(),
        "training split": hashlib.sha256(np.packbits(keep).tobytes()).hexdigest(),
    }


def _resume(trainer: Trainer, path: Path, identity: Mapping[str, str]) -> list[list[float]]:
    """Load a checkpoint if there is one; returns the history so far. Raises InputError if it is another run's."""
    if not path.exists():
        return []
    state = read_safetensors(path)
    with safe_open(path, framework="pt") as handle:
        found = handle.metadata() or {}
    for key, value in identity.items():
        if found.get(key) != value:
            raise InputError(
                f"{path}: a checkpoint of another configuration ({key} {found.get(key)}, this run has {value}); "
                "delete it to train from the start, or restore the configuration to continue it"
            )
    trainer.load_state(state)
    return state["history"].tolist()


def train(
    store: Store,
    keep: np.ndarray,
    settings: Settings,
    seed: int,
    checkpoint: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> tuple[SAE, pd.DataFrame]:
    """Train one SAE on the rows of `store` whose residue id is True in `keep` (the training split).

    `checkpoint` is written every settings.checkpoint_seconds and continued from if it is there; the caller removes it
    once the results are safe. On the CPU a run continued from it ends with the same bits as an uninterrupted one, for
    a given number of threads. On SIGTERM it is written, and SystemExit(143) raised.

    Returns the SAE (largest activation and density of its latents measured on the same rows) and its history
    (columns HISTORY, about 200 rows). Raises InputError for bad activations or a checkpoint of another configuration.
    """
    checkpoint = Path(checkpoint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = Stream(store, keep, settings.batch_size, seed)
    sample = stream.sample(min(65536, 8 * settings.batch_size))
    trainer = Trainer(settings, sample, store.manifest["scale"], seed, threads, device)
    identity = _identity(store, keep, settings, seed)
    history = _resume(trainer, checkpoint, identity)
    if trainer.position:
        print(f"continuing from step {trainer.position} of {settings.steps}", file=sys.stderr)

    def save() -> None:
        table = torch.tensor(history, dtype=torch.float64).reshape(-1, len(HISTORY))
        write_safetensors({**trainer.state(), "history": table}, checkpoint, identity)

    every, saved = max(1, settings.steps // 200), time.monotonic()
    first = trainer.position
    with stream.batches(first) as batches, _noticing_sigterm() as terminated:
        steps = range(first, settings.steps)
        for step, batch in zip(progress(steps, len(steps), "training steps"), batches, strict=False):
            log = trainer.step(batch)
            if step % every == 0 or step == settings.steps - 1:
                rate = settings.rate_at(step)
                history.append(
                    [
                        step,
                        (step + 1) * settings.batch_size,
                        log.loss,
                        log.fvu,
                        log.aux_loss,
                        log.dead,
                        settings.k_at(step),
                        rate,
                    ]
                )
                if not math.isfinite(log.loss):
                    raise InputError(f"saes: the loss is {log.loss} at step {step}; lower learning_rate")
            if terminated():
                save()
                raise SystemExit(143)
            if time.monotonic() - saved >= settings.checkpoint_seconds:
                save()
                saved = time.monotonic()
    config = {
        **asdict(settings),
        **store.provenance(),
        "seed": seed,
        "encoder_dtype": "bfloat16" if trainer._half else "float32",
    }
    sae = trainer.sae(config)
    sae.max_activation, sae.density = statistics(sae, store, keep)
    table = pd.DataFrame(history, columns=list(HISTORY))
    return sae, table.astype(dict.fromkeys(("step", "tokens", "dead", "k"), "int64"))
