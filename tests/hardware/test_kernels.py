"""What vLLM runs on which card: asked of `judge.hardware.kernels`, and of vLLM's own code for injected capabilities."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from judge.errors import JudgeError
from judge.hardware.cards import CARDS, GIB
from judge.hardware.kernels import (
    attention_backend,
    obstacles,
    shared_memory,
    support,
)
from judge.hardware.machine import CUDA_SHARE, NO_FLOAT16, Gpu, choose_dtype, choose_parallel, default_batch_tokens
from judge.hardware.memory import besides
from judge.hardware.packing import MIN_CAPABILITY, READ, Packing, linear_kernel, read_packing
from judge.models.arithmetic import ModelShape

T4, P100, A100, H100 = (CARDS[name] for name in ("T4", "P100", "A100 40GB", "H100 SXM"))
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "dtype": "bfloat16",
}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "hidden_size": 3584, "num_attention_heads": 16, "head_dim": 256}

# Methods of quantisation that vLLM 0.32 has no more, or never had (quantization/__init__.py).
ABSENT = ("bitsandbytes", "gguf", "aqlm", "hqq", "eetq", "vptq", "higgs", "bitnet")


def compressed(bits: int = 4, group: int | None = 128, symmetric: bool = False) -> dict[str, Any]:
    weights = {"num_bits": bits, "group_size": group, "symmetric": symmetric, "type": "int"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights}},
    }


@pytest.fixture(scope="module")
def vllm_says() -> dict[str, Any]:
    """The answers of vLLM's own code (tests/kit/injected_card.py)."""
    command = [sys.executable, "-m", "tests.kit.injected_card"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    answers: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answers


@pytest.mark.engine
def test_kernels_and_attention_are_those_that_vllm_chooses(vllm_says: dict[str, Any]) -> None:
    assert len(vllm_says["kernels"]) == 4 * 4 * 6 * 2
    for question, kernel in vllm_says["kernels"].items():
        capability, bits, zero_points, group, dtype = ast.literal_eval(question)
        if capability < (8, 0) and dtype == "bfloat16":
            continue  # refused before
        packing = Packing("wna16", bits, group, zero_points)
        said = linear_kernel(packing, capability, dtype)
        assert said == (kernel.removesuffix("LinearKernel").replace("TritonW4A16", "Triton W4A16"), ""), question
    assert len(vllm_says["attention"]) == 4 * 3 * 5
    for question, backend in vllm_says["attention"].items():
        capability, dtype, head = ast.literal_eval(question)
        if head == 512 and dtype != "float32" and capability >= (8, 0):
            continue  # FlashInfer, which is not installed beside the CPU build
        assert attention_backend(capability, dtype, head) == backend, question


@pytest.mark.engine
def test_lists_of_what_vllm_refuses_are_complete(vllm_says: dict[str, Any]) -> None:
    assert tuple(vllm_says["no float16"]) == NO_FLOAT16
    assert not set(ABSENT) & set(vllm_says["methods"])
    assert [name for name in vllm_says["methods"] if not name.startswith(READ)] == []
    assert all("vLLM 0.32 reads no" in linear_kernel(Packing(name), (9, 0), "float16")[1] for name in ABSENT)
    assert linear_kernel(Packing("auto-round"), (8, 0), "float16") == ("vLLM's choice", "")
    assert {"awq", "gptq", "compressed-tensors", "fp8", "mxfp4"} <= set(vllm_says["methods"])
    assert vllm_says["begin"] == {"awq": 75, "gptq": 60, "compressed-tensors": 70, "fp8": 75, "mxfp4": 80}
    assert all(value <= 75 or name == "mxfp4" for name, value in vllm_says["begin"].items())
    for capability, dtypes in vllm_says["dtypes"].items():
        assert ("bfloat16" in dtypes) == (ast.literal_eval(capability) >= (8, 0))
    assert vllm_says["all-reduce"] == 8 << 20  # what makes it of no use here
    assert vllm_says["all-reduce off"] == {"1": False, "2": True}


@pytest.mark.parametrize(
    ("quantization", "packing"),
    [
        (AWQ, Packing("awq", 4, 128, True)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True}, Packing("awq", 4, 64, True)),
        (GPTQ, Packing("gptq", 4, 128, False)),
        (compressed(), Packing("wna16", 4, 128, True)),
        (compressed(8, None, symmetric=True), Packing("wna16", 8, -1, False)),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, Packing("w8a8", 8)),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, Packing("fp8", 8)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, Packing("bitsandbytes")),
        ("broken", Packing("unknown")),
    ],
)
def test_packing_is_read_from_the_config(quantization: Any, packing: Packing) -> None:
    assert read_packing({**LLAMA, "quantization_config": quantization}) == packing
    assert read_packing({"text_config": {**LLAMA, "quantization_config": quantization}}) == packing
    assert read_packing(LLAMA) is None


