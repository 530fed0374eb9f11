"""How weights are packed, and the kernel that vLLM 0.32 multiplies them with on a card.

Files named without a folder are in vllm/model_executor/layers/quantization/ and vllm/model_executor/kernels/linear/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from judge.errors import printable
from judge.models.architecture import text_part

# The lowest capability whose code is in vLLM's wheel: _C_stable_libtorch.abi3.so and _moe_C_stable_libtorch.abi3.so of
# vllm-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl hold sm_75 and up (CUDA 13 dropped what is older).
MIN_CAPABILITY = (7, 5)
# Group sizes of Marlin (quantization/utils/marlin_utils.py) and of the Triton kernel (mixed_precision/triton_w4a16.py);
# -1: one scale for a whole row.
_MARLIN_GROUPS = (-1, 32, 64, 128)
_TRITON_GROUPS = (-1, 32, 64, 128, 256)
_MACHETE_GROUPS = (-1, 64, 128)
# How the names of the methods begin that vLLM 0.32 reads (there, QuantizationMethods), and of judge's schemes of them.
READ = (
    *("awq", "auto_awq", "gptq", "auto_gptq", "wna16", "w8a8", "fp8", "fbgemm_fp8", "fp_quant", "mxfp4", "modelopt"),
    *("humming", "compressed-tensors", "experts_int8", "quark", "moe_wna16", "torchao", "inc", "gpt_oss_mxfp4"),
    *("deepseek_v4_fp8", "online", "int8_per_channel", "nvfp4_per_token", "mxfp8"),
    *("auto-round", "compressed_tensors"),  # other names of inc and compressed-tensors
    "unknown",  # the config does not say
)
# Where a method's kernels begin: get_min_capability() in model_executor/layers/quantization/ and its schemes/. GPTQ's
# own answer is 6.0, but it then asks for Marlin (AutoGPTQLinearMethod.__init__), which begins at 7.5.
_BEGINS = {"mxfp4": (8, 0)}
# Only with the float32 sums of a kernel of their own do these take float32 activations.
_HALF_ONLY = ("awq", "gptq", "wna16", "fp8")


@dataclass(frozen=True)
class Packing:
    """How weights are packed, as far as the choice of a kernel asks.

    The method is `awq`, `gptq`, `wna16` (compressed-tensors, packed integers), `w8a8` (8-bit integers on both sides),
    `fp8`, `mxfp4`, or another method's own name.
    """

    method: str
    bits: int = 0  # of a weight; 0 where unknown
    group: int = -1  # weights that share a scale, -1 for a whole row
    zero_points: bool = False  # each group has one


def number(text: Mapping[str, Any], name: str) -> int:
    value = text.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def head_size(text: Mapping[str, Any]) -> int:
    """Return the size of a model's largest attention heads, 128 where its config does not tell."""
    own = max(number(text, "head_dim"), number(text, "global_head_dim"))
    return own or number(text, "hidden_size") // max(number(text, "num_attention_heads"), 1) or 128


