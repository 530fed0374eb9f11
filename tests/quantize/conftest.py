"""Fixtures of merging and quantising: small models, and a machine with enough memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kit.tiny_models import save, save_adapter, save_llama


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GiB free, whatever the machine that runs the tests has."""
    from quantize import merge_proof

    monkeypatch.setattr(merge_proof, "available_memory", lambda: 64 << 30)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tied") / "tied", initializer_range=0.1, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers store their matrices turned; one of them is square."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.kit.tiny_tokenizers import STYLES

    tokenizer = STYLES["qwen"]()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2)
    return save(tmp_path_factory.mktemp("gpt2") / "gpt2", GPT2LMHeadModel(config), tokenizer)


@pytest.fixture
def plain(base: Path, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", base)
