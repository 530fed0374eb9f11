"""A rehearsal: the real engine on chosen rows of a table, and from their times how long the whole of it will take.

The sequence is that of a run: engines start, files are hashed, the whole table is prepared, prompts are read through
the same pool, and as many predictions are written as the table has rows. Only most of the reading is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.engine.pool import Pool, WorkerPool
from judge.engine.protocol import WITHOUT_MASS
from judge.errors import JudgeError
from judge.hardware import machine
from judge.models.arithmetic import ModelShape
from judge.models.bundle import ModelFolder
from judge.planning.plan import config_digest
from judge.planning.rehearsal import Costs, Rehearsal
from judge.planning.rehearsal_rows import Chosen, Rows, WatchedTable, choose_rows
from judge.planning.time_model import Point, fit
from judge.predictions.predictions import Predictions, predictions_table, write_predictions
from judge.prompting.verdict import Float, unread
from judge.runs.prepared import Prepared, prepare
from judge.runs.progress import Progress
from judge.runs.reading import ShardJob, ShardReader
from judge.runs.shards import Shard
from judge.scoring.scorer import Scorer

Prompt = NDArray[np.int32]

_POLL_SECONDS = 0.2


def rehearse(
    scorer: Scorer, table: WatchedTable, folder: Path, sample: int, seed: int, progress: Progress
) -> tuple[Rehearsal, Costs]:
    """Read chosen rows as `judge score` would and measure it.

    Args:
        folder: an empty folder for the prepared table and the engines' logs; the caller removes it.
        sample: rows of the random sample; a table with fewer is read whole.
        seed: another one draws another sample.

    Raises:
        JudgeError: the table cannot be read, or the engine does not work.
    """
    pool = scorer.pool
    if not isinstance(pool, WorkerPool):
        raise JudgeError("a rehearsal measures this machine's own engine; leave out --engine and --server")
    free, began, notes = machine.available_memory(), time.monotonic(), list[str]()

    def say(text: str) -> None:
        notes.append(text)
        progress.note(text)

    pool.say = say
    scorer.start(progress.note)
    scorer.manifest(table)  # a run hashes the model and the table too
    preparing = time.monotonic()
    prepared = prepare(table, scorer.builder, folder, scorer.share != 0, progress, scorer.trained_rows)
    prepare_seconds = time.monotonic() - preparing
    batch = pool.config.max_batch_tokens
    chosen = choose_rows(prepared, table.scripts, sample, seed, batch, pool.engines)
    progress.step("loading the model")
    shortest = int(np.argmin(prepared.lengths))
    wait_until_ready(pool, prepared.prompt(shortest, False))
    setup_seconds = time.monotonic() - began
    lengths = prepared.lengths.astype(np.int64)
    costs = Costs(lengths, flops_of(scorer.model), scorer.share)
    points, failed = _read_all(_Reader(pool, prepared, scorer.share == 1, costs), chosen, progress)
    found = Rehearsal(
        *(len(lengths), float(lengths.mean()), int(lengths.max()), chosen),
        failed=failed,
        memory=dict(pool.memory),
        free_before=free,
        prepare_seconds=prepare_seconds,
        load_seconds=pool.load_seconds,
        setup_seconds=setup_seconds,
        write_seconds=_writing(scorer, prepared, folder),
        points=points,
        engine_failures=pool.failures,
        notes=notes,
        batch_tokens=(batch, pool.config.max_batch_tokens),
        model=fit(points, source="measured on this machine with this model"),
        ran_with={
            "model": scorer.model.folder.name,
            "config_sha256": config_digest(scorer.model.config),
            "engines": pool.engines,
            "dtype": pool.config.dtype,
        },
    )
    return found, costs


def flops_of(model: ModelFolder) -> Callable[[Rows], Float]:
    """Return what computes the FLOPs of prompts; of an architecture that is not known, two a byte of the weights."""
    try:
        shape = ModelShape.from_config(model.config)
    except JudgeError:
        weights = 2.0 * max(model.weights, 1)
        return lambda lengths: weights * np.asarray(lengths, dtype=np.float64)
    return shape.flops


@dataclass
class _Reader:
    """Reads rows through all engines at once, in one order or both, as the run would."""

    pool: WorkerPool
    prepared: Prepared
    both: bool
    costs: Costs

    def read(self, rows: Rows) -> tuple[Point | None, Float]:
        """Return what was measured (None where an engine failed meanwhile) and the first order's numbers."""
        lengths = self.costs.lengths[rows]
        parts = dealt(lengths.tolist(), self.pool.engines)
        wait_until_ready(self.pool, self.prepared.prompt(int(rows[-1]), False))
        failures = self.pool.failures
        orders = (False, True) if self.both else (False,)
        prompts = [[self.prepared.prompt(int(row), swap) for row in rows[part] for swap in orders] for part in parts]
        seconds, results = read_group(self.pool, prompts)
        numbers = np.empty((len(rows), 3))
        for part, result in zip(parts, results, strict=True):
            numbers[part] = result[:: len(orders)]
        times = len(orders)
        flops = float(self.costs.flops(lengths).sum()) * times
        point = Point(flops, len(rows) * times, int(lengths.sum()) * times, seconds)
        return (point if self.pool.failures == failures else None), numbers


def _read_all(reader: _Reader, chosen: Chosen, progress: Progress) -> tuple[list[Point], list[int]]:
    """Read the longest rows, the awkward ones, the sample's parts in turn, and the first of these once more.

    Returns:
        The timed parts of the sample, and the rows that came out as NaN.
    """
    points, failed = list[Point](), set[int]()
    order = np.random.default_rng(0).permutation(len(chosen.sample))  # not from long to short: a drift would look so
    sample = [("random", chosen.sample[i]) for i in (*order, order[0])]
    awkward = [("awkward", chosen.awkward_rows)] if len(chosen.awkward_rows) else []
    groups = [("longest", chosen.longest), *awkward, *sample]
    for number, (what, rows) in enumerate(groups, start=1):
        progress.step("rehearsing", number - 1, len(groups), f"{what} rows, part {number} of {len(groups)}")
        point, numbers = reader.read(rows)
        failed |= {int(row) for row in rows[unread(numbers)]}
        if point is not None and what == "random":
            points.append(point)
    if not points:
        raise JudgeError(
            "engines failed on every part of the sample, so there is no time to go by; see the notes above"
        )
    return points, sorted(failed)


def _writing(scorer: Scorer, prepared: Prepared, folder: Path) -> float:
    """Return the seconds that writing the predictions takes, with made-up ones."""
    began = time.monotonic()
    rows = len(prepared.rows)
    numbers = np.log(np.full((rows, 3), 0.3))
    mass = scorer.settings.readout not in WITHOUT_MASS
    predictions = Predictions(prepared, numbers, numbers, mass, 1.0, 1, scorer.calibration)
    write_predictions(folder / "predictions.parquet", predictions_table(predictions))
    return time.monotonic() - began


def wait_until_ready(pool: WorkerPool, prompt: Prompt) -> None:
    """Start the engines and wait until each has said that it is ready.

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
