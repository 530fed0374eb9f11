"""What runs on the machines of a Ray cluster: the source of shards, the actor that reads them, and its mailbox.

One actor holds one engine, as a pool of one worker process (`judge.engine.pool.WorkerPool`): an engine that fails is
replaced there, on its own machine, as on a single one. An actor that is killed is started again by Ray, which also
hands it the shard that it was reading.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from judge.engine.pool import RETRY_SECONDS, Job, WorkerPool, cpu_environments
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError, printable
from judge.hardware import machine
from judge.version import __version__

END = "end"
_POLL_SECONDS = 0.05
_TELL_SECONDS = 0.5


def shard_file(folder: Path, number: int) -> Path:
    """Return the file of the prompts of a shard; shards are numbered from 0."""
    return folder / f"{number:06d}.parquet"


def write_shard_prompts(folder: Path, number: int, prompts: Sequence[NDArray[np.int32]]) -> None:
    """Write the prompts of a shard: one row with its number and a list of lists of token ids.

    One row, because Ray Data may cut a block of several anywhere.
    """
    ids = pa.array([prompt.tolist() for prompt in prompts], pa.list_(pa.int32()))
    offsets = pa.array([0, len(ids)], pa.int32())
    table = pa.table({"number": pa.array([number]), "prompts": pa.ListArray.from_arrays(offsets, ids)})
    path = shard_file(folder, number)
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary)
    temporary.replace(path)


class ShardFolder(Datasource):  # type: ignore[misc]  # Ray is not analysed
    """A folder of Parquet files that grows while it is read: one block a file, in the order of their numbers.

    It ends when a file named `END` is there, or the folder no longer. So one stream, and with it the engines, outlives
    the passes of a run. Whoever reads it again gets the same blocks: Ray repeats what it loses.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def get_name(self) -> str:
        """Return what Ray calls it."""
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task: the shards keep their order."""
        del parallelism, per_task_row_limit, data_context
        folder = self.folder

        def read() -> Iterator[pa.Table]:
            number = 0
            while True:
                path = shard_file(folder, number)
                if path.exists():
                    yield pq.read_table(path)
                    number += 1
                elif (folder / END).exists() or (number and not folder.exists()):
                    return
                else:
                    time.sleep(_POLL_SECONDS)

        return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]


class Mailbox:
    """An actor on the machine of the run: what the engines' actors tell it, and a seat for each on its machine."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._seats: dict[str, list[str]] = {}

    def sit(self, node: str, actor: str) -> int:
        """Return the number of an actor among those of its machine, the same when it is started again."""
        seats = self._seats.setdefault(node, [])
        if actor not in seats:
            seats.append(actor)
        return seats.index(actor)

    def tell(self, event: dict[str, Any]) -> None:
        """Put an event in."""
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """Return the events that have come since the last call."""
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class Plan:
    """What every actor is to run.

    Attributes:
        cores: CPU cores of each; 0 on GPUs, where Ray says which cards are its own.
        environment: environment variables of the engine, beside those that its machine decides.
        command: the worker program.
        model_files: `files_digest` of the model's folder where the run was started.
    """

    config: EngineConfig
    cores: int
    environment: dict[str, str]
    command: tuple[str, ...]
    model_files: str
    version: str = __version__


