"""What a planted model wrote, with what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antibody_sae.steering import credit
from planted import EARLY, chances, planted_model


@pytest.fixture(scope="session")
def drawn():
    """A model, what it wrote, and the exact V of the property after every residue."""
    model = planted_model()
    model.hf.lm_head.weight[model.stop_token("H"), -1] = -0.35  # some eighty residues a sequence
    texts = [g.text for g in model.generate(600, seed=5, max_residues=240)]
    passages = [model.encode(text, chains="H")[0] for text in texts]
    has = np.array([["W" in text[:EARLY]] for text in texts], float)
    chance = chances(model, torch.zeros(16))
    read = []
    for text in texts:
        left = [chance[max(0, EARLY - 1 - i), model.residue_tokens[r]] for i, r in enumerate(text)]
        seen = np.cumsum([r == "W" for r in text[:EARLY]] + [0] * len(text[EARLY:])) > 0
        read.append(np.where(seen, 1.0, left).reshape(-1, 1) if len(text) else np.empty((0, 1)))
    start = chance[EARLY, [model.prefix("H")[-1]]]
    return model, texts, passages, credit.Values(start, read, has)
