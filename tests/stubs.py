"""The tokenizers of stub checkpoints."""

import json
from pathlib import Path

P_IGGEN_TOKENS = ["<|pad|>", "A", "R", *"CDEFGHIKLMNPQSTVWY", "X", "B", "1", "2", "Z"]
"""PAD 0, "1" 23 and "2" 24 as published; arginine at 2 is the trap."""


def write_tokenizer(folder: Path, tokens: list[str]) -> None:
    """A tokenizer of single tokens, in the files that transformers reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
