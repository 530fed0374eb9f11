"""What a merge will write: which matrices the adapter changes, under which names, and what it cannot merge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from judge.errors import JudgeError, printable
from judge.models.adapter import misfit, refused_by_vllm
from judge.models.bundle import ADAPTER_WEIGHTS, Adapter, ModelFolder, tensor_shapes
from judge.models.load import load_layers
from judge.models.tensor_files import FLOATS, Entry, read_entries
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
    """One matrix that the adapter changes.

    Attributes:
        layer: the layer's name in the model.
        a, b, magnitude: names of its tensors in the adapter's file.
        scale: what B A is multiplied by.
        turned: see `quantize.merge_weights.Update`.
    """

    layer: str
    a: str
    b: str
    magnitude: str | None
    scale: float
    turned: bool


@dataclass(frozen=True)
class Written:
    """One tensor of the output.

    Attributes:
        entry: what is written.
        source: the tensor of the base that it is made from.
        adapted: how the adapter changes it, or None.
    """

    entry: Entry
    source: Entry
    adapted: Adapted | None = None


@dataclass(frozen=True)
class MergePlan:
    """Everything that a merge will write.

    Attributes:
        model: base and adapter.
        shards: the tensors of each output file, which has the name of the base's.
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

    @cached_property
    def _places(self) -> dict[str, Path]:
        return {written.source.name: shard for shard, all_ in self.shards.items() for written in all_}

    def source(self, written: Written) -> Tensor:
        """Read the base's tensor, as stored."""
        from safetensors import safe_open

        with safe_open(self._places[written.source.name], framework="pt") as file:
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
            a, b = (file.get_tensor(name).float() for name in (adapted.a, adapted.b))
            magnitude = file.get_tensor(adapted.magnitude).float() if adapted.magnitude else None
        return Update(a, b, adapted.scale, magnitude, adapted.turned)


def plan_merge(model: ModelFolder, dtype: Dtype) -> MergePlan:
    """Decide what a merge writes; headers are read, weights are not.

    Args:
        dtype: of all float tensors of the output; `auto` keeps each as the base stores it.

    Raises:
        JudgeError: there is nothing to merge, or not all of the adapter can be merged.
    """
    if model.adapter is None:
        raise JudgeError(f"{model.path}: is a whole model already, with no adapter to merge; quantise it as it is")
    _refuse_quantised(model)
    adapter, stored = model.adapter, {shard: read_entries(shard) for shard in model.shards}
    names = {entry.name: entry for entries in stored.values() for entry in entries}
    layers = _adapted_layers(adapter)
    skeleton = Skeleton(model)
    adapted = {skeleton.tensor_name(layer, names): skeleton.adapted(adapter, layer, parts) for layer, parts in layers}
    tied = {skeleton.tensor_name(layer, names) for layer in skeleton.tied}
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
        _refuse_misfit(model, adapter, source, what, tensor_shapes(adapter.path / ADAPTER_WEIGHTS))
    shards = {}
    for shard, entries in stored.items():
        pairs = [(entry.name, entry) for entry in entries]
        pairs += [(name, entry) for entry in entries for name, source in own.items() if source == entry.name]
        shards[shard] = tuple(Written(_rewritten(name, e, dtype), e, adapted.get(name)) for name, e in pairs)
    return MergePlan(model, adapter, shards, untied)


def _rewritten(name: str, source: Entry, dtype: Dtype) -> Entry:
    header = source.dtype if dtype == "auto" or source.dtype not in FLOATS else _HEADER_NAMES[dtype]
    return Entry(name, header, source.shape)


def _refuse_quantised(model: ModelFolder) -> None:
    method = model.quantization_method
    if method is not None:
        raise JudgeError(
            f"{model.path}: the base model is quantised already ({printable(method)}): an adapter cannot be merged "
            "into such weights; score with the adapter on top, or merge one that belongs to 16-bit weights"
        )


