"""Timing an engine: groups of prompts, one job for each engine process at the same time, on the wall clock.

With several engines, what counts is what all of them read together; they share memory bandwidth and cores on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from judge.engine.pool import Pool, WorkerPool
from judge.prompting.verdict import Float
from judge.runs.reading import ShardJob, ShardReader
from judge.runs.shards import Shard

Prompt = NDArray[np.int32]

_POLL_SECONDS = 0.2


def wait_until_ready(pool: WorkerPool, prompt: Prompt) -> None:
    """Start the engines and wait until each has told that it is ready; returns at once where they have.

    Args:
        prompt: any prompt; it is read until all are ready.

    Raises:
        JudgeError: an engine does not start.
    """
    while pool.ready_at is None or len(pool.memory) < pool.engines:
        read_group(pool, [[prompt]] * pool.engines)
        time.sleep(_POLL_SECONDS)


def dealt(lengths: Sequence[int], engines: int) -> list[list[int]]:
    """Return positions dealt out to engines, about as many tokens for each; no part is empty.

    The longest are dealt first, each to the engine with the fewest tokens so far, and a part keeps that order.

    Args:
        lengths: tokens of each prompt, shape (prompts,).
    """
    parts: list[list[int]] = [[] for _ in range(min(engines, len(lengths)))]
    tokens = [0] * len(parts)
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = tokens.index(min(tokens))
        parts[least].append(position)
        tokens[least] += int(lengths[position])
    return parts


def read_group(pool: Pool, parts: Sequence[Sequence[Prompt]]) -> tuple[float, list[Float]]:
    """Read one shard for each part, all at the same time.

    Returns:
        Seconds until the last was done, without loading the model, and each part's log-probabilities, shape
        (prompts, 3); a part may come out as NaN.
    """
    results: list[Float] = [np.empty((0, 3))] * len(parts)

    def keep(number: int, _: Shard, logprobs: Float) -> None:
        results[number] = logprobs

    jobs = []
    for number, part in enumerate(parts):
        rows = np.arange(len(part), dtype=np.int32)
        shard = Shard(rows, np.zeros(len(part), dtype=np.bool_), sum(map(len, part)))
        jobs.append(ShardJob(number, len(part), lambda part=part: part, shard))  # type: ignore[misc]
    reader = ShardReader(pool, may_fail=True)
    reader.read(jobs, keep)
    return reader.seconds, results
