"""Training: right, resumable to the bit, and refusing what it cannot use."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from antibody_sae.activations import Store
from antibody_sae.io import InputError, read_safetensors
from antibody_sae.sae import trainer as training_trainer
from antibody_sae.sae import training
from antibody_sae.sae.evaluation import evaluate
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.training import train
from sae_world import ARCHITECTURES, SMALL, D, data, make_store


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Where bits are promised; the sums of a GPU depend on chance in theirs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def weights(sae) -> dict[str, torch.Tensor]:
    return {k: v for k, v in vars(sae).items() if isinstance(v, torch.Tensor)}


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def test_bfloat16_selection_costs_under_one_per_cent(store, keep, tmp_path):
    fvu = {}
    for dtype in ("float32", "bfloat16"):
        settings = Settings(**SMALL | {"tokens": 64 * 400, "encoder_dtype": dtype})
        fvu[dtype] = evaluate(train(store, keep, settings, 0, tmp_path / dtype)[0], store, ~keep)["fvu"]
    assert fvu["bfloat16"] == pytest.approx(fvu["float32"], rel=0.01)


def test_geometric_median_resists_outliers():
    points = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), torch.full((30, 3), 1e4)])
    assert training_trainer.geometric_median(points).norm() < 0.5 < points.mean(0).norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_seed_same_weights_and_watching_changes_nothing(store, keep, tmp_path, architecture):
    quiet = Settings(**SMALL, architecture=architecture, checkpoint_seconds=1e9)
    watched = Settings(**SMALL, architecture=architecture, checkpoint_seconds=1e-9)  # saves and logs at every step
    one, history = train(store, keep, quiet, 0, tmp_path / "a")
    other, _ = train(store, keep, watched, 0, tmp_path / "b")
    assert same(one, other)
    assert not same(one, train(store, keep, quiet, 1, tmp_path / "c")[0])
    assert list(history.columns) == list(training.HISTORY)
    assert history["step"].iloc[-1] == 59
    assert np.isfinite(history.to_numpy()).all()
    assert history["fvu"].iloc[-1] < history["fvu"].iloc[0]


def test_threads_agree(store, keep, tmp_path):
    one = train(store, keep, Settings(**SMALL, encoder_dtype="float32"), 0, tmp_path / "a")[0]
    two = train(store, keep, Settings(**SMALL, encoder_dtype="float32"), 0, tmp_path / "b", threads=2)[0]
    again = train(store, keep, Settings(**SMALL, encoder_dtype="float32"), 0, tmp_path / "c", threads=2)[0]
    assert same(two, again)
    torch.testing.assert_close(one.directions, two.directions, atol=1e-2, rtol=0)


def test_statistics_are_of_the_training_rows(store, keep, tmp_path):
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "a")
    x = data(2000)[keep]
    codes = sae.encode(x)
    code = torch.zeros(len(x), 48).scatter_add(1, codes.indices.long(), codes.values)
    torch.testing.assert_close(sae.max_activation, code.amax(0))
    torch.testing.assert_close(sae.density, (code > 0).float().mean(0))


RUN = """
    import sys, numpy as np
    from antibody_sae.activations import Store
    from antibody_sae.sae.settings import Settings
    from antibody_sae.sae.trainer import Trainer
    from antibody_sae.sae.training import train
    import json, time
    step = Trainer.step
    def slow(self, x):
        time.sleep(0.004)
        print(self.position, flush=True)
        return step(self, x)
    Trainer.step = slow
    folder, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    keep = np.arange(2000) % 5 != 0
    sae, history = train(Store(folder), keep, Settings(**settings), 0, out + "/checkpoint.safetensors")
    history.to_csv(out + "/history.csv")
    sae.save(out)