def row_parallel_inputs(text: Mapping[str, Any], cards_each: int) -> list[tuple[int, int]]:
    """Return the whole input size and a card's share of it for the layers that tensor parallelism splits by inputs."""
    heads = number(text, "num_attention_heads") * head_size(text)
    names = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
    sizes = {heads, *(number(text, name) for name in names)} - {0}
    return [(size, size // cards_each) for size in sorted(sizes)]


def read_packing(config: Mapping[str, Any]) -> Packing | None:
    """Return how a config's weights are packed, None for plain floats."""
    parts = (config, text_part(config))
    found = next((p[k] for p in parts for k in ("quantization_config", "compression_config") if p.get(k)), None)
    if found is None:
        return None
    if not isinstance(found, Mapping):
        return Packing("unknown")
    method = str(found.get("quant_method") or "unknown").lower()
    if method == "awq":
        bits, group = found.get("bits", found.get("w_bit")), found.get("group_size", found.get("q_group_size"))
        return Packing(method, _whole(bits, 4), _whole(group, 128), found.get("zero_point") is True)
    if method == "gptq":
        return Packing(
            method, _whole(found.get("bits"), 4), _whole(found.get("group_size"), 128), found.get("sym") is False
        )
    if method == "compressed-tensors":
        return _read_compressed(found)
    return Packing({"fbgemm_fp8": "fp8", "gpt_oss_mxfp4": "mxfp4"}.get(method, method))


def _read_compressed(found: Mapping[str, Any]) -> Packing:
    groups = list((found.get("config_groups") or {}).values())
    weights = (groups[0].get("weights") or {}) if groups and isinstance(groups[0], Mapping) else {}
    form = str(found.get("format") or "unknown")
    if form == "pack-quantized":
        group = _whole(weights.get("group_size"), -1)
        return Packing("wna16", _whole(weights.get("num_bits"), 4), group, weights.get("symmetric") is False)
    kinds = {"int-quantized": "w8a8", "float-quantized": "fp8", "naive-quantized": "fp8"}
    return Packing(kinds.get(form, f"compressed-tensors {form}"), _whole(weights.get("num_bits"), 8))


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value != 0 else default


def linear_kernel(
    packing: Packing, capability: tuple[int, int], dtype: str, inputs: Iterable[tuple[int, int]] = ()
) -> tuple[str, str]:
    """Return the kernel that multiplies packed weights, and why there is none; one of them is empty.

    The order is that of vllm/model_executor/kernels/linear/__init__.py, _POSSIBLE_KERNELS: Machete (9.0 only), Humming
    (ahead of Marlin on 9.0 only; it comes with the CUDA wheel), Marlin, Exllama, Triton, Humming. Machete leaves layers
    whose sizes are no multiples of 64 and 128 to the next. A format that is not listed here is left to vLLM.

    Args:
        packing: how the weights are packed.
        capability: the card's.
        dtype: of the activations.
        inputs: see `row_parallel_inputs`.
    """
    name = printable(packing.method, 40)
    if not packing.method.startswith(READ):
        return "", f"vLLM 0.32 reads no {name} weights; use AWQ, GPTQ or compressed-tensors"
    begins = max(_BEGINS.get(packing.method, MIN_CAPABILITY), MIN_CAPABILITY)
    if capability < begins:
        return "", f"kernels for {name} weights begin at capability {begins[0]}.{begins[1]}"
    if dtype == "float32" and packing.method in _HALF_ONLY:
        return "", f"the kernels for {name} weights compute in float16 or bfloat16, not in float32"
    if packing.method == "w8a8":
        return "CUTLASS int8", ""
    if packing.method == "fp8":
        return ("CUTLASS fp8" if capability >= (8, 9) else "Marlin fp8"), ""
    if packing.method not in ("awq", "gptq", "wna16"):
        return "vLLM's choice", ""
    for whole, share in inputs:
        if -1 < packing.group < whole and share % packing.group:
            return "", (
                f"groups of {packing.group} weights would be cut in two: a layer of {whole} inputs leaves {share} for "
                "each card; use fewer cards for a copy"
            )
    return _integer_kernel(packing, capability, dtype)


def _integer_kernel(packing: Packing, capability: tuple[int, int], dtype: str) -> tuple[str, str]:
    bits, group, zero_points = packing.bits, packing.group, packing.zero_points
    marlin = group in _MARLIN_GROUPS and (bits == 4 if zero_points else bits in (4, 8))
    if packing.method == "awq":
        if bits != 4:
            return "", f"vLLM reads AWQ weights of 4 bits only, and these have {bits}"
        if not (marlin and zero_points):
            return "AWQ Triton", ""  # dequantises, then multiplies in float16 (auto_awq.py, AutoAWQLinearMethod)
    if packing.method == "gptq" and (zero_points or not marlin):
        return "", "vLLM reads GPTQ weights of 4 or 8 bits, symmetric, in groups of 32, 64 or 128 or whole rows only"
    if bits not in (4, 8):
        return "Humming", ""
    if capability == (9, 0):
        return "Machete" if group in _MACHETE_GROUPS else "Humming", ""
    if marlin:
        return "Marlin", ""
    if dtype == "float16" and not zero_points and group > 0:
        return "Exllama", ""
    return ("Triton W4A16" if bits == 4 and group in _TRITON_GROUPS else "Humming"), ""
