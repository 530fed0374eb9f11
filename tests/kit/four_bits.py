"""4-bit files read by hand, and what AWQ's own scaling leaves of a check: from the formats, not the libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tensors = dict[str, Any]
# Which output column each 4-bit field of a word holds in AWQ's GEMM layout, from the lowest field on.
GEMM_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Packed:
    """A 4-bit layer: codes and zero points (0 to 15) and scales, all (outputs, inputs) but per group."""

    codes: NDArray[np.int64]
    zeros: NDArray[np.int64]  # (outputs, groups)
    scales: Floats  # (outputs, groups)

    @property
    def group_size(self) -> int:
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def steps(self) -> Floats:
        """The scale of each weight."""
        return np.repeat(self.scales, self.group_size, axis=1)

    @property
    def weight(self) -> Floats:
        return (self.codes - np.repeat(self.zeros, self.group_size, axis=1)) * self.steps


def read_tensors(folder: Path) -> Tensors:
    from safetensors.torch import load_file

    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def _fields(words: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the eight 4-bit fields of each word on a new last axis, the lowest first."""
    unsigned = words.astype(np.int64) & 0xFFFFFFFF
    return (unsigned[..., None] >> (4 * np.arange(8))) & 15


def read_pack_quantized(tensors: Tensors, name: str) -> Packed:
    """compressed-tensors: weights packed along the inputs, zero points along the outputs, in plain order."""
    words = tensors[f"{name}.weight_packed"].numpy()
    codes = _fields(words).reshape(words.shape[0], -1)
    packed_zeros = tensors[f"{name}.weight_zero_point"].numpy()  # (outputs / 8, groups)
    zeros = _fields(packed_zeros).transpose(0, 2, 1).reshape(-1, packed_zeros.shape[1])
    return Packed(codes, zeros, tensors[f"{name}.weight_scale"].double().numpy())


def read_gemm(tensors: Tensors, name: str) -> Packed:
    """AWQ GEMM: everything transposed, packed along the outputs in the order of GEMM_ORDER."""

    def unpack(words: NDArray[np.int32]) -> NDArray[np.int64]:
        fields = _fields(words)
        plain = np.empty_like(fields)
        for field, column in enumerate(GEMM_ORDER):
            plain[..., column] = fields[..., field]
        return plain.reshape(words.shape[0], -1).T

    codes, zeros = (unpack(tensors[f"{name}.{part}"].numpy()) for part in ("qweight", "qzeros"))
    return Packed(codes, zeros, tensors[f"{name}.scales"].double().numpy().T)


def read_packed(tensors: Tensors, name: str) -> Packed:
    return read_gemm(tensors, name) if f"{name}.qweight" in tensors else read_pack_quantized(tensors, name)


def factors_within(weight: Floats, packed: Packed, slack: float, axis: int) -> tuple[Floats, Floats]:
    """Return between which factors each row (axis 1) or column (axis 0) of a weight must lie.

    A factor is possible where every weight times it is within half a step (and `slack` of one) of its code's value.
    """
    half = packed.steps * (0.5 + slack)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(packed.weight - half) / weight, (packed.weight + half) / weight])
    low, high = ends.min(axis=0), ends.max(axis=0)
    low[weight == 0], high[weight == 0] = -np.inf, np.inf
    return low.max(axis=axis), high.min(axis=axis)
