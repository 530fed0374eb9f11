"""The linear layers that become 4-bit: found without loading a weight, and told again in the files of a 4-bit model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable
from judge.models.bundle import ModelFolder, tensor_shapes
from judge.models.load import load_layers

GROUP_SIZES = (128, 64, 32)
# Both layouts keep eight 4-bit values in one 32-bit number.
PACKED = 8
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
class Linear:
    """A linear layer: its name in the model's files, and the sizes of its input and output."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Layers:
    """What quantising needs to know of a model.

    Attributes:
        architecture: the class in transformers, such as `LlamaForCausalLM`.
        linear: every linear layer but the output head.
        head: the name of the output head, which stays in 16 bits.
        parameters: numbers in the whole model; a head that is tied to the embeddings counts once.
        hidden: numbers a token has between the layers.
        is_mixture: whether it is a mixture of experts.
    """

    architecture: str
    linear: tuple[Linear, ...]
    head: str
    parameters: int
    hidden: int
    is_mixture: bool

    @property
    def quantised(self) -> int:
        """Numbers in the layers that become 4-bit."""
        return sum(layer.inputs * layer.outputs for layer in self.linear)


def find_layers(folder: ModelFolder) -> Layers:
    """Return the layers of a model; its weights are not loaded.

    Raises:
        JudgeError: an architecture that transformers does not know.
    """
    import torch

    model = load_layers(folder.path)
    model.tie_weights()
    head = model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    linear = tuple(
        Linear(name, module.in_features, module.out_features)
        for module, name in names.items()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    text = model.config.get_text_config()
    return Layers(
        architecture=type(model).__name__,
        linear=linear,
        head=names.get(head, "lm_head"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=int(text.hidden_size),
        is_mixture=any(key in text.to_dict() for key in ("num_experts", "num_local_experts", "n_routed_experts")),
    )


def choose_group_size(layers: Sequence[Linear], wanted: int | None = None) -> int:
    """Return how many weights of a row share a scale and a zero point, the same for all layers.

    Args:
        wanted: a size, or None for 128, or the largest of 64 and 32 that divides the input of every layer where
            128 does not.

    Raises:
        JudgeError: no such size divides the inputs, or a layer's output is not a multiple of 8.
    """
    odd = [layer for layer in layers if layer.outputs % PACKED]
    if odd:
        raise JudgeError(
            f"layer {printable(odd[0].name)} has {odd[0].outputs} outputs; both 4-bit layouts "
            f"need a multiple of {PACKED}"
        )
    sizes = (wanted,) if wanted else GROUP_SIZES
    fitting = [size for size in sizes if all(layer.inputs % size == 0 for layer in layers)]
    if fitting:
        return fitting[0]
    worst = next(layer for layer in layers if layer.inputs % sizes[-1])
    if wanted:
        advice = "leave --group-size away, or choose a smaller one" if wanted > GROUP_SIZES[-1] else "no other fits"
    else:
        advice = "such a model cannot be quantised in groups"
    raise JudgeError(
        f"layer {printable(worst.name)} has {worst.inputs} inputs, which groups of "
        f"{' or '.join(map(str, sizes))} do not divide; {advice}"
    )


@dataclass(frozen=True)
class SizeReport:
    """The size of a model: bytes of its weight files, numbers that it computes with, and how many of them are 4-bit.

    A packed number counts as one, a tied head once.
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
    return {name: shape for path in folder.glob("*.safetensors") for name, shape in tensor_shapes(path).items()}


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
    wrong = [
        name
        for name in {**expected, **packed}
        if name not in packed
        or name not in expected
        or f"{name}.weight" in shapes
        or not _has_groups(shapes, expected[name], group_size)
    ]
    if wrong:
        raise JudgeError(
            f"the back end did not write {len(wrong)} of {len(expected)} layers in 4 bits with groups of {group_size}, "
            f"first {printable(wrong[0])}; nothing is kept"
        )


def _has_groups(shapes: Mapping[str, Sequence[int]], layer: Linear, group_size: int) -> bool:
    name, groups, outputs = layer.name, layer.inputs // group_size, layer.outputs
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
