"""The model layer against transformers itself, on real IgLM-S and on stubs of p-IgGen's and a generic shape."""

import numpy as np
import pytest
import torch
from antibody_sae.antibody import RESIDUES
from antibody_sae.io import InputError
from antibody_sae.models import generation, presets
from antibody_sae.models import model as models

TRASTUZUMAB_H = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
TRASTUZUMAB_L = (
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
)


def test_iglm_reads_the_vocabulary_file_by_line(iglm_s):
    (passage,) = iglm_s.encode("AC")
    assert passage.tokens.tolist() == [31, 26, 5, 6, 3]  # [HEAVY] [HUMAN] A C [SEP]
    assert passage.residue.tolist() == [-1, -1, 0, 1, -1]


def test_iglm_reads_a_pair_one_chain_at_a_time(iglm_s):
    heavy, light = iglm_s.encode("ACD", "EF")
    assert heavy.residue.max() == 2
    assert light.residue.tolist() == [-1, -1, 3, 4, -1]
    assert light.tokens[0] == 32


def test_hidden_is_the_residual_stream_of_residues_only(iglm_s):
    passages = [*iglm_s.encode(TRASTUZUMAB_H), *iglm_s.encode(None, TRASTUZUMAB_L), *iglm_s.encode("ACD")]
    found = dict(iglm_s.hidden(passages, [1, 2]))
    assert set(found) == {0, 1, 2}
    for i, passage in enumerate(passages):
        reference = iglm_s.hf(input_ids=torch.tensor(passage.tokens)[None], output_hidden_states=True).hidden_states
        for layer in (1, 2):
            expected = reference[layer][0, passage.residue >= 0]
            torch.testing.assert_close(found[i][layer], expected, atol=2e-5, rtol=1e-4)


def test_log_likelihood_against_transformers_loss(iglm_s):
    (passage,) = iglm_s.encode(TRASTUZUMAB_H)
    ids = torch.tensor(passage.tokens)[None]
    labels = ids.clone()
    labels[:, :2] = -100  # tags are given, not predicted
    loss = iglm_s.hf(input_ids=ids, labels=labels).loss.item()
    assert iglm_s.log_likelihood([passage]) == pytest.approx(-loss, rel=1e-4)


def test_generation_writes_residues_and_is_reproducible(iglm_s):
    first = iglm_s.generate(40, seed=3, batch_size=16)
    assert first == iglm_s.generate(40, seed=3, batch_size=16)
    assert first != iglm_s.generate(40, seed=4, batch_size=16)
    assert first[:20] == iglm_s.generate(20, seed=3, batch_size=16)  # a row does not depend on how many are asked for
    assert all(set(g.text) <= set(RESIDUES) and g.ended for g in first)


def test_cached_generation_follows_the_full_pass(iglm_s):
    """Greedy sampling (tiny temperature) through the cache picks the argmax of the full forward pass."""
    (sample,) = iglm_s.generate(1, seed=0, temperature=1e-4)
    (passage,) = iglm_s.encode(sample.text)
    logits = iglm_s.hf(input_ids=torch.tensor(passage.tokens)[None]).logits[0]
    allowed = [*iglm_s.residue_tokens.values(), iglm_s.stop_token("H")]
    best = [allowed[i] for i in logits[1:-1, allowed].argmax(-1).tolist()]
    assert best == passage.tokens[2:].tolist()


def test_prompt_and_top_p(iglm_s):
    texts = [g.text for g in iglm_s.generate(6, seed=1, prompt="EVQLVESGG", top_p=0.5)]
    assert all(t.startswith("EVQLVESGG") and len(t) > 80 for t in texts)
    logits = torch.tensor([[5.0, 4.0, -5.0, -5.0]]).repeat(1000, 1)
    draws = torch.linspace(0, 0.9999, 1000)
    assert set(generation._sample(logits, draws, 1.0, 0.7).tolist()) == {0}
    assert set(generation._sample(logits, draws, 1.0, 0.9).tolist()) == {0, 1}


def test_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(10_000, 1)
    counts = torch.bincount(generation._sample(logits, (torch.arange(10_000) + 0.5) / 10_000, 1.0, 1.0), minlength=3)
    assert counts.tolist() == [5000, 3000, 2000]


