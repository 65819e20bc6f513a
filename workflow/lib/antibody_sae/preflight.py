"""Before any job starts: how many antibodies, tokens and bytes, how long here, and whether the disk holds it.

The rates are measured here and now on one thread; what is computed from them is an estimate and says so.
"""

from __future__ import annotations

import difflib
import gzip
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antibody_sae.config import explored, layers, passages, saes, seeds, steered_saes
from antibody_sae.io import InputError, read_json, write_json
from antibody_sae.sequences import readers
from antibody_sae.sequences.records import ReadSettings

if TYPE_CHECKING:
    from antibody_sae.sections import Config, NamedSAE

MEAN_RESIDUES = {"H": 121, "L": 108, "HL": 229}
"""Mean residues of a human antibody by its chains; only an estimate is made of it."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_BOUND = 1.2
"""Seconds of processor time a probe may take, so that a slow machine gives an estimate and not a wait."""
_ASSOCIATED = 2.5
"""Tokens of training that take as long as one residue of evaluating and associating an SAE (2,048 latents and 500
concepts, measured once: it is not probed)."""
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
    start: float = 0.0
    """Seconds, not a rate: until a job has imported torch and loaded the model."""


def measure(config: Config) -> Rates:
    """Probe the rates that decide a run's time, in the run's own number format, and say on stderr what they are.

    Each probe does growing pieces of work for at most _BOUND seconds; what is compiled comes before its clock starts.
    """
    import torch  # torch and transformers take seconds to import, and once measured nothing needs them

    from antibody_sae import hardware
    from antibody_sae.models import model as models
    from antibody_sae.numbering import anarci
    from antibody_sae.sae.settings import Settings, settings_from
    from antibody_sae.sae.trainer import Trainer

    torch.set_num_threads(1)
    _say("loading the model")
    model = models.load(config["model"])
    start = time.process_time()
    _say(f"{model.spec.name} in {model.dtype_name} on {hardware.instruction_set(model.device)}, {start:.1f} s to load")
    if said := hardware.slower_than_auto(model.dtype_name, model.device):
        _say(f"Warning: {said}; set model.dtype: auto")
    sequences = config["sequences"]
    wanted = sequences["chains"]
    chains = wanted if wanted in model.spec.templates else wanted[0]  # IgLM reads a pair one chain at a time

    def generate(size: tuple[int, int]) -> int:
        rows, residues = size
        written = model.generate(rows, chains=chains, max_residues=residues, batch_size=rows)
        return sum(len(one.text) for one in written) + rows * len(model.prefix(chains))

    heavy, light = (_HEAVY if "H" in wanted else None, _LIGHT if "L" in wanted else None)

    def number(n: int) -> int:
        # each distinct chain is numbered once, so these differ in their tails
        anarci.number([(heavy or light or "") + "S" * (n + i) for i in range(n)], config["numbering"]["species"])
        return n

    states: list[torch.Tensor] = []

    def harvest(size: tuple[int, int]) -> int:
        n, residues = size
        short = heavy and heavy[:residues], light and light[:residues]
        passages = [p for _ in range(n) for p in model.encode(*short)]
        states[:] = [next(iter(found.values())) for _, found in model.hidden(passages, config["activations"]["layers"])]
        return sum(map(len, states))

    model.generate(2, chains=chains, max_residues=1, batch_size=2)  # compiles
    generated = _rate(generate, [(2, 2), (8, 4), (32, 8), (128, 16), (128, 60), (128, 120)])
    _say(f"generates {generated / MEAN_RESIDUES[chains]:.1f} sequences a second and thread")
    anarci.number([heavy or light or ""], config["numbering"]["species"])  # the first call loads the profiles
    numbered = _rate(number, [4, 16, 64])
    _say(f"numbers {numbered:.0f} chains a second and thread")
    harvested = _rate(harvest, [(1, 8), (1, 120), (4, 120), (16, 120), (64, 120)])
    _say(f"reads {harvested:,.0f} residues a second and thread")
    rows = torch.cat(states).float()
    settings = settings_from(learned[0]) if (learned := _learned(config)) else Settings()
    trainer = Trainer(settings, rows, float(rows.std()))

    def train(size: int) -> int:
        trainer.step(rows[torch.arange(size) % len(rows)])
        return size

    train(16)  # compiles the kernels
    trained = _rate(train, [min(n, settings.batch_size) for n in (64, 256, 1024, *[settings.batch_size] * 3)])
    _say(f"trains on {trained:,.0f} tokens a second and thread")
    return Rates(generated / MEAN_RESIDUES[chains], harvested, numbered, trained, start)


def _say(text: str) -> None:
    print(f"preflight: {text}", file=sys.stderr, flush=True)


def _rate(work: Callable[[Any], int], sizes: Sequence[Any]) -> float:
    """Units a second of the largest of the growing `sizes` that _BOUND leaves time for; work returns its units.

    The first size is there to wake the machine: it never ends the probe. By the processor's time, so that what else
    the machine does now does not count.
    """
    began = time.process_time()
    rate = 0.0
    for i, size in enumerate(sizes):
        start = time.process_time()
        units = work(size)
        now = time.process_time()
        rate = units / max(now - start, 1e-9)
        product = [int(np.prod(each)) for each in sizes[i : i + 2]]
        if i and now - began + product[-1] / product[0] * (now - start) > _BOUND:
            break
    return rate


def count_antibodies(config: Config) -> int:
    """Antibodies that the run starts from; for files an estimate from the length of their first megabyte's lines."""
    sequences = config["sequences"]
    if sequences["source"] == "generate":
        return int(sequences["n"])
    return sum(_records(Path(p)) for p in readers.find(sequences["paths"]))


