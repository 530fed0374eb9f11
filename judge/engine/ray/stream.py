"""Shards in, log-probabilities out: one execution of a Ray Data pipeline, whose actors hold the engines."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.engine.pool import MAX_FAILURES, Job
from judge.engine.ray.connection import Connection
from judge.errors import JudgeError, printable

if TYPE_CHECKING:
    from judge.engine.ray.actor import Plan

Float = NDArray[np.float64]

_CLOSING_SECONDS = 8.0
_KILLING_SECONDS = 2.0


class Stream:
    """A pipeline in a thread of its own. `prompts` is the folder that it reads as it grows."""

    def __init__(self, connection: Connection, plan: Plan, size: int, prompts: Path) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from judge.engine.ray.actor import Mailbox

        self._connection, self._prompts, self._has_jobs = connection, prompts, False
        self._actors: dict[str, Any] = {}
        self._logs: list[str] = []
        self._results: queue.Queue[tuple[int, Float] | BaseException] = queue.Queue()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        dataset = _pipeline(plan, size, prompts, self._mailbox)
        self._thread = threading.Thread(target=self._drain, args=(dataset,), daemon=True)
        self._thread.start()

    def put(self, number: int, job: Job) -> None:
        """Hand a job over as shard `number`; numbers follow each other from 0."""
        from judge.engine.ray.actor import write_shard_prompts

        self._has_jobs = True
        self._prompts.mkdir(parents=True, exist_ok=True)
        write_shard_prompts(self._prompts, number, job.load())

    def take(self, seconds: float) -> tuple[int, Float] | None:
        """Wait for a finished shard: its number and its log-probabilities, shape (prompts, 3).

        Raises:
            JudgeError: the pipeline ended.
        """
        try:
            result = self._results.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            for event in self.events():  # an actor says more clearly what it ended of
                if event["event"] == "failed":
                    raise JudgeError(event["message"])
            raise _in_words(result)
        return result

    def events(self) -> list[dict[str, Any]]:
        """Return what the actors have told since the last call."""
        import ray

        try:
            events: list[dict[str, Any]] = ray.get(self._mailbox.take.remote(), timeout=60)
        except ray.exceptions.RayError as error:
            raise JudgeError(f"--engine=ray: the connection to Ray is lost ({_first_line(error)})") from None
        for event in events:
            if event["event"] == "started":
                self._actors[event["actor"]] = event["handle"]
                self._logs.append(event["logs"])
        return events

    def _drain(self, dataset: Any) -> None:
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for number, logprobs in zip(batch.column("number"), batch.column("logprobs"), strict=True):
                    values = np.array(logprobs.values.to_numpy(), dtype=np.float64)
                    self._results.put((number.as_py(), values.reshape(-1, 3)))
            self._results.put(JudgeError("--engine=ray: Ray ended the stream of shards"))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            self._results.put(error)

    def close(self, at_once: bool, keep_logs: bool) -> None:
        """End the pipeline and its engines; `keep_logs` where an error names one of them."""
        import ray

        from judge.engine.ray.actor import END

        with contextlib.suppress(FileNotFoundError):  # no job came, or the run has removed its folder
            (self._prompts / END).touch()
        if self._has_jobs and not at_once:
            self._thread.join(_CLOSING_SECONDS)
        if self._thread.is_alive() and not (self._connection.is_ours and self._connection.stays_closed):
            with contextlib.suppress(JudgeError):
                self.events()  # of actors that have just started
            for handle in self._actors.values():
                ray.kill(handle)  # the engine in it ends within a second
            self._thread.join(_KILLING_SECONDS)
        if not self._connection.is_ours:
            ray.kill(self._mailbox)
        self._connection.close()  # ends our actors, without a word about each
        self._thread.join(_KILLING_SECONDS)
        shutil.rmtree(self._prompts, ignore_errors=True)
        for logs in [] if keep_logs else self._logs:  # of actors on this machine that could not do so themselves
            shutil.rmtree(logs, ignore_errors=True)


def _pipeline(plan: Plan, size: int, prompts: Path, mailbox: Any) -> Any:
    """Return the dataset: shards read from the folder where the run is, and read by actors anywhere."""
    import ray

    from judge.engine.ray.actor import ShardFolder, ShardReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that are deprecated, which it copies too
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a large model loads for long
    # a block is handed on when it is full: each shard is to be handed on by itself
    context.target_max_block_size = context.target_min_block_size = 1
    resources = {"num_gpus": plan.config.tensor_parallel, "num_cpus": 1} if not plan.cores else {"num_cpus": plan.cores}
    with warnings.catch_warnings(), ray.data.DataContext.current(context):
        warnings.simplefilter("ignore")
        shards = ray.data.read_datasource(
            ShardFolder(prompts),
            override_num_blocks=1,
            num_cpus=0,
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        )
        return shards.map_batches(
            ShardReader,
            fn_constructor_args=(plan, mailbox),
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            batch_size=1,
            batch_format="pyarrow",
            max_restarts=MAX_FAILURES,
            max_task_retries=-1,  # until that is used up: a machine that is gone refuses many calls before Ray knows
            **resources,
        )


def _in_words(error: BaseException) -> JudgeError:
    """Return why the pipeline ended, as far as Ray tells."""
    import ray

    text = str(error)
    if "No module named 'judge" in text:
        return JudgeError("--engine=ray: judge is not installed on a machine of the cluster; install it on all of them")
    if isinstance(error, JudgeError):
        return error
    if isinstance(error, ray.exceptions.RayActorError):
        return JudgeError(f"--engine=ray: an engine's actor ended {MAX_FAILURES + 1} times ({_first_line(error)})")
    return JudgeError(f"--engine=ray: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__, 300)
