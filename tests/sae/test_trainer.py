"""Training steps: kernels and torch agree, and do what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae import config
from antibody_sae.sae import settings as training_settings
from antibody_sae.sae.evaluation import prefix_errors
from antibody_sae.sae.settings import Settings
from antibody_sae.sae.trainer import Trainer
from reference import dense_code, dense_prefix_loss
from sae_world import ACTIVATIONS, ARCHITECTURES, SMALL, data


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["log", "mean", "fvu"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_and_torch_take_the_same_steps(architecture, loss, activation):
    """The GPU's path, here on the CPU, against the kernels: AuxK, sweeping, annealing and all."""
    x = data(400)
    settings = Settings(
        **{**SMALL, "tokens": 64 * 12},
        architecture=architecture,
        activation=activation,
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


@pytest.mark.parametrize("loss", ["log", "mean"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_follows_the_gradient_of_the_objective(architecture, activation, loss):
    """Adam's first moment after one step is 0.1 of the gradient of log(loss) + AuxK, here by dense float64 autograd (of
    the loss itself with `mean`). JumpReLU's thresholds leave out what changes the number of latents."""
    x, dead = data(64), np.arange(10, 30)
    settings = Settings(
        **SMALL, architecture=architecture, activation=activation, loss=loss, aux_k=3, k_warmup=0.0,
        encoder_dtype="float32",
    )  # fmt: skip
    trainer = Trainer(settings, x, 1.3, seed=1)
    trainer.silence[dead] = 1000
    if activation == "jumprelu":
        trainer.parameters["threshold"] += torch.linspace(-0.4, 0.1, 48)
    leaf = {name: value.double().clone().requires_grad_() for name, value in trainer.parameters.items()}
    trainer.step(x)

    y = x.double() / 1.3 - leaf["pre_bias"]
    hidden = y @ leaf["encoder"].T + leaf["bias"]
    threshold = leaf["threshold"].exp() if activation == "jumprelu" else None
    code, active = dense_code(activation, hidden, settings.k, threshold, settings.bandwidth)
    error = dense_prefix_loss(y, code, leaf["decoder"], -np.diff(np.r_[settings.survival(), 0.0]))
    residual = (y - code @ leaf["decoder"]).detach()
    of_dead, _ = dense_code("abstopk" if activation == "abstopk" else "topk", hidden[:, dead], 3)
    aux = (residual - of_dead @ leaf["decoder"][dead]).square().sum() / residual.square().sum()
    objective = torch.log(error) if loss == "log" else error / y.numel()
    if activation == "jumprelu":
        (number,) = torch.autograd.grad(active, leaf["threshold"], retain_graph=True)
    (objective + settings.aux_weight * aux).backward()
    want = {name: value.grad for name, value in leaf.items()}
    if activation == "jumprelu":
        assert (number < 0).sum() > 24
        want["threshold"] -= (want["threshold"] @ number) / (number @ number) * number
    decoder = leaf["decoder"].detach()
    want["decoder"] -= (want["decoder"] * decoder).sum(1, keepdim=True) * decoder
    for name, gradient in want.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(trainer.first[name].double() / 0.1, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_state_taken_anywhere_continues_to_the_same_bits(activation, dtype):
    x, settings = data(2000), Settings(**SMALL, architecture="ordered", activation=activation, encoder_dtype=dtype)
    whole, first, resumed = (Trainer(settings, x, 1.3) for _ in range(3))
    batch = [x[torch.randint(2000, (64,), generator=torch.Generator().manual_seed(step))] for step in range(60)]
    for step in range(60):
        whole.step(batch[step])
        if step < 57:
            first.step(batch[step])
    resumed.load_state(first.state())
    for step in range(57, 60):
        resumed.step(batch[step])
    for name, value in whole.state().items():
        assert torch.equal(value, resumed.state()[name]), name
    one, other = whole.sae({}), resumed.sae({})
    assert (one.threshold is None) == (activation in ("topk", "abstopk"))
    assert one.threshold is None or torch.equal(one.threshold, other.threshold)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_written_sae_is_the_one_that_was_trained(activation):
    """Codes and reconstruction from the parameters as they were trained, densely in float64."""
    x = data(3000)
    trainer = Trainer(Settings(**SMALL, activation=activation, encoder_dtype="float32"), x, 1.3)
    for step in range(60):
        trainer.step(x[torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))])
    sae = trainer.sae({})
    p = {name: value.double() for name, value in trainer.parameters.items()}
    hidden = (x.double() / 1.3 - p["pre_bias"]) @ p["encoder"].T + p["bias"]
    if activation == "batchtopk":
        code = torch.where(hidden > float(trainer.least[0] / trainer.least[1]), hidden, 0)
        assert trainer.least[1] == 6, "averaged over the last tenth of 60 steps"
    else:
        threshold = p["threshold"].exp() if activation == "jumprelu" else None
        code, _ = dense_code(activation, hidden, 4, threshold, 0.2)
    codes = sae.encode(x)
    found = torch.zeros(len(x), sae.latents).scatter_add(1, codes.indices.long(), codes.values)
    if activation == "abstopk":
        assert sae.latents == 96
        assert torch.equal(sae.directions[0::2], -sae.directions[1::2])
        assert (code < 0).sum() > 0
        found = found[:, 0::2] - found[:, 1::2]
    torch.testing.assert_close(found, code.float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), (1.3 * (p["pre_bias"] + code @ p["decoder"])).float())


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
@pytest.mark.parametrize("architecture", ["topk", "ordered"])
def test_thresholds_leave_as_many_latents_as_were_asked_for(activation, architecture):
    x = data(20_000)
    settings = Settings(**SMALL | {"tokens": 64 * 1000}, activation=activation, architecture=architecture)
    trainer = Trainer(settings, x, 1.3)
    for step in range(1000):
        trainer.step(x[torch.randint(16_000, (64,), generator=torch.Generator().manual_seed(step))])
    codes = trainer.sae({}).encode(x[16_000:])
    active = (codes.values > 0).sum(1)
    assert active.double().mean() == pytest.approx(4, rel=0.1)
    assert active.min() < 4 < active.max(), "tokens differ"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gpu_takes_the_same_steps(architecture, activation):
    x = data(400)
    settings = Settings(**SMALL, architecture=architecture, activation=activation, encoder_dtype="float32")
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
