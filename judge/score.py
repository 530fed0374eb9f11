"""Scoring a table: prompts through an engine in shards, both orders where wanted, predictions out.

The steps, in order: check the model and the template, start the engines, prepare the table (or take up
what an interrupted run prepared), read the first order, then the exchanged order of the rows that the swap
policy picks, and put the predictions together in the table's order.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from judge import __version__, hardware
from judge.budget import Policy
from judge.bundle import ModelFolder
from judge.comparison import Flag
from judge.encoding import TextEncoder, load_tokenizer
from judge.engine import WITHOUT_MASS, EngineConfig, Readout
from judge.engine.pool import WORKER_COMMAND, Job, WorkerPool, cpu_environments, gpu_environments
from judge.errors import JudgeError
from judge.prepared import Prepared, is_prepared, open_prepared, prepare
from judge.prompt import Budget, PromptBuilder
from judge.run_folder import Manifest, RunFolder
from judge.shards import Shard, make_shards, reading_order
from judge.table import Table
from judge.template import load_template
from judge.verdict import SWAPPED, average_orders, divergence, entropy, probabilities, verdict_mass

Float = NDArray[np.float64]

DEFAULT_MAX_TOKENS = 2048
# `--swap=auto` goes on while the last tenth of the rows gained at least this much.
AUTO_SWAP_GAIN = 1e-3
AUTO_SWAP_STEPS = 10
LOW_MASS = 0.5


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


class Events(Protocol):
    """What a run tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information or warning."""

    def prepared(self, rows: int) -> None:
        """`rows` rows have been read and tokenised so far."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """So many prompts and tokens have been scored, of so many that are planned."""


class Silent:
    """Events that nobody watches."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def prepared(self, rows: int) -> None:
        """Ignore it."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class Predictions:
    """Scored rows, in the table's order.

    Attributes:
        first: log-probabilities of A, B and tie with A shown first, shape (rows, 3); NaN if not scored.
        second: the same with B shown first, mapped back to the table's A and B; NaN where not read.
        has_mass: whether the log-probabilities are over the full vocabulary.
        seconds: wall time of the reading of verdicts in this session.
        tokens: prompt tokens read in this session.
    """

    prepared: Prepared
    first: Float
    second: Float
    has_mass: bool
    seconds: float
    tokens: int

    @property
    def p(self) -> Float:
        """Probabilities of A, B and tie, shape (rows, 3): uniform where a row could not be scored."""
        # A row whose first order failed may still have the second.
        first = np.where(np.isnan(self.first).any(axis=1, keepdims=True), self.second, self.first)
        p = average_orders(first, self.second)
        return np.where(np.isnan(p).any(axis=1, keepdims=True), 1 / 3, p)

    @property
    def flags(self) -> NDArray[np.uint32]:
        """The rows' flags, shape (rows,)."""
        lost = np.isnan(self.first).any(axis=1) & np.isnan(self.second).any(axis=1)
        flags: NDArray[np.uint32] = self.prepared.rows["flags"] | np.where(
            lost, np.uint32(Flag.NOT_SCORED), np.uint32(0)
        )
        return flags


