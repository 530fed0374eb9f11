"""The settings of a scoring run, and what they come to for a model and a machine."""

from __future__ import annotations

import re
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
from judge.hardware.kernels import NO_FLOAT16, prefer_bfloat16, refuse_cards
from judge.hardware.memory import besides
from judge.models.adapter import refuse_adapter
from judge.models.bundle import ModelFolder
from judge.models.calibration import ORDERS, Calibration, Orders
from judge.prompting.budget import Policy
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.template import Template, load_template

DEFAULT_MAX_TOKENS = 2048
DEFAULT_TEMPLATE = "side-by-side"


class EngineSettings(BaseModel):
    """How an engine reads prompts.

    Attributes:
        readout: how the three log-probabilities are read (see `judge.engine.protocol`).
        dtype: arithmetic of the engine; `auto` is what the hardware does well.
        weights: how 4-bit weights are read: `stored` by the engine's own kernels, `expanded` from a 32-bit copy that is
            made once; `auto` takes the copy only where there is no kernel (see `judge.engine.weights`).
        device: `auto`, `cpu` or `cuda`.
        parallel: a model copy on each GPU (`data`), one over all (`tensor`), or `auto`.
        workers: engine processes on a CPU.
        gpu_memory_utilization: share of a card's memory for the engine.
        batch_tokens: most tokens in one step of the engine.
        shard_tokens: tokens that are read, written and resumed together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    readout: Readout = "vllm"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    weights: Literal["auto", "stored", "expanded"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    parallel: Literal["auto", "data", "tensor"] = "auto"
    workers: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    batch_tokens: int | None = Field(default=None, ge=64)
    shard_tokens: int | None = Field(default=None, ge=1)


class ScoreSettings(EngineSettings):
    """How a table is scored.

    Attributes:
        template: name of a shipped template or path of a YAML file.
        max_tokens: longest prompt, in tokens.
        truncation: where over-long texts are cut (see `judge.prompting.budget.plan_cuts`).
        shares: weights of the prompt and of each response in the budget.
            These four are by default what a judge was trained with; for any other model, `side-by-side`, 2,048 or
            what the model takes, `middle`, and 0.2 and 0.4.
        swap: `off`, `all`, `auto` or a percentage such as `25%` (see `swap_share`).
        calibration: `auto` applies the one that the bundle holds (`judge calibrate`), `off` does not.
        engine: `local` runs the engine on this machine, `ray` on the machines of a Ray cluster (`judge.engine.ray`).
        ray_address: address of that cluster; by default RAY_ADDRESS, or a Ray of its own on this machine.
        server: URL of a running `vllm serve` that reads the prompts instead (`judge.engine.server.pool`).
        server_model: name of the model there, where it serves several.
        server_requests: most requests at a time, of up to 8 prompts.
        server_timeout: seconds until a request must be answered.
        server_patience: seconds without any answer until a run gives up.
    """

    template: str | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    truncation: Policy | None = None
    shares: tuple[float, float] | None = None
    swap: str = "off"
    calibration: Literal["auto", "off"] = "auto"
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    server: str | None = None
    server_model: str | None = None
    server_requests: int = Field(default=16, ge=1, le=1024)
    server_timeout: float = Field(default=600, gt=0, le=86_400)
    server_patience: float = Field(default=300, ge=0, le=86_400)


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


def largest_budget(model: ModelFolder, wanted: int | None) -> int:
    """Return the longest prompt in tokens: what is wanted, or 2,048, or what the model takes, if less.

    Raises:
        JudgeError: more is wanted than the model takes.
    """
    most = model.max_positions - 1 if model.max_positions else None  # one position is the verdict's
    chosen = wanted or min(DEFAULT_MAX_TOKENS, most or DEFAULT_MAX_TOKENS)
    if most is not None and chosen > most:
        raise JudgeError(f"--max-tokens={chosen} is more than the model takes ({most} and the verdict)")
    return chosen


def choose_budget(model: ModelFolder, settings: ScoreSettings) -> Budget:
    """Return the settings' budget; what they leave open is as the judge was trained, or the default."""
    judge, default = model.judge, Budget()
    max_tokens = settings.max_tokens or (judge.max_tokens if judge else None)
    truncation = settings.truncation or (judge.truncation if judge else default.policy)
    shares = settings.shares or (judge.shares if judge else default.shares)
    if min(shares) <= 0:
        raise JudgeError(f"--shares={shares}: both must be positive")
    return Budget(largest_budget(model, max_tokens), truncation, shares)


