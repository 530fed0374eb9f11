"""Packed weights: the two layouts of AWQ models on disk, and the values that they stand for.

* `pack-quantized` of compressed-tensors, written by llm-compressor: for each layer `weight_packed` (outputs, words),
  `weight_scale` (outputs, groups), `weight_zero_point` (words, groups; none if symmetric) and `weight_shape`
  (compressed_tensors/compressors/pack_quantized/base.py).
* `awq-gemm`, written by AutoAWQ: `qweight` (inputs, words), `scales` (groups, outputs) and `qzeros` (groups, words),
  with the outputs of each word in the order of `_AWQ_POSITIONS` (awq/modules/linear/gemm.py).

A value is (code - zero) * scale. Computed in float32 it is exact for scales of 16 bits.

`compressed_tensors` unpacks the first layout to the same bits, as the tests check. This module does not use it:
importing it loads torch and transformers (6 to 11 s and 530 MiB on 2 cores), and unpacking a layer of 20,480 x 7,168
takes it 4.1 s and 1,290 MiB, where this module takes 1.7 s and 700 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable

Layout = Literal["pack-quantized", "awq-gemm"]
Float32 = NDArray[np.float32]

# The tensors that make up one weight: the first tells that the layer is packed, the last are its zero points.
PARTS: dict[Layout, tuple[str, ...]] = {
    "pack-quantized": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
    "awq-gemm": ("qweight", "scales", "qzeros"),
}
SCALES = ("weight_scale", "scales")
_BITS = (4, 8)
_WORD = 32
# Position, within eight outputs, of each output in a word (awq/utils/packing_utils.py, AWQ_REVERSE_ORDER).
_AWQ_POSITIONS = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class Quantization:
    """How a model's weights are quantised, as its config says.

    Attributes:
        name: the format's name, for the user.
        layout: one that judge knows exactly, or None.
        bits: of the codes of its layers.
        zero_points: every layer has zero points.
    """

    name: str
    layout: Layout | None = None
    bits: tuple[int, ...] = ()
    zero_points: bool = True


def read_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """Return what a `quantization_config` describes, None for None."""
    if config is None:
        return None
    method = str(config.get("quant_method") or "unknown")
    if method == "awq":
        return _read_awq(config)
    if method == "compressed-tensors":
        return _read_compressed_tensors(config)
    return Quantization(printable(method, 40))


def _read_awq(config: Mapping[str, Any]) -> Quantization:
    version = str(config.get("version") or config.get("format") or "gemm").lower()
    bits = config.get("bits", config.get("w_bit"))
    known = version == "gemm" and bits == 4 and config.get("zero_point") is True
    name = printable(f"awq {version}, {bits} bits", 60)
    return Quantization(name, "awq-gemm", (4,)) if known else Quantization(name)


def _read_compressed_tensors(config: Mapping[str, Any]) -> Quantization:
    form = str(config.get("format") or "unknown")
    groups = list((config.get("config_groups") or {}).values())
    weights = [group.get("weights") or {} for group in groups]
    plain = (
        form == "pack-quantized"
        and groups
        and not config.get("kv_cache_scheme")
        and not config.get("transform_config")
        and (config.get("sparsity_config") or {}).get("format", "dense") == "dense"
        and all(group.get("format") in (None, form) for group in groups)
        and not any(group.get(key) for group in groups for key in ("input_activations", "output_activations"))
        and all(w.get("type", "int") == "int" and w.get("num_bits") in _BITS for w in weights)
        and all(w.get("strategy") in ("group", "channel") for w in weights)
    )
    if not plain:
        return Quantization(printable(f"compressed-tensors {form}", 60))
    bits = tuple(sorted({int(w["num_bits"]) for w in weights}))
    zero_points = all(w.get("symmetric") is False for w in weights)
    return Quantization(f"compressed-tensors {form}", "pack-quantized", bits, zero_points)


def packed_layers(names: Iterable[str], layout: Layout, zero_points: bool) -> dict[str, dict[str, str]]:
    """Return the packed layers among tensor names: layer -> part -> name of its tensor.

    Args:
        zero_points: every layer must have them.

    Raises:
        JudgeError: a layer lacks a part, or has one that judge cannot take into account.
    """
    known = set(names)
    first, *needed = PARTS[layout] if zero_points else PARTS[layout][:-1]
    layers = sorted(name.removesuffix(f".{first}") for name in known if name.endswith(f".{first}"))
    packed = set(layers)
    for name in sorted(known):
        layer, _, part = name.rpartition(".")
        if layer in packed and part not in (*PARTS[layout], "bias"):
            raise JudgeError(f"{printable(name, 120)}: judge cannot expand packed weights with this tensor")
    for layer in layers:
        missing = [part for part in needed if f"{layer}.{part}" not in known]
        if missing:
            raise JudgeError(f"{printable(layer, 120)}: its {missing[0]} is missing; copy the model again")
    return {
        layer: {part: f"{layer}.{part}" for part in PARTS[layout] if f"{layer}.{part}" in known} for layer in layers
    }


def unpack(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Return the codes in 32-bit words, the lowest bits first.

    Args:
        words: int32, shape (rows, words).
        bits: of a code, 4 or 8.

    Returns:
        uint8, shape (rows, words * 32 / bits).
    """
    raw = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 8:
        return raw
    codes = np.empty((len(raw), raw.shape[1] * 2), np.uint8)
    codes[:, 0::2] = raw & 15
    codes[:, 1::2] = raw >> 4
    return codes


