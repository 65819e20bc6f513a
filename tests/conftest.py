"""Shared fixtures: real IgLM-S, stub checkpoints of shapes that no package ships, one thread a test."""

import os
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from stubs import P_IGGEN_TOKENS, p_iggen, train_pair_writer, write_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests keep to one of the processes side by side, and so do all files that look at the quick run: it is
    made once, while the others go on with what needs no run."""
    from xdist.scheduler import LoadFileScheduling

    @cache
    def group(file: str) -> str:
        return "quick" if "quick_run" in (ROOT / file).read_text(encoding="utf-8") else file

    class ByRun(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(super()._split_scope(nodeid))

    return ByRun(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real sequences beside the project; a test that needs them skips where they are not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data with real sequences here")
    return folder


@pytest.fixture(scope="session")
def iglm_s():
    """The real IgLM-S, float32."""
    import torch
    from antibody_sae.models import model as models

    torch.set_num_threads(1)
    return models.load({"name": "iglm-s", "dtype": "float32"})


@pytest.fixture(scope="session")
def p_iggen_stub(tmp_path_factory) -> Path:
    """A checkpoint of p-IgGen's exact class, shape and vocabulary with random weights; its generation config
    calls token 2 (arginine) the end, as the published one does."""
    folder = tmp_path_factory.mktemp("p-iggen")
    p_iggen(768, 4, 8, 2048, 1024).save_pretrained(folder)
    write_tokenizer(folder, P_IGGEN_TOKENS)
    return folder


@pytest.fixture(scope="session")
def pair_writer(tmp_path_factory) -> Path:
    """A small checkpoint of p-IgGen's kind that writes pairs."""
    folder = tmp_path_factory.mktemp("pair-writer")
    train_pair_writer(folder)
    return folder


@pytest.fixture(scope="session")
def generic_stub(tmp_path_factory) -> Path:
    """A small Llama-type checkpoint with one token a residue and grouped-query attention."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("generic")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, ["_", "<", ">", "?", *"ACDEFGHIKLMNPQRSTVWY"])
    return folder
