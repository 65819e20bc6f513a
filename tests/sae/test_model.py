"""The SAE as users see it: encode, decode, files, other libraries, agreement of dictionaries."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from antibody_sae.io import InputError
from antibody_sae.sae.evaluation import agreement, compare, matches, prefix_errors, reordered
from antibody_sae.sae.model import SAE
from antibody_sae.sae.prefixes import survival

D, LATENTS, K = 24, 130, 7
PROVENANCE = {
    "model": "stub",
    "revision": None,
    "weights_sha256": "w",
    "tokenizer_sha256": "t",
    "layer": 2,
    "hook": "h.1",
}


def make_sae(seed: int = 0, latents: int = LATENTS) -> SAE:
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(latents, D, generator=g)
    directions /= directions.norm(dim=1, keepdim=True)
    return SAE(
        encoder_weight=torch.randn(latents, D, generator=g) / 4,
        encoder_bias=torch.randn(latents, generator=g) / 4,
        directions=directions,
        pre_bias=torch.randn(D, generator=g) * 3,
        scale=2.7,
        k=K,
        max_activation=torch.rand(latents, generator=g),
        density=torch.rand(latents, generator=g),
        config={"architecture": "topk", "seed": seed, **PROVENANCE},
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1000, D, generator=torch.Generator().manual_seed(5)) * 4 + 1


def dense(sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64: ([n, latents] code, reconstruction)."""
    y = (x.double() - sae.pre_bias.double()) / sae.scale
    hidden = (y @ sae.encoder_weight.double().T + sae.encoder_bias.double()).relu()
    top = hidden.topk(sae.k)
    code = torch.zeros_like(hidden).scatter(1, top.indices, top.values)
    return code, sae.pre_bias + sae.scale * code @ sae.directions.double()


def scattered(codes, latents):
    return torch.zeros(len(codes.values), latents).scatter_add(1, codes.indices.long(), codes.values)


def test_encode_and_decode_are_the_definition(x):
    sae = make_sae()
    code, reconstruction = dense(sae, x)
    codes = sae.encode(x)
    assert codes.indices.dtype == torch.int32
    assert codes.values.shape == (1000, K)
    torch.testing.assert_close(scattered(codes, LATENTS), code.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), reconstruction.float(), atol=1e-4, rtol=1e-5)
    assert (codes.indices.diff(dim=1)[codes.values[:, 1:] > 0] > 0).all(), "active latents ascend"


def test_fewer_than_k_positive_latents_leave_zeros(x):
    sae = make_sae()
    sae.encoder_bias -= 6
    codes = sae.encode(x)
    code, _ = dense(sae, x)
    assert 0 < (codes.values > 0).sum() < codes.values.numel()
    assert (codes.indices[codes.values == 0] == 0).all()
    torch.testing.assert_close(scattered(codes, LATENTS), code.float(), atol=1e-5, rtol=1e-5)


def thresholded(seed: int = 0) -> SAE:
    """Most tokens have a few active latents, some have none."""
    return replace(make_sae(seed), threshold=2.5 + torch.rand(LATENTS, generator=torch.Generator().manual_seed(seed)))


def test_latents_above_their_threshold_are_the_code_and_as_many_as_there_are(x):
    sae = thresholded()
    hidden = (x.double() - sae.pre_bias) / sae.scale @ sae.encoder_weight.double().T + sae.encoder_bias
    code = torch.where(hidden > sae.threshold, hidden, 0)
    active = (code > 0).sum(1)
    codes = sae.encode(x)
    assert active.min() < K < active.max() == codes.indices.shape[1]
    torch.testing.assert_close(scattered(codes, LATENTS), code.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), (sae.pre_bias + sae.scale * code @ sae.directions.double()).float())
    assert (codes.indices.diff(dim=1)[codes.values[:, 1:] > 0] > 0).all(), "active latents ascend"
    assert (codes.indices[codes.values == 0] == 0).all()


def test_a_threshold_decides_alike_however_many_rows_are_encoded(x):
    sae = thresholded()
    y = sae.center(x)
    sae.threshold[:] = (y @ sae.encoder_weight.T + sae.encoder_bias)[3].clamp(min=0.1)  # row 3 lies on every one
    whole = scattered(sae.encode(x), LATENTS)
    assert 0 < (whole[3] > 0).sum() < (sae.threshold > 0.1).sum()
    for rows in (slice(0, 4), slice(3, 4), slice(2, 301)):
        assert torch.equal(scattered(sae.encode(x[rows]), LATENTS), whole[rows])


