"""Which engine reads prompts: settings and hardware become a pool of engines. All engines are started from here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from judge.engine.pool import Pool, WorkerPool, cpu_environments, gpu_environments
from judge.engine.protocol import EngineConfig, Readout
from judge.engine.ray.pool import RayPool
from judge.engine.weights import Weights, choose_weights
from judge.errors import JudgeError
from judge.hardware import machine
from judge.hardware.kernels import obstacles
from judge.hardware.memory import besides
from judge.models.adapter import refuse_adapter
from judge.models.bundle import ModelFolder
from judge.prompting.builder import PromptBuilder


class EngineSettings(BaseModel):
    """How an engine reads prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    readout: Readout = Field(default="vllm", description="How the three log-probabilities are read.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Arithmetic of the engine; auto is what the hardware does well."
    )
    weights: Literal["auto", "stored", "expanded"] = Field(
        default="auto",
        description="How 4-bit weights are read: stored by the engine's own kernels, or expanded once to a 32-bit "
        "copy. auto expands only where there is no kernel.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the engine runs.")
    parallel: Literal["auto", "data", "tensor"] = Field(
        default="auto", description="One engine on each GPU (data), or one over all (tensor)."
    )
    workers: int = Field(default=1, ge=1, description="Engine processes on a CPU, on Ray too.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of a card's memory for the engine."
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=64,
        description="Most tokens in one engine step. [default: 8192, on a CPU or a small card 4096]",
    )
    shard_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that are read, saved and resumed together. [default: 262144, on a CPU 32768]",
    )


class PoolSettings(EngineSettings):
    """How engines read prompts, and where they are: here, on a Ray cluster, or behind a server."""

    engine: Literal["local", "ray"] = Field(
        default="local", description="Engines on this machine, or on those of a Ray cluster."
    )
    ray_address: str | None = Field(
        default=None, description="The Ray cluster. [default: RAY_ADDRESS, or a Ray of its own on this machine]"
    )
    server: str | None = Field(
        default=None, description="URL of a running vllm serve that reads the prompts; a key is in JUDGE_SERVER_KEY."
    )
    server_model: str | None = Field(
        default=None, description="Name of the model on the server, where it serves several."
    )
    server_requests: int = Field(
        default=16, ge=1, le=1024, description="Most requests to the server at a time, of up to 8 prompts."
    )
    server_timeout: float = Field(default=600, gt=0, le=86_400, description="Seconds until a request must be answered.")
    server_patience: float = Field(
        default=300, ge=0, le=86_400, description="Seconds without any answer until the run gives up."
    )


def usable_gpus(settings: PoolSettings) -> list[machine.Gpu]:
    """Return the cards to run on, none for a CPU.

    Raises:
        JudgeError: vLLM is not installed, or in a build for other hardware.
    """
    if settings.readout != "transformers" and find_spec("vllm") is None:
        raise JudgeError("vLLM is not installed (pip install vllm); without it, there is --readout=transformers (slow)")
    gpus = machine.usable_gpus(settings.device)
    if not gpus and settings.readout != "transformers" and machine.is_installed("vllm"):
        raise JudgeError("the CUDA build of vLLM is installed but no GPU is visible; see nvidia-smi")
    return gpus


def how_weights_are_read(model: ModelFolder, settings: PoolSettings) -> Weights:
    """Return whether the engine reads the model's own weights or their 32-bit copy."""
    if settings.server is not None:
        return Weights(model)
    return choose_weights(model, settings.weights, settings.readout, settings.dtype, usable_gpus(settings))


# What a server decides by itself.
_OF_THE_SERVER = (*(n for n in EngineSettings.model_fields if n != "shard_tokens"), "engine", "ray_address")


def _server_pool(model: ModelFolder, settings: PoolSettings, builder: PromptBuilder) -> Pool:
    from judge.engine.server.checks import Endpoint, probe_of
    from judge.engine.server.pool import ServerPool  # httpx, only if used
    from judge.engine.server.requests import server_key, server_url

    fields = PoolSettings.model_fields
    given = [f"--{n.replace('_', '-')}" for n in _OF_THE_SERVER if getattr(settings, n) != fields[n].default]
    if given:
        raise JudgeError(f"--server: the server decides these by itself; leave out {', '.join(given)}")
    text, ids = probe_of(builder)
    endpoint = Endpoint(
        url=server_url(str(settings.server)),
        key=server_key(),
        wanted=settings.server_model,
        adapter=model.adapter is not None,
        requests=settings.server_requests,
        timeout=settings.server_timeout,
        patience=settings.server_patience,
        verdict_ids=builder.verdict_ids,
        max_prompt_tokens=builder.budget.max_tokens,
        probe_text=text,
        probe_ids=ids,
    )
    return ServerPool(endpoint)


