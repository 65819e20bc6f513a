"""Interventions on a tiny GPT-2 whose every product is known, and on IgLM-S where real antibodies are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from antibody_sae.interventions import Clamp, Edit, Intervention, Where, clamp, parse_where, push
from antibody_sae.io import InputError
from antibody_sae.sae.model import SAE
from planted import tiny_model

D = 24


@pytest.fixture(scope="module")
def model():
    return tiny_model(d_model=D, seed=3)


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, D, generator=generator), dim=1)
    return SAE(
        encoder_weight=directions.clone(),
        encoder_bias=torch.zeros(40),
        directions=directions,
        pre_bias=torch.randn(D, generator=generator) * 0.1,
        scale=1.7,
        k=6,
        max_activation=torch.rand(40, generator=generator) + 0.5,
        density=torch.full((40,), 0.1),
        config={"architecture": "topk"},
    )


def passages(model, n=7):
    rng = np.random.default_rng(0)
    letters = list(model.residue_tokens)
    return [model.encode("".join(rng.choice(letters, 5 + 3 * i)))[0] for i in range(n)]


def logits(model, edit=None, layer=1):
    return dict(model.next_token_logits(passages(model), layer, edit))


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.hf.modules())


def captured(model, edit, layer=1):
    """Residual stream before and after an edit, [rows, T, d] of one padded batch."""
    seen = []

    def spy(hidden, tokens, rows):
        after = edit(hidden, tokens, rows)
        seen.append((hidden.clone(), after.clone(), tokens))
        return after

    list(model.next_token_logits(passages(model), layer, spy))
    return seen


@pytest.mark.parametrize("nothing", [Intervention(), Intervention(vector=torch.zeros(D))])
def test_empty_intervention_is_bit_identical(model, sae, nothing):
    plain = logits(model)
    edited = logits(model, Edit(model, [nothing]))
    assert all(torch.equal(plain[i], edited[i]) for i in plain)
    written = model.generate(6, seed=4, max_residues=20)
    assert written == model.generate(6, seed=4, max_residues=20, layer=1, edit=Edit(model, [nothing] * 6))


def test_strength_zero_and_no_latents_change_nothing(model, sae):
    plain = logits(model)
    for each in (push(sae, {3: 0.0, 7: 0.0}), push(sae, {}), clamp(sae, {})):
        edited = logits(model, Edit(model, [each]))
        assert all(torch.equal(plain[i], edited[i]) for i in plain)


def test_push_adds_multiples_of_the_largest_activation_of_several_latents(model, sae):
    each = push(sae, {3: 2.0, 8: -1.0})
    expected = sae.scale * (2 * sae.max_activation[3] * sae.directions[3] - sae.max_activation[8] * sae.directions[8])
    assert each.norm == pytest.approx(float(expected.norm()), rel=1e-5)
    for before, after, _ in captured(model, Edit(model, [each])):
        torch.testing.assert_close(after - before, expected.expand_as(before), atol=2e-6, rtol=1e-5)


def test_rows_of_a_batch_carry_their_own_interventions_and_others_keep_their_bits(model, sae):
    # the same random numbers: a row must not notice what is done to its neighbours
    alone = model.generate(8, seed=9, max_residues=25)
    strong = push(sae, {5: 9.0})
    all_steered = model.generate(8, seed=9, max_residues=25, layer=1, edit=Edit(model, [strong] * 8))
    mixed = [strong if row % 2 else Intervention() for row in range(8)]
    written = model.generate(8, seed=9, max_residues=25, layer=1, edit=Edit(model, mixed))
    assert [written[r] for r in (0, 2, 4, 6)] == [alone[r] for r in (0, 2, 4, 6)]
    assert [written[r] for r in (1, 3, 5, 7)] == [all_steered[r] for r in (1, 3, 5, 7)]
    assert any(all_steered[r] != alone[r] for r in range(8))


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("strengths", [{0: 1.5}, {0: 0.0}, {0: -1.0, 1: 2.0}])
def test_clamp_is_decode_of_the_clamped_code_minus_decode_of_the_code(model, sae, strengths, threshold):
    """On tokens where the latent is known to be active, and on those where it is not; the SAE's error stays."""
    sae = sae if threshold is None else replace(sae, threshold=torch.full((40,), threshold))
    (first, _, _), *_ = captured(model, Edit(model, [Intervention()]))
    codes = sae.encode(first.flatten(0, 1))
    counts = torch.bincount(codes.indices.flatten()[codes.values.flatten() > 0].long(), minlength=40)
    busy = counts.argsort(descending=True)[:2].tolist()
    named = {busy[i]: s for i, s in strengths.items()}
    each = clamp(sae, named)
    active = False
    for before, after, _ in captured(model, Edit(model, [each])):
        x = before.flatten(0, 1)
        codes = sae.encode(x)
        dense = torch.zeros(len(x), sae.latents).scatter_add(1, codes.indices.long(), codes.values)
        active |= bool((dense[:, busy[0]] > 0).any()) and bool((dense[:, busy[0]] == 0).any())
        clamped = dense.clone()
        for latent, strength in named.items():
            clamped[:, latent] = strength * sae.max_activation[latent]
        expected = sae.scale * (clamped - dense) @ sae.directions
        torch.testing.assert_close(after.flatten(0, 1) - x, expected, atol=1e-5, rtol=1e-4)
    assert active, "the test needs tokens on which the latent is active and tokens on which it is not"