def files_digest(folder: str) -> str:
    """Return a hash over the names and sizes of a folder's files, `` where there is none."""
    path = Path(folder)
    if not path.is_dir():
        return ""
    files = sorted((file.name, file.stat().st_size) for file in path.iterdir() if file.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


@dataclass
class _Teller:
    """Tells the mailbox how far a shard is, at most every half second."""

    tell: Callable[..., Any]
    number: int
    pool: WorkerPool
    rows: int = 0
    told_at: float = field(default_factory=time.monotonic)

    def __call__(self, _: int, rows: int) -> None:
        self.rows += rows
        if time.monotonic() - self.told_at >= _TELL_SECONDS:
            self.send()

    def send(self) -> Any:
        """Tell it now; what comes back can be waited for."""
        age = time.monotonic() - (self.pool.ready_at or time.monotonic())  # clocks of machines differ, spans do not
        rows, self.rows, self.told_at = self.rows, 0, time.monotonic()
        return self.tell("progress", number=self.number, rows=rows, ready_seconds=age)


class ShardReader:
    """The actor: one engine, called with a shard's prompts."""

    def __init__(self, plan: Plan, mailbox: Any) -> None:
        context = ray.get_runtime_context()
        self.plan, self.mailbox, self.keeps_log = plan, mailbox, False
        self.node = printable(ray.util.get_node_ip_address(), 60)
        again = context.was_current_actor_reconstructed
        self.logs = Path(tempfile.mkdtemp(prefix="judge-engine-"))
        self.tell(
            "started",
            actor=context.get_actor_id(),
            node_id=context.get_node_id(),
            again=again,
            pid=os.getpid(),
            logs=str(self.logs),
            handle=context.current_actor,
        )
        try:
            self._check()
            if again:
                time.sleep(RETRY_SECONDS)  # the engine of the dead actor ends within a second, and frees its memory
            seat = ray.get(mailbox.sit.remote(context.get_node_id(), context.get_actor_id()))
            self._pool = self._make_pool(seat)
            self._pool.start()
        except JudgeError as error:
            self._fail(error)

    def tell(self, kind: str, **values: Any) -> Any:
        """Put an event into the mailbox; what comes back can be waited for."""
        return self.mailbox.tell.remote({"event": kind, "node": self.node, **values})

    def _fail(self, error: JudgeError) -> None:
        self.keeps_log = True
        ray.get(self.tell("failed", message=f"on {self.node}: {error}"))
        raise error

    def _check(self) -> None:
        """Refuse a machine on which the engine cannot be what it is elsewhere.

        Raises:
            JudgeError: another version of judge, no such model, other cards.
        """
        config = self.plan.config
        if self.plan.version != __version__:
            raise JudgeError(f"judge is version {__version__} here and {self.plan.version} where the run was started")
        for folder in filter(None, (config.model, config.adapter)):
            if not Path(folder).is_dir():
                raise JudgeError(f"{folder}: there is no such folder here; the model must be at one path on all nodes")
        if files_digest(config.model) != self.plan.model_files:
            raise JudgeError(f"{config.model}: holds other files here than where the run was started")
        if config.device == "cuda":
            gpus = machine.usable_gpus("cuda")
            if config.dtype == "bfloat16":
                machine.choose_dtype("bfloat16", "bfloat16", gpus)

    def _make_pool(self, seat: int) -> WorkerPool:
        plan = self.plan
        environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        if plan.config.device == "cpu":
            cores = machine.cpu_cores()
            places = cpu_environments(max(len(cores) // plan.cores, 1), cores, plan.config.cpu_cache_gib)
            environment = places[seat % len(places)]
        return WorkerPool(plan.config, [{**environment, **plan.environment}], self.logs, plan.command, say=self._say)

    def _say(self, text: str) -> None:
        self.tell("say", text=f"on {self.node}: {text}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Read the shards of a batch (one row each, see `write_shard_prompts`).

        Returns:
            Their numbers, and their log-probabilities as one list of float64 of three a prompt.
        """
        numbers = batch.column("number").to_pylist()
        shards = batch.column("prompts").combine_chunks()
        results = [self._read(number, shards[i].values) for i, number in enumerate(numbers)]
        return pa.table({"number": pa.array(numbers), "logprobs": pa.array(results, pa.list_(pa.float64()))})

    def _read(self, number: int, prompts: pa.ListArray) -> NDArray[np.float64]:
        found: list[NDArray[np.float64]] = []
        teller = _Teller(self.tell, number, self._pool)
        job = Job(number, len(prompts), lambda: [prompt.values.to_numpy() for prompt in prompts])
        try:
            self._pool.run([job], lambda _, logprobs: found.append(logprobs), teller)
        except JudgeError as error:
            self._fail(error)
        ray.get(teller.send())  # before the result is there
        return found[0].reshape(-1)

    def __del__(self) -> None:
        """Stop the engine when Ray ends the actor in good order (if not, the engine ends by itself)."""
        if hasattr(self, "_pool"):
            self._pool.close()
            if not self.keeps_log:
                shutil.rmtree(self.logs, ignore_errors=True)
