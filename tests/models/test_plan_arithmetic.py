"""The arithmetic of a plan against published sizes, hand computation, transformers and torch's FLOP counter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.models.architecture import FAMILIES
from judge.models.arithmetic import ModelShape
from judge.models.bundle import open_model

_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}


def config(kind: str, vocab: int, *sizes: int, **more: Any) -> dict[str, Any]:
    """A config.json's content; `sizes` are layers, hidden, intermediate, heads and key-value heads."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {"model_type": kind, "vocab_size": vocab, **dict(zip(names, sizes, strict=True)), **more}


LLAMA_8B = config("llama", 128256, 32, 4096, 14336, 32, 8, architectures=["LlamaForCausalLM"])
YI_34B = config("llama", 64000, 60, 7168, 20480, 56, 8, quantization_config=_AWQ)
GEMMA_9B = config("gemma2", 256000, 42, 3584, 14336, 16, 8, head_dim=256, sliding_window=4096)
MIXTRAL = config("mixtral", 32000, 32, 4096, 14336, 32, 8, num_local_experts=8, num_experts_per_tok=2)
SMOLLM2 = config("llama", 49152, 30, 576, 1536, 9, 3, tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("geometry", "parameters"),
    [
        (LLAMA_8B, 8_030_261_248),
        (SMOLLM2, 134_515_008),
        (config("qwen2", 152064, 48, 5120, 13824, 40, 8), 14_770_033_664),
        (config("qwen2", 152064, 64, 5120, 27648, 40, 8), 32_763_876_352),
        (GEMMA_9B, 9_241_705_984),
        (config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128), 23_572_403_200),
        (MIXTRAL, 46_702_792_704),
        (YI_34B, 34_388_917_248),
    ],
)
def test_parameters_are_those_that_the_models_are_published_with(geometry: dict[str, Any], parameters: int) -> None:
    assert ModelShape.from_config(geometry).parameters == parameters


