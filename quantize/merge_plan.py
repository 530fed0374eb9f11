"""What a merge will write: which matrices the adapter changes, under which names, and what it cannot merge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from judge.errors import JudgeError, printable
from judge.models.adapter import misfit, refused_by_vllm, unusable_numbers, value_of_layer
from judge.models.bundle import ADAPTER_WEIGHTS, FLOATS, Adapter, ModelFolder, tensor_shapes
from judge.models.load import load_layers
from judge.models.tensor_files import Entry, read_entries
from quantize.merge_weights import Update, check_merged, merged_weight

if TYPE_CHECKING:
    from torch import Tensor

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
_TENSOR = re.compile(
    r"base_model\.model\.(?P<layer>.+)\.lora_(?:(?:embedding_)?(?P<part>[AB])|(?P<magnitude>magnitude_vector))(?:\.weight)?"
)
_HEADER_NAMES = {torch_name: name for name, torch_name in FLOATS.items()}


@dataclass(frozen=True)
class Adapted:
    """One matrix that the adapter changes: its layer, its tensors by part (A, B, magnitude), and what `Update` says."""

    layer: str
    parts: Mapping[str, str]
    scale: float
    turned: bool


@dataclass(frozen=True)
class Written:
    """One tensor of the output, the base's tensor that it is made from, and how the adapter changes it, if it does.

    `shard` is the base's file with that tensor; the output's file has the same name.
    """

    entry: Entry
    source: Entry
    shard: Path
    adapted: Adapted | None = None


@dataclass(frozen=True)
class MergePlan:
    """Everything that a merge will write.

    Attributes:
        model: base and adapter.
        shards: the tensors of each output file, by the base's file of the same name.
        untied: whether embeddings and output head, which share a matrix in the base, get one each.
    """

    model: ModelFolder
    adapter: Adapter
    shards: Mapping[Path, tuple[Written, ...]]
    untied: bool

    @property
    def tensors(self) -> list[Written]:
        """All tensors of the output."""
        return [written for shard in self.shards.values() for written in shard]

    @property
    def adapted(self) -> list[Written]:
        """The tensors that the adapter changes."""
        return [written for written in self.tensors if written.adapted]

    @property
    def size(self) -> int:
        """Bytes of the output's tensors."""
        return sum(written.entry.size for written in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of values in the output."""
        return sum(written.entry.values for written in self.tensors)

    def source(self, written: Written) -> Tensor:
        """Read the base's tensor, as stored."""
        from safetensors import safe_open

        with safe_open(written.shard, framework="pt") as file:
            tensor: Tensor = file.get_tensor(written.source.name)
            return tensor

    def merged(self, written: Written) -> tuple[Tensor, float]:
        """Return a tensor that the adapter changes, in float32, and the error of its check.

        Raises:
            JudgeError: the check fails.
        """
        assert written.adapted is not None
        weight, update = self.source(written), self._update(written.adapted)
        result = merged_weight(weight, update)
        place = f"{self.adapter.path}: {printable(written.entry.name)}"
        return result, check_merged(result, weight, update, place)

    def _update(self, adapted: Adapted) -> Update:
        from safetensors import safe_open

        with safe_open(self.adapter.path / ADAPTER_WEIGHTS, framework="pt") as file:
            parts = {part: file.get_tensor(name).float() for part, name in adapted.parts.items()}
        return Update(parts["A"], parts["B"], adapted.scale, parts.get("magnitude"), adapted.turned)


def plan_merge(model: ModelFolder, dtype: Dtype) -> MergePlan:
    """Decide what a merge writes; headers are read, weights are not.

    Args:
        dtype: of all float tensors of the output; `auto` keeps each as the base stores it.

    Raises:
        JudgeError: there is nothing to merge, or not all of the adapter can be merged.
    """
    if model.adapter is None:
        raise JudgeError(f"{model.path}: is a whole model already, with no adapter to merge; quantise it as it is")
    method = model.quantization_method
    if method is not None:
        raise JudgeError(
            f"{model.path}: the base model is quantised already ({printable(method)}): an adapter cannot be merged "
            "into such weights; score with the adapter on top, or merge one that belongs to 16-bit weights"
        )
    adapter, stored = model.adapter, {shard: read_entries(shard) for shard in model.shards}
    names = {entry.name: entry for entries in stored.values() for entry in entries}
    shapes = tensor_shapes(adapter.path / ADAPTER_WEIGHTS)
    layers, skeleton = _adapted_layers(adapter, shapes), load_layers(model.path)

    def tensor_name(layer: str) -> str:
        """Return the name of a layer's matrix in the files of the base; some leave out the first part of it."""
        name = f"{layer}.weight"
        short = name.removeprefix(f"{skeleton.base_model_prefix}.")
        return short if name not in names and short in names else name

    modules = dict(skeleton.named_modules())
    adapted = {
        tensor_name(layer): _adapted(model, adapter, modules.get(layer), layer, parts)
        for layer, parts in layers.items()
    }
    ends = skeleton.get_input_embeddings(), skeleton.get_output_embeddings()
    share = None not in ends and ends[0].weight is ends[1].weight
    tied = {tensor_name(name) for name, module in modules.items() if share and module in ends}
    untied = bool(tied & adapted.keys())
    # The files hold the tensor of tied layers under one of their names. Untied, each layer has its own tensor.
    shared = next((name for name in sorted(tied) if name in names), "")
    own = dict.fromkeys(sorted(tied - names.keys()), shared) if untied and shared else {}
    for name, what in adapted.items():
        source = names.get(own.get(name, name))
        if source is None:
            raise JudgeError(
                f"{model.path}: no tensor {printable(name)} in its files, which {adapter.path.name} changes; its "
                "tensors are named otherwise than the model's layers, or some are missing"
            )
        _refuse_misfit(model, adapter, source, what, shapes)
    shards = {}
    for shard, entries in stored.items():
        pairs = [(entry.name, entry) for entry in entries]
        pairs += [(name, entry) for entry in entries for name, source in own.items() if source == entry.name]
        shards[shard] = tuple(Written(_rewritten(name, e, dtype), e, shard, adapted.get(name)) for name, e in pairs)
    return MergePlan(model, adapter, shards, untied)


def _rewritten(name: str, source: Entry, dtype: Dtype) -> Entry:
    header = source.dtype if dtype == "auto" or source.dtype not in FLOATS else _HEADER_NAMES[dtype]
    return Entry(name, header, source.shape)


def _adapted_layers(adapter: Adapter, shapes: Mapping[str, list[int]]) -> dict[str, dict[str, str]]:
    """Return for each layer that the adapter changes the names of its tensors by part: A, B, magnitude."""
    config = adapter.config
    layers: dict[str, dict[str, str]] = {}
    for name in sorted(shapes):
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise JudgeError(
                f"{adapter.path}: holds {printable(name, 120)}, which is no LoRA matrix; judge merges those only, not "
                "weights, biases or embeddings that were trained whole"
            )
        layers.setdefault(match["layer"], {})[match["part"] or "magnitude"] = name
    # DoRA's vectors are checked below
    matrices = {name: shape for name, shape in shapes.items() if "lora_magnitude_vector" not in name}
    # a merge reads the settings that vLLM reads, and besides them DoRA and any rank
    reason = (
        misfit({**config, "fan_in_fan_out": False}, matrices, {})
        or unusable_numbers(config, "lora_alpha", "alpha_pattern", whole=False)
        or refused_by_vllm({**config, "use_dora": False, "r": 1, "rank_pattern": {}})
    )
    if reason:
        raise JudgeError(f"{adapter.path}: cannot be merged: {printable(reason, 200)}")
    expected = {"A", "B", "magnitude"} if config.get("use_dora") else {"A", "B"}
    for layer, parts in layers.items():
        if parts.keys() != expected:
            what = "no DoRA magnitude" if "magnitude" in expected else "a DoRA magnitude, which its config does not say"
            raise JudgeError(f"{adapter.path}: {printable(layer)} has {what}; copy the adapter again")
    return layers


def _refuse_misfit(
    model: ModelFolder, adapter: Adapter, source: Entry, adapted: Adapted, shapes: Mapping[str, list[int]]
) -> None:
    found, magnitude = (shapes[adapted.parts["B"]][0], shapes[adapted.parts["A"]][1]), adapted.parts.get("magnitude")
    expected = source.shape[::-1] if adapted.turned else source.shape
    fits = expected == found and (magnitude is None or shapes[magnitude] == [found[0]])
    if not fits or source.dtype not in FLOATS:
        size = "x".join(map(str, source.shape))
        raise JudgeError(
            f"{adapter.path}: does not fit {model.path}: {printable(adapted.layer)} is for a layer of "
            f"{found[0]}x{found[1]}, the model's has {size} values of {source.dtype}"
        )


def _adapted(model: ModelFolder, adapter: Adapter, module: Any, layer: str, parts: Mapping[str, str]) -> Adapted:
    """Return how the adapter changes a layer; `module` is the layer of the model, None if it has no such layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
        what = f"as {type(module).__name__}, which judge does not merge" if module is not None else "nowhere"
        raise JudgeError(
            f"{adapter.path}: does not fit {model.path}: it changes {printable(layer)}, which the model has {what}"
        )
    config = adapter.config
    rank = value_of_layer(config.get("rank_pattern"), layer, config["r"])
    alpha = value_of_layer(config.get("alpha_pattern"), layer, config["lora_alpha"])
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    # as PEFT does, by the layer's kind, whatever fan_in_fan_out says
    turned = not isinstance(module, nn.Linear)
    return Adapted(layer, parts, scale, turned)
