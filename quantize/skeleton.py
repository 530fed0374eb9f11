"""The model's layers without their weights: what the matrices of an adapter belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from judge.errors import JudgeError, printable
from judge.models.bundle import Adapter, ModelFolder
from judge.models.tensor_files import Entry


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


class Skeleton:
    """The model's layers without their weights: which exist, which are turned, which share a matrix.

    Attributes:
        tied: embeddings and output head where they share a matrix, otherwise none.
    """

    def __init__(self, model: ModelFolder) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            config = AutoConfig.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                self._model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (ValueError, KeyError, ImportError) as error:
            reason = printable(" ".join(str(error).split()), 160)
            raise JudgeError(
                f"{model.path}: transformers does not know this architecture ({printable(model.model_type)}): {reason}"
            ) from None
        self._folder = model.path
        names = {module: name for name, module in self._model.named_modules()}
        ends = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        tied = None not in ends and ends[0].weight is ends[1].weight
        self.tied = frozenset(names[module] for module in ends) if tied else frozenset()

    def tensor_name(self, layer: str, stored: Mapping[str, Entry]) -> str:
        """Return the name of a layer's matrix in the base's files; some leave out the first part of it."""
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
