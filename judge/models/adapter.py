"""LoRA adapters: which ones an engine reads as they were trained, decided before it starts.

Both libraries pass over what they cannot place, PEFT with a warning, vLLM without a word, and the model then
answers as if it had never been trained. Each such case is an error here or when the engine loads the adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from judge.errors import JudgeError, printable
from judge.models.bundle import ADAPTER_WEIGHTS, ModelFolder, tensor_shapes

Shapes = Mapping[str, Sequence[int]]

# The ranks that vLLM makes room for (vllm/config/lora.py, MaxLoRARanks).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Settings of PEFT 0.21 that vLLM 0.32 applies as PEFT does (vllm/lora/peft_helper.py), or that changed the training
# only, or that the adapter's tensors already show. Any other setting that is on is refused: vLLM would skip it.
_READ_BY_VLLM = frozenset((
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "lora_dropout", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config",
))  # fmt: skip
# Ways to initialise that leave the base's weights alone; PiSSA, OLoRA, CorDA and LoftQ change them on loading.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_NAMES = {
    "use_dora": "DoRA",
    "modules_to_save": "whole trained modules",
    "bias": "trained biases",
    "lora_bias": "biases of the adapter",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "Activated LoRA",
    "target_parameters": "trained parameters outside linear layers",
}
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:embedding_)?(?P<part>[AB])(?:\.weight)?")
_OUTPUT_HEAD = "lm_head"


def vllm_rank(rank: int) -> int:
    """Return the smallest rank that vLLM makes room for and that holds `rank`."""
    return next(size for size in VLLM_RANKS if size >= rank)


def refused_by_vllm(config: Mapping[str, Any]) -> str | None:
    """Return what in an adapter_config.json vLLM refuses or would skip, or None."""
    if config.get("peft_type") != "LORA":
        return f"peft_type={printable(config.get('peft_type'))}"
    reason = unusable_numbers(config, "r", "rank_pattern", whole=True)
    if reason:
        return reason
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        return f"init_lora_weights={printable(init)} (it changes the base model's weights)"
    for key, value in config.items():
        if value and key not in _READ_BY_VLLM and key != "init_lora_weights" and (key, value) != ("bias", "none"):
            what = f" ({_NAMES[key]})" if key in _NAMES else ""
            return f"{printable(key)}={printable(value, 60)}{what}"
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return f"rank {rank} is more than vLLM's {VLLM_RANKS[-1]}" if rank > VLLM_RANKS[-1] else None


def target_names(shapes: Shapes) -> list[str]:
    """Return the last names of the layers that an adapter changes, such as `q_proj`, sorted."""
    matches = (_TENSOR.fullmatch(name) for name in shapes)
    return sorted({match["module"].rpartition(".")[2] for match in matches if match})


def whole_weights(shapes: Shapes) -> list[str]:
    """Return the tensors of an adapter file that are no A or B matrix, sorted."""
    return sorted(name for name in shapes if not _TENSOR.fullmatch(name))


def misfit(config: Mapping[str, Any], shapes: Shapes, model_shapes: Shapes) -> str | None:
    """Return why an adapter's tensors cannot belong to its config or to its base model, or None.

    Layers that the base model's files do not name are passed over, for a checkpoint may name its tensors
    otherwise than the model does; the engines find what is left over.

    Args:
        config: adapter_config.json.
        shapes: of the adapter's tensors: A is (rank, inputs), B (outputs, rank).
        model_shapes: of the base model's tensors: (outputs, inputs).
    """
    reason = unusable_numbers(config, "r", "rank_pattern", whole=True)
    if reason:
        return reason
    layers: dict[str, dict[str, Sequence[int]]] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match:
            layers.setdefault(match["module"], {})[match["part"]] = shape
    if not layers:
        return "its file holds no LoRA matrices"
    for layer, parts in layers.items():
        reason = _layer_misfit(layer, parts, value_of_layer(config.get("rank_pattern"), layer, config["r"]))
        if reason:
            return reason
        turned = bool(config.get("fan_in_fan_out")) or f"base_model.model.{layer}.lora_embedding_A" in shapes
        expected = list(model_shapes.get(f"{layer}.weight", ()))[:: -1 if turned else 1]
        found = [parts["B"][0], parts["A"][1]]
        known = len(expected) == 2 and 1 not in expected  # neither named otherwise nor packed in 4 bits
        if known and found != expected:
            return f"{layer} is for a layer of {found[0]}x{found[1]}, the model's has {expected[0]}x{expected[1]}"
    return None


def unusable_numbers(config: Mapping[str, Any], name: str, pattern: str, whole: bool) -> str | None:
    """Return why a number of an adapter's config, or its `pattern` of exceptions by layer, cannot be used, or None."""
    exceptions, kinds = config.get(pattern) or {}, int if whole else int | float
    values = [config.get(name), *exceptions.values()] if isinstance(exceptions, dict) else [None]
    if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
        return f"in its config, {name} and the values of {pattern} must be {'whole ' if whole else ''}numbers"
    try:
        for key in exceptions:
            re.compile(key)
    except re.error:
        return f"in its config, a key of {pattern} is no regular expression"
    return None


