"""Starts engine processes, feeds them from one queue, and outlives their deaths.

There is one process for each GPU (or for each group of GPUs under tensor parallelism); it sees only these cards.
When a process fails, the pool replaces it and tries its job again in the same batches, so that an accident leaves no
trace in the numbers. If memory ran out, the new process takes less of the card for the cache. If the job fails again,
the pool reads it prompt by prompt, after running out of memory with half the batch from then on. A prompt that fails
alone gets NaN, which the caller flags.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import DeadlinePassed
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError, printable
from judge.hardware.machine import Gpu

Float = NDArray[np.float64]

WORKER_COMMAND = (sys.executable, "-m", "judge.engine.worker")
# As many engine deaths as this without a finished job between them are no accident of single rows.
MAX_FAILURES = 6
# After a death, the memory of the dead engine may take a while to be free.
RETRY_SECONDS = 5.0
CLOSING_SECONDS = 8.0
_WAIT_SECONDS = 3600.0
# A killed process that its driver holds fast is left behind after this, if a deadline has come.
KILLED_SECONDS = 3.0

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",  # a numpy.py or vllm/ in the user's folder is not what is meant
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


@dataclass
class Job:
    """Prompts to be read together. `load` gives their token ids when the job's turn comes."""

    key: int
    rows: int
    load: Callable[[], Sequence[NDArray[np.int32]]]


@dataclass
class Work:
    """Jobs to be read, whom to tell of them, and until when."""

    jobs: Iterator[Job]  # in the order in which they are to start
    on_done: Callable[[int, Float], None]  # called with a job's key and its log-probabilities, shape (rows, 3)
    on_progress: Callable[[int, int], None]  # called with a job's key and a number of prompts, as these finish
    stop_at: float = math.inf  # time.monotonic() at which the run ends

    def seconds_left(self) -> float:
        """Return how long the run may still take, 0 at its end."""
        return max(self.stop_at - time.monotonic(), 0)


class Pool(ABC):
    """What reads jobs: local processes (`WorkerPool`), a Ray cluster (`judge.engine.ray.pool`), or a server."""

    config: EngineConfig  # what each engine runs
    say: Callable[[str], None] = print  # called with a line for the user when an engine had to be replaced
    failures: int = 0  # engines that failed so far
    ready_at: float | None = None  # time.monotonic() of the first engine that was ready

    @property
    @abstractmethod
    def engines(self) -> int:
        """How many jobs are read at a time."""

    @abstractmethod
    def start(self) -> None:
        """Start the engines; returns at once, while they load the model."""

    def run(
        self,
        jobs: Iterable[Job],
        on_done: Callable[[int, Float], None],
        on_progress: Callable[[int, int], None],
        stop_at: float = math.inf,
    ) -> None:
        """Read jobs until all are done; see `Work` for the arguments.

        A pool takes a job when an engine is free for it. Before the first engine is ready it takes one, to learn
        whether there is work. So with a deadline, the caller decides what is read next while other jobs are read. A
        pool that takes several jobs ahead works too: the iterator ends early while too much is waiting, and the caller
        calls `run` again.

        Whatever ends a run early, the engines are stopped: what they were reading belongs to no later run.

        Args:
            stop_at: the run ends then, also in mid-job and while engines load or are silent. The engines are killed,
                or their answers no longer waited for.

        Raises:
            JudgeError: the engine does not start, or keeps failing.
            DeadlinePassed: `stop_at` has come and jobs were left; what they would have given is lost.
        """
        try:
            self._run(Work(iter(jobs), on_done, on_progress, stop_at))
        except BaseException as error:
            self.close(at_once=isinstance(error, DeadlinePassed))
            raise

    @abstractmethod
    def _run(self, work: Work) -> None:
        """Start the engines where they are not running, and read all jobs."""

    @abstractmethod
    def close(self, at_once: bool = False) -> None:
        """Stop the engines; safe to call more than once. `at_once` kills them without asking: a deadline has come."""


@dataclass
class _Task:
    """A job, or one prompt of it after the job failed as a whole."""

    job: Job
    position: int | None = None
    attempts: int = 0


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    jobs_done: int = 0
    task: _Task | None = None


