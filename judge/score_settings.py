"""The settings of a scoring run, and what they come to for a model and a machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from judge import hardware
from judge.budget import Policy
from judge.bundle import ModelFolder
from judge.engine import EngineConfig, Readout
from judge.engine.pool import WorkerPool, cpu_environments, gpu_environments
from judge.errors import JudgeError
from judge.prompt import Budget, PromptBuilder

DEFAULT_MAX_TOKENS = 2048
# Model types that vLLM 0.32 refuses to run in float16 (vllm/config/model.py).
NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")


class ScoreSettings(BaseModel):
    """How a table is scored.

    Attributes:
        template: name of a shipped template or path of a YAML file.
        max_tokens: longest prompt, in tokens; by default 2,048 or what the model takes, if less.
        truncation: where over-long texts are cut (see `judge.budget.plan_cuts`).
        shares: weights of the prompt and of each response in the budget.
        swap: `off`, `all`, `auto` or a percentage such as `25%` (see `swap_share`).
        readout: how the three log-probabilities are read (see `judge.engine`).
        dtype: arithmetic of the engine; `auto` is what the hardware does well.
        device: `auto`, `cpu` or `cuda`.
        parallel: a model copy on each GPU (`data`), one over all (`tensor`), or `auto`.
        workers: engine processes on a CPU.
        gpu_memory_utilization: share of a card's memory for the engine.
        batch_tokens: most tokens in one step of the engine.
        shard_tokens: tokens that are read, written and resumed together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = "side-by-side"
    max_tokens: int | None = Field(default=None, gt=0)
    truncation: Policy = "middle"
    shares: tuple[float, float] = (0.2, 0.4)
    swap: str = "off"
    readout: Readout = "vllm"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    parallel: Literal["auto", "data", "tensor"] = "auto"
    workers: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    batch_tokens: int | None = Field(default=None, ge=64)
    shard_tokens: int | None = Field(default=None, ge=1)


def swap_share(swap: str) -> float | None:
    """Return the share of rows to read in both orders, between 0 and 1, or None for `auto`.

    Raises:
        JudgeError: not `off`, `all`, `auto` or a percentage.
    """
    if swap in ("off", "all", "auto"):
        return {"off": 0.0, "all": 1.0, "auto": None}[swap]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", swap.strip())
    if not match or float(match[1]) > 100:
        raise JudgeError(f"--swap={swap}: expected off, all, auto or a percentage such as 25%")
    return float(match[1]) / 100


def refuse_inexact(model: ModelFolder, readout: Readout) -> None:
    reason = model.changes_logits_after_head()
    if readout == "vllm-classify" and reason:
        raise JudgeError(
            f"{model.path.name}: the read-out vllm-classify keeps three rows of the output head and would skip "
            f"the model's {reason}, so its probabilities would be wrong; use --readout=vllm"
        )


def choose_budget(model: ModelFolder, settings: ScoreSettings) -> Budget:
    most = model.max_positions - 1 if model.max_positions else None  # one position is the verdict's
    wanted = settings.max_tokens or min(DEFAULT_MAX_TOKENS, most or DEFAULT_MAX_TOKENS)
    if most is not None and wanted > most:
        raise JudgeError(f"--max-tokens={wanted} is more than the model takes ({most} and the verdict)")
    if min(settings.shares) <= 0:
        raise JudgeError(f"--shares={settings.shares}: both must be positive")
    return Budget(wanted, settings.truncation, settings.shares)


def make_pool(
    model: ModelFolder,
    settings: ScoreSettings,
    builder: PromptBuilder,
    log_folder: Path,
    command: Sequence[str],
) -> WorkerPool:
    if settings.readout != "transformers" and find_spec("vllm") is None:
        raise JudgeError("vLLM is not installed (pip install vllm); without it, there is --readout=transformers (slow)")
    gpus = hardware.usable_gpus(settings.device)
    if not gpus and settings.readout != "transformers" and hardware.is_installed("vllm"):
        raise JudgeError("the CUDA build of vLLM is installed but no GPU is visible; see nvidia-smi")
    dtype = hardware.choose_dtype(settings.dtype, model.dtype, gpus)
    if dtype == "float16" and model.model_type in NO_FLOAT16 and settings.readout != "transformers":
        raise JudgeError(
            f"{model.path.name}: vLLM does not run {model.model_type} in float16, and these GPUs have no bfloat16; "
            "use --dtype=float32 (twice the memory) or another model"
        )
    batch_tokens = settings.batch_tokens or (8192 if gpus else 4096)
    per_token = model.cache_bytes_per_token(4 if dtype == "float32" else 2)
    # room for a whole batch, and for the prefixes that prompts share
    cache = per_token * 2 * (batch_tokens + builder.budget.max_tokens)
    config = EngineConfig(
        model=str(model.path),
        readout=settings.readout,
        verdict_ids=builder.verdict_ids,
        max_prompt_tokens=builder.budget.max_tokens,
        dtype=dtype,
        device="cuda" if gpus else "cpu",
        gpu_memory_utilization=settings.gpu_memory_utilization,
        cpu_cache_gib=max(-(-cache // hardware.GIB), 1),
        max_batch_tokens=batch_tokens,
        max_batch_rows=min(128, batch_tokens),  # vLLM wants no more rows than tokens
    )
    if not gpus:
        environments = cpu_environments(settings.workers, hardware.cpu_cores(), config.cpu_cache_gib)
        return WorkerPool(config, environments, log_folder, command)
    weights = model.loaded_bytes(2 if dtype != "float32" else 4)
    workers, cards = hardware.choose_parallel(
        settings.parallel, weights, gpus, model.heads, settings.gpu_memory_utilization
    )
    config = config.model_copy(update={"tensor_parallel": cards})
    environments = gpu_environments(gpus, workers, cards)
    if settings.readout == "vllm-processor":
        # vLLM's second model runner, its default on CUDA, takes logits processors of another class only
        environments = [{**environment, "VLLM_USE_V2_MODEL_RUNNER": "0"} for environment in environments]
    return WorkerPool(config, environments, log_folder, command)
