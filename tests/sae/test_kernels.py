"""The kernels against plain float64 autograd and torch.topk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.sae import kernels, selection
from antibody_sae.sae.model import sort_keys
from antibody_sae.sae.prefixes import survival
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_prefix_loss

NONE = np.empty(0, dtype=np.int64)
CASES = {
    "topk": {"architecture": "topk"},
    "ordered-harmonic": {"architecture": "ordered", "law": "zipf", "full_mass": 0.25},
    "ordered-zipf": {"architecture": "ordered", "law": "zipf", "exponent": 0.3},
    "ordered-geometric": {"architecture": "ordered", "law": "geometric", "exponent": 4.0},
    "ordered-uniform": {"architecture": "ordered", "law": "uniform"},
    "matryoshka": {"architecture": "matryoshka"},
}


def bands(rows):
    """rows [n, d] as `walk` reads them."""
    packed = np.full((-(-rows.shape[1] // kernels.WIDTH), len(rows), kernels.WIDTH), np.nan, dtype=rows.dtype)
    kernels.pack(rows, packed)
    return packed


def group(indices, values, k, silence, energy):
    """The codes' entries by latent."""
    entries = kernels.Entries(
        np.empty(len(silence) + 1, np.int64), np.empty(values.size, np.int32), np.empty(values.size, np.int32)
    )
    kernels.by_latent(indices, values, k, entries, silence, energy)
    return entries


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_equal_autograd_over_all_prefixes(case):
    n, d, latents, k, aux_k, weight = 13, 150, 48, 6, 5, 0.37  # two bands, the second one partly filled
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, d))
    parameters = {
        "encoder": rng.normal(size=(latents, d)) / 9,
        "bias": rng.normal(size=latents) / 5,
        "decoder": rng.normal(size=(latents, d)) / 3,
        "pre_bias": rng.normal(size=d),
    }
    dead = np.array([3, 4, 5, 20, 33, 40, 41], dtype=np.int64)
    weights = survival(latents=latents, **CASES[case])
    p = torch.tensor(-np.diff(np.r_[weights, 0.0]))

    # reference: dense, autograd
    leaf = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    y = torch.tensor(x) - leaf["pre_bias"]
    hidden = y @ leaf["encoder"].T + leaf["bias"]
    mask = torch.zeros_like(hidden).scatter(1, hidden.topk(k).indices, 1.0)
    code = hidden.relu() * mask
    loss = dense_prefix_loss(y, code, leaf["decoder"], p)
    residual = (y - code @ leaf["decoder"]).detach()
    few = torch.zeros_like(hidden)
    few.scatter_(1, torch.tensor(dead)[hidden[:, dead].topk(aux_k).indices], 1.0)
    aux = (residual - (hidden.relu() * few) @ leaf["decoder"]).square().sum()
    (weight * loss + 0.11 * aux).backward()

    # ours
    target = x - parameters["pre_bias"]
    pre = target @ parameters["encoder"].T + parameters["bias"]
    keys = sort_keys(torch.tensor(pre, dtype=torch.float32))
    indices = np.empty((n, k + aux_k), dtype=np.int32)
    values, d_values = np.empty((n, k + aux_k)), np.empty((n, k + aux_k))
    selection.select_topk(keys, k, NONE, indices)
    selection.select_topk(keys, aux_k, dead, indices[:, k:])
    selection.activations(target, parameters["encoder"], parameters["bias"], indices, 0, values)
    d_values[:] = 0
    ours, full, ours_aux = 0.0, 0.0, 0.0
    packed, decoder, left, unused = (bands(a) for a in (target, parameters["decoder"], target, target))
    d_decoder, d_target = np.zeros_like(decoder), np.zeros((len(decoder), kernels.WIDTH))
    for band in range(len(decoder)):
        part = kernels.walk(
            packed[band], decoder[band], weights, indices, values, 0, k, weight, d_values, d_decoder[band],
            d_target[band], left[band],
        )  # fmt: skip
        ours, full = ours + part[0], full + part[1]
        ours_aux += kernels.walk(
            left[band], decoder[band], np.ones(latents), indices, values, k, k + aux_k, 0.11, d_values, d_decoder[band],
            np.zeros(kernels.WIDTH), unused[band],
        )[1]  # fmt: skip
    silence = np.full(latents, 7)
    energy = np.zeros(latents)
    entries = group(indices, values, k, silence, energy)
    got = {name: np.empty_like(value) for name, value in parameters.items()}
    d_input = np.empty(d)
    found = kernels.Rows(got["encoder"], got["bias"], got["decoder"])
    kernels.gradients(target, d_values, entries, d_decoder, parameters["encoder"], found, d_input)
    got["pre_bias"] = d_target.reshape(-1)[:d] - d_input

    assert ours == pytest.approx(loss.item(), rel=1e-12)
    assert full == pytest.approx(residual.square().sum().item(), rel=1e-12)
    assert ours_aux == pytest.approx(aux.item(), rel=1e-12)
    np.testing.assert_allclose(np.hstack(left)[:, :d], residual, atol=1e-12)
    for name in parameters:
        reference = leaf[name].grad.numpy()
        assert np.abs(reference).max() > 1e-3, name
        np.testing.assert_allclose(got[name], reference, atol=1e-12 * np.abs(reference).max(), err_msg=name)
    np.testing.assert_array_equal(silence == 0, (code > 0).any(0).numpy())
    np.testing.assert_allclose(energy, code.detach().square().sum(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 80), st.integers(0, 2**32 - 1), st.booleans())