@dataclass
class WorkerPool(Pool):
    """A set of engine processes for one config."""

    config: EngineConfig
    environments: Sequence[dict[str, str]]  # the variables of each worker, beside the common ones; one worker each
    log_folder: Path  # where the workers' output goes, `worker-N.log`
    command: Sequence[str] = WORKER_COMMAND
    failures_in_a_row: int = 0
    last_failure: str = ""
    memory: dict[int, dict[str, int]] = field(default_factory=dict)  # of each worker that was ready, bytes
    load_seconds: float = 0.0  # the longest that an engine took to load the model
    last_jobs_done: list[int] = field(default_factory=list)  # by each worker, up to the last close
    _workers: list[_Worker] = field(default_factory=list)
    _work: Work = field(init=False, repr=False)  # of the last run
    _queue: deque[_Task] = field(default_factory=deque)  # what is to be read before the next job
    _parts: dict[int, tuple[Float, int]] = field(default_factory=dict)  # of jobs that are read prompt by prompt

    @property
    def engines(self) -> int:
        return len(self.environments)

    def start(self) -> None:
        if not self._workers:
            self.log_folder.mkdir(parents=True, exist_ok=True)
            self._workers = [self._spawn(n) for n in range(len(self.environments))]

    def _run(self, work: Work) -> None:
        self.start()
        self._work, self._parts, self._queue = work, {}, deque()
        with self._killed_in_time():
            while self._give_out():
                for connection in wait([w.connection for w in self._workers], min(work.seconds_left(), _WAIT_SECONDS)):
                    worker = next(w for w in self._workers if w.connection is connection)
                    self._hear(worker, self._receive(worker))
                if work.seconds_left() == 0:
                    raise DeadlinePassed

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Act on a worker's message."""
        event, task = message["event"], worker.task
        if "memory" in message and event != "failed":
            self.memory[worker.number] = message["memory"]
        if event == "ready":
            worker.ready = True
            self.load_seconds = max(self.load_seconds, float(message.get("seconds", 0)))
            self.ready_at = self.ready_at or time.monotonic()
        elif event == "progress" and task:
            self._work.on_progress(task.job.key, message["rows"])
        elif event == "done" and task:
            worker.task = None
            worker.jobs_done += 1
            self.failures_in_a_row = 0
            self._collect(task, np.array(message["logprobs"], dtype=np.float64).reshape(-1, 3))
        elif event == "failed":
            self._handle_failure(worker, message)

    def close(self, at_once: bool = False) -> None:
        """Stop the workers and whatever they started; safe to call more than once.

        They are asked first, so that they can remove what they left in /tmp and /dev/shm, and killed if they take too
        long; `at_once` kills them without asking.
        """
        if self._workers:
            self.last_jobs_done = [worker.jobs_done for worker in self._workers]
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + (0 if at_once else CLOSING_SECONDS)
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(deadline - time.monotonic(), 0))
            _kill(worker, KILLED_SECONDS if at_once else None)
        self._workers = []
        self.failures_in_a_row, self.ready_at = 0, None

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        log = (self.log_folder / f"worker-{number}.log").open("ab")
        with log, theirs:
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [*self.command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_QUIET, **self.environments[number]},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches us, and we stop the workers
            )
        connection = Connection(ours.detach())
        connection.send_bytes(self.config.model_dump_json().encode())
        return _Worker(number, process, connection)

    @contextlib.contextmanager
    def _killed_in_time(self) -> Iterator[None]:
        """Kill the workers soon after the deadline: one that hangs in the middle of a message would hold us up."""
        timer = threading.Timer(min(self._work.seconds_left() + 0.5, threading.TIMEOUT_MAX), self._kill_all)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill_all(self) -> None:
        for worker in list(self._workers):
            if worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.process.pid, signal.SIGKILL)

    def _give_out(self) -> bool:
        """Give each idle worker what waits, or the next job; return whether anything is still to be read."""
        for worker in self._workers:
            if worker.ready and worker.task is None and self._has_task():
                self._give(worker, self._queue.popleft())
        # when nobody reads, only taking a job ahead tells whether there is one
        return any(w.task for w in self._workers) or self._has_task()

    def _has_task(self) -> bool:
        if not self._queue:
            self._queue.extend(_Task(job) for job in itertools.islice(self._work.jobs, 1))
        return bool(self._queue)

    def _give(self, worker: _Worker, task: _Task) -> None:
        prompts = task.job.load()
        if task.position is not None:
            prompts = [prompts[task.position]]
        worker.task = task
        message = json.dumps({"prompts": [prompt.tolist() for prompt in prompts]})
        with contextlib.suppress(OSError):  # it died just now: the next receive says so
            worker.connection.send_bytes(message.encode())

    def _receive(self, worker: _Worker) -> dict[str, Any]:
        try:
            message: dict[str, Any] = json.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            worker.process.wait()
            status = worker.process.returncode
            # what the kernel kills when memory runs out gets SIGKILL
            return {"event": "failed", "memory": status == -signal.SIGKILL, "message": _death(status)}
        return message

    def _handle_failure(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Replace a worker that failed, and put what it was reading back into the queue."""
        if self._work.seconds_left() == 0:
            raise DeadlinePassed
        self.failures += 1
        self.failures_in_a_row += 1
        self.last_failure = printable(" ".join(str(message["message"]).split()), 300)
        log = self.log_folder / f"worker-{worker.number}.log"
        _kill(worker)
        self.memory.pop(worker.number, None)
        never = self.ready_at is None
        if never or self.failures_in_a_row >= MAX_FAILURES:
            when = "while it loaded the model" if never else f"{self.failures_in_a_row} times in a row"
            advice = "; use a smaller model, a smaller --max-tokens or more cards" if message["memory"] else ""
            raise JudgeError(f"the engine failed {when}: {self.last_failure}{advice} (its log: {log})")
        task = worker.task
        if message["memory"]:
            again = bool(task.attempts or task.position is not None) if task else self.failures_in_a_row > 1
            self.config = self.config.halved() if again else self.config.roomier()
        if task is not None and task.position is not None:
            plan = "the prompt that it was reading is left out"
            self._collect(task, np.full((1, 3), np.nan))
        elif task is not None and task.attempts == 0:
            plan = "its prompts are read again" + (" with less of the card's memory" if message["memory"] else "")
            task.attempts += 1
            self._queue.appendleft(task)
        elif task is not None:
            smaller = " in smaller batches" if message["memory"] else ""
            plan = f"its prompts are read again, one at a time{smaller}"
            self._queue.extendleft(_Task(task.job, i) for i in reversed(range(task.job.rows)))
        else:
            plan = "it was idle"
        if not worker.ready:  # it worked before, so this may pass
            time.sleep(min(RETRY_SECONDS, self._work.seconds_left()))
        self.say(f"an engine failed and is started again; {plan} ({self.last_failure})")
        self._workers[worker.number] = self._spawn(worker.number)

    def _collect(self, task: _Task, logprobs: Float) -> None:
        """Hand a finished job over; prompts that ran alone are put together first."""
        job = task.job
        if task.position is None:
            self._work.on_done(job.key, logprobs)
            return
        result, done = self._parts.pop(job.key, (np.full((job.rows, 3), np.nan), 0))
        result[task.position] = logprobs[0]
        if done + 1 == job.rows:
            self._work.on_done(job.key, result)
        else:
            self._parts[job.key] = (result, done + 1)


def _kill(worker: _Worker, seconds: float | None = None) -> None:
    """Kill a worker and what it started, and wait for its end, `seconds` at most."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(seconds)
    worker.connection.close()


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return f"the engine process was killed by {name}{hint}"
    return f"the engine process ended with status {status}"


def gpu_environments(gpus: Sequence[Gpu], workers: int, cards_each: int) -> list[dict[str, str]]:
    """Return the environment of each worker on GPUs: each sees only the cards that it runs on."""
    shares = [gpus[n * cards_each : (n + 1) * cards_each] for n in range(workers)]
    # the engine runs in the worker itself, which dies with us
    common = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpu.device for gpu in share), **common} for share in shares]


