"""The actor that runs on a machine of a Ray cluster and holds one engine.

The engine is a pool of one worker process (`judge.engine.pool.WorkerPool`). The pool replaces a process that fails, as
without Ray. When the actor itself is killed, Ray starts it again and repeats the call that it was in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from judge.engine.pool import RETRY_SECONDS, Job, WorkerPool, cpu_environments
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError, printable
from judge.hardware import machine
from judge.version import __version__

_TELL_SECONDS = 0.5


class Place(NamedTuple):
    """Where an actor runs: its machine's address and Ray's id of it, its process id, and the folder of its log."""

    node: str
    node_id: str
    pid: int
    logs: str


class News(NamedTuple):
    """Where an actor is, and how far it is with a shard: its number, prompts finished, and lines for the user.

    `ready_seconds` is how long its engine has been ready. (Clocks of machines differ, time spans do not.)
    """

    place: Place
    number: int
    rows: int
    lines: list[str]
    ready_seconds: float


def files_digest(folder: str) -> str:
    """Return a hash over the names and sizes of a folder's files; an empty text where there is no folder."""
    path = Path(folder)
    if not path.is_dir():
        return ""
    files = sorted((file.name, file.stat().st_size) for file in path.iterdir() if file.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


class EngineActor:
    """One engine, to which the pool sends one shard after the other. One thread reads, another tells the news.

    Args:
        config: what the engine runs.
        cores: CPU cores of it; 0 on GPUs, where Ray says which cards belong to an actor.
        environment, command: see `judge.engine.ray.pool.RayPool`.
        made_with: the version of judge, and `files_digest` of the model's folder, where the run was started.
    """

    def __init__(
        self,
        config: EngineConfig,
        cores: int,
        environment: dict[str, str],
        command: Sequence[str],
        made_with: tuple[str, str],
    ) -> None:
        context = ray.get_runtime_context()
        node = printable(ray.util.get_node_ip_address(), 60)
        self.place = Place(node, context.get_node_id(), os.getpid(), tempfile.mkdtemp(prefix="judge-engine-"))
        self._number, self._rows, self._lines, self._error = 0, 0, list[str](), ""
        self._seat = socket.socket(socket.AF_UNIX)
        try:
            refuse_other_machine(config, *made_with)
        except JudgeError as error:
            self._error = f"on {node}: {error}"
            return
        if context.was_current_actor_reconstructed:
            time.sleep(RETRY_SECONDS)  # the engine of the dead actor ends within a second, and frees its memory
        share = self._share_of_cores(cores, config) if cores else {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self._pool = WorkerPool(config, [{**share, **environment}], Path(self.place.logs), command)
        self._pool.say = lambda text: self._lines.append(f"on {node}: {text}")
        self._pool.start()

    def _share_of_cores(self, each: int, config: EngineConfig) -> dict[str, str]:
        """Return the environment of an engine that runs on cores of the machine which no other engine uses.

        A share is a name that one process of the machine can have; the kernel frees it when the process ends.
        """
        cores = machine.cpu_cores()
        shares = cpu_environments(max(len(cores) // each, 1), cores, config.cpu_cache_gib)
        for number, share in enumerate(shares):
            with contextlib.suppress(OSError):
                self._seat.bind(f"\0judge-engine-{number}")
                return share
        return shares[0]

    def read(self, number: int, prompts: Sequence[NDArray[np.int32]]) -> tuple[News, NDArray[np.float64]]:
        """Return the last news of a shard, by its number, and its prompts' log-probabilities, shape (prompts, 3).

        Raises:
            JudgeError: the engine cannot run here, or keeps failing; the text names the machine.
        """
        self._number, self._rows, self._lines = number, 0, []
        if self._error:
            raise JudgeError(self._error)
        results: list[NDArray[np.float64]] = []
        try:
            job = Job(0, len(prompts), lambda: prompts)
            self._pool.run([job], lambda _, logprobs: results.append(logprobs), self._count)
        except JudgeError as error:
            raise JudgeError(f"on {self.place.node}: {error}") from None
        return self._news(), results[0]

    def _count(self, _: int, rows: int) -> None:
        self._rows += rows

    def tell(self) -> News:
        """Return in half a second where the actor is, and how far with its shard.

        Raises:
            JudgeError: the engine cannot run here; the text names the machine.
        """
        if self._error:
            raise JudgeError(self._error)
        time.sleep(_TELL_SECONDS)
        return self._news()

    def _news(self) -> News:
        now = time.monotonic()
        return News(self.place, self._number, self._rows, self._lines[:], now - (self._pool.ready_at or now))

    def end(self) -> None:
        """Stop the engine in good order and remove its log."""
        self._pool.close()
        shutil.rmtree(self.place.logs, ignore_errors=True)


def refuse_other_machine(config: EngineConfig, version: str, model_files: str) -> None:
    """Refuse a machine on which an engine cannot be what it is elsewhere.

    Raises:
        JudgeError: another version of judge, another model, or other cards.
    """
    if version != __version__:
        raise JudgeError(f"judge is version {__version__} here and {version} where the run was started")
    for folder in filter(None, (config.model, config.adapter)):
        if not Path(folder).is_dir():
            raise JudgeError(f"{folder}: there is no such folder here; the model must be at one path on all nodes")
    if files_digest(config.model) != model_files:
        raise JudgeError(f"{config.model}: holds other files here than where the run was started")
    if config.device == "cuda":
        gpus = machine.usable_gpus("cuda")
        if config.dtype == "bfloat16":
            machine.choose_dtype("bfloat16", "bfloat16", gpus)
