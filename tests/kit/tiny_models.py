"""Tiny real models, made on the spot: a few layers with random weights and a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.kit.tiny_tokenizers import STYLES


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


def save_adapter(folder: Path, base: Path, seed: int = 1, size: float = 0.1, **lora: Any) -> Path:
    """Save a LoRA adapter with random matrices for a model folder.

    Args:
        size: standard deviation of the B matrices, which are zero before training; 0.1 changes verdicts.
        lora: settings of `peft.LoraConfig`, over rank 8, alpha 16, all linear layers.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    for name, matrix in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:
            torch.nn.init.normal_(matrix, std=size)
    # the vocabulary was not resized: an adapted embedding need not be stored whole
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def edit_config(folder: Path, name: str = "adapter_config.json", **values: Any) -> None:
    """Change values in a JSON file of a model folder."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
