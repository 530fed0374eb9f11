"""Reading with a deadline: what `judge.scoring.pacing` decides, done with real engines and kept in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import Deadline, DeadlinePassed
from judge.engine.pool import Job, Pool
from judge.errors import JudgeError
from judge.models.arithmetic import ModelShape
from judge.prompting.verdict import Float, unread
from judge.runs.folder import RunFolder
from judge.runs.prepared import Prepared
from judge.runs.shards import Shard, make_shards
from judge.runs.terminal import duration
from judge.scoring.pacing import Pacer, Prepare, Read, Rows, Step, Work
from judge.scoring.reading import Events, Reading, refuse_hopeless, rows_to_swap
from judge.tables.comparison import Flag

# What stopping engines, priors and writing the files may take: seconds, and seconds a row.
RESERVE_SECONDS, RESERVE_A_ROW = 5.0, 2e-4
# Building prompts again takes at least this a token of the texts.
PREPARE_A_TOKEN = 1e-6
# Tokens a second that any engine has; only for the first shard, before the speed is known.
SLOW_TOKENS = {"cpu": 100.0, "cuda": 1000.0}

# Builds the prompts of some rows with another budget: budget, rows, shape (rows,). Raises DeadlinePassed.
Rebuild = Callable[[int, NDArray[np.bool_]], Prepared]


def reserve(rows: int) -> float:
    """Return the seconds before the deadline at which the reading of a table must have ended."""
    return RESERVE_SECONDS + RESERVE_A_ROW * rows


def work_of(config: Mapping[str, Any]) -> Work:
    """Return what prompts cost a model: FLOPs, or tokens where its config does not say enough.

    Args:
        config: its config.json.
    """
    try:
        shape = ModelShape.from_config(config)
    except JudgeError:
        return lambda lengths: lengths.astype(np.float64)
    return shape.flops


class PacedReading(Reading):
    """Reads as fast as it can what can be read in time.

    Attributes:
        tried, tried_second: rows whose first, or exchanged, order has been read or failed, shape (rows,).
        asked: rows whose exchanged order the swap policy has asked for, shape (rows,).
        budgets: the budget that each row's first order was read with, shape (rows,).
    """

    def __init__(
        self,
        pool: Pool,
        prepared: Prepared,
        run: RunFolder,
        shard_tokens: int,
        events: Events,
        deadline: Deadline,
        work: Work,
        budget: tuple[int, int],
        prepare_seconds: float,
        rebuild: Rebuild,
    ) -> None:
        """Take up what earlier sessions read near a deadline of theirs.

        Args:
            work: what prompts cost.
            budget: the full one, and the smallest that the template allows.
            prepare_seconds: what building all prompts took.
            rebuild: builds prompts with another budget.
        """
        super().__init__(pool, prepared, run, shard_tokens, events)
        count = len(prepared.rows)
        self.tried, self.tried_second, self.asked = (np.zeros(count, dtype=np.bool_) for _ in range(3))
        self.budgets = np.full(count, budget[0], dtype=np.int64)
        self._prepared_at, self._rebuild, self._numbers = {budget[0]: prepared}, rebuild, 0
        self._share: float | None = 0
        self._told = False
        self._ready_at: float | None = None  # of the pool, which forgets it when it is closed
        self._stop_at = deadline.at - reserve(count)
        slow = SLOW_TOKENS["cpu" if pool.config.device == "cpu" else "cuda"]
        typical = prepared.lengths[:1] if count else np.ones(1, dtype=np.int32)
        self.pacer = Pacer(
            lengths=prepared.lengths,
            work=work,
            budget=budget[0],
            least=budget[1],
            engines=pool.engines,
            stop_at=self._stop_at,
            # what an earlier session built took its time too
            prepare_seconds=max(prepare_seconds, PREPARE_A_TOKEN * float(prepared.rows["tokens"].sum())),
            slow=slow * float(work(typical)[0]) / max(int(typical[0]), 1),
        )
        self._resume()

    def _resume(self) -> None:
        for group, number, shard, logprobs in self.run.shards_like("late*"):
            self._numbers = max(self._numbers, number + 1)
            budget = int(group.removeprefix("late"))
            if budget not in self._prepared_at:
                try:
                    self._prepared_at[budget] = self._rebuild(budget, np.zeros(len(self.tried), dtype=np.bool_))
                except DeadlinePassed:
                    continue
            if (self._prepared_at[budget].lengths[shard.rows] == 0).any():
                continue  # its prompts are gone: they are read again
            self._know(shard, logprobs, budget)
            self.pacer.own_shards = True

    def _know(self, shard: Shard, logprobs: Float, budget: int) -> None:
        self.keep(shard, logprobs)
        first = shard.rows[~shard.swapped]
        self.tried[first], self.budgets[first] = True, budget
        self.tried_second[shard.rows[shard.swapped]] = True

    def read_all(self, order: Rows, share: float | None) -> None:
        """Read the first order of all rows, then the exchanged order of those that the swap policy picks.

        Args:
            order: all rows, as they are best read.
            share: the swap policy (see `judge.scoring.settings.swap_share`).

        Raises:
            DeadlinePassed: the time was up in the middle of it; what is known stays.
        """
        self._share = share
        self._all_prompts, self._all_tokens = len(order), int(self.prepared.lengths.sum())
        if share == 1:
            self._take_both_orders(order)
        try:
            self._read_group("first", order, False, order)
        finally:
            if share != 0 and self._lacking():
                self._leave_swap_out(share)
        if share != 0 and not self._lacking():
            self._read_exchanged(share)

    def _lacking(self) -> bool:
        """Whether a first order was not read, or with fewer tokens: then no exchanged order is."""
        return not self.tried.all() or bool(self.changed().any())

    def changed(self) -> NDArray[np.bool_]:
        """Return the rows whose prompt was cut more than the full budget asks for, shape (rows,)."""
        result = np.zeros(len(self.tried), dtype=np.bool_)
        full = self.prepared.rows
        for budget, prepared in self._prepared_at.items():
            cut = (prepared.rows["cut"] != full["cut"]).any(axis=1) | (prepared.rows["cut_turns"] != full["cut_turns"])
            result |= cut & self.tried & (self.budgets == budget)
        return result

    def _take_both_orders(self, order: Rows) -> None:
        """Take up what a session without a deadline read, which reads a row's two orders together."""
        for number, shard in enumerate(make_shards(order, [False, True], self.prepared.lengths, self.shard_tokens)):
            logprobs = self.run.read_shard("both", number, shard)
            if logprobs is not None:
                self._know(shard, logprobs, self.pacer.budget)
                self.pacer.own_shards = True

    def _picks(self, share: float | None) -> Iterator[tuple[str, Rows]]:
        return rows_to_swap(share, np.arange(len(self.tried)), self.first, self.second)

    def _leave_swap_out(self, share: float | None) -> None:
        for _, rows in self._picks(share):
            self.asked[rows] = True
            return

    def _read_exchanged(self, share: float | None) -> None:
        for name, rows in self._picks(share):
            self.asked[rows] = True
            waiting = rows[~self.tried_second[rows]]
            self._all_prompts += len(waiting)
            self._all_tokens += int(self.prepared.lengths[waiting].sum())
            self._read_group(name, self.in_reading_order(rows), True, rows)
            if not self.tried_second[rows].all():
                return

    def _read_group(self, group: str, order: Rows, swapped: bool, near_the_end: Rows) -> None:
        """Read rows in one order: whole shards as without a deadline, or what the time allows."""
        whole: list[tuple[int, Shard]] = []
        for number, shard in enumerate(make_shards(order, [swapped], self.prepared.lengths, self.shard_tokens)):
            logprobs = self.run.read_shard(group, number, shard)
            if logprobs is None:
                whole.append((number, shard))
            else:
                self._know(shard, logprobs, self.pacer.budget)
        done = self.tried_second if swapped else self.tried
        self.pacer.begin(near_the_end[~done[near_the_end]], whole, self.shard_tokens, swapped)
        self._tell({})
        self._told = False
        while (step := self._next(swapped)) is not None:
            if isinstance(step, Prepare):
                self._prepare(step.budget)
            else:
                self._round(group, step, swapped)

    def _next(self, swapped: bool) -> Step:
        """Return the next step; say once in a group that not all of it will be read."""
        now, rows = time.monotonic(), len(self.pacer.rows_left)
        late = -self.pacer.seconds_left_over(now)
        step = self.pacer.next(now)
        if not self._told and late > 0 and self.pacer.own_shards and (swapped or self.pacer.last):
            self._told = True
            what = "the exchanged order of the" if swapped else "the"
            first = "least certain" if swapped else "shortest"
            self._note(f"{what} {rows:,} rows left would end {duration(late)} late; the {first} are read first")
        return step

    def _note(self, text: str) -> None:
        now = time.monotonic()
        rows = self.pacer.rows_left
        lengths, speed = self.prepared.lengths[rows], self.pacer.speed.value(now)
        if speed is None or not len(rows):
            self.events.note(f"deadline: {text}")
            return
        tokens = speed * float(lengths.sum()) / max(float(self.pacer.work(lengths).sum()), 1e-9)
        self.events.note(f"deadline: at {tokens:,.0f} tokens/s {text}")

    def _prepare(self, budget: int) -> None:
        """Build the prompts of the rows left again with another budget."""
        pacer, now = self.pacer, time.monotonic()
        rows = np.zeros(len(self.tried), dtype=np.bool_)
        rows[pacer.rows_left] = True
        late = duration(abs(pacer.seconds_left_over(now)))
        if budget < pacer.budget_now:
            self._note(
                f"the {rows.sum():,} rows left would end {late} late; they are cut to {budget:,} tokens "
                f"({pacer.budget_now:,} before){', and no exchanged order is read' if self._share != 0 else ''}"
            )
        else:
            self._note(f"there is more time than it seemed; the {rows.sum():,} rows left are cut to {budget:,} tokens")
        if budget != pacer.budget:
            self._prepared_at[budget] = self._rebuild(budget, rows)
            took = time.monotonic() - now
            pacer.prepare_seconds = max(pacer.prepare_seconds, took * len(rows) / max(int(rows.sum()), 1) / 2)
        pacer.prepared(budget, self._prepared_at[budget].lengths)

    def _round(self, group: str, first: Read, swapped: bool) -> None:
        """Read a step and all that follow it until the pacer wants something else."""
        pacer, began = self.pacer, time.monotonic()
        steps: dict[int, tuple[Read, Shard, int]] = {}
        inside: dict[int, int] = {}

        def jobs() -> Iterator[Job]:
            step: Step = first
            while isinstance(step, Read):
                budget = pacer.budget_now
                prepared = self._prepared_at[budget]
                orders = np.full(len(step.rows), swapped)
                shard = Shard(step.rows.astype(np.int32), orders, int(prepared.lengths[step.rows].sum()))
                steps[step.key] = (step, shard, budget)
                yield Job(step.key, len(step.rows), self.loader(shard, prepared))
                step = self._next(swapped)

        def begin() -> None:
            self._ready_at = self.pool.ready_at or self._ready_at
            pacer.speed.begin(max(began, self._ready_at or began))

        def progress(key: int, prompts: int) -> None:
            begin()
            step = steps[key][0]
            inside[key] = min(inside.get(key, 0) + prompts, len(step.rows))
            pacer.progress(key, inside[key], time.monotonic())
            self._tell({k: n for k, n in inside.items() if not steps[k][0].probe})

        def done(key: int, logprobs: Float) -> None:
            begin()
            step, shard, budget = steps[key]
            refuse_hopeless(logprobs, self.pool.config)
            pacer.finished(key, time.monotonic())
            inside.pop(key, None)
            self._keep(group, step, shard, logprobs, budget)

        try:
            self.pool.run(jobs(), done, progress, self._stop_at)
        finally:
            now = time.monotonic()
            pacer.speed.pause(now)
            self.seconds += now - max(began, self.pool.ready_at or self._ready_at or now)

    def _keep(self, group: str, step: Read, shard: Shard, logprobs: Float, budget: int) -> None:
        """Write a shard and take its numbers; those of a probe only until its rows come again."""
        self.tokens += shard.tokens
        if step.number is not None:
            self.run.write_shard(group, step.number, shard, logprobs)
        else:
            self.run.write_shard("probe" if step.probe else f"late{budget}", self._numbers, shard, logprobs)
            self._numbers += 1
        known = (self.tried_second if shard.swapped[0] else self.tried)[shard.rows]
        new = ~known if step.probe else np.ones(len(known), dtype=np.bool_)
        self._know(Shard(shard.rows[new], shard.swapped[new], 0), logprobs[new], budget)
        self._tell({})

    def _tell(self, inside: dict[int, int]) -> None:
        prompts = int(self.tried.sum() + self.tried_second.sum())
        left = self.pacer.tokens_left
        part = sum(inside.values())
        done = max(self._all_tokens - left, 0)
        self.events.progress(min(prompts + part, self._all_prompts), self._all_prompts, done, self._all_tokens)

    def result(self) -> tuple[Prepared, NDArray[np.uint32], int]:
        """Return the table with the counts of the prompts that were read, what was given up, the smallest budget."""
        rows, flags, changed = self.prepared.rows.copy(), np.zeros(len(self.tried), dtype=np.uint32), self.changed()
        for budget, prepared in self._prepared_at.items():
            chosen = changed & (self.budgets == budget)
            for name in ("length", "tokens", "cut", "cut_turns"):
                rows[name][chosen] = prepared.rows[name][chosen]
        flags[changed] |= np.uint32(Flag.SMALLER_BUDGET)
        flags[~self.tried & unread(self.second)] |= np.uint32(Flag.PRIOR)
        flags[self.asked & ~self.tried_second] |= np.uint32(Flag.SWAP_LEFT_OUT)
        smallest = int(self.budgets[changed].min()) if changed.any() else self.pacer.budget
        return replace(self.prepared, rows=rows), flags, smallest