"""


def start(store: Store, out: Path, settings: dict) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(store.folder), str(out), json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": str(Path(training.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def until(process: subprocess.Popen, step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return


def test_killed_at_random_steps_and_started_again_ends_bit_identical(store, keep, tmp_path):
    settings = {**SMALL, "architecture": "ordered", "tokens": 64 * 200, "checkpoint_seconds": 0.02}
    settings |= {"sort_every": 30, "sweep": 0.5}
    whole, history = train(store, keep, Settings(**settings), 0, tmp_path / "whole")
    out = tmp_path / "killed"
    at = sorted(random.sample(range(5, 190), 2))
    for step in at:
        process = start(store, out, settings)
        until(process, step)
        time.sleep(random.random() * 0.02)
        process.kill()
        process.wait()
    assert not (out / "sae.safetensors").exists()
    process = start(store, out, settings)
    first = int(process.stdout.readline())  # type: ignore[union-attr]
    process.communicate()
    assert process.returncode == 0
    assert 0 < first <= at[-1] + 10, f"continued, killed at {at}"
    whole.save(tmp_path / "reference")
    for name in ("sae.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "reference" / name).read_bytes(), f"killed at {at}"
    assert (out / "history.csv").read_text() == history.to_csv()
    assert not list(out.glob(".*")) or all(p.name.startswith(".checkpoint") for p in out.glob(".*"))


def test_sigterm_saves_and_exits_so_that_the_job_is_rerun(store, keep, tmp_path):
    settings = {**SMALL, "tokens": 64 * 150, "checkpoint_seconds": 1e9}
    process = start(store, tmp_path / "out", settings)
    until(process, 40)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    checkpoint = tmp_path / "out" / "checkpoint.safetensors"
    assert 40 <= int(read_safetensors(checkpoint)["position"]) < 150
    resumed, _ = train(store, keep, Settings(**settings), 0, checkpoint)
    assert same(resumed, train(store, keep, Settings(**settings), 0, tmp_path / "whole")[0])


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(store, keep, tmp_path):
    path = tmp_path / "checkpoint"
    settings = Settings(**SMALL, checkpoint_seconds=1e-9)
    train(store, keep, settings, 0, path)
    for other, seed, rows in (
        (Settings(**SMALL | {"k": 5}), 0, keep),
        (settings, 1, keep),
        (settings, 0, ~keep),
    ):
        with pytest.raises(InputError, match=r"another configuration.*delete it to train from the start"):
            train(store, rows, other, seed, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"checkpoint.*delete it and run again"):
        train(store, keep, settings, 0, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_activations_are_refused_with_their_place(tmp_path, value):
    x = data(2000)
    x[1500, 3] = value
    store = make_store(tmp_path / "bad", x, scale=1.0, mean=[0.0] * D)
    with pytest.raises(InputError, match=r"shard-2\.safetensors, rows .*NaN or Inf activations; delete"):
        train(store, np.ones(2000, dtype=bool), Settings(**SMALL), 0, tmp_path / "checkpoint")


@pytest.mark.parametrize("size", [0, 5000])
def test_an_empty_or_truncated_shard_is_refused(store, keep, tmp_path, size):
    shard = store.folder / "shard-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(InputError, match=r"shard-1\.safetensors.*delete it and run again"):
        train(Store(store.folder), keep, Settings(**SMALL), 0, tmp_path / "checkpoint")


def test_a_manifest_of_another_model_or_layer_is_refused(store):
    for key, value in (("model", "iglm"), ("layer", 3)):
        with pytest.raises(InputError, match=rf"manifest\.json: {key} is .*, this run expects {value!r}"):
            Store(store.folder, {key: value})


def test_constant_activations_an_empty_split_and_foreign_residues_are_refused(store, keep, tmp_path):
    flat = make_store(tmp_path / "flat", torch.ones(500, D))
    with pytest.raises(InputError, match="constant"):
        train(flat, np.ones(500, dtype=bool), Settings(**SMALL), 0, tmp_path / "c")
    with pytest.raises(InputError, match="none of its residues is in the training split"):
        train(store, np.zeros(2000, dtype=bool), Settings(**SMALL), 0, tmp_path / "c")
    with pytest.raises(InputError, match="not in the run's numbering"):
        train(store, keep[:1000], Settings(**SMALL), 0, tmp_path / "c")
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    with pytest.raises(InputError, match="no residue is held out"):
        evaluate(sae, store, np.zeros(2000, dtype=bool))
