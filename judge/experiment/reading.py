"""Reading the prompts of one arm: from the cache where they have been read, through an engine where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from judge.engine.pool import Pool
from judge.engine.protocol import WITHOUT_MASS
from judge.experiment.arms import Arm
from judge.experiment.cache import ReadingCache, reading_key
from judge.experiment.result import ArmScores
from judge.prompting.verdict import SWAPPED, Float, mean_of_read, probabilities, unread, verdict_mass
from judge.runs.prepared import Prepared
from judge.runs.progress import Progress
from judge.runs.reading import ShardJob, ShardReader, Tally
from judge.runs.shards import Shard, make_shards, reading_order
from judge.scoring.reading import rows_to_swap
from judge.tables.comparison import Flag


@dataclass
class Engine:
    """The engine that several arms share; its processes start when the first prompt must be read.

    Attributes:
        arm: the arm with the largest budget, whose pool all of them use.
    """

    arm: Arm
    progress: Progress

    @property
    def pool(self) -> Pool:
        """The engine's processes."""
        return self.arm.scorer.pool

    def start(self) -> None:
        """Start the processes, which load the model; once."""
        self.pool.say = self.progress.note
        self.arm.scorer.start(self.progress.note)
        if self.pool.ready_at is None:
            self.progress.step("loading the model")

    def close(self) -> None:
        """Stop the processes."""
        self.arm.scorer.close()


@dataclass(frozen=True)
class _Prompt:
    """One prompt to be read, and where its numbers go: rows, each with whether A and B are exchanged."""

    key: bytes
    length: int
    places: list[tuple[int, bool]]


class ArmReading:
    """What is known of one arm's rows, in the order of its prepared table.

    Attributes:
        first, second: log-probabilities as in `Predictions`, shape (rows, 3); NaN where not read.
        asked: rows that have been read or tried, shape (rows,).
        fresh: rows of which a prompt was read in this run, shape (rows,).
        seconds, tokens_read: of this run's reading.
    """

    def __init__(self, arm: Arm, prepared: Prepared, cache: ReadingCache, engine: Engine, tally: Tally) -> None:
        self.arm, self.prepared, self.cache, self.engine, self.tally = arm, prepared, cache, engine, tally
        count = len(prepared.rows)
        self.first = np.full((count, 3), np.nan)
        self.second = np.full((count, 3), np.nan)
        self.asked = np.zeros(count, dtype=np.bool_)
        self.fresh = np.zeros(count, dtype=np.bool_)
        self.seconds, self.tokens_read = 0.0, 0
        tally.plan(*self._cost(np.arange(count)))

    def _cost(self, rows: NDArray[np.int64]) -> tuple[int, int]:
        """Return the prompts and tokens of rows, in the orders that are sure to be read."""
        orders = 2 if self.arm.scorer.share == 1 else 1
        return orders * len(rows), orders * int(self.prepared.lengths[rows].sum())

    def read_rows(self, rows: NDArray[np.int64]) -> None:
        """Read rows as the arm's swap policy says: as `judge.scoring.scorer.Scorer` reads a table of these rows.

        Raises:
            JudgeError: the engine does not work.
        """
        share = self.arm.scorer.share
        self.asked[rows] = True
        self._read(rows, [False, True] if share == 1 else [False])
        if share in (0, 1):
            return
        for _, part in rows_to_swap(share, rows, self.first, self.second):
            self._read_more(part)

    def _read_more(self, rows: NDArray[np.int64]) -> None:
        self.tally.plan(len(rows), int(self.prepared.lengths[rows].sum()))
        self._read(rows, [True])

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
        self.engine.start()
        reader = ShardReader(self.engine.pool, self.tally)

        def keep(_: int, shard: Shard, logprobs: Float) -> None:
            read = [prompts[i] for i in shard.rows]
            self.cache.add([prompt.key for prompt in read], logprobs)
            for prompt, three in zip(read, logprobs, strict=True):
                self._take(prompt.places, three)
                self.fresh[[row for row, _ in prompt.places]] = True
                self.tally.know(len(prompt.places), prompt.length * len(prompt.places))

        jobs = (ShardJob(n, len(s.rows), partial(self._load, prompts, s), s) for n, s in enumerate(shards))
        reader.read(jobs, keep)
        self.seconds += reader.seconds
        self.tokens_read += reader.tokens

    def _load(self, prompts: list[_Prompt], shard: Shard) -> list[NDArray[np.int32]]:
        return [self.prepared.prompt(*prompts[i].places[0]) for i in shard.rows]

    def _take(self, places: Sequence[tuple[int, bool]], logprobs: Sequence[float] | Float) -> None:
        three = np.asarray(logprobs)
        for row, swapped in places:
            if swapped:
                self.second[row] = three[SWAPPED]
            else:
                self.first[row] = three

    def p(self, rows: NDArray[np.int64]) -> Float:
        """Return the probabilities of rows that have been asked for, shape (rows, 3), as `judge score` writes them."""
        calibration = self.arm.scorer.calibration
        average: Callable[[Float, Float], Float] = calibration.apply if calibration else mean_of_read
        p = average(probabilities(self.first[rows]), probabilities(self.second[rows]))
        return np.where(unread(p)[:, np.newaxis], 1 / 3, p)

    def lost(self) -> NDArray[np.bool_]:
        """Return the rows that were asked for and got no number, shape (rows,)."""
        return self.asked & unread(self.first) & unread(self.second)

    def scores(self, order: NDArray[np.int64]) -> ArmScores:
        """Return what is known, with the rows in the given order."""
        arm, rows, asked = self.arm, self.prepared.rows[order], self.asked[order]
        first, second = self.first[order], self.second[order]
        lost = self.lost()[order]
        p = np.full((len(order), 3), np.nan)
        p[asked] = self.p(order[asked])
        has_mass = arm.scorer.settings.readout not in WITHOUT_MASS
        orders = (~unread(first)).astype(np.int64) + ~unread(second)
        return ArmScores(
            name=arm.name,
            model=arm.model.folder.name,
            template=arm.scorer.template,
            settings=arm.record(),
            p=p,
            first=probabilities(first),
            second=probabilities(second),
            verdict_mass=verdict_mass(first) if has_mass else np.full(len(order), np.nan),
            tokens=rows["length"].astype(np.int64) * orders,
            cut=(rows["cut"].sum(axis=1) > 0) | (rows["cut_turns"] > 0),
            flags=rows["flags"] | np.where(lost, np.uint32(Flag.NOT_SCORED), np.uint32(0)),
            rows_read=int(self.fresh.sum()),
            tokens_read=self.tokens_read,
            seconds=self.seconds,
            seed=arm.seed,
        )
