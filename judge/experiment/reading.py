"""Reading the prompts of one arm: from the cache where they have been read, through an engine where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from judge.engine.protocol import WITHOUT_MASS
from judge.experiment.arms import Arm
from judge.experiment.cache import ReadingCache, reading_key
from judge.experiment.result import ArmScores
from judge.prompting.verdict import SWAPPED, Float, mean_of_read, probabilities, unread, verdict_mass
from judge.runs.prepared import Prepared
from judge.runs.reading import ShardJob, ShardReader, Tally
from judge.runs.shards import Shard, make_shards, reading_order
from judge.scoring.reading import rows_to_swap
from judge.tables.comparison import Flag


@dataclass(frozen=True)
class _Prompt:
    """One prompt to be read, and where its numbers go: rows, each with whether A and B are exchanged."""

    key: bytes
    length: int
    places: list[tuple[int, bool]]


class ArmReading:
    """What is known of one arm's rows, in the order of its prepared table.

    Args:
        host: the arm whose engine reads the prompts: of those that share it, the one with the largest budget.

    Attributes:
        first, second: log-probabilities as in `Predictions`, shape (rows, 3); NaN where not read.
        fresh: rows of which a prompt was read in this run, shape (rows,).
    """

    def __init__(self, arm: Arm, prepared: Prepared, cache: ReadingCache, host: Arm, tally: Tally) -> None:
        self.arm, self.prepared, self.cache, self.host, self.tally = arm, prepared, cache, host, tally
        count, orders = len(prepared.rows), 2 if arm.scorer.share == 1 else 1
        self.first = np.full((count, 3), np.nan)
        self.second = np.full((count, 3), np.nan)
        self.fresh = np.zeros(count, dtype=np.bool_)
        self.reader = ShardReader(host.scorer.pool, tally)
        tally.plan(orders * count, orders * int(prepared.lengths.sum()))  # the orders that are sure to be read

    def read_rows(self, rows: NDArray[np.int64]) -> None:
        """Read rows as the arm's swap policy says: as `judge.scoring.scorer.Scorer` reads a table of these rows.

        Raises:
            JudgeError: the engine does not work.
        """
        share = self.arm.scorer.share
        self._read(rows, [False, True] if share == 1 else [False])
        if share in (0, 1):
            return
        for _, part in rows_to_swap(share, rows, self.first, self.second):
            self.tally.plan(len(part), int(self.prepared.lengths[part].sum()))
            self._read(part, [True])

    def _read(self, rows: NDArray[np.int64], orders: list[bool]) -> None:
        """Read rows in the given orders; what the cache has is taken from it, equal prompts are read once."""
        lengths, hashes = self.prepared.lengths[rows], self.prepared.rows["prompt_hash"][rows]
        missing: dict[bytes, _Prompt] = {}
        for row in rows[reading_order(lengths, hashes)].tolist():
            for swapped in orders:
                ids = self.prepared.prompt(row, swapped)
                key = reading_key(self.arm.engine, ids)
                known = self.cache.get(key)
                if known is None:
                    missing.setdefault(key, _Prompt(key, len(ids), [])).places.append((row, swapped))
                else:
                    self._take([(row, swapped)], known)
                    self.tally.know(1, len(ids))
        if missing:
            self._through_engine(list(missing.values()))

    def _through_engine(self, prompts: list[_Prompt]) -> None:
        lengths = np.array([prompt.length for prompt in prompts], dtype=np.int32)
        shards = make_shards(range(len(prompts)), [False], lengths, self.arm.scorer.shard_tokens)
        self._start_engine()

        def keep(_: int, shard: Shard, logprobs: Float) -> None:
            read = [prompts[i] for i in shard.rows]
            self.cache.add([prompt.key for prompt in read], logprobs)
            for prompt, three in zip(read, logprobs, strict=True):
                self._take(prompt.places, three)
                self.fresh[[row for row, _ in prompt.places]] = True
                self.tally.know(len(prompt.places), prompt.length * len(prompt.places))

        def load(shard: Shard) -> list[NDArray[np.int32]]:
            return [self.prepared.prompt(*prompts[i].places[0]) for i in shard.rows]

        jobs = (ShardJob(n, len(shard.rows), partial(load, shard), shard) for n, shard in enumerate(shards))
        self.reader.read(jobs, keep)

    def _start_engine(self) -> None:
        """Start the processes, which load the model, unless they run."""
        scorer, progress = self.host.scorer, self.tally.progress
        scorer.pool.say = progress.note
        scorer.start(progress.note)
        if scorer.pool.ready_at is None:
            progress.step("loading the model")

    def _take(self, places: Sequence[tuple[int, bool]], logprobs: Sequence[float] | Float) -> None:
        three = np.asarray(logprobs)
        for row, swapped in places:
            if swapped:
                self.second[row] = three[SWAPPED]
            else:
                self.first[row] = three

    def scores(self, order: NDArray[np.int64]) -> ArmScores:
        """Return what is known, with the rows in the given order."""
        arm, rows = self.arm, self.prepared.rows[order]
        first, second = probabilities(self.first[order]), probabilities(self.second[order])
        calibration = arm.scorer.calibration
        p = calibration.apply(first, second) if calibration else mean_of_read(first, second)
        lost = unread(first) & unread(second)
        has_mass = arm.scorer.settings.readout not in WITHOUT_MASS
        orders = (~unread(first)).astype(np.int64) + ~unread(second)
        return ArmScores(
            name=arm.name,
            template=arm.scorer.template,
            settings=arm.record(),
            p=np.where(lost[:, np.newaxis], 1 / 3, p),
            first=first,
            second=second,
            verdict_mass=verdict_mass(self.first[order]) if has_mass else np.full(len(order), np.nan),
            tokens=rows["length"].astype(np.int64) * orders,
            cut=(rows["cut"].sum(axis=1) > 0) | (rows["cut_turns"] > 0),
            flags=rows["flags"] | np.where(lost, np.uint32(Flag.NOT_SCORED), np.uint32(0)),
            rows_read=int(self.fresh.sum()),
            tokens_read=self.reader.tokens,
            seconds=self.reader.seconds,
            seed=arm.seed,
        )
