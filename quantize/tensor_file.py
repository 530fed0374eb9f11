"""Tensors of a safetensors file in torch's terms: written one at a time, so that memory holds one and not the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.models.bundle import tensor_types
from judge.models.tensor_files import TYPES, Output
from judge.models.tensor_files import write_tensors as write_outputs

if TYPE_CHECKING:
    from torch import Tensor

# The float formats that models are stored in: header name to torch's.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, its dtype as the header names it, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.values * TYPES[self.dtype].itemsize


def read_entries(path: Path) -> list[Entry]:
    """Return the tensors of a safetensors file, from its header.

    Raises:
        JudgeError: not a safetensors file.
    """
    return [Entry(name, kind, tuple(shape)) for name, (kind, shape) in tensor_types(path).items()]


def write_tensors(
    path: Path, entries: Sequence[Entry], value: Callable[[Entry], Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file.

    Args:
        entries: what the file holds; the widest dtypes come first, as in files by the safetensors library.
        value: gives a tensor, of the entry's shape and dtype, when its turn has come.
    """
    ordered = sorted(entries, key=lambda entry: (-TYPES[entry.dtype].itemsize, entry.name))
    outputs = [Output(e.name, e.dtype, e.shape, lambda e=e: _bits(value(e), e)) for e in ordered]  # type: ignore[misc]
    write_outputs(path, outputs, metadata)


def _bits(tensor: Tensor, entry: Entry) -> Any:
    """Return a tensor's values for numpy, which knows no bfloat16."""
    import torch

    assert tuple(tensor.shape) == entry.shape, entry.name
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.view(TYPES[entry.dtype]).reshape(entry.shape)
