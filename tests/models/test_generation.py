"""Writing: rows that leave, batches side by side, complete starts; on real IgLM-S."""

from collections import Counter

import numpy as np
import pytest
import torch
from antibody_sae.antibody import REGIONS
from antibody_sae.interventions import Edit, Intervention, Where
from antibody_sae.io import InputError
from antibody_sae.models import attention, generation
from antibody_sae.models.model import AntibodyModel
from antibody_sae.models.starts import starts
from antibody_sae.numbering import anarci
from planted import tiny_model
from scipy.stats import chi2_contingency, ks_2samp


def test_a_row_does_not_depend_on_the_others(iglm_s, monkeypatch):
    """Alone, beside rows that end earlier and later, in batches one after the other or side by side."""
    whole = iglm_s.generate(40, seed=3, batch_size=16)
    assert len({len(g.text) for g in whole}) > 10, "rows end at different steps"
    alone = [iglm_s.generate(40, seed=3, batch_size=16, batches=[b]) for b in range(3)]
    assert [g for part in alone for g in part] == whole
    for n in (1, 2, 5, 17):
        assert iglm_s.generate(n, seed=3, batch_size=16) == whole[:n]
    monkeypatch.setitem(generation._MEMORY, "cpu", 1)
    assert generation.side_by_side(iglm_s) == 1
    assert iglm_s.generate(40, seed=3, batch_size=16) == whole
    assert iglm_s.generate(40, seed=[3, 1], batch_size=16) != whole


def test_rows_that_end_leave_the_batch(iglm_s):
    sizes = []
    handle = iglm_s.blocks[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    try:
        written = iglm_s.generate(24, seed=3, batch_size=24)
    finally:
        handle.remove()
    lengths = sorted(len(g.text) for g in written)
    read = [sum(length >= step for length in lengths) for step in range(len(sizes))]
    assert sizes == [max(4, n) for n in read], "a row is passed as long as it goes on; 4 at least"


@pytest.mark.parametrize("how", [{}, {"complete": True}, {"prompt": "EVQLV", "temperature": 0.8, "top_p": 0.9}])
def test_the_likelihood_of_what_is_written_is_that_of_reading_it(iglm_s, how):
    """Of the model's own distribution, whatever the temperature and the edit; the start and the stop count."""
    written = iglm_s.generate(30, seed=5, batch_size=16, **how)
    read = iglm_s.log_likelihood([passage for g in written for passage in iglm_s.encode(g.text)])
    assert all(g.ended for g in written)
    assert [g.log_likelihood for g in written] == pytest.approx(read, rel=1e-5)
    cut = iglm_s.generate(4, seed=5, max_residues=40)
    assert not any(g.ended for g in cut)
    for g in cut:
        (passage,) = iglm_s.encode(g.text)
        log_p = next(iglm_s.next_token_logits([passage]))[1][1:-2].log_softmax(-1)
        assert g.log_likelihood == pytest.approx(log_p[torch.arange(41), passage.tokens[2:-1]].mean().item(), rel=1e-5)
    vector = torch.randn(iglm_s.d_model, generator=torch.Generator().manual_seed(0))
    push = Edit(iglm_s, [Intervention(vector=vector)])
    for layer in range(1, iglm_s.n_layers + 1):
        for g in iglm_s.generate(30, seed=5, batch_size=16, layer=layer, edit=push, **how):
            if g.ended and g.text:
                expected = iglm_s.log_likelihood(iglm_s.encode(g.text))[0]
                assert g.log_likelihood == pytest.approx(expected, rel=1e-5)


def test_closed_ranks_moves_only_rows_from_behind():
    ended = torch.tensor([0, 1, 0, 1, 0, 0, 1, 0], dtype=torch.bool)
    stay = generation._closed_ranks(ended).tolist()
    assert stay == [0, 5, 2, 7, 4]
    few = generation._closed_ranks(torch.tensor([1, 1, 1, 1, 1, 0], dtype=torch.bool)).tolist()
    assert few == [5, 5, 5, 5]
    few = generation._closed_ranks(torch.tensor([1, 0, 1, 1, 1], dtype=torch.bool)).tolist()
    assert few == [1, 1, 1, 1]


@pytest.mark.parametrize(("heads", "key_heads", "d"), [(8, 8, 64), (4, 2, 16)])
def test_attention_is_softmax_attention(heads, key_heads, d):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, heads, 1, d, generator=generator)
    key, value = (torch.randn(5, key_heads, 70, d, generator=generator) for _ in range(2))
    out, _ = attention._attention(torch.nn.Identity(), query, key * 3, value, None)
    shared = heads // key_heads
    k, v = ((t.double()).repeat_interleave(shared, 1) for t in (key * 3, value))
    expected = ((query.double() @ k.transpose(-1, -2) * d**-0.5).softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-5)


def test_gelu_is_the_tanh_gelu():
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, 1e4, torch.nan])])[None]
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    with torch.inference_mode():
        found = attention.Gelu()(x.clone())
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_bfloat16_follows_its_own_full_pass(monkeypatch):
    """Its keys and values grow, and memory from before is full of nan."""
    monkeypatch.setattr(attention, "GROWTH", 8)
    model = tiny_model(seed=1)
    model.hf.bfloat16()
    half = AntibodyModel(model.spec, model.hf, model._vocabulary, model.provenance)
    for buffer in half._buffers:
        buffer._memory = tuple(torch.full((2**20,), torch.nan, dtype=torch.bfloat16) for _ in range(2))
    allowed = torch.tensor([*half.residue_tokens.values(), half.stop_token("H")])
    agree = total = 0
    for written in half.generate(6, seed=1, temperature=1e-4, max_residues=30):
        tokens = torch.tensor([*(half.residue_tokens[r] for r in written.text), half.stop_token("H")][:30])
        (_, full), *_ = half.next_token_logits(half.encode(written.text))
        best = allowed[full[1 : 1 + len(tokens), allowed].argmax(-1)]
        agree, total = agree + int((best == tokens).sum()), total + len(tokens)
    assert agree > 0.9 * total, "the two round differently where logits are close"