def check_columns(config: Config) -> None:
    """Raise InputError where the files' headers lack what sequences or concepts.metadata name: nothing else is read."""
    sequences = config["sequences"]
    have = {"source", "log_likelihood", "n_duplicates"}
    if sequences["source"] == "file":
        how = ReadSettings.of(sequences)
        have |= {"id"}.union(*(readers.metadata_columns(path, how) for path in readers.find(sequences["paths"])))
    for column in config["concepts"]["metadata"]:
        if column not in have:
            near = difflib.get_close_matches(column, have, n=1)
            raise InputError(
                f"config: concepts.metadata.{column}: the input has no such column; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"it has {', '.join(sorted(have))}"
            )


def check_transfer(config: Config) -> None:
    """Raise InputError where the run that transfer.from names is not of this run's very weights and number format."""
    other = config["transfer"]["from"]
    if other:
        from antibody_sae.concepts import abroad
        from antibody_sae.models import model as models

        model = models.load(config["model"])
        for layer in config["activations"]["layers"]:
            own = {**model.provenance, "hook": model.hook_name(layer), "model_dtype": model.dtype_name}
            abroad.check(read_json(abroad.manifest(other, layer)), own, other)


def check_loaded(config: Config) -> None:
    """Raise InputError where a checkpoint under saes.train cannot be loaded, or was trained on the activations of other
    weights, another layer or another width."""
    folders = {name: sae["load"] for name, sae in saes(config).items() if "load" in sae}
    if folders:
        from antibody_sae.models import model as models
        from antibody_sae.sae import checkpoints, loading

        model = models.load(config["model"])
        names = [model.spec.name, model.spec.checkpoint]
        for name, folder in folders.items():
            try:
                found = checkpoints.recognise(str(folder))
                for layer in layers(config)[name]:
                    loading.check(found, {**model.provenance, "layer": layer}, names, model.d_model)
            except InputError as error:
                raise InputError(f"config: saes.train.{name}.load: {error}") from error


def _learned(config: Config) -> list[NamedSAE]:
    """Settings of the SAEs that are trained."""
    return [sae for sae in saes(config).values() if "load" not in sae]


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