def value_of_layer(pattern: Mapping[str, float] | None, layer: str, default: float) -> float:
    """Return the value that PEFT gives a layer (peft/utils/other.py, get_pattern_key)."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", layer)), default)


def _layer_misfit(layer: str, parts: Mapping[str, Sequence[int]], rank: float) -> str | None:
    if set(parts) != {"A", "B"}:
        return f"{layer} has no matrix {'B' if 'A' in parts else 'A'}"
    if len(parts["A"]) != 2 or len(parts["B"]) != 2:
        return f"{layer} has matrices of {len(parts['A'])} and {len(parts['B'])} dimensions"
    ranks = parts["A"][0], parts["B"][1]
    return None if ranks == (rank, rank) else f"{layer} has rank {ranks[0]} and {ranks[1]}, its config says {rank}"


def refuse_adapter(
    model: ModelFolder, readout: str, dtype: str, device: str, model_shapes: Shapes | None = None
) -> None:
    """Check that a read-out reads a model's adapter exactly as it was trained; a model without one passes.

    Args:
        model: base model and adapter, as `judge.models.bundle.open_model` returns them.
        readout: one of `judge.engine.protocol.READOUTS`.
        dtype: arithmetic of the engine.
        device: `cpu` or `cuda`.
        model_shapes: of the base model's tensors, where its files hold packed ones.

    Raises:
        JudgeError: it would not; the text says why and what to do.
    """
    adapter = model.adapter
    if adapter is None:
        return
    shapes = tensor_shapes(adapter.path / ADAPTER_WEIGHTS)
    refused = refused_by_vllm(adapter.config)
    if refused is None:  # other kinds have matrices of other shapes
        if model_shapes is None:
            model_shapes = {name: shape for shard in model.shards for name, shape in tensor_shapes(shard).items()}
        reason = misfit(adapter.config, shapes, model_shapes)
        if reason:
            raise JudgeError(f"{adapter.path}: this adapter does not fit {model.path}: {printable(reason, 200)}")
    if readout == "transformers":
        if find_spec("peft") is None:
            raise JudgeError(f"{adapter.path}: reading an adapter with transformers needs PEFT: pip install peft")
        return
    refused = refused or _refused_tensors(shapes, readout)
    if refused:
        raise JudgeError(
            f"{adapter.path}: --readout={readout} cannot read this adapter: {refused}; "
            "use --readout=transformers, or merge the adapter into its base model"
        )
    if dtype == "float32" and device == "cuda":
        raise JudgeError(
            f"{adapter.path}: vLLM reads adapters on a GPU in float16 or bfloat16 only; use one of these as --dtype, "
            "or merge the adapter into its base model"
        )


def _refused_tensors(shapes: Shapes, readout: str) -> str | None:
    whole = whole_weights(shapes)
    if whole:
        return f"vLLM would skip the weight {printable(whole[0], 100)} in its file"
    if readout == "vllm-classify" and _OUTPUT_HEAD in target_names(shapes):
        return f"it changes {_OUTPUT_HEAD}, of which the classification head is a copy (--readout=vllm reads it)"
    return None
