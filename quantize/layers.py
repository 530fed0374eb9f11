"""The linear layers that become 4-bit, found without loading a weight, and the group size that fits them all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from judge.errors import JudgeError, printable
from judge.models.bundle import ModelFolder
from judge.models.load import load_layers

GROUP_SIZES = (128, 64, 32)
# Both layouts keep eight 4-bit values in one 32-bit number.
PACKED = 8


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


def decoder_blocks(layers: Layers) -> dict[str, list[Linear]]:
    """Return the linear layers by the decoder block that they are in (`model.layers.0` and so on)."""
    blocks: dict[str, list[Linear]] = {}
    for layer in layers.linear:
        match = re.match(r"(.*?\.\d+)\.", layer.name)
        blocks.setdefault(match[1] if match else "", []).append(layer)
    return blocks
