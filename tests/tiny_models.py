"""Tiny real models, made on the spot: a few layers with random weights and a small tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.tiny_tokenizers import STYLES


def save_llama(folder: Path, /, style: str = "qwen", **config: Any) -> Path:
    """Save a two-layer Llama; its weights are large enough for the verdicts to differ between rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = STYLES[style]()
    torch.manual_seed(0)
    values = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **{**values, **config}))
    return save(folder, model, tokenizer)


def save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a model and its tokenizer as a model folder."""
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
