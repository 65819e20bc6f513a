"""Stub checkpoints: their tokenizers, and a small one of p-IgGen's kind that learned to write pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

P_IGGEN_TOKENS = ["<|pad|>", "A", "R", *"CDEFGHIKLMNPQSTVWY", "X", "B", "1", "2", "Z"]
"""PAD 0, "1" 23 and "2" 24 as published; arginine at 2 is the trap."""


def write_tokenizer(folder: Path, tokens: list[str]) -> None:
    """A tokenizer of single tokens, in the files that transformers reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def pairs(n: int) -> list[str]:
    """Human pairs of few germlines with random CDR3s, heavy and light run together."""
    from anarci.germlines import all_germlines

    def gene(kind: str, chain: str, name: str) -> str:
        aligned = all_germlines[kind][chain]["human"][name]
        return aligned[:104].replace("-", "") if kind == "V" else aligned[117:].replace("-", "")

    rng = np.random.default_rng(0)
    vh = [gene("V", "H", name) for name in ("IGHV1-69*01", "IGHV3-23*01")]
    jh = [gene("J", "H", name) for name in ("IGHJ4*01", "IGHJ6*01")]
    vl, jl = gene("V", "K", "IGKV1-39*01"), gene("J", "K", "IGKJ1*01")

    def loop(low: int, high: int) -> str:
        return "".join(rng.choice(list("ADGRSTYV"), rng.integers(low, high)))

    return [
        vh[rng.integers(2)] + "AR" + loop(8, 13) + jh[rng.integers(2)] + vl + "QQ" + loop(5, 7) + jl for _ in range(n)
    ]


def p_iggen(hidden: int, blocks: int, heads: int, inner: int, context: int) -> Any:
    """A model of p-IgGen's class and vocabulary with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=len(P_IGGEN_TOKENS), hidden_size=hidden, num_hidden_layers=blocks, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=context, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def train_pair_writer(folder: Path) -> None:
    """A checkpoint of p-IgGen's class and vocabulary, two blocks, that writes `pairs`; 40 seconds."""
    import torch

    torch.set_num_threads(1)
    hf = p_iggen(128, 2, 4, 256, 512)
    ids = {token: i for i, token in enumerate(P_IGGEN_TOKENS)}
    texts = [[ids[letter] for letter in f"1{pair}2"] for pair in pairs(256)]
    width = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    steps = 260
    optimiser = torch.optim.AdamW(hf.parameters(), 3e-3, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        batch = tokens[torch.arange(step * 16, step * 16 + 16) % len(tokens)]
        loss = hf(input_ids=batch, labels=batch.masked_fill(batch == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    hf.save_pretrained(folder)
    write_tokenizer(folder, P_IGGEN_TOKENS)