def choose_template(model: ModelFolder, settings: ScoreSettings) -> Template:
    """Return the settings' template, else the one that the judge was trained with, else `side-by-side`."""
    if settings.template is not None:
        return load_template(settings.template)
    return model.judge.stored_template() if model.judge else load_template(DEFAULT_TEMPLATE)


def choose_calibration(model: ModelFolder, settings: ScoreSettings) -> Calibration | None:
    """Return the calibration that the bundle holds, or None where there is none or it is not wanted."""
    return model.judge.calibration if model.judge and settings.calibration == "auto" else None


def differs_from_calibrating(
    calibration: Calibration | None, settings: ScoreSettings, builder: PromptBuilder
) -> str | None:
    """Return how a run differs from the one that the calibration was fitted on, or None."""
    if calibration is None or calibration.fitted is None:
        return None
    share = swap_share(settings.swap)
    orders: Orders = "both" if share == 1 else "one" if share == 0 else "some"
    fitted, differences = calibration.fitted, []
    if orders != fitted.orders:
        differences.append(f"it was fitted on {ORDERS[fitted.orders]}, and this run reads {ORDERS[orders]} (--swap)")
    if fitted.prompt not in (None, builder.fingerprint()):
        differences.append("it was fitted on prompts of another template or budget")
    advice = "; calibrate on predictions made like these, or pass --calibration=off"
    return f"the calibration may not fit: {' and '.join(differences)}{advice}" if differences else None


def differs_from_training(model: ModelFolder, settings: ScoreSettings, builder: PromptBuilder) -> str | None:
    """Return how prompts differ from those that the judge was trained with, or None.

    Raises:
        JudgeError: they differ although nothing else was asked for: the tokenizer or judge itself has changed.
    """
    judge = model.judge
    if judge is None or builder.fingerprint() == judge.prompt_fingerprint:
        return None
    names = ("template", "max_tokens", "truncation", "shares")
    given = [name.replace("_", "-") for name in names if getattr(settings, name) is not None]
    if not given:
        raise JudgeError(
            f"{model.folder}: its tokenizer, or this version of judge, builds other prompts than those that the judge "
            "was trained with; use the versions that its judge.json names"
        )
    return f"prompts are not built as in training (--{', --'.join(given)}); the judge was not taught these"


def usable_gpus(settings: ScoreSettings) -> list[machine.Gpu]:
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


def how_weights_are_read(model: ModelFolder, settings: ScoreSettings) -> Weights:
    """Return whether the engine reads the model's own weights or their 32-bit copy."""
    if settings.server is not None:
        return Weights(model)
    return choose_weights(model, settings.weights, settings.readout, settings.dtype, usable_gpus(settings))


def _choose_dtype(weights: Weights, settings: ScoreSettings, gpus: list[machine.Gpu]) -> machine.Dtype:
    model, float16 = weights.model, weights.model.model_type not in NO_FLOAT16
    if weights.quantization is not None and weights.way == "stored":
        dtype = machine.choose_packed_dtype(settings.dtype, weights.dtype, gpus, float16)
    else:
        dtype = machine.choose_dtype(settings.dtype, weights.dtype, gpus)
    dtype = prefer_bfloat16(dtype, settings.dtype, model.model_type, gpus)
    if settings.readout == "transformers":
        return dtype
    if dtype == "float16" and not float16 and not gpus:
        raise JudgeError(
            f"{model.path.name}: vLLM does not run {model.model_type} in float16; leave out --dtype=float16"
        )
    refuse_cards(model.config, gpus, dtype, packed=weights.way == "stored")
    return dtype