def test_no_latent_above_its_threshold_and_no_row_leave_one_empty_column(x):
    sae = replace(make_sae(), threshold=torch.full((LATENTS,), 1e3))
    for rows in (x, x[:0]):
        codes = sae.encode(rows)
        assert codes.indices.shape == codes.values.shape == (len(rows), 1)
        assert not codes.values.any()
        assert torch.equal(sae.decode(codes), sae.pre_bias.expand(len(rows), D))


def test_thresholds_are_kept_reordered_and_checked(tmp_path, x):
    sae = thresholded()
    sae.save(tmp_path)
    assert torch.equal(SAE.load(tmp_path).threshold, sae.threshold)
    order = np.random.default_rng(0).permutation(LATENTS)
    assert torch.equal(scattered(reordered(sae, order).encode(x), LATENTS), scattered(sae.encode(x), LATENTS)[:, order])
    for bad in (-torch.ones(LATENTS), torch.full((LATENTS,), torch.nan), torch.ones(LATENTS + 1)):
        with pytest.raises(InputError, match=f"threshold must be {LATENTS} numbers >= 0"):
            replace(sae, threshold=bad)


@pytest.mark.parametrize("make", [make_sae, thresholded])
def test_prefix_errors_end_at_the_reconstruction(x, make):
    sae = make()
    codes = sae.encode(x)
    errors, cosines = prefix_errors(sae, x, codes)
    reconstruction = sae.decode(codes)
    assert errors[-1] * sae.scale**2 == pytest.approx(float((x - reconstruction).square().sum()), rel=1e-4)
    assert errors[0] * sae.scale**2 == pytest.approx(float((x - sae.pre_bias).square().sum()), rel=1e-4)
    want = torch.nn.functional.cosine_similarity(x, reconstruction)
    np.testing.assert_allclose(cosines, want, atol=1e-5)


def test_three_lines_from_a_folder_give_the_same_codes(tmp_path, x):
    make_sae().save(tmp_path / "sae")
    sae = SAE.load(tmp_path / "sae", expected=PROVENANCE)
    codes = sae.encode(x)
    reconstruction = sae.decode(codes)
    assert torch.equal(codes.values, make_sae().encode(x).values)
    assert torch.equal(reconstruction, make_sae().decode(codes))
    assert {k: v for k, v in vars(sae).items() if not isinstance(v, torch.Tensor)} == {
        k: v for k, v in vars(make_sae()).items() if not isinstance(v, torch.Tensor)
    }
    assert torch.equal(sae.density, make_sae().density)
    assert torch.equal(sae.max_activation, make_sae().max_activation)


