"""The one loop that reads shards through a pool of engines: of scoring, experiments and rehearsals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from judge.deadline import Deadline
from judge.engine.pool import Job, Pool
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError
from judge.runs.progress import Progress
from judge.runs.shards import Shard
from judge.runs.terminal import duration

Float = NDArray[np.float64]
# A shard of at least this many prompts without a single number ends the run.
HOPELESS_ROWS = 8


def refuse_hopeless(logprobs: Float, config: EngineConfig) -> None:
    """Refuse a shard of which no prompt gave a number: the others will give none either.

    Args:
        logprobs: of the shard's prompts, shape (prompts, 3).
        config: of the engine that read them.

    Raises:
        JudgeError: all are NaN, and the shard is large enough to tell.
    """
    if len(logprobs) >= HOPELESS_ROWS and np.isnan(logprobs).all():
        where = "as the server runs it" if config.server else f"in {config.dtype}"
        raise JudgeError(
            f"all {len(logprobs)} prompts of a shard came out as NaN: the model does not work {where}; "
            "try another --dtype"
        )


@dataclass
class Tally:
    """How many prompts and tokens are planned, and how many are known: what the user sees of a reading."""

    progress: Progress
    deadline: Deadline = field(default_factory=Deadline)
    prompts: int = 0
    all_prompts: int = 0
    tokens: int = 0
    all_tokens: int = 0

    def plan(self, prompts: int, tokens: int) -> None:
        """Add prompts to what is to be read; take them away with negative numbers."""
        self.all_prompts += prompts
        self.all_tokens += tokens

    def know(self, prompts: int, tokens: int) -> None:
        """Count prompts that are known now, and tell."""
        self.prompts += prompts
        self.tokens += tokens
        self.tell()

    def tell(self, prompts: int = 0, tokens: int = 0) -> None:
        """Tell the progress, with prompts and tokens that are read and not counted yet."""
        text = f"{min(self.prompts + prompts, self.all_prompts):,} of {self.all_prompts:,} prompts"
        if self.deadline.at < math.inf:
            text += f"; {duration(max(self.deadline.at - time.monotonic(), 0))} to the deadline"
        done = min(self.tokens + tokens, self.all_tokens)
        self.progress.step("scoring", done, self.all_tokens, text, "tokens/s")


@dataclass
class ShardJob(Job):
    """A shard to read; `load` gives its token ids when its turn comes."""

    shard: Shard


@dataclass
class ShardReader:
    """Reads shards through a pool and counts what that takes.

    Attributes:
        pool: the engines.
        tally: is told how many prompts of unfinished shards are read; None tells nobody.
        may_fail: hand over a shard without any number, instead of ending the run.
        seconds: wall time of the reading so far, without loading the model.
        tokens: prompt tokens read so far.
        since: when the present reading began, or the first engine was ready; of time.monotonic().
    """

    pool: Pool
    tally: Tally | None = None
    may_fail: bool = False
    seconds: float = 0.0
    tokens: int = 0
    since: float = 0.0

    def read(
        self,
        jobs: Iterable[ShardJob],
        keep: Callable[[int, Shard, Float], None],
        stop_at: float = math.inf,
        moved: Callable[[Mapping[int, int]], None] | None = None,
    ) -> None:
        """Read shards until there are no more; each job is taken when an engine is free for it.

        Args:
            keep: takes the key of a finished job, its shard and the log-probabilities, shape (prompts, 3).
            stop_at: when the engines are killed, of time.monotonic().
            moved: takes how many prompts of each unfinished job are read, by its key.

        Raises:
            JudgeError: the engines do not work, or a whole shard came out as NaN.
            DeadlinePassed: the time was up before the end.
        """
        began, ready_at = time.monotonic(), None
        unfinished: dict[int, ShardJob] = {}
        inside: dict[int, int] = {}

        def progress(key: int, prompts: int) -> None:
            nonlocal ready_at  # a pool forgets it when it is closed
            ready_at = self.pool.ready_at or ready_at
            self.since = max(began, ready_at or began)
            inside[key] = min(inside.get(key, 0) + prompts, unfinished[key].rows)
            if moved is not None:
                moved(inside)
            if self.tally is not None:
                # the tokens of an unfinished shard are taken as spread evenly over its prompts
                tokens = sum(unfinished[k].shard.tokens * n // unfinished[k].rows for k, n in inside.items())
                self.tally.tell(sum(inside.values()), tokens)

        def done(key: int, logprobs: Float) -> None:
            nonlocal ready_at
            ready_at = self.pool.ready_at or ready_at
            self.since = max(began, ready_at or began)
            shard = unfinished.pop(key).shard
            inside.pop(key, None)
            if not self.may_fail:
                refuse_hopeless(logprobs, self.pool.config)
            self.tokens += shard.tokens
            keep(key, shard, logprobs)

        taken = (unfinished.setdefault(job.key, job) for job in jobs)
        try:
            self.pool.run(taken, done, progress, stop_at)
        finally:
            now = time.monotonic()
            self.seconds += now - max(began, self.pool.ready_at or ready_at or now)