# --- complete domains -------------------------------------------------------------------------------------------------


def test_starts_are_how_germlines_begin():
    human = starts("H", "human")
    assert {"QVQ", "EVQ", "QLQ"} <= set(human)
    assert starts("HL", "human") == human
    assert {"DIQ", "EIV", "QSV", "SYE"} <= set(starts("L", "human"))
    assert starts("H", "camel") == ["EVQ", "QVQ"]
    assert {len(s) for s in human} == {3}, "no start is the beginning of another"
    with pytest.raises(InputError, match="complete: false"):
        starts("L", "camel")


def test_starts_are_drawn_in_proportion_to_the_models_probability(iglm_s):
    """Against the product of conditional probabilities, one full pass a start, with temperature and top_p."""
    first = starts("H", "human")
    for temperature, top_p in ((1.0, 1.0), (0.7, 0.95)):
        expected = []
        for one in first:
            (passage,) = iglm_s.encode(one)
            logits = iglm_s.hf(input_ids=torch.tensor(passage.tokens)[None]).logits[0].double()
            allowed = [*iglm_s.residue_tokens.values(), iglm_s.stop_token("H")]
            p = 1.0
            for t, token in enumerate(passage.tokens[2:5].tolist()):
                row = torch.zeros(logits.shape[1], dtype=torch.float64)
                row[allowed] = (logits[1 + t, allowed] / temperature).softmax(-1)
                order = row.argsort(descending=True)
                before = row[order].cumsum(0) - row[order]
                row[order[before >= top_p]] = 0
                p *= float(row[token] / row.sum())
            expected.append(p)
        expected = np.array(expected) / sum(expected)
        writer = generation._Writer(iglm_s, "H", "human", temperature, top_p, None, None)
        draws = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        tokens = writer._draw_starts(first, torch.zeros(20_000, dtype=torch.long), draws)
        letters = {token: r for r, token in iglm_s.residue_tokens.items()}
        drawn = Counter("".join(letters[t] for t in row) for row in tokens.tolist())
        np.testing.assert_allclose([drawn[one] / 20_000 for one in first], expected, atol=2e-4)


@pytest.mark.slow  # 2,700 sequences
def test_complete_sequences_are_what_rejection_gives(iglm_s):
    """First residues, V family and CDR3 length, within sampling error, from a fraction of the sequences."""
    allowed = set(starts("H", "human"))
    free = iglm_s.generate(2304, seed=11)
    kept = [g.text for g in free if g.text[:3] in allowed and g.ended]
    drawn = [g.text for g in iglm_s.generate(384, seed=12, complete=True) if g.ended]
    assert len(drawn) > 380
    assert len(kept) < len(free) / 4, "rejection draws more than four for one"

    def described(texts):
        found = anarci.number(texts, ["human"])
        ok = [(t, n) for t, n in zip(texts, found, strict=True) if n.status == "ok"]
        families = [str(n.germline.v_allele).split("-")[0] for _, n in ok]
        cdr3 = [int((n.numbers.region == REGIONS.index("CDR3")).sum()) for _, n in ok]
        began = [int(n.numbers.imgt[0]) for _, n in ok]
        return [t[:3] for t, _ in ok], families, cdr3, began

    ours, theirs = described(drawn), described(kept)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        names = [name for name, n in Counter(mine + other).items() if n >= 10]
        table = [[Counter(each)[name] for name in names] for each in (mine, other)]
        assert chi2_contingency(table).pvalue > 1e-3, (names, table)
    assert ks_2samp(ours[2], theirs[2]).pvalue > 1e-3
    assert np.mean(np.isin(ours[3], (1, 2))) > 0.99


def test_a_start_is_drawn_from_the_steered_model(iglm_s):
    """Rows of one call under different interventions: a push towards E and one towards Q part the starts; the rows of
    the unsteered arm are the unsteered model's."""
    embedding = iglm_s.hf.get_output_embeddings().weight
    towards = embedding[iglm_s.residue_tokens["E"]] - embedding[iglm_s.residue_tokens["Q"]]
    towards = (towards / towards.norm() * 8).detach().clone()
    arms = [Intervention(), Intervention(vector=towards), Intervention(vector=-towards, where=Where(stop=1))]
    edit = Edit(iglm_s, [arms[row % 3] for row in range(96)])
    written = iglm_s.generate(96, seed=2, complete=True, max_residues=12, layer=3, edit=edit)
    plain = iglm_s.generate(96, seed=2, complete=True, max_residues=12)
    share = [np.mean([g.text[0] == "E" for g in written[arm::3]]) for arm in range(3)]
    assert share[1] > 0.95
    assert share[2] < 0.05
    assert [g.text for g in written[::3]] == [g.text for g in plain[::3]]


def test_a_prompt_replaces_the_starts(iglm_s):
    assert iglm_s.generate(4, seed=1, prompt="DIQ", complete=True) == iglm_s.generate(4, seed=1, prompt="DIQ")


def test_no_start_within_top_p_is_an_error(iglm_s):
    with pytest.raises(InputError, match="raise top_p"):
        iglm_s.generate(4, seed=1, complete=True, top_p=0.01)