def steered(config: Config) -> int:
    """About how many sequences the steering stage writes (fewer where criteria agree on a latent)."""
    steering = config["steering"]
    parts = len(passages(config))  # chains of a pair that are written one at a time have controls of their own
    targets = 8 * parts if steering["targets"] == "auto" else len(steering["targets"])
    lengths, random = len(steering["norms"]), steering["random_latents"]
    sides = len({length > 0 for length in steering["norms"]})  # raising and suppressing are confirmed apart
    tries = len(steering["criteria"]) * steering["candidates"]
    together = steering["explore_n"]

    def arms(share: int, many: int = 1, fresh: int = sides * steering["n"]) -> int:
        """Sequences of `many` arms that share what chooses a length."""
        return many * (lengths * -(-share // many) + fresh)

    levers = steering["levers"]
    trained_few = steering["lever_trained"]
    few = len(steering["lever_sizes"]) * ("sparse" in levers) + len(trained_few)
    kinds = 2 + few  # matched latents, shuffled signs
    drawn = lengths * steering["random_n"]
    ablated = targets * steering["ablation"] * 2 * (tries + steering["candidates"] + 1)  # many are but a CDR3 long
    directions = 3 + ("trained" in levers) + ("located" in levers)  # not all targets are decided in one region
    trained = bool({"sparse", "trained"} & set(levers)) + ("located" in levers)
    made = targets * steering["lever_rounds"] * steering["n"] * trained
    made += parts * steering["gradient_antibodies"]
    controls = targets * directions * arms(together) + made
    controls += parts * (arms(together, random, drawn) + steering["baseline"])
    ways = steering["alternatives"]
    total = targets * steering["n"] * (len(ways) + ("logit_bias" in ways))  # once more: what a bias is explored with
    for layer in config["activations"]["layers"]:
        each, there = explored(config, layer), sum(map(len, steered_saes(config, layer).values()))
        sae = targets * (arms(each, tries) + kinds * arms(each)) + parts * arms(each, random, drawn) + ablated
        if "trained" in levers:  # few latents are confirmed at the trained vector's length, too
            sae += targets * few * steering["n"]
        if trained_few:
            sae += targets * len(trained_few) * steering["lever_rounds"] * steering["n"]
            sae += parts * steering["gradient_antibodies"]
        total += there * sae + controls if there else 0
    return int(total)


def estimate(config: Config, rates: Rates, cores: int, d_model: int) -> tuple[str, int]:
    """The table, and the bytes that the run will write."""
    n = count_antibodies(config)
    sequences, activations = config["sequences"], config["activations"]
    chains = sequences["chains"]
    tokens = n * MEAN_RESIDUES[chains]
    kept = min(tokens, activations["max_tokens"] or tokens)
    per_layer = kept * (d_model * _BYTES[activations["dtype"]] + 8)
    harvested = activations["layers"]
    own, known, places = seeds(config), saes(config), layers(config)
    jobs = sum(len(own[name]) * len(places[name]) for name in known)
    units = [sum(map(len, steered_saes(config, layer).values())) for layer in harvested]
    steering_units = sum(1 + there for there in units if there)
    learned = sum(
        len(own[name]) * len(places[name]) * each["tokens"] for name, each in known.items() if "load" not in each
    )
    read = 1 + len({seed for name, each in known.items() if each["random_model"] for seed in own[name]})  # models
    start = rates.start  # of each job: seconds that a small run spends on little else
    work = {  # seconds on one thread, and the threads that can share it
        "generate": (n / rates.generated + start * sequences["chunks"], sequences["chunks"]),
        "number": (
            n * len(chains) / rates.numbered + start * config["numbering"]["chunks"],
            config["numbering"]["chunks"],
        ),
        "harvest": (
            read * (tokens / rates.harvested + start * activations["shards"]),
            read * activations["shards"],
        ),
        "train": (learned / rates.trained + jobs * start, jobs * config["saes"]["threads"]),
        "associate": (jobs * (_ASSOCIATED * kept / rates.trained + 2 * start), jobs),
        "steer": (  # each SAE's arms, and each layer's controls, in chunks; what is written is read, too
            steered(config) * (1 / rates.generated + MEAN_RESIDUES[chains] / rates.harvested + 1 / rates.numbered)
            + start * steering_units * (2 * config["steering"]["chunks"] + 4),
            config["steering"]["chunks"] * steering_units,
        ),
    }
    if sequences["source"] != "generate":
        del work["generate"]
    total = read * len(harvested) * per_layer + tokens * 40  # a residue's row in the tables
    lines = [
        f"antibodies        {n:>14,}" + ("" if sequences["source"] == "generate" else "  (estimated from the files)"),
        f"tokens            {tokens:>14,}  ({MEAN_RESIDUES[chains]} residues an antibody)",
        f"activations       {per_layer / 1e9:>14.2f}  GB a layer, {len(harvested)} layer{'s'[: len(harvested) - 1]}"
        + (f", {kept:,} residues kept" if kept < tokens else "")
        + (f", of {read} models" if read > 1 else ""),
    ]
    shared = {name: seconds / min(cores, threads) for name, (seconds, threads) in work.items()}
    for name, seconds in shared.items():
        lines.append(f"time to {name:<10}{_duration(seconds):>14}  on {cores} cores")
    lines.append(f"time in all       {_duration(sum(shared.values())):>14}  (longer where threads share a core)")
    return "\n".join(lines), int(total)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def check(config: Config, cores: int, folder: str | Path) -> str:
    """The table for a run that will live in `folder`; rates are kept there and measured once a model and SAE shape.

    Raises InputError where a column is named that is not there, or the disk has less room than the run will take.
    """
    check_columns(config)
    check_transfer(config)
    check_loaded(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = [os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")]
    machine = [platform.node(), *held]
    key = repr([machine, config["model"], config["activations"]["layers"], _learned(config)[:1]])
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
