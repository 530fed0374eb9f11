"""What vLLM can run on a card: dtype, kernel for packed weights, attention backend, and what it refuses.

These rules are read from vLLM 0.32, from the files named below (its CPU build installs the same Python as its CUDA
wheel). Tests ask vLLM's own code the same questions, with the card's capability injected. Nothing here asks a driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from judge.errors import JudgeError, printable
from judge.hardware import machine
from judge.hardware.cards import Card
from judge.hardware.machine import NO_FLOAT16, Dtype, Gpu
from judge.hardware.packing import (
    MIN_CAPABILITY,
    Packing,
    head_size,
    linear_kernel,
    number,
    read_packing,
    row_parallel_inputs,
)
from judge.models.architecture import text_part

# Shared memory that a block of threads may use on Turing, in bytes.
_TURING_SHARED = 64 << 10
# Rows that Triton's attention holds there: of keys, of values, and (at least) of queries.
_TILE_ROWS = 32 + 32 + 16

Device = Gpu | Card


@dataclass(frozen=True)
class Support:
    """What vLLM makes of a model on a card."""

    dtype: Dtype  # the arithmetic that vLLM chooses, or would choose if it ran the model
    kernel: str  # what multiplies packed weights; empty for plain floats, and if there is no kernel
    attention: str  # the attention backend
    expanded: bool = False  # packed weights have no kernel here, so judge reads a 32-bit copy (CPUs without AVX-512)
    refusals: tuple[str, ...] = ()  # why vLLM does not run the model, one line each


def support(
    config: Mapping[str, Any],
    card: Device,
    dtype: Literal["auto"] | Dtype = "auto",
    cards_each: int = 1,
) -> Support:
    """Return what vLLM makes of a model on a card.

    Args:
        config: of the model's config.json.
        card: the card; one of capability (0, 0) stands for this machine's CPU.
        dtype: the setting `dtype`.
        cards_each: cards that one copy is spread over (tensor parallel).
    """
    text, packing = text_part(config), read_packing(config)
    kind = str(text.get("model_type", ""))
    saved = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "float32")
    if card.capability == (0, 0):
        return _on_cpu(kind, packing, saved, dtype)
    gpu = Gpu("0", card.name, 0, card.capability)
    try:
        chosen, refusals = machine.choose_dtype(dtype, saved, [gpu], kind), []
    except JudgeError as error:
        chosen, refusals = "bfloat16", [str(error)]
    refusals += obstacles(config, card, chosen, cards_each)
    kernel = linear_kernel(packing, card.capability, chosen)[0] if packing else ""
    attention = attention_backend(card.capability, chosen, head_size(text))
    return Support(chosen, kernel, attention, refusals=tuple(refusals))


def obstacles(
    config: Mapping[str, Any], card: Device, dtype: str, cards_each: int = 1, packed: bool = True
) -> list[str]:
    """Return why vLLM does not run a model on a card in a dtype, one line each.

    Args:
        config, card, cards_each: see `support`.
        packed: quantised weights are read as they are, not from their 32-bit copy.
    """
    if reason := capability_obstacle(card):
        return [reason]
    text, packing = text_part(config), read_packing(config) if packed else None
    kind, head = str(text.get("model_type", "")), head_size(text)
    found = [float16_obstacle(card, kind, dtype, head, packing is not None) or attention_obstacle(card, dtype, head)]
    if packing is not None:
        found.append(linear_kernel(packing, card.capability, dtype, row_parallel_inputs(text, cards_each))[1])
    heads = number(text, "num_attention_heads")
    if heads % cards_each:
        found.append(f"{heads} attention heads cannot be divided over {cards_each} cards")
    return [reason for reason in found if reason]


def capability_obstacle(card: Device) -> str:
    """Return why vLLM does not start on a card at all, or an empty text."""
    if card.capability >= MIN_CAPABILITY:
        return ""
    return (
        f"{_called(card)}: vLLM's wheel holds code for 7.5 and up (a T4 and newer); use another card, on Kaggle "
        "'GPU T4 x2'"
    )


def float16_obstacle(card: Device, model_type: str, dtype: str, head: int, packed: bool) -> str:
    """Return why a model that vLLM refuses in float16 does not run on a card without bfloat16, or an empty text.

    The kernels of packed weights compute in 16 bits only. Plain weights can be read in float32, if the card's
    attention takes heads of that size (`attention_obstacle`).
    """
    if dtype != "float16" or model_type not in NO_FLOAT16:
        return ""
    begin = f"vLLM does not run {model_type} in float16"
    if card.capability >= (8, 0):
        return f"{begin}; use --dtype=bfloat16"
    begin += f", and {_called(card)} has no bfloat16"
    if packed:
        return f"{begin}; the kernels of quantised weights compute in nothing else: use a model of another family"
    if attention_obstacle(card, "float32", head):
        needed = shared_memory(head, "float32") >> 10
        return (
            f"{begin}; in float32 its attention needs {needed} KiB of shared memory and the card has 64 KiB "
            "(vllm-project/vllm#36802): use a model of another family"
        )
    return f"{begin}; use --dtype=float32 (twice the memory) or another model"


def attention_backend(capability: tuple[int, int], dtype: str, head: int) -> str:
    """Return the attention backend that vLLM chooses.

    vLLM asks FlashAttention first, then FlashInfer, then Triton (vllm/platforms/cuda.py, _get_backend_priorities). The
    first two begin at 8.0 (v1/attention/backends/flash_attn.py; flashinfer.py, broken on 7.5) and know 16 bits only;
    FlashAttention takes heads of up to 256 in steps of 8. Triton knows sliding windows and soft caps, too.
    """
    if capability < (8, 0) or dtype == "float32":
        return "TRITON_ATTN"
    if head % 8 == 0 and head <= 256:
        return "FLASH_ATTN"
    return "FLASHINFER" if head in (64, 128, 256, 512) else "TRITON_ATTN"


def shared_memory(head: int, dtype: str) -> int:
    """Return the bytes of shared memory that a block of Triton's attention needs, at least.

    It keeps 32 keys, 32 values and 16 or more queries there (v1/attention/ops/triton_unified_attention.py,
    _get_tile_size and BLOCK_M), with the head's size rounded up to a power of two.
    """
    padded = 1 << max(head - 1, 0).bit_length()
    return _TILE_ROWS * padded * (4 if dtype == "float32" else 2)


def attention_obstacle(card: Device, dtype: str, head: int) -> str:
    """Return why attention would crash on a card, or an empty text.

    On Turing a block of threads has 64 KiB of shared memory. Heads of 256 in float32 need 80 KiB, the very number that
    vllm-project/vllm#36802 reports (a fine-tuned Gemma 3 on T4s), heads of 512 in float16 as much or more (#57712, pull
    request #39018). vLLM chooses Triton all the same and fails at the first prompt.
    """
    needed = shared_memory(head, dtype)
    if card.capability >= (8, 0) or needed <= _TURING_SHARED:
        return ""
    return (
        f"{_called(card)}: vLLM's attention needs {needed >> 10} KiB of shared memory for heads of {head} in {dtype} "
        f"and the card has 64 KiB (vllm-project/vllm#36802); use a model of another family"
    )


def _on_cpu(model_type: str, packing: Packing | None, saved: str, wanted: Literal["auto"] | Dtype) -> Support:
    """Return what a run on this machine's CPU does (`judge.engine.weights`), by the config alone."""
    if packing is None or packing.method == "w8a8":
        return Support(machine.choose_dtype(wanted, saved, []), "", "CPU_ATTN")
    kernel = packing.bits == 4 and machine.vllm_has_cpu_kernel() and wanted != "float32"
    if kernel and packing.method in ("awq", "gptq", "wna16"):
        return Support(machine.choose_dtype(wanted, saved, [], model_type, packed=True), "CPU W4A16", "CPU_ATTN")
    chosen, name = machine.choose_dtype(wanted, "float32", []), printable(packing.method, 40)
    if packing.method in ("awq", "wna16"):
        return Support(chosen, "", "CPU_ATTN", expanded=True)
    return Support(chosen, "", "CPU_ATTN", refusals=(f"this CPU reads no {name} weights; use AWQ or plain ones",))


def _called(card: Device) -> str:
    major, minor = card.capability
    return f"{card.name} (compute capability {major}.{minor})"
