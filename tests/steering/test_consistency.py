"""The share of the first direction in a vector's effects: on models whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from antibody_sae.steering import consistency
from planted import planted_model, tiny_model

TEXTS = [("ACDEFGHIKLMNPQRSTVWY" * 2, None), ("WWGGYYAC" * 5, None)]


def test_a_direction_that_raises_one_residue_does_the_same_everywhere():
    """The planted model writes W along dimension 0; along a mixture of tokens' embeddings it does nothing."""
    model = planted_model()
    vectors = torch.zeros(2, 16)
    vectors[0, 0], vectors[1, 1] = 2.0, 2.0  # the cause; its twin reaches no token
    cause, twin = consistency.consistency(model, 1, vectors, TEXTS, "H", "human")
    assert cause > 0.99
    assert np.isnan(twin) or twin <= 1  # its effect is rounding through the final norm, or none


def test_an_effect_that_depends_on_the_context_has_no_common_direction():
    """After a layer of random attention a random vector does something else at each position than a small one that the
    head reads directly."""
    model = tiny_model(layers=3)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 24, generator=generator)
    early = consistency.consistency(model, 1, 3 * vectors, TEXTS, "H", "human")
    late = consistency.consistency(model, 3, 0.01 * vectors, TEXTS, "H", "human")
    assert ((early > 1 / 19) & (early < 1)).all()
    assert late.mean() > early.mean() + 0.1, "after the last block the same vector is read by the same head"


def test_the_share_is_that_of_the_singular_values(iglm_s):
    """Written out for one vector, and the same alone as beside others."""
    from antibody_sae.antibody import RESIDUES
    from antibody_sae.interventions import Edit, Intervention

    vectors = torch.randn(5, iglm_s.d_model, generator=torch.Generator().manual_seed(1))
    text = "EVQLVESGGGLVQPGGSLRLSCAASGFTFS"
    found = consistency.consistency(iglm_s, 2, vectors, [(text, None)], "H", "human")
    alone = consistency.consistency(iglm_s, 2, vectors[2:3], [(text, None)], "H", "human")
    assert found[2] == pytest.approx(alone[0], abs=1e-4)
    (passage,) = iglm_s.encode(text)
    ids = [iglm_s.residue_tokens[residue] for residue in RESIDUES]

    def log_p(edit):
        ((_, logits),) = iglm_s.next_token_logits([passage], 2, edit)
        return logits[1 : 1 + len(text)][:, ids].log_softmax(-1).numpy()

    effect = log_p(Edit(iglm_s, [Intervention(vector=vectors[2])])) - log_p(None)
    s = np.linalg.svd(effect - effect.mean(1, keepdims=True), compute_uv=False)
    assert alone[0] == pytest.approx(s[0] ** 2 / (s**2).sum(), abs=1e-4)
    assert not len(consistency.consistency(iglm_s, 2, vectors[:0], [(text, None)], "H", "human"))


def test_contexts_are_validation_antibodies_with_the_chains_that_are_written():
    split, length = [0, 1, 1, 2, 1, 1, 1], [4, 4, 2, 4, 4, 4, 3]
    first = np.cumsum([0, *length[:-1]])
    letter = np.arange(sum(length)) % 20
    letter[first[6]] = -1  # outside the numbered domain
    light = np.concatenate([np.array([0, 0, 1, 1])[:n] for n in length])
    labels = SimpleNamespace(split=np.array(split), first=first, length=np.array(length), letter=letter, light=light)
    assert consistency.contexts(labels, "H") == [("FG", None), ("KL", None), ("RS", None), ("WY", None)]
    assert consistency.contexts(labels, "HL")[0] == ("FG", "HI")
    assert len(consistency.contexts(labels, "HL")) == 4, "one has no light chain"
    assert consistency.contexts(labels, "L")[0] == (None, "HI")
