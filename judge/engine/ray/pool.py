"""Runs jobs on a Ray cluster, through Ray Data: a stream of shards into actors that hold an engine each.

The run stays where it was started: table, prompts, shards, and the finished numbers. A shard's prompts are written
as a Parquet file into a folder that Ray Data reads as it grows, on the machine of the run; through Ray's object store
they reach whichever actor is free, and the log-probabilities come back the same way. Only the model has to be on every
machine. See docs/cluster.md.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import DeadlinePassed
from judge.engine.pool import WORKER_COMMAND, Job, Say
from judge.engine.protocol import EngineConfig
from judge.engine.ray.connection import connect
from judge.engine.ray.stream import Stream
from judge.errors import JudgeError

Float = NDArray[np.float64]

_WAIT_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 5.0


@dataclass
class RayPool:
    """The engines of a Ray cluster for one config (fulfils `judge.engine.pool.Pool`).

    Args:
        config: what each engine runs; on GPUs, each takes `config.tensor_parallel` cards of one machine.
        workers: engines on CPUs; on GPUs there are as many as the cluster has cards for.
        environment: environment variables of the engines, beside those that their machine decides.
        folder: where the prompts of open shards are written.
        address: of the cluster; None takes RAY_ADDRESS, and without it a Ray of its own is started and stopped.
        command: the worker program.
        say: told when an engine had to be replaced.
    """

    config: EngineConfig
    workers: int
    environment: dict[str, str]
    folder: Path
    address: str | None = None
    command: Sequence[str] = WORKER_COMMAND
    say: Say = print
    failures: int = 0
    ready_at: float | None = None  # time.monotonic() of the first engine that was ready
    actors: dict[str, dict[str, Any]] = field(default_factory=dict)  # what each told when it was started last
    _size: int = 0
    _stream: Stream | None = None
    _next: int = 0
    _keep_logs: bool = False
    _started_at: float = 0.0
    _look_at: float = 0.0
    _has_warned: bool = False
    _gone: dict[str, float] = field(default_factory=dict)  # since when the machine of an actor is

    @property
    def engines(self) -> int:
        """How many jobs are read at a time."""
        return self._size or self.workers

    def start(self) -> None:
        """Connect to Ray, or start it, and start the engines; returns while they load the model.

        Raises:
            JudgeError: Ray is not installed, the cluster cannot be reached, or has not what the engines need.
        """
        if self._stream is not None:
            return
        if find_spec("ray") is None:
            raise JudgeError('--engine=ray: Ray is not installed (pip install "judge[ray]")')
        connection = connect(self.address, self.workers)
        from judge.engine.ray.actor import Plan, files_digest  # Ray is imported with the settings of `connect`

        try:
            cores = self._choose_size()
            config = self.config.model_copy(  # an actor's working folder is another one
                update={
                    "model": str(Path(self.config.model).resolve()),
                    "adapter": str(Path(self.config.adapter).resolve()) if self.config.adapter else None,
                }
            )
            plan = Plan(config, cores, self.environment, tuple(self.command), files_digest(config.model))
            prompts = self.folder / f"prompts-{uuid.uuid4().hex[:8]}"
            self._next, self.actors, self._gone = 0, {}, {}
            self._started_at = time.monotonic()
            self._stream = Stream(connection, plan, self._size, prompts)
        except BaseException:
            connection.close()
            raise

    def _choose_size(self) -> int:
        """Decide on the number of engines; returns the CPU cores of each, 0 on GPUs."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.config.device == "cpu":
            self._size = self.workers
            return cores_each([int(node.get("CPU", 0)) for node in nodes], self.workers)
        self._size = sum(int(node.get("GPU", 0)) // self.config.tensor_parallel for node in nodes)
        if not self._size:
            cards = self.config.tensor_parallel
            raise JudgeError(f"--engine=ray: no machine of the cluster offers {cards} GPU{'s' * (cards > 1)} to Ray")
        return 0

    def run(
        self,
        jobs: Iterable[Job],
        on_done: Callable[[int, Float], None],
        on_progress: Callable[[int, int], None],
        stop_at: float | None = None,
    ) -> None:
        """Run jobs until all are done (see `Pool.run`).

        Raises:
            JudgeError: an engine does not start, or keeps failing.
            DeadlinePassed: `stop_at` came before the end.

        Whatever ends it early, the engines are stopped.
        """
        try:
            self._run(jobs, on_done, on_progress, stop_at)
        except BaseException as error:
            self._keep_logs = isinstance(error, JudgeError)
            self.close(at_once=True)
            raise

    def _run(
        self,
        jobs: Iterable[Job],
        on_done: Callable[[int, Float], None],
        on_progress: Callable[[int, int], None],
        stop_at: float | None,
    ) -> None:
        self.start()
        assert self._stream is not None
        # a spare shard for each engine keeps them busy; with a deadline, what is read next is decided late
        ahead = self._size if stop_at is not None else 2 * self._size
        waiting, open_jobs, ended = iter(jobs), dict[int, Job](), False
        while True:
            while not ended and len(open_jobs) < ahead:
                job = next(waiting, None)
                ended = job is None
                if job is not None:
                    self._stream.put(self._next, job)
                    open_jobs[self._next] = job
                    self._next += 1
            if not open_jobs:
                return
            if stop_at is not None and time.monotonic() >= stop_at:
                raise DeadlinePassed
            result = self._stream.take(_WAIT_SECONDS)
            self._hear(open_jobs, on_progress)
            self._look_after()
            if result is not None:
                number, logprobs = result
                done = open_jobs.pop(number)
                on_done(done.key, logprobs)

    def _hear(self, open_jobs: dict[int, Job], on_progress: Callable[[int, int], None]) -> None:
        """Take what the actors have told."""
        assert self._stream is not None
        for event in self._stream.events():
            kind = event["event"]
            if kind == "failed":
                raise JudgeError(event["message"])
            if kind == "say":
                self.failures += 1
                self.say(event["text"])
            elif kind == "started":
                if event["again"]:
                    self.failures += 1
                    self.say(
                        f"on {event['node']}: an engine's actor ended and was started again; its shard is read again"
                    )
                self.actors[event["actor"]] = event
            elif kind == "progress":
                self.ready_at = self.ready_at or time.monotonic() - event["ready_seconds"]
                if event["number"] in open_jobs and event["rows"]:
                    on_progress(open_jobs[event["number"]].key, event["rows"])

    def _look_after(self) -> None:
        """Say when no engine finds room, and end a run that would wait for a machine that is gone.

        Raises:
            JudgeError: a machine is gone, and its engine has found no other.
        """
        import ray

        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if not self.actors and now - self._started_at > _PATIENCE_SECONDS and not self._has_warned:
            self._has_warned = True
            self.say("no machine of the cluster has room for an engine yet (see `ray status`); waiting for one")
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        gone = {event["actor"]: event["node"] for event in self.actors.values() if event["node_id"] not in alive}
        self._gone = {actor: self._gone.get(actor, now) for actor in gone}
        for actor, since in self._gone.items():
            if now - since > _PATIENCE_SECONDS:
                raise JudgeError(
                    f"--engine=ray: the machine {gone[actor]} is gone, and no other has room for its engine; what is "
                    "finished is kept: give the same command again to go on with the machines that are left"
                )

    def close(self, at_once: bool = False) -> None:
        """Stop the engines, and Ray where it was started here; safe to call more than once.

        Args:
            at_once: kill them instead of letting them end in good order.
        """
        stream, self._stream, self.ready_at = self._stream, None, None
        if stream is not None:
            stream.close(at_once, self._keep_logs)


def cores_each(nodes: Sequence[int], workers: int) -> int:
    """Return the most CPU cores for each of `workers` engines that machines with so many cores can give.

    Raises:
        JudgeError: there are fewer cores than engines.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= workers:
            return cores
    raise JudgeError(f"--workers={workers}: the cluster has {sum(nodes)} CPU cores; each engine needs one of its own")
