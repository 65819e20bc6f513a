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
import yaml
from antibody_sae import config
from antibody_sae.activations import Store
from antibody_sae.io import InputError, read_safetensors, write_json, write_safetensors
from antibody_sae.models.model import Encoded
from antibody_sae.sae import evaluation, training
from antibody_sae.sae import settings as training_settings
from antibody_sae.sae import stream as training_stream
from antibody_sae.sae import trainer as training_trainer
from antibody_sae.sae.evaluation import evaluate, prefix_errors, splice
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.stream import Stream
from antibody_sae.sae.trainer import Trainer
from antibody_sae.sae.training import train
from reference import dense_prefix_loss

D = 16
SMALL = {"latents": 48, "k": 4, "batch_size": 64, "tokens": 64 * 60, "dead_after": 500, "learning_rate": 3e-3}
ARCHITECTURES = ("topk", "ordered", "matryoshka")


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


@pytest.fixture
def store(tmp_path) -> Store:
    return make_store(tmp_path / "store", data(2000))


@pytest.fixture
def keep() -> np.ndarray:
    return np.arange(2000) % 5 != 0


def weights(sae) -> dict[str, torch.Tensor]:
    return {k: v for k, v in vars(sae).items() if isinstance(v, torch.Tensor)}


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


# -- one step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["log", "mean", "fvu"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_and_torch_take_the_same_steps(architecture, loss):
    """The GPU's path, here on the CPU, against the kernels: AuxK, sweeping, annealing and all."""
    x = data(400)
    settings = Settings(
        **{**SMALL, "tokens": 64 * 12},
        architecture=architecture,
        loss=loss,
        sweep=0.6,
        aux_k=7,
        encoder_dtype="float32",
    )
    ours, reference = (Trainer(settings, x, 1.3, seed=3) for _ in range(2))
    for trainer in (ours, reference):
        trainer.silence[10:30] = 1000
    aux = []
    for step in range(12):
        batch = x[torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))]
        log = ours.step(batch)
        reference._step_cpu = reference._step_torch  # type: ignore[method-assign]
        assert reference.step(batch) == pytest.approx(log, rel=1e-4)
        aux.append(log.aux_loss)
    assert aux[0] > 0.1, "AuxK took part"
    np.testing.assert_array_equal(ours.silence, reference.silence)
    for name, value in ours.parameters.items():
        torch.testing.assert_close(value, reference.parameters[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_follows_the_gradient_of_the_log_of_the_loss(architecture):
    """Adam's first moment after one step is 0.1 of the gradient of log(loss) + AuxK, here by float64 autograd."""
    x, dead = data(64), np.arange(10, 30)
    settings = Settings(**SMALL, architecture=architecture, aux_k=3, k_warmup=0.0, encoder_dtype="float32")
    trainer = Trainer(settings, x, 1.3, seed=1)
    trainer.silence[dead] = 1000
    leaf = {name: value.double().clone().requires_grad_() for name, value in trainer.parameters.items()}
    trainer.step(x)

    y = x.double() / 1.3 - leaf["pre_bias"]
    hidden = y @ leaf["encoder"].T + leaf["bias"]
    code = hidden.relu() * torch.zeros_like(hidden).scatter(1, hidden.topk(settings.k).indices, 1.0)
    loss = dense_prefix_loss(y, code, leaf["decoder"], -np.diff(np.r_[settings.survival(), 0.0]))
    residual = (y - code @ leaf["decoder"]).detach()
    few = torch.zeros_like(hidden).scatter_(1, torch.tensor(dead)[hidden[:, dead].topk(3).indices], 1.0)
    aux = (residual - (hidden.relu() * few) @ leaf["decoder"]).square().sum() / residual.square().sum()
    (torch.log(loss) + settings.aux_weight * aux).backward()
    want = {name: value.grad for name, value in leaf.items()}
    decoder = leaf["decoder"].detach()
    want["decoder"] -= (want["decoder"] * decoder).sum(1, keepdim=True) * decoder
    for name, gradient in want.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(trainer.first[name].double() / 0.1, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gpu_takes_the_same_steps(architecture):
    x = data(400)
    settings = Settings(**SMALL, architecture=architecture, encoder_dtype="float32")
    ours, gpu = Trainer(settings, x, 1.3), Trainer(settings, x, 1.3, device="cuda")
    for _ in range(5):
        assert gpu.step(x[:64]) == pytest.approx(ours.step(x[:64]), rel=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_rows_are_unit_after_each_step_and_training_learns(architecture):
    x = data(3000)
    trainer = Trainer(Settings(**SMALL | {"tokens": 64 * 300}, architecture=architecture, k_warmup=0.0), x, 1.3)
    losses = []
    for step in range(300):
        losses.append(trainer.step(x[torch.randint(3000, (64,), generator=torch.Generator().manual_seed(step))]).fvu)
        norms = trainer.parameters["decoder"].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-6, rtol=0)
    assert losses[-1] < 0.6 * losses[0]


def test_auxk_brings_dead_latents_back():
    """Latents that never win the selection move towards the residual with AuxK, and stay where they are without."""
    x = data(3000)
    moved = {}
    for aux_k in (0, 8):
        trainer = Trainer(Settings(**SMALL | {"dead_after": 1}, k_warmup=0.0, aux_k=aux_k), x, 1.3)
        trainer.parameters["bias"][:] = 10.0
        trainer.parameters["bias"][24:] = 0.0
        before = {k: v.clone() for k, v in trainer.parameters.items()}
        for step in range(3):
            trainer.step(x[step * 64 : step * 64 + 64])
        moved[aux_k] = [
            float((trainer.parameters[k][24:] - before[k][24:]).abs().max()) for k in before if k != "pre_bias"
        ]
    assert max(moved[0]) < 1e-6
    assert min(moved[8]) > 1e-4


def test_sweeping_freezes_the_lowest_latents_first():
    settings = Settings(**SMALL, architecture="ordered", sweep=0.5)
    frozen = [settings.frozen_at(step) for step in range(settings.steps)]
    assert frozen[:31] == [0] * 31
    assert frozen == sorted(frozen)
    assert frozen[-1] == 46
    assert not any(Settings(**SMALL, sweep=0.5).frozen_at(step) for step in range(60)), "Ordered only"


def test_sorting_orders_by_energy_and_leaves_the_reconstruction_alone():
    x = data(3000)
    plain, sorting = (Trainer(Settings(**SMALL, architecture="ordered", sort_every=n), x, 1.3) for n in (0, 7))
    for trainer in (plain, sorting):
        for step in range(7):
            trainer.step(x[step * 64 : step * 64 + 64])
    order = np.argsort(-plain.energy, kind="stable")
    assert (order != np.arange(48)).any()
    for name in ("encoder", "bias", "decoder"):
        assert torch.equal(sorting.parameters[name], plain.parameters[name][order])
        assert torch.equal(sorting.second[name], plain.second[name][order])
    np.testing.assert_array_equal(sorting.silence, plain.silence[order])
    one, other = plain.sae({}), sorting.sae({})
    torch.testing.assert_close(one.decode(one.encode(x)), other.decode(other.encode(x)), atol=1e-5, rtol=1e-5)
    losses = [prefix_errors(sae, x, sae.encode(x))[0] @ np.arange(49.0, 0, -1) for sae in (one, other)]
    assert losses[1] < losses[0], "it lowers the prefixes' errors"


def train_steps(x, steps=60, **own):
    trainer = Trainer(Settings(**SMALL, encoder_dtype="float32", **own), x, 1.3)
    for step in range(steps):
        trainer.step(x[torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))])
    return trainer.sae({})


ABLATION = {  # the dictionaries of the protocol, as entries of saes.train
    "topk": {"architecture": "topk"},
    "topk_sorted": {"architecture": "topk", "sort_every": 20},
    "ordered": {"architecture": "ordered"},
    "ordered_unsorted": {"architecture": "ordered", "sort_every": 0},
    "ordered_pure": {"architecture": "ordered", "full_mass": 0.0, "sort_every": 0},
    "matryoshka": {"architecture": "matryoshka"},
}


def test_the_ablation_is_a_matter_of_settings():
    sections = config.saes(config.complete({"run": "x", "saes": {"train": ABLATION}}))
    settings = {name: training_settings.settings_from(section) for name, section in sections.items()}
    laws = {name: -np.diff(np.r_[each.survival(), 0.0]) for name, each in settings.items()}
    sorts = {name for name, each in settings.items() if any(map(each.sorts_after, range(100)))}
    assert sorts == {"topk_sorted", "ordered"}
    np.testing.assert_array_equal(laws["topk"], laws["topk_sorted"])
    np.testing.assert_array_equal(laws["ordered"], laws["ordered_unsorted"])
    assert laws["ordered"][-1] > 0.7
    assert (np.diff(laws["ordered_pure"]) < 0).all(), "the loss of arXiv:2512.02194 and nothing else"


def test_a_topk_sae_sorted_by_energy_is_the_same_but_for_the_order_of_its_latents():
    x = data(3000)
    plain, ordered = (train_steps(x, **ABLATION[name]) for name in ("topk", "topk_sorted"))
    torch.testing.assert_close(plain.decode(plain.encode(x)), ordered.decode(ordered.encode(x)), atol=2e-2, rtol=1e-2)
    energy = ordered.encode(x)
    summed = np.bincount(energy.indices.flatten(), energy.values.square().flatten(), minlength=48)
    first = prefix_errors(ordered, x, energy)[0], prefix_errors(plain, x, plain.encode(x))[0]
    assert first[0][8] < first[1][8], "so its first latents explain more"
    assert np.corrcoef(np.arange(48), np.argsort(np.argsort(-summed)))[0, 1] > 0.8


def test_schedules_span_the_run():
    settings = Settings(**SMALL, k_start=40, k_warmup=0.5, warmup=0.1, decay=0.2)
    ks = [settings.k_at(step) for step in range(settings.steps)]
    assert (ks[0], ks[30], ks[-1]) == (40, 4, 4)
    assert ks == sorted(ks, reverse=True)
    rates = [settings.rate_at(step) for step in range(settings.steps)]
    assert max(rates) == settings.learning_rate == rates[6] == rates[40]
    assert rates[:7] == sorted(rates[:7])
    assert rates[47:] == sorted(rates[47:], reverse=True)
    assert rates[-1] < 0.1 * settings.learning_rate
    assert Settings(**SMALL, k_warmup=0.0).k_at(0) == 4


def test_bfloat16_selection_costs_under_one_per_cent(store, keep, tmp_path):
    fvu = {}
    for dtype in ("float32", "bfloat16"):
        settings = Settings(**SMALL | {"tokens": 64 * 400, "encoder_dtype": dtype})
        fvu[dtype] = evaluate(train(store, keep, settings, 0, tmp_path / dtype)[0], store, ~keep)["fvu"]
    assert fvu["bfloat16"] == pytest.approx(fvu["float32"], rel=0.01)


def test_geometric_median_resists_outliers():
    points = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), torch.full((30, 3), 1e4)])
    assert training_trainer.geometric_median(points).norm() < 0.5 < points.mean(0).norm()


