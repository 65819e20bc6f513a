"""A GPT-2 small enough to know by heart, for tests of what an intervention does."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from antibody_sae.antibody import RESIDUES
from antibody_sae.models.model import AntibodyModel
from antibody_sae.models.presets import ModelSpec

TAGS = ("[HEAVY]", "[HUMAN]", "[SEP]")

CHAIN = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAKDRWGQGTLVTVSS"
)
"""A human heavy variable domain."""
EARLY = 3
"""The property: a W among the first EARLY residues. All that is written later is noise."""


def tiny_model(d_model: int = 24, layers: int = 2, seed: int = 0) -> AntibodyModel:
    """Random weights, one token a residue."""
    vocabulary = {token: i for i, token in enumerate([*TAGS, *RESIDUES])}
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_positions=256, n_embd=d_model, n_layer=layers, n_head=2,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    hf = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in hf.parameters():  # GPT-2's own start is so small that nothing matters
        if parameter.ndim > 1:
            parameter.normal_(0, 0.35)
    hf.set_attn_implementation("antibody_sae")
    spec = ModelSpec("tiny", "", {"H": "[HEAVY][{species}]{heavy}[SEP]"}, ("human",))
    return AntibodyModel(
        spec, hf, vocabulary, {"model": "tiny", "revision": None, "weights_sha256": "0", "tokenizer_sha256": "0"}
    )


def planted_model(d_model: int = 16) -> AntibodyModel:
    """Blocks that do nothing, so that the residual stream is the last token's embedding, and two directions in it.

    Dimension 0 raises the probability of W; dimension 1 is there whenever 0 is (both are written by the token W) and
    reaches no token. The last dimension is a constant, so that the final norm changes little.
    """
    model = tiny_model(d_model)
    for parameter in model.hf.parameters():
        parameter.zero_()
    base = model.hf.transformer
    base.ln_f.weight.fill_(1.0)
    generator = torch.Generator().manual_seed(0)
    base.wte.weight[:, 2:-1] = torch.randn(base.wte.weight.shape[0], d_model - 3, generator=generator) * 0.5
    base.wte.weight[:, -1] = 6.0
    w = model.residue_tokens["W"]
    base.wte.weight[w, 0] = base.wte.weight[w, 1] = 2.0
    head = model.hf.lm_head.weight
    head[w, 0] = 2.0
    head[w, -1] = 0.1
    head[model.stop_token("H"), -1] = 0.25
    return model


def chances(model: AntibodyModel, v: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    """[EARLY + 1, vocabulary] exact chance that one of the next n residues is W, by the last token read, with v added
    to the residual stream of `planted_model`, which is a Markov chain."""
    ids = [*model.residue_tokens.values(), model.stop_token("H")]
    hidden = model.hf.transformer.ln_f(model.hf.transformer.wte.weight + v)
    p = (model.hf.lm_head(hidden)[:, ids].double() / temperature).softmax(-1).numpy()
    w = list(model.residue_tokens).index("W")
    chance = np.zeros((EARLY + 1, len(p)))
    for n in range(1, EARLY + 1):
        later = chance[n - 1][ids]
        later[w], later[-1] = 1.0, 0.0
        chance[n] = p @ later
    return chance