_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {**config("", 96, 4, 32, 48, 4, 2), "head_dim": 8, **_TOKENS}
_SMALL.pop("model_type")
_EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MORE: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2},
    "qwen3_moe": {**_EXPERTS, "mlp_only_layers": [1]},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_parameters_and_windows_are_those_that_transformers_builds(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(kind, **{**_SMALL, **_MORE.get(kind, {})})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    shape = ModelShape.from_config(made.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    if made.to_dict().get("layer_types"):
        sliding = [layer == "sliding_attention" for layer in made.layer_types]
        assert [window > 0 for window in shape.windows] == sliding
        without = {name: value for name, value in made.to_dict().items() if name != "layer_types"}
        assert ModelShape.from_config(without).windows == shape.windows


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral"])
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(kind, **{**_SMALL, **_MORE.get(kind, {}), "attention_bias": False, "mlp_bias": False})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager", experts_implementation="eager").eval()
    shape = ModelShape.from_config(made.to_dict())
    for tokens in (7, 40):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.arange(tokens)[None], logits_to_keep=1, use_cache=False)
        # eager attention multiplies all pairs; the rotary angles are a product of positions and head_dim / 2 rates
        rotary = 2 * tokens * (8 // 2)
        assert counter.get_total_flops() == shape.flops([tokens], causal=False)[0] + rotary


def test_flops_of_a_prompt_are_those_of_a_hand_computation() -> None:
    shape = ModelShape.from_config(config("llama", 10, 2, 4, 6, 2, 1))
    # a layer: q 4x4, k 4x2, v 4x2, o 4x4, three of 4x6 = 120 weights; 3 tokens see 1 + 2 + 3 = 6 pairs
    projections = 2 * 120 * 3
    attention = 2 * (2 * 2) * 6 * 2  # 2 heads of 2, for q.k and for weights.v
    head = 2 * 4 * 10
    assert shape.flops([3]).tolist() == [2 * (projections + attention) + head]
    assert shape.flops([0]).tolist() == [0.0]
    # all pairs: 9 instead of 6
    assert shape.flops([3], causal=False)[0] - shape.flops([3])[0] == 2 * 2 * (2 * 2) * 3 * 2


@given(tokens=st.integers(0, 60), window=st.integers(1, 40))
def test_pairs_in_a_window_are_those_that_a_mask_leaves(tokens: int, window: int) -> None:
    made = config("mistral", 10, 1, 4, 6, 2, 1, sliding_window=window)
    query, key = np.mgrid[:tokens, :tokens]
    seen = int(((key <= query) & (key > query - window)).sum())
    assert ModelShape.from_config(made).attention_flops([tokens])[0] == 4 * 2 * 2 * seen


def test_only_a_tokens_own_experts_are_multiplied_with() -> None:
    shape = ModelShape.from_config(MIXTRAL)
    attention = 4096 * 128 * 2 * (32 + 8)
    layer = attention + 2 * 3 * 4096 * 14336 + 4096 * 8  # two experts and the router
    assert shape.active_parameters == 32 * layer  # 12.6 billion with the embeddings, as Mistral AI says 12.9
    assert float(shape.flops([1000])[0]) == pytest.approx(2 * 1000 * 32 * layer, rel=0.03)


def test_a_4_bit_34b_takes_about_20_gb() -> None:
    shape = ModelShape.from_config(YI_34B)
    packed = 60 * (2 * 7168 * 7168 + 2 * 7168 * 1024 + 3 * 7168 * 20480)
    floats = 2 * 64000 * 7168 + 60 * 2 * 7168 + 7168
    # 4 bits a weight; a scale of 16 bits and a zero point of 4 for every 128
    assert shape.weight_bytes(2) == packed / 2 + packed / 128 * 2.5 + floats * 2
    assert 19e9 < shape.weight_bytes(2) < 20e9
    assert ModelShape.from_config({k: v for k, v in YI_34B.items() if k != "quantization_config"}).weight_bytes(
        2
    ) == 2 * (packed + floats)
    four_bits = replace(ModelShape.from_config(LLAMA_8B), bits=4, group_size=128)
    assert four_bits.weight_bytes(2) == pytest.approx(5.73e9, rel=0.01)


def test_packed_weights_take_what_the_library_that_packs_them_writes(tmp_path: Path, tiny_model: Path) -> None:
    from tests.kit.packed_models import save_compressed

    opened = open_model(save_compressed(tmp_path / "packed", tiny_model))
    shape = ModelShape.from_config(opened.config)
    assert (shape.bits, shape.group_size) == (4, 32)
    layers = 2 * 7  # each has a shape tensor of two int64 besides
    stored = opened.loaded_bytes(2) - layers * 16
    # zero points of few outputs are padded to words of 32 bits
    assert shape.weight_bytes(2) == pytest.approx(stored, rel=0.01)


def test_the_cache_is_what_the_run_sets_aside(tiny_model: Path) -> None:
    opened = open_model(tiny_model)
    shape = ModelShape.from_config(opened.config)
    assert shape.cache_bytes_per_token(2) == opened.cache_bytes_per_token(2)
    assert shape.weight_bytes(4) == opened.loaded_bytes(4)
    assert ModelShape.from_config(LLAMA_8B).cache_bytes_per_token(2) == 131_072  # 128 KiB, as often cited


def test_a_multimodal_config_counts_its_language_model() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    nested = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    shape = ModelShape.from_config(nested)  # as google/gemma-3-4b-it is published: heads and vocabulary left out
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", text_config=text).text_config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.tied) == (8, 4, 256, True)
    assert [i for i, window in enumerate(shape.windows) if window == 0] == [5, 11, 17, 23, 29]


def test_an_unknown_type_counts_as_a_llama_and_says_so() -> None:
    shape = ModelShape.from_config({**LLAMA_8B, "model_type": "nova"})
    assert not shape.known
    assert shape.parameters == 8_030_261_248
    assert ModelShape.from_config(LLAMA_8B).known


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "lacks num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, vocab_size"),
        ({k: v for k, v in LLAMA_8B.items() if k != "vocab_size"}, "the config of llama lacks vocab_size"),
        ({**LLAMA_8B, "hidden_size": "4096"}, "hidden_size is '4096', not a whole number"),
        ({**LLAMA_8B, "hidden_size": -1}, "hidden_size is -1, not a whole number"),
        ({**LLAMA_8B, "num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, more than 10,000"),
        ({**LLAMA_8B, "hidden_size": True}, "hidden_size is True, not a whole number"),
        ({**LLAMA_8B, "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is not a causal language model"),
        ({**LLAMA_8B, "is_encoder_decoder": True}, "is not a causal language model"),
        ({**LLAMA_8B, "layer_types": ["linear_attention"] * 32}, "llama has linear_attention layers"),
        ({**LLAMA_8B, "kv_lora_rank": 512}, "llama has kv_lora_rank, whose arithmetic judge does not know"),
        ({**MIXTRAL, "num_experts_per_tok": None}, "the config of mixtral lacks num_experts_per_tok"),
        ({**LLAMA_8B, "quantization_config": 4}, "quantization_config is 4, not an object"),
        ({**LLAMA_8B, "quantization_config": {"quant_method": "x\x1b[2J"}}, r"(x\x1b[2J) names no bits"),
        ({**GEMMA_9B, "layer_types": ["full_attention"]}, "1 layer_types for 42 layers"),
    ],
)
def test_what_is_no_such_config_is_refused_by_field(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(JudgeError) as error:
        ModelShape.from_config(content)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