def make_pool(
    weights: Weights,
    settings: PoolSettings,
    builder: PromptBuilder,
    log_folder: Path,
    command: Sequence[str],
) -> Pool:
    """Return the engines that read a model as the settings say; none of them is started yet.

    Args:
        weights: what `how_weights_are_read` returned.
        log_folder: where engine processes of this machine write their output.
        command: the worker program.

    Raises:
        JudgeError: no engine here reads this model so, or the server does not; the text says why.
    """
    if settings.server is not None:
        return _server_pool(weights.model, settings, builder)
    config = _engine_config(weights, settings, builder)
    if weights.gpus:
        config, workers = _spread(weights, settings, config)
        # vLLM's second model runner, its default on CUDA, takes logits processors of another class only
        special = {"VLLM_USE_V2_MODEL_RUNNER": "0"} if settings.readout == "vllm-processor" else {}
        environments = gpu_environments(weights.gpus, workers, config.tensor_parallel)
    else:
        workers = settings.workers
        # where a CPU can, vLLM would round what goes into 4-bit layers to 8 bits: other numbers than anywhere else
        special = {"VLLM_CPU_INT4_W4A8": "0"}
        environments = cpu_environments(workers, machine.cpu_cores(), config.cpu_cache_gib)
    if settings.engine == "ray":
        return RayPool(config, workers, special, settings.ray_address, command)
    return WorkerPool(config, [{**environment, **special} for environment in environments], log_folder, command)


def _engine_config(weights: Weights, settings: PoolSettings, builder: PromptBuilder) -> EngineConfig:
    model, gpus, readout = weights.model, weights.gpus, settings.readout
    device: Literal["cpu", "cuda"] = "cuda" if gpus else "cpu"
    if readout == "vllm-classify" and (reason := model.changes_logits_after_head()):
        raise JudgeError(
            f"{model.path.name}: the read-out vllm-classify keeps three rows of the output head and would skip "
            f"the model's {reason}, so its probabilities would be wrong; use --readout=vllm"
        )
    dtype = weights.choose_dtype(settings.dtype, gpus)
    if readout != "transformers" and dtype == "float16" and model.model_type in machine.NO_FLOAT16 and not gpus:
        raise JudgeError(
            f"{model.path.name}: vLLM does not run {model.model_type} in float16; leave out --dtype=float16"
        )
    if model.adapter:
        refuse_adapter(model, readout, dtype, device, weights.shapes)
    batch_tokens = settings.batch_tokens or machine.default_batch_tokens(gpus)
    per_token = model.cache_bytes_per_token(4 if dtype == "float32" else 2)
    # room for a whole batch, and for the prefixes that prompts share
    cache = per_token * 2 * (batch_tokens + builder.budget.max_tokens)
    return EngineConfig(
        model=weights.folder,
        adapter=str(model.adapter.path) if model.adapter else None,
        adapter_rank=model.adapter.rank if model.adapter else 0,
        readout=readout,
        verdict_ids=builder.verdict_ids,
        max_prompt_tokens=builder.budget.max_tokens,
        dtype=dtype,
        device=device,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        cpu_cache_gib=max(-(-cache // machine.GIB), 1),
        max_batch_tokens=batch_tokens,
        max_batch_rows=min(128, batch_tokens),  # vLLM wants no more rows than tokens
    )


def _spread(weights: Weights, settings: PoolSettings, config: EngineConfig) -> tuple[EngineConfig, int]:
    """Return the config of each engine with its number of cards, and how many engines there are."""
    model, each = weights.model, 2 if config.dtype != "float32" else 4
    tokens, rows, longest = config.max_batch_tokens, config.max_batch_rows, config.max_prompt_tokens + 1
    workers, cards = machine.choose_parallel(
        settings.parallel,
        weights.loaded_bytes(each),
        weights.gpus,
        model.heads,
        settings.gpu_memory_utilization,
        besides(model.config, tokens, rows, longest, each),
    )
    for gpu in weights.gpus if settings.readout != "transformers" else ():
        for reason in obstacles(model.config, gpu, config.dtype, cards, packed=weights.way == "stored"):
            raise JudgeError(reason)
    return config.model_copy(update={"tensor_parallel": cards}), workers
