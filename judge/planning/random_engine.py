"""Engines with random weights: the real vLLM on the geometry of a model that need not be there.

Only a config.json is needed: vLLM's `load_format="dummy"` fills the weights with small random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from judge.engine.pool import WorkerPool, cpu_environments, gpu_environments
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError
from judge.hardware import machine as hardware
from judge.hardware.kernels import NO_FLOAT16, prefer_bfloat16
from judge.models.arithmetic import ModelShape

# As in judge.engine.choose.make_pool.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 8192}


@dataclass(frozen=True)
class Machine:
    """What the engines run on.

    Attributes:
        gpus: the cards, none for a CPU.
        engines: processes that read at the same time.
        cards: cards of each of them.
        dtype: arithmetic of the engine.
        utilization: share of each card's memory for the engine.
        batch_tokens: most tokens in one step.
    """

    gpus: tuple[hardware.Gpu, ...]
    engines: int
    cards: int
    dtype: hardware.Dtype
    utilization: float
    batch_tokens: int

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engines run."""
        return "cuda" if self.gpus else "cpu"


def machine_of(
    shape: ModelShape,
    device: str = "auto",
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    engines: int = 1,
    cards: int = 1,
    utilization: float = 0.9,
    batch_tokens: int | None = None,
) -> Machine:
    """Return what engines for a model run on here, as `judge score` would choose it (see `probe`).

    Raises:
        JudgeError: fewer cards are visible, or one has not the dtype.
    """
    gpus = hardware.usable_gpus(device)[: engines * cards]
    if gpus and len(gpus) < engines * cards:
        raise JudgeError(f"{engines * cards} cards are to be probed and {len(gpus)} are visible")
    packed = shape.bits < 16 and (bool(gpus) or hardware.vllm_has_cpu_kernel())
    choose = hardware.choose_dtype(dtype, shape.dtype, gpus)
    if packed:
        choose = hardware.choose_packed_dtype(dtype, shape.dtype, gpus, shape.model_type not in NO_FLOAT16)
    choose = prefer_bfloat16(choose, dtype, shape.model_type, gpus)
    where: Literal["cpu", "cuda"] = "cuda" if gpus else "cpu"
    tokens = batch_tokens or _BATCH_TOKENS[where]
    return Machine(tuple(gpus), engines, cards if gpus else 1, choose, utilization, tokens)


def runnable_config(config: Mapping[str, Any], packed: bool) -> dict[str, Any]:
    """Return the language model's part of a config as a config of its own, which an engine can start with.

    Args:
        packed: keep what it says about quantised weights; without, the weights are plain floats.
    """
    nested = config.get("text_config")
    text = dict(nested) if isinstance(nested, Mapping) else dict(config)
    quantization = text.get("quantization_config") or config.get("quantization_config")
    text.pop("quantization_config", None)
    text.pop("compression_config", None)
    if quantization and packed:
        text["quantization_config"] = quantization
    if nested is not None or not text.get("architectures"):
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(text.get("model_type")))
        if name is not None:
            text["architectures"] = [name if isinstance(name, str) else name[0]]
    return text


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return a config with so many layers, the first ones where they differ."""
    result = dict(config)
    names = [name for name in ("num_hidden_layers", "n_layer", "n_layers") if name in result]
    result |= dict.fromkeys(names or ["num_hidden_layers"], layers)
    for name, value in config.items():
        if name.endswith("layer_types") and isinstance(value, list):
            result[name] = value[:layers]
    if isinstance(result.get("max_window_layers"), int):
        result["max_window_layers"] = min(result["max_window_layers"], layers)
    return result


def engine_pool(folder: Path, config: Mapping[str, Any], machine: Machine, longest: int) -> WorkerPool:
    """Return engines with random weights for a config; it is written to `folder`, where they also log.

    Args:
        longest: tokens of the longest prompt.
    """
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    bytes_each = 4 if machine.dtype == "float32" else 2
    per_token = ModelShape.from_config(config).cache_bytes_per_token(bytes_each)
    cache = max(-(-int(per_token * 2 * (machine.batch_tokens + longest)) // hardware.GIB), 1)
    engine = EngineConfig(
        model=str(folder),
        verdict_ids=(0, 1, 2),
        max_prompt_tokens=longest,
        dtype=machine.dtype,
        device=machine.device,
        tensor_parallel=machine.cards,
        gpu_memory_utilization=machine.utilization,
        cpu_cache_gib=cache,
        max_batch_tokens=machine.batch_tokens,
        max_batch_rows=min(128, machine.batch_tokens),
        dummy=True,
    )
    if machine.gpus:
        environments = gpu_environments(machine.gpus, machine.engines, machine.cards)
    else:
        common = {"VLLM_CPU_INT4_W4A8": "0"}  # as judge.engine.choose.make_pool has it
        environments = [common | e for e in cpu_environments(machine.engines, hardware.cpu_cores(), cache)]
    return WorkerPool(engine, environments, folder, say=_nobody_listens)


def _nobody_listens(text: str) -> None:
    del text
