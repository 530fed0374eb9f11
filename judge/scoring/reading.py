"""Reading prompts of a prepared table: shards through a pool of engines, log-probabilities by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from judge.engine.pool import Job, Pool
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError
from judge.prompting.verdict import SWAPPED, Float, average_orders, divergence, entropy, probabilities, unread
from judge.runs.folder import RunFolder
from judge.runs.prepared import Prepared
from judge.runs.shards import Shard, make_shards, reading_order

# `--swap=auto` goes on while the last tenth of the rows gained at least this much.
AUTO_SWAP_GAIN = 1e-3
AUTO_SWAP_STEPS = 10
# A shard of at least this many prompts of which none gives a number ends the run.
HOPELESS_ROWS = 8


class Events(Protocol):
    """What a run tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information or warning."""

    def prepared(self, rows: int) -> None:
        """`rows` rows have been read and tokenised so far."""

    def loading(self) -> None:
        """The table is ready and the engine is not yet."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """So many prompts and tokens have been scored, of so many that are planned."""


class Silent:
    """Events that nobody watches."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def prepared(self, rows: int) -> None:
        """Ignore it."""

    def loading(self) -> None:
        """Ignore it."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """Ignore it."""


def rows_to_swap(
    share: float | None, rows: NDArray[np.int64], first: Float, second: Float
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield a name and the rows to read next in the exchanged order, the least certain first.

    Args:
        share: of the rows; None goes on as long as a tenth of them gains enough.
        rows: to choose from; those without numbers are left out.
        first: log-probabilities of all rows with A shown first, shape (all rows, 3).
        second: the same of the exchanged order, mapped back; whoever asks for the next rows has filled in the last.
    """
    uncertain = rows[np.argsort(-entropy(probabilities(first[rows])), kind="stable")]
    uncertain = uncertain[~unread(first[uncertain])]
    if share is not None:
        yield "swap", uncertain[: round(share * len(uncertain))]
        return
    for step, part in enumerate(np.array_split(uncertain, AUTO_SWAP_STEPS)):
        yield f"swap{step}", part
        both = average_orders(first[part], second[part])
        gain = float(divergence(both, probabilities(first[part])).mean()) if len(part) else 0.0
        if gain < AUTO_SWAP_GAIN:
            return


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


class Reading:
    """Reads shards through a pool, writes them, and collects their log-probabilities by row.

    Attributes:
        first, second: as in `judge.predictions.predictions.Predictions`.
        seconds: wall time of the reading in this session, without loading the model.
        tokens: prompt tokens read in this session.
    """

    def __init__(self, pool: Pool, prepared: Prepared, run: RunFolder, shard_tokens: int, events: Events) -> None:
        self.pool, self.prepared, self.run, self.events = pool, prepared, run, events
        self.shard_tokens = shard_tokens
        count = len(prepared.rows)
        self.first = np.full((count, 3), np.nan)
        self.second = np.full((count, 3), np.nan)
        self.seconds, self.tokens = 0.0, 0
        self._prompts = self._all_prompts = self._all_tokens = self._known_tokens = 0

    def read(self, group: str, rows: Sequence[int] | NDArray[np.int64], orders: list[bool]) -> None:
        """Read `rows` in `orders`; shards of the same group that an earlier session wrote are taken over."""
        shards = make_shards(rows, orders, self.prepared.lengths, self.shard_tokens)
        open_shards: list[int] = []
        for number, shard in enumerate(shards):
            self._all_prompts += len(shard.rows)
            self._all_tokens += shard.tokens
            logprobs = self.run.read_shard(group, number, shard)
            if logprobs is None:
                open_shards.append(number)
            else:
                self._take(shard, logprobs)
        began = time.monotonic()
        inside: dict[int, int] = {}

        def tell() -> None:
            # tokens of an open shard are taken as spread evenly over its prompts
            part = sum(shards[n].tokens * k // len(shards[n].rows) for n, k in inside.items())
            self.events.progress(
                self._prompts + sum(inside.values()),
                self._all_prompts,
                self._known_tokens + part,
                self._all_tokens,
            )

        def progress(number: int, prompts: int) -> None:
            inside[number] = min(inside.get(number, 0) + prompts, len(shards[number].rows))
            tell()

        def done(number: int, logprobs: Float) -> None:
            shard = shards[number]
            refuse_hopeless(logprobs, self.pool.config)
            self.run.write_shard(group, number, shard, logprobs)
            self._take(shard, logprobs)
            self.tokens += shard.tokens
            inside.pop(number, None)
            tell()

        jobs = [Job(n, len(shards[n].rows), self.loader(shards[n], self.prepared)) for n in open_shards]
        self.pool.run(jobs, done, progress)
        if jobs:  # loading the model does not count
            self.seconds += time.monotonic() - max(began, self.pool.ready_at or began)

    def loader(self, shard: Shard, prepared: Prepared) -> Callable[[], list[NDArray[np.int32]]]:
        """Return what gives a shard's prompts when its turn comes."""
        return lambda: [
            prepared.prompt(int(row), bool(swapped)) for row, swapped in zip(shard.rows, shard.swapped, strict=True)
        ]

    def keep(self, shard: Shard, logprobs: Float) -> None:
        """Put a shard's log-probabilities where they belong."""
        self.first[shard.rows[~shard.swapped]] = logprobs[~shard.swapped]
        self.second[shard.rows[shard.swapped]] = logprobs[shard.swapped][:, SWAPPED]

    def in_reading_order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return rows in the order in which they are best read."""
        return rows[reading_order(self.prepared.lengths[rows], self.prepared.rows["prompt_hash"][rows])]

    def _take(self, shard: Shard, logprobs: Float) -> None:
        self.keep(shard, logprobs)
        self._prompts += len(shard.rows)
        self._known_tokens += shard.tokens