def test_a_file_of_another_model_layer_or_content_is_refused(tmp_path):
    make_sae().save(tmp_path)
    with pytest.raises(InputError, match="layer is 2, this run expects 3"):
        SAE.load(tmp_path, expected={"layer": 3})
    with pytest.raises(InputError, match="model is 'stub'"):
        SAE.load(tmp_path, expected={"model": "iglm"})
    weights = bytearray((tmp_path / "sae.safetensors").read_bytes())
    weights[-3] ^= 1
    (tmp_path / "sae.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"sae\.safetensors.*delete it and run again"):
        SAE.load(tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(weights[:100])
    with pytest.raises(InputError, match=r"sae\.safetensors"):
        SAE.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: sha256 missing"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_activations_are_refused(x, value):
    x[17, 3] = value
    with pytest.raises(InputError, match="NaN or Inf"):
        make_sae().encode(x)


def test_activations_may_be_arrays_or_tensors_of_any_type(x):
    sae = make_sae()
    expected = sae.encode(x.half().float())
    for given in (x.half(), x.half().double(), x.half().numpy(), x.half().numpy().astype(np.float64), x.half().tolist(),
                  x.half().requires_grad_()):  # fmt: skip
        codes = sae.encode(given)
        assert torch.equal(codes.indices, expected.indices)
        assert torch.equal(codes.values, expected.values)
    frozen = x.numpy().copy()
    frozen.flags.writeable = False  # as pandas and memory maps give them
    assert torch.equal(sae.encode(frozen).indices, sae.encode(x).indices)


def test_a_folder_without_an_sae_says_so(tmp_path):
    with pytest.raises(InputError, match=r"none: holds no SAE .*; trained ones are results/<run>/saes/"):
        SAE.load(tmp_path / "none")
    make_sae().save(tmp_path / "saes" / "ordered-seed0")
    with pytest.raises(InputError, match=r"saes: holds no SAE .*; there are .*ordered-seed0"):
        SAE.load(tmp_path / "saes")


def test_activations_of_another_width_are_refused():
    with pytest.raises(InputError, match=rf"\[n, {D}\]"):
        make_sae().encode(torch.zeros(3, D + 1))


def test_laws_are_laws():
    for law, exponent in (("zipf", 1.0), ("zipf", 0.3), ("geometric", 5.0), ("uniform", 1.0)):
        for mass in (0.0, 0.25):
            weights = survival("ordered", 300, law, exponent, full_mass=mass)
            p = -np.diff(np.r_[weights, 0])
            assert weights[0] == pytest.approx(1)
            assert (p > 0).all(), "full support"
            assert (np.diff(p[: -1 if mass else None]) <= 1e-15).all(), "it falls, or is even, but for the spike"
            assert (p[-1] > p[-2] + 0.24) == (mass > 0), "the spike at the full code"
    assert (survival("topk", 10) == 1).all()
    harmonic = np.array([12, 6, 4, 3]) / 25  # 1, 1/2, 1/3, 1/4 over their sum 25/12
    np.testing.assert_allclose(survival("ordered", 4, "zipf"), harmonic[::-1].cumsum()[::-1])
    np.testing.assert_allclose(
        survival("matryoshka", 32, groups=5), np.repeat([1, 0.8, 0.6, 0.4, 0.2], [2, 2, 4, 8, 16])
    )


def test_agreement_of_a_shuffled_dictionary():
    rng = np.random.default_rng(0)
    one = make_sae().directions.numpy()
    order = rng.permutation(len(one))
    same = agreement(one, one)
    assert same.stability == pytest.approx(1, abs=1e-6)
    assert same.orderedness == pytest.approx(1)
    shuffled = agreement(one, one[order])
    assert shuffled.stability == pytest.approx(1, abs=1e-6)
    assert abs(shuffled.orderedness) < 0.3
    assert agreement(one, one[::-1]).orderedness == pytest.approx(-1)
    assert agreement(one, -one).stability < 0.8


def test_compare_reports_prefixes():
    energy = np.arange(130.0)
    found = compare(make_sae(0), make_sae(0), energy, energy)
    assert found["latents"] == [64, 128, 130]
    for suffix in ("", "_by_energy"):
        np.testing.assert_allclose(found[f"stability{suffix}"], 1, atol=1e-6)
        np.testing.assert_allclose(found[f"orderedness{suffix}"], 1)
    assert compare(make_sae(0), make_sae(1), energy, energy)["stability"][-1] < 0.9


def test_orderedness_is_also_given_once_both_are_sorted_by_energy():
    sae, order = make_sae(), np.random.default_rng(0).permutation(LATENTS)
    shuffled = replace(sae, directions=sae.directions[order])
    energy = np.random.default_rng(1).random(LATENTS)
    found = compare(sae, shuffled, energy, energy[order])
    assert abs(found["orderedness"][-1]) < 0.3
    assert found["orderedness_by_energy"][-1] == pytest.approx(1)
    assert found["stability_by_energy"][0] == pytest.approx(1, abs=1e-6), "the first 64 are the same ones"
    assert found["stability"][0] < 0.9


def test_a_latent_is_found_again_in_another_seed_and_its_control_is_as_dense():
    sae, order = make_sae(), np.random.default_rng(0).permutation(LATENTS)
    other = reordered(sae, order)
    other.directions = torch.nn.functional.normalize(other.directions + 0.1 * make_sae(1).directions, dim=1)
    table = matches(sae, other)
    np.testing.assert_array_equal(order[table["match"]], table["latent"])
    assert sorted(table["match"]) == list(range(LATENTS))
    assert table["cosine"].min() > 0.9
    assert abs(table["cosine_like"].mean()) < 0.2, "of like density, and another direction"
    apart = np.abs(other.density.numpy()[table["like"]] - sae.density.numpy()[table["latent"]])
    assert apart.mean() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [make_sae, thresholded])
def test_gpu_agrees_with_cpu(x, make):
    sae = make()
    ours, theirs = sae.encode(x), sae.to("cuda").encode(x)
    torch.testing.assert_close(
        scattered(type(theirs)(*(t.cpu() for t in theirs)), LATENTS), scattered(ours, LATENTS), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(sae.to("cuda").decode(theirs).cpu(), sae.decode(ours), atol=1e-3, rtol=1e-4)