def test_cached_generation_sees_the_same_edit_as_a_full_pass(model, sae):
    """Nearly greedy generation must follow the arg max of the edited full pass, position by position."""
    for each in (push(sae, {2: 3.0}, Where(start=4)), clamp(sae, {1: 2.0, 6: 1.0}, Where(start=2, stop=9))):
        edit = Edit(model, [each])
        for written in model.generate(5, seed=1, temperature=1e-4, max_residues=18, layer=1, edit=edit):
            tokens = [model.residue_tokens[r] for r in written.text]
            (_, full), *_ = model.next_token_logits(model.encode(written.text), 1, edit)
            allowed = [*model.residue_tokens.values(), model.stop_token("H")]
            for i, token in enumerate(tokens):
                best = max(allowed, key=lambda t, i=i: float(full[1 + i, t]))
                assert best == token


def test_where_counts_residues_that_are_written(model, sae):
    ids, before = model.residue_tokens, len(model.prefix("H"))
    tokens = torch.from_numpy(model.encode("ACDEFGHIKL")[0].tokens)[None]
    assert Where().mask(tokens, before, ids).all()
    n, t = 3, tokens.shape[1]
    mask = Where(start=n).mask(tokens, before, ids)[0]
    # the first position that acts has read n residues, so residue n is the first that can change
    assert mask.tolist() == [p >= before - 1 + n for p in range(t)]
    mask = Where(start=n, stop=n + 2).mask(tokens, before, ids)[0]
    assert mask.nonzero().flatten().tolist() == [before - 1 + n, before + n]
    counts = {"CDR1": (4, 6)}
    mask = parse_where("CDR1", counts).mask(tokens, before, ids)[0]
    assert mask.nonzero().flatten().tolist() == [before - 1 + 4, before - 1 + 5]
    assert parse_where({"from": 2}) == Where(start=2)
    assert parse_where("all").everywhere


def test_a_region_changes_nothing_before_it(model, sae):
    plain = logits(model)
    edited = logits(model, Edit(model, [push(sae, {4: 20.0}, Where(start=6))]))
    before = len(model.prefix("H"))
    changed = False
    for i, full in plain.items():
        assert torch.equal(full[: before - 1 + 6], edited[i][: before - 1 + 6])
        changed |= not torch.equal(full, edited[i])
    assert changed


VH = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK"
    "DWGSYFDYWGQGTLVTVSS"
)


@pytest.mark.parametrize("sequence", [VH, VH[15:], VH.replace("YYCAK", "YHCTR")])
def test_cdr3_and_fr4_are_recognised_while_they_are_written(model, sequence):
    """CDR3 = after the cysteine up to and with W-G-x-G; the tryptophan inside "DWGSY" must not close it."""
    ids, before = model.residue_tokens, len(model.prefix("H"))
    tokens = torch.from_numpy(model.encode(sequence)[0].tokens)[None]
    cysteine, motif = sequence.rindex("C"), sequence.index("WGQG")
    written = [i - (before - 1) for i in Where("CDR3").mask(tokens, before, ids)[0].nonzero().flatten().tolist()]
    assert written == list(range(cysteine + 1, motif + 4))
    fr4 = Where("FR4").mask(tokens, before, ids)[0].nonzero().flatten() - (before - 1)
    assert fr4[0] == motif + 4


def test_no_hook_survives_a_call_that_fails(model, sae):
    start = hooks(model)
    huge = Intervention(vector=torch.full((D,), 3e38))
    with pytest.raises(InputError, match="not finite"):
        logits(model, Edit(model, [push(sae, {1: 1.0}), huge][1:]))
    with pytest.raises(InputError, match="not finite"):
        model.generate(2, seed=0, max_residues=5, layer=1, edit=Edit(model, [huge]))
    with pytest.raises(InputError):
        model.generate(4, seed=0, max_residues=5, layer=1, edit=Edit(model, [push(sae, {1: 1.0})] * 2))
    model.generate(2, seed=0, max_residues=5, layer=1, edit=Edit(model, [clamp(sae, {1: 1.0})]))
    assert hooks(model) == start


def test_mistakes_are_refused(model, sae):
    with pytest.raises(InputError, match="not finite"):
        Intervention(vector=torch.tensor([1.0, float("nan")]))
    with pytest.raises(InputError, match="latents 0 to 39"):
        push(sae, {40: 1.0})
    dead = SAE(**{**vars(sae), "max_activation": torch.zeros(40)})
    with pytest.raises(InputError, match="never active"):
        clamp(dead, {1: 1.0})
    with pytest.raises(InputError, match="none of"):
        Where("CDR4")
    with pytest.raises(InputError, match="residue counts"):
        Where("CDR1")
    with pytest.raises(InputError, match="from"):
        Where(start=5, stop=5)
    assert isinstance(clamp(sae, {1: 1.0}).clamp, Clamp)


def test_latents_may_be_named_by_text_as_in_configurations(sae):
    assert torch.equal(push(sae, {"29": 1.0}).vector, push(sae, {29: 1.0}).vector)
    assert clamp(sae, {"29": 0.5}).clamp.values == clamp(sae, {29: 0.5}).clamp.values
    for name in ("-1", "40", "x", 40):
        with pytest.raises(InputError, match="this SAE has latents 0 to 39"):
            push(sae, {name: 1.0})