def test_selection_is_torch_topk_of_the_positive_entries_in_order_of_index(latents, k, seed, half):
    k = min(k, latents)
    pre = torch.randn(3, latents, generator=torch.Generator().manual_seed(seed))
    pre[1] -= 2.5  # few are positive
    pre[2] = pre[2].round()  # many ties
    pre = pre.bfloat16() if half else pre
    indices = np.empty((3, k), dtype=np.int32)
    selection.select_topk(sort_keys(pre), k, NONE, indices)
    for row, chosen in zip(pre, indices, strict=True):
        found = chosen[chosen < latents]
        assert (np.diff(found) > 0).all()
        assert (chosen[len(found) :] == latents).all()
        want = row.topk(k).values
        want = want[want > 0]
        assert torch.equal(row[torch.from_numpy(found).long()].sort(descending=True).values, want)
        ties = row == (want[-1] if len(want) else 0)  # ties go to the lowest index
        taken = np.isin(np.flatnonzero(ties), found) if len(want) else np.array([], dtype=bool)
        assert not (np.diff(taken.astype(int)) > 0).any()


def test_selection_among_allowed_latents_only():
    pre = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    allowed = np.arange(5, 300, 7)
    indices = np.full((50, 12), -1, dtype=np.int32)
    selection.select_topk(sort_keys(pre), 10, allowed, indices)
    want = torch.tensor(allowed)[pre[:, allowed].topk(10).indices].sort(1).values
    assert (pre[:, allowed].topk(10).values > 0).all()
    np.testing.assert_array_equal(indices[:, :10], want)
    assert (indices[:, 10:] == -1).all()


def test_update_is_adam_on_the_tangent_of_the_unit_sphere():
    rng = np.random.default_rng(0)
    n, d, latents, m, steps = 40, 16, 12, 3, 3
    f4 = lambda *s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    encoder, bias, decoder = f4(latents, d), f4(latents), f4(latents, d)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    leaf = [torch.tensor(a.copy(), requires_grad=True) for a in (encoder, bias, decoder)]
    reference = torch.optim.Adam(leaf, lr=0.01)
    weights = kernels.Rows(encoder, bias, decoder)
    first, second = (kernels.Rows(*map(np.zeros_like, weights)) for _ in range(2))
    packed = bands(decoder)
    half = np.empty((latents, d), dtype=np.uint16)
    frozen = 2
    before = encoder.copy(), decoder.copy()
    for step in range(1, steps + 1):
        y, d_values, d_decoder = f4(n, d), f4(n, m), bands(f4(latents, d))
        indices = np.sort(rng.permuted(np.tile(np.arange(latents), (n, 1)), axis=1)[:, :m], axis=1).astype(np.int32)
        values = np.ones((n, m), dtype=np.float32)
        entries = group(indices, values, m, np.zeros(latents, np.int64), np.zeros(latents))
        g = kernels.Rows(*map(np.empty_like, weights))
        want_input, d_input = np.empty(d, np.float32), np.zeros(d, np.float32)
        kernels.gradients(y, d_values, entries, d_decoder, encoder, g, want_input)
        along = (g.decoder * decoder).sum(1, keepdims=True)
        for tensor, gradient in zip(leaf, (g.encoder, g.bias, g.decoder - along * decoder), strict=True):
            tensor.grad = torch.from_numpy(gradient.copy())
        reference.step()
        with torch.no_grad():
            leaf[2] /= leaf[2].norm(dim=1, keepdim=True)
        adam = kernels.Adam(1.0, 0.01 / (1 - 0.9**step), 1 - 0.999**step, 0.9, 0.999, 1e-8)
        for part in range(2):
            kernels.update(
                part, 2, frozen, y, d_values, entries, d_decoder, weights, first, second, adam, d_input, packed, half
            )
        assert not d_decoder.any()
        np.testing.assert_array_equal(packed, bands(decoder))
        np.testing.assert_allclose(d_input, want_input, atol=1e-4)
        with torch.no_grad():  # the reference does not freeze
            leaf[0][:frozen], leaf[1][:frozen] = torch.tensor(before[0][:frozen]), torch.tensor(bias[:frozen])
            leaf[2][:frozen] = torch.tensor(before[1][:frozen])
    for ours, theirs in zip((encoder, bias, decoder), leaf, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=2e-6)
    np.testing.assert_array_equal(encoder[:frozen], before[0][:frozen])
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, atol=1e-6)
    assert torch.equal(torch.from_numpy(half).view(torch.bfloat16), torch.from_numpy(encoder).bfloat16())


def test_prefix_errors_are_those_of_dense_prefixes():
    rng = np.random.default_rng(3)
    n, d, latents, k = 9, 12, 30, 4
    y, decoder, shift = rng.normal(size=(n, d)), rng.normal(size=(latents, d)), rng.normal(size=d)
    indices = np.sort(rng.permuted(np.tile(np.arange(latents), (n, 1)), axis=1)[:, :k], axis=1).astype(np.int32)
    values = rng.uniform(0.1, 2, size=(n, k))
    code = np.zeros((n, latents))
    np.put_along_axis(code, indices.astype(int), values, 1)
    errors, cosines = np.zeros(latents + 1), np.empty(n)
    kernels.prefix_errors(y, decoder, indices, values, errors, shift, cosines)
    want = [np.square(y - code[:, :length] @ decoder[:length]).sum() for length in range(latents + 1)]
    np.testing.assert_allclose(np.cumsum(errors), want)
    guess = code @ decoder + shift
    want_cosine = ((y + shift) * guess).sum(1) / np.linalg.norm(y + shift, axis=1) / np.linalg.norm(guess, axis=1)
    np.testing.assert_allclose(cosines, want_cosine)
