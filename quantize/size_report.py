"""How large a model is on disk, and what share of it is 4-bit, read from the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from judge.errors import JudgeError
from quantize.layers import all_shapes, packed_names

# 4-bit weights with their scales, and a little that stays in 16 bits: what large models come to.
RULE_OF_THUMB = 0.6
# Of a packed layer, the tensors that hold no parameter of the model.
_NOT_PARAMETERS = (
    ".weight_packed",
    ".weight_scale",
    ".weight_zero_point",
    ".weight_shape",
    ".qweight",
    ".qzeros",
    ".scales",
)


@dataclass(frozen=True)
class SizeReport:
    """The size of a model.

    Attributes:
        bytes: of its weight files.
        parameters: numbers that the model computes with; a packed one counts as one, a tied head once.
        quantised: how many of them are 4-bit.
    """

    bytes: int
    parameters: int
    quantised: int

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes on disk for each parameter, which is also GB per billion parameters."""
        return self.bytes / self.parameters

    @property
    def share(self) -> float:
        """Share of the parameters that are 4-bit."""
        return self.quantised / self.parameters

    def figures(self) -> dict[str, Any]:
        """Return the numbers for a record."""
        rounded = {"bytes_per_parameter": round(self.bytes_per_parameter, 4), "share": round(self.share, 4)}
        return {**asdict(self), **rounded}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a person is told: a name and a text each."""
        yield "size", f"{self.bytes / 1e6:,.1f} MB for {self.parameters / 1e6:,.1f} million parameters"
        yield "4-bit", f"{self.share:.1%} of the parameters; the rest is in 16 bits"
        per = self.bytes_per_parameter
        text = f"{per:.3f} ({per:.2f} GB per billion; rule of thumb {RULE_OF_THUMB})"
        if per > RULE_OF_THUMB * 1.1:
            rest = 1 - self.share
            text += f": above it, because {rest:.0%} of the parameters (embeddings, output head) stay in 16 bits"
        yield "bytes/param", text


def size_report(folder: Path) -> SizeReport:
    """Return the size of a model folder, in 4 bits or not.

    Raises:
        JudgeError: a file is not safetensors, or there is none.
    """
    shapes = all_shapes(folder)
    if not shapes:
        raise JudgeError(f"{folder}: no *.safetensors")
    packed = packed_names(shapes)
    quantised = sum(inputs * outputs for inputs, outputs in packed.values())
    rest = sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if not (name.endswith(_NOT_PARAMETERS) and name.rsplit(".", 1)[0] in packed)
    )
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return SizeReport(size, quantised + rest, quantised)