@pytest.mark.parametrize(
    ("card", "quantization", "dtype", "kernel", "attention"),
    [
        (T4, None, "float16", "", "TRITON_ATTN"),
        (T4, AWQ, "float16", "Marlin", "TRITON_ATTN"),
        (T4, GPTQ, "float16", "Marlin", "TRITON_ATTN"),
        (T4, compressed(), "float16", "Marlin", "TRITON_ATTN"),
        (T4, {**AWQ, "group_size": 256}, "float16", "AWQ Triton", "TRITON_ATTN"),
        (T4, {"quant_method": "fp8"}, "float16", "Marlin fp8", "TRITON_ATTN"),
        (A100, AWQ, "bfloat16", "Marlin", "FLASH_ATTN"),
        (H100, AWQ, "bfloat16", "Machete", "FLASH_ATTN"),
        (H100, {"quant_method": "fp8"}, "bfloat16", "CUTLASS fp8", "FLASH_ATTN"),
    ],
)
def test_what_a_card_does_with_a_model(card: Any, quantization: Any, dtype: str, kernel: str, attention: str) -> None:
    config = LLAMA if quantization is None else {**LLAMA, "quantization_config": quantization}
    said = support(config, card)
    assert (said.dtype, said.kernel, said.attention, said.refusals) == (dtype, kernel, attention, ())