# -- data --------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered_store(tmp_path, monkeypatch) -> Store:
    """Row i holds the number i; small chunks and windows."""
    monkeypatch.setattr(training_stream, "CHUNK", 37)
    monkeypatch.setattr(training_stream, "WINDOW", 4)
    return make_store(tmp_path / "numbered", torch.arange(1000.0)[:, None].repeat(1, D), shards=4)


def take(stream: Stream, n: int, first: int = 0) -> torch.Tensor:
    with stream.batches(first) as batches:
        return torch.stack([batch for batch, _ in zip(batches, range(n), strict=False)])[:, :, 0]


def test_each_epoch_visits_every_row_to_keep_once_and_no_other(numbered_store):
    keep = np.arange(1000) % 3 != 0
    rows = take(Stream(numbered_store, keep, 18, seed=1), 74).flatten()  # two epochs of 666 rows
    for epoch in rows.reshape(2, 666):
        np.testing.assert_array_equal(epoch.sort().values, np.flatnonzero(keep))
    assert not torch.equal(rows[:666], rows[666:]), "each epoch in an order of its own"
    first = rows[:100]
    assert len({int(r) // 250 for r in first}) >= 3, "shards are mixed"
    assert (first.diff() > 0).float().mean() < 0.7, "rows are shuffled"


def test_batches_continue_where_they_stopped(numbered_store):
    keep = np.ones(1000, dtype=bool)
    whole = take(Stream(numbered_store, keep, 30, seed=2), 80)
    for first in (1, 17, 33, 34, 71):
        assert torch.equal(take(Stream(numbered_store, keep, 30, seed=2), 80 - first, first), whole[first:])
    assert not torch.equal(take(Stream(numbered_store, keep, 30, seed=3), 80), whole)


def test_memory_holds_one_window_whatever_the_size(numbered_store, monkeypatch):
    stream = Stream(numbered_store, np.ones(1000, dtype=bool), 20, seed=0)
    read = []
    original = numbered_store.read
    monkeypatch.setattr(numbered_store, "read", lambda *a: read.append(a) or original(*a))
    with stream.batches() as batches:
        next(batches)
        time.sleep(0.3)  # the prefetch thread fills its queue and waits
        assert len(read) <= 2 * training_stream.WINDOW


def test_errors_of_the_prefetch_thread_reach_the_trainer(numbered_store, monkeypatch):
    stream = Stream(numbered_store, np.ones(1000, dtype=bool), 20, seed=0)
    monkeypatch.setattr(numbered_store, "read", lambda *a: (_ for _ in ()).throw(InputError("disk is gone")))
    with stream.batches() as batches, pytest.raises(InputError, match="disk is gone"):
        next(batches)


# -- a run -------------------------------------------------------------------------------------------------------


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


# -- bad input ---------------------------------------------------------------------------------------------------


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


def test_bad_settings_say_what_to_change():
    with pytest.raises(InputError, match="k 49 > latents 48"):
        Settings(latents=48, k=49)
    with pytest.raises(InputError, match="law 'flat' is none of zipf"):
        Settings(law="flat")
    with pytest.raises(InputError, match="lower groups"):
        Settings(architecture="matryoshka", latents=8, k=2)
    with pytest.raises(InputError, match="unknown key 'lr'"):
        training_settings.settings_from({"lr": 1})


def test_schema_and_settings_have_the_same_keys():
    schema = yaml.safe_load((Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml").read_text())
    assert set(schema["$defs"]["sae"]["properties"]) - {"seeds"} == set(Settings.__dataclass_fields__)


# -- evaluation --------------------------------------------------------------------------------------------------


def test_a_mean_predictor_has_fvu_one(store, keep, tmp_path):
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    sae.encoder_bias -= 1e6
    sae.pre_bias = data(2000)[~keep].mean(0)
    metrics = evaluate(sae, store, ~keep)
    assert metrics["fvu"] == pytest.approx(1, abs=1e-5)
    assert metrics["dead"] == 48
    assert metrics["l0"] == 0
    np.testing.assert_allclose(metrics["prefixes"]["explained_variance"], 0, atol=1e-5)


def test_sorting_by_energy_is_a_permutation(store, keep, tmp_path, monkeypatch):
    """What TopK's first latents explain once sorted: the same whatever order they were in, and more than unsorted."""
    monkeypatch.setattr(evaluation, "EARLY", 6)
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    found = evaluate(sae, store, ~keep)
    order = np.random.default_rng(0).permutation(48)
    turned = evaluate(evaluation.reordered(sae, order), store, ~keep)
    np.testing.assert_allclose(turned["energy"], np.array(found["energy"])[order])
    assert turned["fvu"] == pytest.approx(found["fvu"])
    assert turned["fvu_6_by_energy"] == pytest.approx(found["fvu_6_by_energy"])
    assert found["fvu_6_by_energy"] < min(found["fvu_6"], turned["fvu_6"])
    ranked = evaluate(evaluation.reordered(sae, evaluation.by_energy(found["energy"])), store, ~keep)
    assert ranked["fvu_6"] == pytest.approx(found["fvu_6_by_energy"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_metrics_are_their_definitions(store, keep, tmp_path, architecture):
    sae, _ = train(store, keep, Settings(**SMALL, architecture=architecture), 0, tmp_path / "c")
    sae.encoder_bias[7] += 50.0  # one dense latent
    sae.encoder_bias[8] -= 1e6  # one dead
    metrics = evaluate(sae, store, ~keep)
    x = data(2000)[~keep]
    codes = sae.encode(x)
    code = torch.zeros(len(x), 48).scatter_add(1, codes.indices.long(), codes.values)
    variance = (x - x.mean(0)).double().square().sum()

    def explained(prefix: int) -> float:
        guess = sae.pre_bias + sae.scale * code[:, :prefix] @ sae.directions[:prefix]
        return float(1 - (x - guess).double().square().sum() / variance)

    assert metrics["fvu"] == pytest.approx(1 - explained(48), rel=1e-4)
    assert metrics["tokens"] == 400
    assert metrics["l0"] == pytest.approx(float((code > 0).sum(1).float().mean()))
    assert metrics["dead"] == int((code.amax(0) == 0).sum()) > 0
    assert metrics["dense"] == int(((code > 0).float().mean(0) > 0.1).sum()) > 0
    assert metrics["cosine"] == pytest.approx(float(torch.cosine_similarity(x, sae.decode(codes)).mean()), rel=1e-4)
    curve = metrics["prefixes"]
    assert curve["latents"][0] == 0
    assert curve["latents"][-1] == 48
    np.testing.assert_allclose(curve["explained_variance"], [explained(n) for n in curve["latents"]], atol=1e-4)


class FakeModel:
    """Its hidden states are a table look-up, its log-likelihood falls with the distance that an edit moves residues."""

    residue_tokens = {"A": 5, "C": 6, "D": 7}  # noqa: RUF012
    device = "cpu"

    def __init__(self) -> None:
        self.table = data(10)
        self.seen: list[torch.Tensor] = []

    def log_likelihood(self, passages, layer=None, edit=None):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(p.tokens) for p in passages], batch_first=True)
        hidden = self.table[tokens]
        edited = hidden if edit is None else edit(hidden, tokens, torch.arange(len(tokens)))
        residues = torch.isin(tokens, torch.tensor([5, 6, 7]))
        assert torch.equal(edited[~residues], hidden[~residues]), "tags and padding stay as they are"
        self.seen.append(edited[residues])
        return -1 - (edited - hidden).square().sum((1, 2)).numpy()


def test_splicing_replaces_residues_only_and_measures_what_is_recovered(store, keep, tmp_path):
    sae, _ = train(store, keep, Settings(**SMALL), 0, tmp_path / "c")
    model = FakeModel()
    passages = [
        Encoded(np.array([1, 2, 5, 6, 7, 3]), np.array([-1, -1, 0, 1, 2, -1])),
        Encoded(np.array([1, 2, 6, 3]), np.array([-1, -1, 0, -1])),
    ]
    mean = data(2000).mean(0)
    metrics = splice(sae, model, passages, 2, mean.tolist())
    x = model.table[[5, 6, 7, 6]]
    reconstruction, zero, replaced, own = model.seen
    torch.testing.assert_close(reconstruction, sae.decode(sae.encode(x)))
    assert not zero.any()
    torch.testing.assert_close(replaced, mean.expand_as(x))
    torch.testing.assert_close(own, x)
    assert metrics["ce_model"] == 1
    assert metrics["ce_model"] < metrics["ce_reconstruction"] < metrics["ce_mean"] < metrics["ce_zero"]
    for name in ("zero", "mean"):
        gap = metrics[f"ce_{name}"] - 1
        assert metrics[f"loss_recovered_{name}"] == pytest.approx(1 - (metrics["ce_reconstruction"] - 1) / gap)