def test_an_edit_acts_and_its_hook_does_not_survive(iglm_s):
    def nudge(hidden, tokens, rows):
        assert tokens.shape[1] >= hidden.shape[1]
        return hidden + 3.0 * (torch.arange(hidden.shape[-1]) % 2)  # a constant would vanish in the layer norm

    hooks = [list(block._forward_hooks) for block in iglm_s.blocks]
    plain = iglm_s.generate(4, seed=1)
    assert iglm_s.generate(4, seed=1, layer=2, edit=lambda h, t, r: h) == plain
    assert iglm_s.generate(4, seed=1, layer=2, edit=nudge) != plain
    with pytest.raises(ZeroDivisionError):
        iglm_s.generate(4, seed=1, layer=2, edit=lambda h, t, r: 1 / 0)
    with pytest.raises(InputError, match="not finite"):
        iglm_s.generate(4, seed=1, layer=2, edit=lambda h, t, r: h * np.inf)
    assert [list(block._forward_hooks) for block in iglm_s.blocks] == hooks
    assert iglm_s.generate(4, seed=1) == plain


def test_arginine_does_not_end_a_p_iggen_sequence(p_iggen_stub):
    model = models.load({"name": "p-iggen", "path": str(p_iggen_stub), "dtype": "float32"})
    assert sum(p.numel() for p in model.hf.parameters()) == 22_097_408
    assert (model.residue_tokens["R"], model.hf.generation_config.eos_token_id) == (2, 2)
    assert (model.prefix("HL"), model.stop_token("HL")) == ([23], 24)
    texts = [g.text for g in model.generate(20, chains="HL", seed=0, max_residues=80)]
    inner = [t[:-1] for t in texts]
    assert any("R" in t for t in inner), "arginine occurs before the end, so it did not end the sequence"


def test_p_iggen_pairs_are_one_passage(p_iggen_stub):
    model = models.load({"name": "p-iggen", "path": str(p_iggen_stub), "dtype": "float32"})
    (passage,) = model.encode("ACD", "EF")
    assert passage.tokens[0] == 23
    assert passage.tokens[-1] == 24
    assert passage.residue.tolist() == [-1, 0, 1, 2, 3, 4, -1]
    with pytest.raises(InputError, match="reads HL"):
        model.encode("ACD")
    (uncut,) = model.encode("ACDEF", chains="HL")  # what the model wrote, where nobody can say which part is light
    assert uncut.tokens.tolist() == passage.tokens.tolist()


def test_any_causal_model_with_a_template(generic_stub):
    spec = {"name": "mine", "path": str(generic_stub), "template": {"H": "<{heavy}>"}, "dtype": "float32"}
    model = models.load(spec)
    assert (model.n_layers, model.d_model) == (3, 64)
    (passage,) = model.encode("ACDEF")
    found = dict(model.hidden([passage], [3]))
    reference = model.hf.model.layers  # layer 3 is the last block's output, before the final norm
    captured = []
    handle = reference[2].register_forward_hook(lambda m, i, o: captured.append(o[0] if isinstance(o, tuple) else o))
    logits = model.hf(input_ids=torch.tensor(passage.tokens)[None]).logits
    handle.remove()
    torch.testing.assert_close(found[0][3], captured[0][0, 1:-1], atol=1e-5, rtol=1e-4)
    ids = [model.residue_tokens[r] for r in RESIDUES]
    torch.testing.assert_close(model.logit_lens(found[0][3]), logits[0, 1:-1][:, ids], atol=1e-4, rtol=1e-3)
    (sample,) = model.generate(1, seed=1, temperature=1e-4, max_residues=30)
    assert sample.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "iglm-xl"}, "none of iglm"),
        ({"name": "mine", "path": "/nowhere/at/all", "template": {"H": "<{heavy}>"}}, "no config.json"),
        ({"name": "p-iggen"}, "hf download ollieturnbull/p-IgGen"),
        ({"name": "progen2-oas"}, "remote_code: true"),
        ({"name": "progen2-oas", "remote_code": True}, "pin the commit"),
    ],
)
def test_a_model_that_is_not_there_says_how_to_get_it(change, message):
    with pytest.raises(InputError, match=message):
        models.load({"dtype": "float32", **change})


def test_hostile_weights_are_refused(generic_stub, tmp_path):
    """A .bin with code in it is not read at all; only safetensors are, and IgLM's own weights with weights_only."""
    import pickle
    import shutil

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = tmp_path / "model"
    shutil.copytree(generic_stub, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="safetensors"):
        models.load({"name": "mine", "path": str(folder), "template": {"H": "<{heavy}>"}})
    assert not (tmp_path / "ran").exists()


def test_layer_outside_the_model(iglm_s):
    with pytest.raises(InputError, match="layers 1 to 3"):
        list(iglm_s.hidden(iglm_s.encode("ACD"), [4]))
    assert presets.layer_count(iglm_s.spec) == 3