@pytest.mark.parametrize(
    ("card", "changes", "dtype", "cards", "reason"),
    [
        (P100, {}, "auto", 1, r"P100 \(compute capability 6.0\): vLLM's wheel holds code for 7.5 and up .*GPU T4 x2"),
        (CARDS["V100 16GB"], {"quantization_config": AWQ}, "auto", 1, r"V100 16GB \(compute capability 7.0\)"),
        (T4, {}, "bfloat16", 1, r"T4 \(compute capability 7.5\) has no bfloat16; use --dtype=float16"),
        (T4, {**GEMMA2, "quantization_config": AWQ}, "auto", 1, "gemma2 in float16, .*quantised weights compute in no"),
        (T4, GEMMA2, "auto", 1, r"gemma2 in float16, and T4 .* no bfloat16; in float32 .* 80 KiB .*#36802"),
        (T4, GEMMA2, "float32", 1, r"80 KiB of shared memory for heads of 256 in float32 and the card has 64"),
        (T4, {"model_type": "glm4"}, "auto", 1, r"glm4 in float16, .*; use --dtype=float32 \(twice the memory\)"),
        (T4, {"head_dim": 256, "global_head_dim": 512}, "auto", 1, r"80 KiB of shared memory for heads of 512"),
        (A100, GEMMA2, "float16", 1, r"gemma2 in float16; use --dtype=bfloat16"),
        (T4, {"quantization_config": AWQ}, "float32", 1, "awq weights compute in float16 or bfloat16"),
        (A100, {"quantization_config": {"quant_method": "bitsandbytes"}}, "auto", 1, "0.32 reads no bitsandbytes"),
        (
            A100,
            {"quantization_config": {"quant_method": "foo\x1b[1m", "bits": 4}},
            "auto",
            1,
            r"reads no foo\\x1b\[1m weigh",
        ),
        (T4, {"quantization_config": {"quant_method": "mxfp4"}}, "auto", 1, "mxfp4 weights begin at capability 8.0"),
        (T4, {"quantization_config": {**GPTQ, "sym": False}}, "auto", 1, "GPTQ weights of 4 or 8 bits, symmetric"),
        (T4, {"quantization_config": {**AWQ, "bits": 8}}, "auto", 1, "AWQ weights of 4 bits only, and these have 8"),
        (
            T4,
            {"num_attention_heads": 14, "head_dim": 64},
            "auto",
            4,
            "14 attention heads cannot be divided over 4 cards",
        ),
        (T4, {"intermediate_size": 8960, "quantization_config": AWQ}, "auto", 4, "8960 inputs leaves 2240 for each"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    card: Any, changes: dict[str, Any], dtype: Any, cards: int, reason: str
) -> None:
    said = support({**LLAMA, **changes}, card, dtype, cards)
    assert len(said.refusals) == 1, said.refusals
    with pytest.raises(JudgeError, match=reason):
        raise JudgeError(said.refusals[0])


def test_a_run_refuses_what_a_plan_refuses() -> None:
    assert obstacles(LLAMA, T4, "float16") == []
    (reason,) = obstacles(LLAMA, P100, "float16")
    assert "P100" in reason
    quantised = {**GEMMA2, "quantization_config": AWQ}
    (reason,) = obstacles(quantised, T4, "float16")
    assert "compute in nothing else" in reason
    assert obstacles(quantised, T4, "float32", packed=False) == obstacles(GEMMA2, T4, "float32")


def test_a_model_without_float16_runs_in_bfloat16_if_all_cards_have_it() -> None:
    a100, t4 = (Gpu("0", card.name, card.memory, card.capability) for card in (A100, T4))
    assert choose_dtype("auto", "float16", [a100], "gemma2") == "bfloat16"
    assert choose_dtype("auto", "float16", [a100, t4], "gemma2") == "float16"
    assert choose_dtype("float16", "float16", [a100], "gemma2") == "float16"
    assert choose_dtype("auto", "float16", [a100], "llama") == "float16"
    assert support({**GEMMA2, "dtype": "float16"}, A100).refusals == ()


def test_shared_memory_is_what_the_crash_reports_name() -> None:
    assert shared_memory(256, "float32") == 81_920  # vllm-project/vllm#36802: "Required: 81920"
    assert shared_memory(512, "float16") > 65_536  # #57712: crashes on Turing
    assert shared_memory(256, "float16") <= 65_536
    assert shared_memory(96, "float16") == shared_memory(128, "float16")
    assert T4.capability == MIN_CAPABILITY


def test_memory_besides_the_weights_is_near_what_a_published_log_shows() -> None:
    """Qwen2.5-3B over two T4s (kaggle-vllm, milestone 1, qwen-tp2-batched-4096.log): of 0.7 of a card, 2.93 GiB went to
    the weights and 6.67 GiB were left for the cache."""
    measured = 0.7 * T4.usable / GIB - 2.93 - 6.67
    qwen = {
        **LLAMA,
        "model_type": "qwen2",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    needed = besides(qwen, 4096, 256, 0, 2)(2) / GIB
    assert measured == pytest.approx(0.59, abs=0.01)
    assert measured <= needed <= 2 * measured, needed


# Sizes of their config.json: type, hidden, intermediate, layers, heads, key-value heads, head size, vocabulary, tied.
MODELS = {
    "Qwen2.5-3B": ("qwen2", 2048, 11008, 36, 16, 2, 128, 151936, True),
    "Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True),
    "Mistral-7B-v0.3": ("mistral", 4096, 14336, 32, 32, 8, 128, 32768, False),
    "Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    "Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False),
    "Qwen3-8B": ("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False),
    "Qwen2.5-14B": ("qwen2", 5120, 13824, 48, 40, 8, 128, 152064, False),
    "Phi-4 (14B)": ("phi3", 5120, 17920, 40, 40, 10, 128, 100352, False),
    "Mistral-Small-24B": ("mistral", 5120, 32768, 40, 32, 8, 128, 131072, False),
    "Qwen2.5-32B": ("qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False),
    "Yi-34B": ("llama", 7168, 20480, 60, 56, 8, 128, 64000, False),
    "Llama-3.3-70B": ("llama", 8192, 28672, 80, 64, 8, 128, 128256, False),
}
NAMES = [
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings"),
]


def on_two_t4s(shape: ModelShape, config: dict[str, Any]) -> str:
    """What the page says of a model: its weights in GiB, the layout, and tokens of cache."""
    gpus = [Gpu(str(i), "Tesla T4", T4.memory, T4.capability) for i in (0, 1)]
    tokens, weights = default_batch_tokens(gpus), shape.weight_bytes(2)
    needed = besides(config, tokens, 128, 2049, 2)
    try:
        _, cards = choose_parallel("auto", int(weights), gpus, shape.heads, 0.9, needed)
    except JudgeError:
        return f"{weights / GIB:.1f}: does not fit"
    free = T4.memory * CUDA_SHARE * 0.9 - weights / cards - needed(cards)
    room = free / (shape.cache_bytes_per_token(2) / min(cards, shape.kv_heads)) + 2049
    return f"{weights / GIB:.1f}: {'over both' if cards > 1 else '2 copies'}, {room / 1000:.0f}k"


def test_the_pages_table_of_memory_is_what_the_arithmetic_gives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "t4.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## What fits")[1].split("##")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(MODELS)
    for row, (name, sizes) in zip(rows, MODELS.items(), strict=True):
        config = dict(zip(NAMES, sizes, strict=True))
        shape = ModelShape.from_config(config)
        packed = (replace(shape, bits=bits, group_size=128) for bits in (8, 4))
        cells = [on_two_t4s(s, config) for s in (shape, *packed)]
        assert row == f"| {name} | {' | '.join(cells)} |"


def test_memory_besides_the_weights_by_hand() -> None:
    needed = besides(LLAMA, 4096, 128, 2049, 2)
    step = 4096 * (2 * 4096 + 3 * 14336) * 2 + 128 * 128256 * 11
    cache = 2049 * 2 * 32 * 8 * 128 * 2
    assert needed(1) == pytest.approx(step + cache + 0.2 * GIB, rel=1e-12)
    halved = 4096 * (2 * 4096 + 3 * 14336 / 2) * 2 + 128 * 128256 * 11 + cache / 2 + 0.4 * GIB
    assert needed(2) == pytest.approx(halved, rel=1e-12)
    assert besides({"model_type": "mamba"}, 4096, 128, 2049, 2)(1) == 1.5 * GIB
