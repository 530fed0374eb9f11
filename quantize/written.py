"""A 4-bit model on disk, read from the headers of its files: which layers are packed, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable
from judge.models.bundle import tensor_shapes
from quantize.layers import PACKED, Layers, Linear

# Bytes for each parameter of large models: 4-bit weights with their scales, and a little that stays in 16 bits.
RULE_OF_THUMB = 0.6
# Tensors of a packed layer whose values are not counted as parameters.
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
        parameters: numbers that the model computes with; a packed number counts as one, a tied head once.
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
        """Yield the lines for the user: a name and a text each."""
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


def all_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the names and shapes of all tensors in a folder's safetensors files, from their headers."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= tensor_shapes(path)
    return found


def packed_names(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Return the 4-bit layers in a file of either layout, with the sizes of their inputs and outputs."""
    found = {}
    for name, shape in shapes.items():
        if name.endswith(".weight_packed"):  # compressed-tensors: (outputs, inputs / 8)
            found[name.removesuffix(".weight_packed")] = (shape[1] * PACKED, shape[0])
        elif name.endswith(".qweight"):  # AWQ GEMM: (inputs, outputs / 8)
            found[name.removesuffix(".qweight")] = (shape[0], shape[1] * PACKED)
    return found


def check_written(folder: Path, layers: Layers, group_size: int) -> None:
    """Check from the files' headers that exactly the layers that should be 4-bit are.

    A recipe without a quantiser scales the weights and leaves them in floats, in a file that loads without complaint.

    Raises:
        JudgeError: a layer is missing, still of floats, or has scales or zero points of another size.
    """
    shapes = all_shapes(folder)
    packed = packed_names(shapes)
    expected = {layer.name: layer for layer in layers.linear}
    wrong = [name for name in expected if name not in packed or f"{name}.weight" in shapes]
    wrong += [name for name in packed if name not in expected]
    for name, layer in expected.items():
        if name not in wrong and not _has_groups(shapes, name, layer, group_size):
            wrong.append(name)
    if wrong:
        raise JudgeError(
            f"the back end did not write {len(wrong)} of {len(expected)} layers in 4 bits with groups of {group_size}, "
            f"first {printable(wrong[0])}; nothing is kept"
        )


def _has_groups(shapes: Mapping[str, Sequence[int]], name: str, layer: Linear, group_size: int) -> bool:
    groups, outputs = layer.inputs // group_size, layer.outputs
    if f"{name}.qweight" in shapes:
        expected = {
            "qweight": [layer.inputs, outputs // PACKED],
            "scales": [groups, outputs],
            "qzeros": [groups, outputs // PACKED],
        }
    else:
        expected = {
            "weight_packed": [outputs, layer.inputs // PACKED],
            "weight_scale": [outputs, groups],
            "weight_zero_point": [outputs // PACKED, groups],
        }
    return all(list(shapes.get(f"{name}.{part}", [])) == shape for part, shape in expected.items())
