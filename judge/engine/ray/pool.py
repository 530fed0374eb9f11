"""Runs jobs on a Ray cluster: one actor an engine, which gets a shard when it has finished the one before.

The run stays where it was started: table, prompts, shards, and the finished numbers. The token ids of a shard go to any
actor that is free, and its log-probabilities come back. Only the model has to be on every machine. See docs/cluster.md.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.deadline import DeadlinePassed
from judge.engine.pool import CLOSING_SECONDS, MAX_FAILURES, WORKER_COMMAND, Job, Pool, Work
from judge.engine.protocol import EngineConfig
from judge.engine.ray.connection import connect
from judge.errors import JudgeError, printable
from judge.version import __version__

if TYPE_CHECKING:
    from judge.engine.ray.actor import News, Place

_WAIT_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0


@dataclass
class Engine:
    """An engine on the cluster."""

    actor: Any  # Ray's handle of the actor that holds it
    asked_at: float  # time.monotonic() at which Ray was asked for the actor's next news
    news: Any  # Ray's reference to them
    job: Job | None = None  # what it is reading
    number: int = 0  # of that among the jobs that this engine has read
    result: Any = None  # Ray's reference to what comes of it
    told: tuple[int, int] = (0, 0)  # the news of it so far: prompts finished, and lines for the user
    place: Place | None = None  # where the actor runs, or ran before it ended; None until Ray has found room for it


@dataclass
class RayPool(Pool):
    """The engines of a Ray cluster for one config; on GPUs, each takes `config.tensor_parallel` cards of a machine."""

    config: EngineConfig
    workers: int  # engines on CPUs; on GPUs there are as many as the cluster has cards for
    environment: dict[str, str]  # environment variables of the engines, beside those that their machine decides
    address: str | None = None  # None takes RAY_ADDRESS, or else starts a Ray on this machine for as long as the run
    command: Sequence[str] = WORKER_COMMAND
    members: list[Engine] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)  # of all actors since the start
    _connection: contextlib.ExitStack | None = None
    _size: int = 0
    _next: Job | None = None  # taken ahead
    _has_warned: bool = False

    @property
    def engines(self) -> int:
        return self._size or self.workers

    def start(self) -> None:
        """Connect to Ray, or start it, and start the engines; returns while they load the model.

        Raises:
            JudgeError: Ray is not installed, the cluster cannot be reached, or has not what the engines need.
        """
        if self._connection is not None:
            return
        if find_spec("ray") is None:
            raise JudgeError('--engine=ray: Ray is not installed (pip install "judge[ray]")')
        self._connection = connect(self.address, self.workers)
        import ray  # with the settings of `connect`

        from judge.engine.ray.actor import EngineActor, files_digest

        try:
            cores = self._choose_size()
            folders = {name: getattr(self.config, name) for name in ("model", "adapter")}
            config = self.config.model_copy(  # an actor's working folder is another one
                update={name: folder and str(Path(folder).resolve()) for name, folder in folders.items()}
            )
            made_with = __version__, files_digest(config.model)
            resources = {"num_cpus": cores} if cores else {"num_gpus": config.tensor_parallel, "num_cpus": 1}
            actors = ray.remote(EngineActor).options(
                **resources,
                max_concurrency=2,
                max_restarts=MAX_FAILURES,
                max_task_retries=-1,  # a machine that is gone refuses many calls before Ray knows that it is gone
            )
            self.places = []
            for _ in range(self._size):
                actor = actors.remote(config, cores, self.environment, list(self.command), made_with)
                self.members.append(Engine(actor, time.monotonic(), actor.tell.remote()))
        except BaseException:
            self.close(at_once=True)
            raise

    def _choose_size(self) -> int:
        """Decide on the number of engines; returns the CPU cores of each, 0 on GPUs."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.config.device == "cpu":
            self._size = self.workers
            return cores_each([int(node.get("CPU", 0)) for node in nodes], self.workers)
        cards = self.config.tensor_parallel
        self._size = sum(int(node.get("GPU", 0)) // cards for node in nodes)
        if not self._size:
            raise JudgeError(f"--engine=ray: no machine of the cluster offers {cards} GPU{'s' * (cards > 1)} to Ray")
        return 0

    def _run(self, work: Work) -> None:
        self.start()
        import ray

        self._next = None
        try:
            while self._give_out(work):
                refs = {e.result: e for e in self.members if e.job} | {e.news: e for e in self.members}
                ready, _ = ray.wait(list(refs), timeout=min(work.seconds_left(), _WAIT_SECONDS))
                for ref in ready:
                    self._hear(refs[ref], ref, work)
                self._look_after()
                if work.seconds_left() == 0:
                    raise DeadlinePassed
        except (JudgeError, ray.exceptions.RayError) as error:
            self.places.clear()  # so that no log is removed, for the text may name one
            raise _in_words(error) from None

    def _give_out(self, work: Work) -> bool:
        """Give each idle engine that has a place the next job; return whether anything is still to be read."""
        for engine in self.members:
            if engine.place is not None and engine.job is None and (job := self._look_ahead(work)):
                engine.job, engine.number, engine.told, self._next = job, engine.number + 1, (0, 0), None
                engine.result = engine.actor.read.remote(engine.number, job.load())
        # when nobody reads, only taking a job ahead tells whether there is one
        return any(engine.job for engine in self.members) or self._look_ahead(work) is not None

    def _look_ahead(self, work: Work) -> Job | None:
        self._next = self._next or next(work.jobs, None)
        return self._next

    def _hear(self, engine: Engine, ref: Any, work: Work) -> None:
        """Take an engine's news, or the result of its job."""
        import ray

        found = ray.get(ref)
        news: News = found[0] if ref == engine.result else found
        if news.place != engine.place:
            if engine.place is not None:
                self.failures += 1
                node = engine.place.node
                self.say(f"on {node}: an engine's actor ended and was started again; its shard is read again")
            engine.place, engine.told = news.place, (0, 0)
            self.places.append(news.place)
        job = engine.job
        if job is not None and news.number == engine.number:
            self.ready_at = self.ready_at or time.monotonic() - news.ready_seconds
            rows, lines = news.rows - engine.told[0], news.lines[engine.told[1] :]
            engine.told = news.rows, len(news.lines)
            self.failures += len(lines)
            for line in lines:
                self.say(line)
            if rows > 0:
                work.on_progress(job.key, rows)
        if ref == engine.news:
            engine.asked_at, engine.news = time.monotonic(), engine.actor.tell.remote()
        elif job is not None:
            engine.job = engine.result = None
            work.on_done(job.key, found[1])

    def _look_after(self) -> None:
        """Say when no engine finds room, and end a run that would wait for a machine that is gone."""
        import ray

        silent = [e for e in self.members if time.monotonic() - e.asked_at > _PATIENCE_SECONDS]
        if silent and not any(engine.place for engine in self.members) and not self._has_warned:
            self._has_warned = True
            self.say("no machine of the cluster has room for an engine yet (see `ray status`); waiting for one")
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} if any(e.place for e in silent) else set()
        for place in (engine.place for engine in silent if engine.place):
            if place.node_id not in alive:
                raise JudgeError(
                    f"--engine=ray: the machine {place.node} is gone, and no other has room for its engine; what is "
                    "finished is kept: give the same command again to go on with the machines that are left"
                )

    def close(self, at_once: bool = False) -> None:
        """Stop the engines, and Ray where it was started here; engines that are reading are always killed."""
        connection, self._connection, self.ready_at = self._connection, None, None
        if connection is None:
            return
        import ray

        idle = [engine for engine in self.members if engine.job is None and engine.place is not None and not at_once]
        with contextlib.suppress(ray.exceptions.RayError):
            if idle:
                ray.wait([e.actor.end.remote() for e in idle], num_returns=len(idle), timeout=CLOSING_SECONDS)
        connection.close()  # ends our actors, and their engines within a second
        for engine in self.members if ray.is_initialized() else []:  # the connection is the caller's
            ray.kill(engine.actor)
        self.members = []
        for place in self.places:  # on this machine, where the actor could not remove its log itself
            shutil.rmtree(place.logs, ignore_errors=True)


def cores_each(nodes: Sequence[int], workers: int) -> int:
    """Return the most CPU cores for each of `workers` engines that machines with so many cores can give.

    Raises:
        JudgeError: there are fewer cores than engines.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= workers:
            return cores
    raise JudgeError(f"--workers={workers}: the cluster has {sum(nodes)} CPU cores; each engine needs one of its own")


def _in_words(error: Exception) -> JudgeError:
    """Return why a run ended, as far as Ray tells."""
    import ray

    cause = getattr(error, "cause", error)
    if isinstance(cause, JudgeError):
        return cause
    text = str(error)
    if "No module named 'judge" in text:
        return JudgeError("--engine=ray: judge is not installed on a machine of the cluster; install it on all of them")
    line = printable(next(filter(None, map(str.strip, text.splitlines())), type(error).__name__), 300)
    if isinstance(error, ray.exceptions.RayActorError):
        return JudgeError(f"--engine=ray: an engine's actor ended {MAX_FAILURES + 1} times ({line})")
    return JudgeError(f"--engine=ray: {type(error).__name__}: {line}")