class Scorer:
    """One model, template and settings, ready to score tables. Close it, or use it in a `with` block.

    Args:
        model: the checked model folder.
        log_folder: where engine processes log.
        worker_command: the worker program.

    Raises:
        JudgeError: the settings do not go together, or the model cannot be used with them.
    """

    def __init__(
        self,
        model: ModelFolder,
        settings: ScoreSettings,
        log_folder: Path,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.model, self.settings = model, settings
        self.share = swap_share(settings.swap)
        self.template = load_template(settings.template)
        _refuse_inexact(model, settings.readout)
        self.budget = _budget(model, settings)
        self.builder = PromptBuilder(TextEncoder(load_tokenizer(model.path)), self.template, self.budget)
        self.pool = _make_pool(model, settings, self.builder, log_folder, worker_command)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine processes."""
        self.pool.close()

    @property
    def shard_tokens(self) -> int:
        """Tokens a shard: about half a minute on a CPU, a minute or two on a small GPU."""
        return self.settings.shard_tokens or (32_768 if self.pool.config.device == "cpu" else 262_144)

    def manifest(self, table: Table) -> Manifest:
        """Return the hashes and settings that decide what a run writes."""
        settings = {"template": self.template.name, **dataclasses.asdict(self.budget)}
        settings["shares"] = list(self.budget.shares)
        settings |= {
            "swap": self.settings.swap,
            "readout": self.settings.readout,
            "dtype": self.pool.config.dtype,
            "shard_tokens": self.shard_tokens,
        }
        return {
            "version": __version__,
            "table": table.digest(),
            "model": self.model.digest(),
            "template": self.template.digest,
            "prompt": self.builder.fingerprint(),
            "settings": settings,
        }

    def score(self, table: Table, run: RunFolder, events: Events) -> Predictions:
        """Score a table, going on with what the run folder already holds.

        Raises:
            JudgeError: the table cannot be read, or the engine does not work.
        """
        self.pool.start()  # loads the model while the table is prepared
        if is_prepared(run.path):
            prepared = open_prepared(run.path)
        else:
            prepared = prepare(table, self.builder, run.path, self.share != 0, events.prepared)
        reading = _Reading(self.pool, prepared, run, self.shard_tokens, events)
        rows = reading_order(prepared.lengths, prepared.rows["prompt_hash"])
        if self.share == 1:
            reading.read("both", rows, [False, True])
        else:
            reading.read("first", rows, [False])
            self._read_second(reading)
        return Predictions(
            prepared,
            reading.first,
            reading.second,
            self.settings.readout not in WITHOUT_MASS,
            reading.seconds,
            reading.tokens,
        )

    def _read_second(self, reading: _Reading) -> None:
        """Read the exchanged order of the rows that the swap policy picks, the least certain first."""
        if self.share == 0:
            return
        uncertain = np.argsort(-entropy(probabilities(reading.first)), kind="stable")
        uncertain = uncertain[~np.isnan(reading.first[uncertain]).any(axis=1)]
        if self.share is not None:
            reading.read("swap", _in_reading_order(reading, uncertain[: round(self.share * len(uncertain))]), [True])
            return
        for step, rows in enumerate(np.array_split(uncertain, AUTO_SWAP_STEPS)):
            reading.read(f"swap{step}", _in_reading_order(reading, rows), [True])
            both = average_orders(reading.first[rows], reading.second[rows])
            gain = float(divergence(both, probabilities(reading.first[rows])).mean()) if len(rows) else 0.0
            if gain < AUTO_SWAP_GAIN:
                return


def _in_reading_order(reading: _Reading, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths, hashes = reading.prepared.lengths[rows], reading.prepared.rows["prompt_hash"][rows]
    return rows[reading_order(lengths, hashes)]


class _Reading:
    """Reads shards through a pool, writes them, and collects their log-probabilities by row."""

    def __init__(self, pool: WorkerPool, prepared: Prepared, run: RunFolder, shard_tokens: int, events: Events) -> None:
        self.pool, self.prepared, self.run, self.events = pool, prepared, run, events
        self.shard_tokens = shard_tokens
        count = len(prepared.rows)
        self.first = np.full((count, 3), np.nan)
        self.second = np.full((count, 3), np.nan)
        self.seconds, self.tokens = 0.0, 0
        self._prompts = self._all_prompts = self._all_tokens = self._known_tokens = 0

    def read(self, group: str, rows: Sequence[int] | NDArray[np.int64], orders: list[bool]) -> None:
        """Read `rows` in `orders`; shards of the same group that an earlier session wrote are taken over."""
        shards = make_shards(rows, orders, self.prepared.lengths, self.shard_tokens)
        open_shards: list[int] = []
        for number, shard in enumerate(shards):
            self._all_prompts += len(shard.rows)
            self._all_tokens += shard.tokens
            logprobs = self.run.read_shard(group, number, shard)
            if logprobs is None:
                open_shards.append(number)
            else:
                self._take(shard, logprobs)
                self._prompts += len(shard.rows)
                self._known_tokens += shard.tokens
        began = time.monotonic()
        inside: dict[int, int] = {}

        def progress(number: int, prompts: int) -> None:
            inside[number] = min(inside.get(number, 0) + prompts, len(shards[number].rows))
            # tokens of an open shard are taken as spread evenly over its prompts
            part = sum(shards[n].tokens * k // len(shards[n].rows) for n, k in inside.items())
            self.events.progress(
                self._prompts + sum(inside.values()),
                self._all_prompts,
                self._known_tokens + part,
                self._all_tokens,
            )

        def done(number: int, logprobs: Float) -> None:
            shard = shards[number]
            self.run.write_shard(group, number, shard, logprobs)
            self._take(shard, logprobs)
            inside.pop(number, None)
            self._prompts += len(shard.rows)
            self._known_tokens += shard.tokens
            self.tokens += shard.tokens
            progress(number, 0)
            inside.pop(number, None)

        jobs = [Job(n, len(shards[n].rows), self._loader(shards[n])) for n in open_shards]
        self.pool.run(jobs, done, progress)
        if jobs:  # loading the model does not count
            self.seconds += time.monotonic() - max(began, self.pool.ready_at or began)

    def _loader(self, shard: Shard) -> Callable[[], list[NDArray[np.int32]]]:
        return lambda: [
            self.prepared.prompt(int(row), bool(swapped))
            for row, swapped in zip(shard.rows, shard.swapped, strict=True)
        ]

    def _take(self, shard: Shard, logprobs: Float) -> None:
        self.first[shard.rows[~shard.swapped]] = logprobs[~shard.swapped]
        self.second[shard.rows[shard.swapped]] = logprobs[shard.swapped][:, SWAPPED]


def _refuse_inexact(model: ModelFolder, readout: Readout) -> None:
    reason = model.changes_logits_after_head()
    if readout == "vllm-classify" and reason:
        raise JudgeError(
            f"{model.path.name}: the read-out vllm-classify keeps three rows of the output head and would skip "
            f"the model's {reason}, so its probabilities would be wrong; use --readout=vllm"
        )


def _budget(model: ModelFolder, settings: ScoreSettings) -> Budget:
    most = model.max_positions - 1 if model.max_positions else None  # one position is the verdict's
    wanted = settings.max_tokens or min(DEFAULT_MAX_TOKENS, most or DEFAULT_MAX_TOKENS)
    if most is not None and wanted > most:
        raise JudgeError(f"--max-tokens={wanted} is more than the model takes ({most} and the verdict)")
    if min(settings.shares) <= 0:
        raise JudgeError(f"--shares={settings.shares}: both must be positive")
    return Budget(wanted, settings.truncation, settings.shares)


def _make_pool(
    model: ModelFolder,
    settings: ScoreSettings,
    builder: PromptBuilder,
    log_folder: Path,
    command: Sequence[str],
) -> WorkerPool:
    gpus = hardware.usable_gpus(settings.device)
    dtype = hardware.choose_dtype(settings.dtype, model.dtype, gpus)
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
    )
    if not gpus:
        environments = cpu_environments(settings.workers, hardware.cpu_cores(), config.cpu_cache_gib)
        return WorkerPool(config, environments, log_folder, command)
    workers, cards = hardware.choose_parallel(
        settings.parallel, model.weights, gpus, model.heads, settings.gpu_memory_utilization
    )
    config = config.model_copy(update={"tensor_parallel": cards})
    return WorkerPool(config, gpu_environments(gpus, workers, cards), log_folder, command)


def summary(predictions: Predictions) -> dict[str, Any]:
    """Return the figures of a run that its manifest keeps and the terminal shows."""
    from judge.metrics import UNIFORM_LOG_LOSS, accuracy, log_loss

    rows, p = predictions.prepared.rows, predictions.p
    read = predictions.first[~np.isnan(predictions.first).any(axis=1)]
    result: dict[str, Any] = {
        "rows": len(rows),
        "mean_p": [float(v) for v in p.mean(axis=0)],
        "median_verdict_mass": float(np.median(verdict_mass(read))) if predictions.has_mass and len(read) else None,
        "swapped_rows": int((~np.isnan(predictions.second).any(axis=1)).sum()),
        "cut_rows": int(((rows["cut"].sum(axis=1) > 0) | (rows["cut_turns"] > 0)).sum()),
        "not_scored_rows": int(((predictions.flags & Flag.NOT_SCORED) != 0).sum()),
        "table": predictions.prepared.counts,
        "mean_prompt_tokens": float(rows["length"].mean()),
        "tokens": predictions.tokens,
        "seconds": predictions.seconds,
    }
    labelled = rows["label"] >= 0
    if labelled.any():
        labels = rows["label"][labelled].astype(np.int64)
        result |= {
            "labelled_rows": int(labelled.sum()),
            "log_loss": log_loss(p[labelled], labels),
            "uniform_log_loss": UNIFORM_LOG_LOSS,
            "accuracy": accuracy(p[labelled], labels),
        }
    return result


def write_run_record(path: Path, manifest: Manifest, figures: dict[str, Any]) -> None:
    """Write the manifest and the figures of a finished run beside its output."""
    from judge.run_folder import whole_file

    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**manifest, "result": figures}, indent=1) + "\n", encoding="utf-8")