def _adapted_layers(adapter: Adapter) -> list[tuple[str, dict[str, str]]]:
    """Return for each layer that the adapter changes the names of its tensors by part: A, B, magnitude.

    Raises:
        JudgeError: the adapter is more than such matrices, or they do not fit.
    """
    config, shapes = adapter.config, tensor_shapes(adapter.path / ADAPTER_WEIGHTS)
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
    reason = misfit({**config, "fan_in_fan_out": False}, matrices, {}) or _refused(config)
    if reason:
        raise JudgeError(f"{adapter.path}: cannot be merged: {printable(reason, 200)}")
    expected = {"A", "B", "magnitude"} if config.get("use_dora") else {"A", "B"}
    for layer, parts in layers.items():
        if parts.keys() != expected:
            what = "no DoRA magnitude" if "magnitude" in expected else "a DoRA magnitude, which its config does not say"
            raise JudgeError(f"{adapter.path}: {printable(layer)} has {what}; copy the adapter again")
    return list(layers.items())


def _refused(config: Mapping[str, Any]) -> str | None:
    """Return what in an adapter's config a merge does not read, or None: it reads LoRA, rsLoRA and DoRA.

    These are the settings that vLLM does not read either, but for DoRA and the largest rank, which only vLLM refuses.
    """
    alphas = config.get("alpha_pattern") or {}
    numbers = (config.get("lora_alpha"), *(alphas.values() if isinstance(alphas, dict) else [None]))
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
        return "in its config, lora_alpha and the values of alpha_pattern must be numbers"
    try:
        for key in alphas:
            re.compile(key)
    except re.error:
        return "in its config, a key of alpha_pattern is no regular expression"
    return refused_by_vllm({**config, "use_dora": False, "r": 1, "rank_pattern": {}})


def _refuse_misfit(
    model: ModelFolder, adapter: Adapter, source: Entry, adapted: Adapted, shapes: Mapping[str, list[int]]
) -> None:
    found = (shapes[adapted.b][0], shapes[adapted.a][1])
    expected = source.shape[::-1] if adapted.turned else source.shape
    fits = expected == found and (adapted.magnitude is None or shapes[adapted.magnitude] == [found[0]])
    if not fits or source.dtype not in FLOATS:
        size = "x".join(map(str, source.shape))
        raise JudgeError(
            f"{adapter.path}: does not fit {model.path}: {printable(adapted.layer)} is for a layer of "
            f"{found[0]}x{found[1]}, the model's has {size} values of {source.dtype}"
        )


class Skeleton:
    """The layers of the base model without their weights: the matrices of an adapter belong to them.

    Attributes:
        tied: names of the embeddings and the output head if they share a matrix; empty if they do not.
    """

    def __init__(self, model: ModelFolder) -> None:
        self._model = load_layers(model.path)
        self._folder = model.path
        names = {module: name for name, module in self._model.named_modules()}
        ends = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        tied = None not in ends and ends[0].weight is ends[1].weight
        self.tied = frozenset(names[module] for module in ends) if tied else frozenset()

    def tensor_name(self, layer: str, stored: Mapping[str, Entry]) -> str:
        """Return the name of a layer's matrix in the files of the base; some files leave out the first part of it."""
        name = f"{layer}.weight"
        short = name.removeprefix(f"{self._model.base_model_prefix}.")
        return short if name not in stored and short in stored else name

    def adapted(self, adapter: Adapter, layer: str, parts: Mapping[str, str]) -> Adapted:
        """Return how the adapter changes a layer.

        Raises:
            JudgeError: the model has no such layer, or one of another kind.
        """
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        try:
            module = self._model.get_submodule(layer)
        except AttributeError:
            module = None
        if not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            what = f"as {type(module).__name__}, which judge does not merge" if module is not None else "nowhere"
            raise JudgeError(
                f"{adapter.path}: does not fit {self._folder}: it changes {printable(layer)}, which the model has "
                f"{what}"
            )
        config = adapter.config
        rank = _of_layer(config.get("rank_pattern") or {}, layer, config["r"])
        alpha = _of_layer(config.get("alpha_pattern") or {}, layer, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        # as PEFT does, by the layer's kind, whatever fan_in_fan_out says
        turned = not isinstance(module, nn.Linear)
        return Adapted(layer, parts["A"], parts["B"], parts.get("magnitude"), scale, turned)


def _of_layer(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """Return a layer's value (peft/utils/other.py, get_pattern_key)."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", layer)), default)
