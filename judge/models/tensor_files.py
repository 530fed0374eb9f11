"""Tensors in safetensors files, read and written one at a time, so that memory holds one and not the file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable
from judge.models.bundle import tensor_types

# numpy's types for those of safetensors; bfloat16, which numpy does not have, as its bits
_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_NAMES |= {"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}
TYPES = {name: np.dtype(kind) for name, kind in _NAMES.items()}


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


class Tensors:
    """The tensors of a model's safetensors files, read where they lie.

    Attributes:
        entries: each tensor's type and shape.
        files: the file of each tensor.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        self.files: dict[str, Path] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        for shard in shards:
            entries = read_entries(shard)  # checked: every header and offset is sound
            content = np.memmap(shard, np.uint8, mode="r")
            start = 8 + int.from_bytes(content[:8].tobytes(), "little")
            header = json.loads(content[8:start].tobytes())
            for entry in entries:
                begin, end = header[entry.name]["data_offsets"]
                self._bytes[entry.name] = content[start + begin : start + end]
                self.entries[entry.name], self.files[entry.name] = entry, shard

    def array(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored; bfloat16 as its bits in uint16."""
        entry = self.entries[name]
        if entry.dtype not in TYPES:
            raise JudgeError(
                f"{self.files[name]}: {printable(name)} is of the type {entry.dtype}, which judge cannot expand"
            )
        return self._bytes[name].view(TYPES[entry.dtype]).reshape(entry.shape)

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats in float32."""
        values = self.array(name)
        if self.entries[name].dtype == "BF16":
            return (values.astype("<u4") << 16).view("<f4")
        return values.astype("<f4", copy=False)


def write_tensors(
    path: Path, entries: Sequence[Entry], value: Callable[[Entry], Any], metadata: Mapping[str, str]
) -> int:
    """Write a safetensors file, one tensor at a time, and return its size in bytes.

    Args:
        entries: what the file holds; the widest dtypes come first, as in files by the safetensors library.
        value: gives a tensor of torch or numpy, of the entry's shape and dtype, when its turn has come.
        metadata: of the file; transformers asks for `{"format": "pt"}`.
    """
    ordered = sorted(entries, key=lambda entry: (-TYPES[entry.dtype].itemsize, entry.name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for entry in ordered:
        offsets = [begin, begin + entry.size]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        begin += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            file.write(_bytes_of(value(entry), entry))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _bytes_of(values: Any, entry: Entry) -> memoryview:
    assert tuple(values.shape) == entry.shape, entry.name
    if not isinstance(values, np.ndarray):  # torch's, whose bfloat16 numpy does not know
        import torch

        values = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
