"""Tensors in safetensors files, read and written one at a time with numpy alone, which knows no bfloat16."""

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

# numpy's types for those of safetensors; bfloat16, which numpy has not, as its bits
_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_NAMES |= {"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}
TYPES = {name: np.dtype(kind) for name, kind in _NAMES.items()}


class Tensors:
    """The tensors of a model's safetensors files, read where they lie.

    Attributes:
        types: type (such as F32) and shape of each tensor.
        files: the file of each tensor.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.types: dict[str, tuple[str, list[int]]] = {}
        self.files: dict[str, Path] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        for shard in shards:
            types = tensor_types(shard)  # checked: every header and offset is sound
            self._maps[shard] = np.memmap(shard, np.uint8, mode="r")
            length = int.from_bytes(self._maps[shard][:8].tobytes(), "little")
            header = json.loads(self._maps[shard][8 : 8 + length].tobytes())
            for name in types:
                begin, end = header[name]["data_offsets"]
                self._places[name] = (8 + length + begin, 8 + length + end)
                self.files[name] = shard
            self.types |= types

    def array(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored; bfloat16 as its bits in uint16."""
        kind, shape = self.types[name]
        if kind not in TYPES:
            raise JudgeError(f"{self.files[name]}: {printable(name)} is of the type {kind}, which judge cannot expand")
        begin, end = self._places[name]
        return self._maps[self.files[name]][begin:end].view(TYPES[kind]).reshape(shape)

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats in float32."""
        values = self.array(name)
        if self.types[name][0] == "BF16":
            return (values.astype("<u4") << 16).view("<f4")
        return values.astype("<f4", copy=False)


@dataclass(frozen=True)
class Output:
    """One tensor to be written: its type and shape, and what gives its values."""

    name: str
    kind: str
    shape: tuple[int, ...]
    values: Callable[[], NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * TYPES[self.kind].itemsize


def write_tensors(path: Path, outputs: Sequence[Output], metadata: Mapping[str, str] | None = None) -> int:
    """Write a safetensors file, one tensor at a time, and return its size in bytes.

    Args:
        metadata: of the file; by default that the tensors are PyTorch's, which transformers asks for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
    begin = 0
    for output in outputs:
        offsets = [begin, begin + output.size]
        header[output.name] = {"dtype": output.kind, "shape": list(output.shape), "data_offsets": offsets}
        begin += output.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for output in outputs:
            try:
                values = np.asarray(output.values(), order="C")
            except ValueError as error:
                raise JudgeError(f"{printable(output.name, 120)}: damaged packed weights: {error}") from None
            if values.shape != output.shape:
                raise JudgeError(f"{printable(output.name, 120)}: damaged packed weights: {values.shape}")
            file.write(values.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