def pack_quantized_values(
    packed: NDArray[np.int32],
    scale: Float32,
    shape: tuple[int, int],
    zero_point: NDArray[np.int32] | None,
    bits: tuple[int, ...],
) -> Float32:
    """Return the weight of a layer in compressed-tensors' layout.

    Args:
        packed: int32, shape (outputs, words).
        scale: shape (outputs, groups).
        shape: outputs and inputs.
        zero_point: int32, shape (words, groups), or None for a symmetric code.
        bits: those that the config names; the shapes tell which one this layer has.

    Raises:
        ValueError: the shapes do not belong together.
    """
    outputs, inputs = shape
    width = width_of(packed.shape, shape, bits)
    if scale.ndim != 2 or len(scale) != outputs:
        raise ValueError(f"weight_scale {scale.shape} for a weight of {shape}")
    codes = unpack(packed, width)[:, :inputs]
    if zero_point is None:
        zeros: Float32 = np.full(scale.shape, 1 << (width - 1), np.float32)
    elif zero_point.shape == (-(-outputs * width // _WORD), scale.shape[1]):
        zeros = unpack(zero_point.T, width)[:, :outputs].T.astype(np.float32)
    else:
        raise ValueError(f"weight_zero_point {zero_point.shape} for a weight of {shape}")
    return _scaled(codes, zeros, scale)


def width_of(packed: Sequence[int], shape: tuple[int, int], bits: Sequence[int]) -> int:
    """Return the bits of a layer's codes: the one of `bits` with which its words hold a weight of that shape.

    Raises:
        ValueError: no width fits.
    """
    outputs, inputs = shape
    fitting = [b for b in bits if min(shape) > 0 and tuple(packed) == (outputs, -(-inputs * b // _WORD))]
    if len(fitting) != 1:
        raise ValueError(f"weight_packed {tuple(packed)} for a weight of {shape}")
    return fitting[0]


def awq_values(qweight: NDArray[np.int32], scales: Float32, qzeros: NDArray[np.int32]) -> Float32:
    """Return the weight of a layer in AutoAWQ's GEMM layout, shape (outputs, inputs).

    Args:
        qweight: int32, shape (inputs, outputs / 8).
        scales: shape (groups, outputs).
        qzeros: int32, shape (groups, outputs / 8).

    Raises:
        ValueError: the shapes do not belong together.
    """
    columns = qweight.shape[1]
    if qzeros.shape[1:] != (columns,) or scales.shape != (len(qzeros), columns * 8):
        raise ValueError(f"qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape}")
    codes, zeros = (_in_order(unpack(words, 4)).T for words in (qweight, qzeros))
    return _scaled(codes, zeros.astype(np.float32), np.ascontiguousarray(scales.T))


def _in_order(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return codes.reshape(len(codes), -1, 8)[:, :, _AWQ_POSITIONS].reshape(codes.shape)


def _scaled(codes: NDArray[np.uint8], zeros: Float32, scale: Float32) -> Float32:
    """Return (codes - zeros) * scale, shape (outputs, inputs); zeros and scale have the shape (outputs, groups)."""
    outputs, inputs = codes.shape
    groups = scale.shape[1]
    if groups == 0 or inputs % groups:
        raise ValueError(f"{inputs} inputs in {groups} groups")
    values = np.ascontiguousarray(codes).astype(np.float32).reshape(outputs, groups, inputs // groups)
    values -= zeros[:, :, None]  # whole numbers, exact
    values *= scale[:, :, None]
    return values.reshape(outputs, inputs)