def cpu_environments(workers: int, cores: Sequence[int], cache_gib: int) -> list[dict[str, str]]:
    """Return the environment of each worker on the CPU: the cores are divided between them."""
    each = max(len(cores) // workers, 1)
    threads = min(each, int(os.environ.get("OMP_NUM_THREADS") or each))
    common = {
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(cache_gib),
        # One small function of vLLM's sampler is compiled even in eager mode: 25 s of C++ for nothing.
        "TORCHDYNAMO_DISABLE": "1",
    }
    openmp = intel_openmp()
    if openmp is not None:  # measured: 1.2 to 1.3 times the tokens per second
        common["LD_PRELOAD"] = " ".join(filter(None, [str(openmp), os.environ.get("LD_PRELOAD")]))
    environments = []
    for n in range(workers):
        share = [cores[(n * each + i) % len(cores)] for i in range(threads)]
        bind = os.environ.get("VLLM_CPU_OMP_THREADS_BIND") or ",".join(map(str, share))
        environments.append({**common, "VLLM_CPU_OMP_THREADS_BIND": bind, "OMP_NUM_THREADS": str(len(share))})
    return environments


def intel_openmp() -> Path | None:
    """Return Intel's OpenMP library if its wheel is installed (vLLM's CPU build asks for it to be preloaded)."""
    try:
        files = metadata.files("intel-openmp") or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())).resolve() for file in files if file.name == "libiomp5.so")
    return next(filter(Path.exists, paths), None)
