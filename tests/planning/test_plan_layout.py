"""What a plan says of cards: what runs where, in which memory."""

from __future__ import annotations

from typing import Any

import pytest

from judge.models.arithmetic import ModelShape
from tests.models.test_plan_arithmetic import GEMMA_9B, LLAMA_8B, MIXTRAL, YI_34B, config
from tests.planning.conftest import MakePlan

GIB = 1 << 30
AWQ = YI_34B["quantization_config"]
QWEN_14B = config("qwen2", 152064, 48, 5120, 13824, 40, 8, dtype="bfloat16", max_position_embeddings=32768)
GLM_9B = config("glm4", 151552, 40, 4096, 13696, 32, 2, head_dim=128, dtype="bfloat16")
MISTRAL_24B = config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128, dtype="bfloat16")


def test_a_card_without_bfloat16_reads_in_float16_with_triton_attention(plan: MakePlan) -> None:
    layout = plan(QWEN_14B, "2xT4").outcome.layout
    assert (layout.dtype, layout.attention) == ("float16", "TRITON_ATTN")
    assert plan(QWEN_14B, "A100").outcome.layout.dtype == "bfloat16"
    refused = plan(QWEN_14B, "2xT4", dtype="bfloat16")
    assert refused.forecast == "cannot work"
    assert "has no bfloat16" in refused.outcome.layout.problems[0]


@pytest.mark.parametrize("content", [GEMMA_9B, GLM_9B])
def test_awq_of_families_that_refuse_float16_cannot_run_on_a_t4(plan: MakePlan, content: dict[str, Any]) -> None:
    packed = {**content, "dtype": "float16", "quantization_config": AWQ}
    there = plan(packed, "2xT4")
    assert there.forecast == "cannot work"
    assert f"does not run {content['model_type']} in float16" in there.outcome.layout.problems[0]
    assert plan(packed, "L4").forecast == "works"
    # another card is what would work; no budget and no number of T4s is
    assert [s.change for s in there.suggestions] == ["--gpu=2xL4"]


def test_a_4_bit_34b_needs_both_t4s_for_one_copy(plan: MakePlan) -> None:
    both = plan(YI_34B, "2xT4", max_tokens=1024)
    layout = both.outcome.layout
    assert (both.forecast, layout.workers, layout.cards_each) == ("works", 1, 2)
    assert layout.memory.weights == ModelShape.from_config(YI_34B).weight_bytes(2) / 2
    assert 8.8 < layout.memory.weights / GIB < 9.1
    assert layout.kernel == "Marlin"
    alone = plan(YI_34B, "T4", max_tokens=1024)
    assert alone.forecast == "cannot work"
    assert "do not fit on 1 x T4" in alone.outcome.layout.problems[0]
    assert "--gpu=2xT4" in [s.change for s in alone.suggestions]


def test_a_4_bit_8b_gets_a_copy_on_each_t4_and_a_16_bit_one_is_spread(plan: MakePlan) -> None:
    packed = plan({**LLAMA_8B, "quantization_config": AWQ}, "2xT4").outcome.layout
    assert (packed.workers, packed.cards_each) == (2, 1)
    plain = plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4").outcome.layout
    assert (plain.workers, plain.cards_each) == (1, 2)


def test_an_expanded_copy_is_planned_with_all_its_bits(plan: MakePlan) -> None:
    packed = {**LLAMA_8B, "dtype": "float16", "quantization_config": AWQ}
    layout = plan(packed, "A100 80GB", weights="expanded").outcome.layout
    assert layout.kernel == ""
    assert layout.memory.weights == 2 * 8_030_261_248
    assert plan(packed, "A100 80GB").outcome.layout.memory.weights < 6e9


def test_memory_that_is_missing_is_named_with_what_takes_it(plan: MakePlan) -> None:
    # parallel=data is taken at its word: 8 billion weights do not go into 13 GiB
    forced = plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4", parallel="data")
    assert "the weights (15.0 GiB) do not fit on 1 x T4" in forced.outcome.layout.problems[0]
    huge = plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4", parallel="tensor", batch_tokens=131_072)
    assert "out of memory: 7.5 GiB of weights" in huge.outcome.layout.problems[0]
    assert "--batch-tokens=4096" in [s.change for s in huge.suggestions]


def test_a_mixture_of_experts_holds_all_and_multiplies_with_some(plan: MakePlan) -> None:
    mixed = plan({**MIXTRAL, "dtype": "bfloat16"}, "2xH100")
    assert mixed.outcome.layout.memory.weights / GIB == pytest.approx(46_702_792_704 * 2 / GIB / 2)
    dense = plan({**MIXTRAL, "num_local_experts": 0, "intermediate_size": 8 * 14336, "dtype": "bfloat16"}, "2xH100")
    assert mixed.outcome.read.value < 0.4 * dense.outcome.read.value