# What a server decides by itself.
_OF_THE_SERVER = (
    "readout",
    "dtype",
    "weights",
    "device",
    "parallel",
    "workers",
    "gpu_memory_utilization",
    "batch_tokens",
    "engine",
    "ray_address",
)


def _server_pool(model: ModelFolder, settings: ScoreSettings, builder: PromptBuilder) -> Pool:
    from judge.engine.server.pool import Endpoint, ServerPool, probe_of, server_key, server_url  # httpx, only if used

    fields = ScoreSettings.model_fields
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
    settings: ScoreSettings,
    builder: PromptBuilder,
    log_folder: Path,
    command: Sequence[str],
) -> Pool:
    model = weights.model
    if settings.server is not None:
        return _server_pool(model, settings, builder)
    gpus = usable_gpus(settings)
    dtype = _choose_dtype(weights, settings, gpus)
    refuse_adapter(model, settings.readout, dtype, "cuda" if gpus else "cpu", weights.shapes if model.adapter else None)
    batch_tokens = settings.batch_tokens or machine.default_batch_tokens(gpus)
    per_token = model.cache_bytes_per_token(4 if dtype == "float32" else 2)
    # room for a whole batch, and for the prefixes that prompts share
    cache = per_token * 2 * (batch_tokens + builder.budget.max_tokens)
    config = EngineConfig(
        model=weights.folder,
        adapter=str(model.adapter.path) if model.adapter else None,
        adapter_rank=model.adapter.rank if model.adapter else 0,
        readout=settings.readout,
        verdict_ids=builder.verdict_ids,
        max_prompt_tokens=builder.budget.max_tokens,
        dtype=dtype,
        device="cuda" if gpus else "cpu",
        gpu_memory_utilization=settings.gpu_memory_utilization,
        cpu_cache_gib=max(-(-cache // machine.GIB), 1),
        max_batch_tokens=batch_tokens,
        max_batch_rows=min(128, batch_tokens),  # vLLM wants no more rows than tokens
    )
    if not gpus:
        # where a CPU can, vLLM would round what goes into 4-bit layers to 8 bits: other numbers than anywhere else
        exact = {"VLLM_CPU_INT4_W4A8": "0"}
        if settings.engine == "ray":
            return RayPool(config, settings.workers, exact, log_folder, settings.ray_address, command)
        environments = cpu_environments(settings.workers, machine.cpu_cores(), config.cpu_cache_gib)
        environments = [{**environment, **exact} for environment in environments]
        return WorkerPool(config, environments, log_folder, command)
    each = 2 if dtype != "float32" else 4
    workers, cards = machine.choose_parallel(
        settings.parallel,
        weights.loaded_bytes(each),
        gpus,
        model.heads,
        settings.gpu_memory_utilization,
        besides(model.config, batch_tokens, config.max_batch_rows, builder.budget.max_tokens + 1, each),
    )
    if settings.readout != "transformers":
        refuse_cards(model.config, gpus, dtype, cards, packed=weights.way == "stored")
    config = config.model_copy(update={"tensor_parallel": cards})
    # vLLM's second model runner, its default on CUDA, takes logits processors of another class only
    runner = {"VLLM_USE_V2_MODEL_RUNNER": "0"} if settings.readout == "vllm-processor" else {}
    if settings.engine == "ray":
        return RayPool(config, workers, runner, log_folder, settings.ray_address, command)
    environments = [{**environment, **runner} for environment in gpu_environments(gpus, workers, cards)]
    return WorkerPool(config, environments, log_folder, command)
