"""Reading the prompts of a table: what `judge.scoring.pacing` decides is read and kept in the run's folder.

Without a deadline the first order is read in whole shards, then the exchanged order of the rows that the swap policy
picks; with `--swap=all` the two orders of a row are read together. A deadline changes what is read, not how: whatever
whole shards an earlier session left in the run's folder count row by row, with a deadline or without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import Deadline, DeadlinePassed
from judge.engine.pool import Pool
from judge.errors import JudgeError
from judge.models.arithmetic import ModelShape
from judge.prompting.verdict import SWAPPED, Float, divergence, entropy, mean_of_read, probabilities, unread
from judge.runs.folder import RunFolder
from judge.runs.prepared import Prepared
from judge.runs.progress import Progress
from judge.runs.reading import ShardJob, ShardReader, Tally
from judge.runs.shards import Shard, make_shards, reading_order
from judge.runs.terminal import duration
from judge.scoring.pacing import Pacer, Prepare, Read, Rows, Step, Work
from judge.tables.comparison import Flag

# `--swap=auto` goes on while the last tenth of the rows gained at least this much.
AUTO_SWAP_GAIN = 1e-3
AUTO_SWAP_STEPS = 10
# What stopping engines, priors and writing the files may take: seconds, and seconds a row.
RESERVE_SECONDS, RESERVE_A_ROW = 5.0, 2e-4
# Building prompts again takes at least this many seconds for each token of the texts.
PREPARE_A_TOKEN = 1e-6
# Tokens a second that any engine reaches; only used until the first shard shows the real speed.
SLOW_TOKENS = {"cpu": 100.0, "cuda": 1000.0}


def reserve(rows: int) -> float:
    """Return the seconds before the deadline at which the reading of a table must have ended."""
    return RESERVE_SECONDS + RESERVE_A_ROW * rows


def work_of(config: Mapping[str, Any]) -> Work:
    """Return what computes the cost of prompts: FLOPs, or tokens where the model's config does not say enough."""
    try:
        shape = ModelShape.from_config(config)
    except JudgeError:
        return lambda lengths: lengths.astype(np.float64)
    return shape.flops


def rows_to_swap(share: float | None, rows: Rows, first: Float, second: Float) -> Iterator[tuple[str, Rows]]:
    """Yield a name and the rows to read next in the exchanged order, the least certain first.

    Args:
        share: the share of the rows to read; None goes on as long as a tenth of them gains enough.
        rows: the rows to choose from; rows without numbers are left out.
        first: log-probabilities of all rows with A shown first, shape (all rows, 3).
        second: the same of the exchanged order, mapped back; the caller fills in each part before it asks for the next.
    """
    uncertain = rows[np.argsort(-entropy(probabilities(first[rows])), kind="stable")]
    uncertain = uncertain[~unread(first[uncertain])]
    if share is not None:
        yield "swap", uncertain[: round(share * len(uncertain))]
        return
    for step, part in enumerate(np.array_split(uncertain, AUTO_SWAP_STEPS)):
        yield f"swap{step}", part
        both = mean_of_read(probabilities(first[part]), probabilities(second[part]))
        gain = float(divergence(both, probabilities(first[part])).mean()) if len(part) else 0.0
        if gain < AUTO_SWAP_GAIN:
            return


@dataclass(frozen=True)
class Budgets:
    """How the prompts of a table can be built.

    Attributes:
        full: the budget of the run, in tokens.
        least: the smallest budget that the template allows.
        work: computes what prompts cost the model.
        prepare_seconds: how long it took to build all prompts.
        rebuild: returns the prompts of some rows, a mask of shape (rows,), with another budget; raises DeadlinePassed.
    """

    full: int
    least: int
    work: Work
    prepare_seconds: float
    rebuild: Callable[[int, NDArray[np.bool_]], Prepared]


class Reading:
    """Reads the prompts of a table through a pool, in shards, and collects their log-probabilities by row.

    Attributes:
        first, second: as in `judge.predictions.predictions.Predictions`.
        tried: whether a row's first, and exchanged, order has been read or failed, shape (rows, 2).
        asked: rows whose exchanged order the swap policy has asked for, shape (rows,).
        budgets: the budget that each row's first order was read with, shape (rows,).
        reader: has the seconds and the tokens of the reading in this session.
        failed: how the engine failed for good, if it did after it had read something before a deadline.
    """

    def __init__(
        self,
        pool: Pool,
        prepared: Prepared,
        run: RunFolder,
        shard_tokens: int,
        progress: Progress,
        deadline: Deadline,
        budgets: Budgets,
    ) -> None:
        """Take up what earlier sessions read."""
        self.prepared, self.run, self.shard_tokens, self.progress = prepared, run, shard_tokens, progress
        self.deadline, self.is_timed = deadline, deadline.at < math.inf
        self.tally = Tally(progress, deadline)
        self.reader, self.failed = ShardReader(pool, self.tally), ""
        lengths, count = prepared.rows["length"], len(prepared.rows)
        self.first, self.second = np.full((count, 3), np.nan), np.full((count, 3), np.nan)
        self.tried, self.asked = np.zeros((count, 2), dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        self.full_budget, self.budgets = budgets.full, np.full(count, budgets.full, dtype=np.int64)
        self._prepared_at, self._rebuild, self._numbers = {budgets.full: prepared}, budgets.rebuild, 0
        self._share: float | None = 0
        self._has_noted_lateness, stop_at = False, deadline.at - reserve(count)
        self._resume()
        slow = SLOW_TOKENS["cpu" if pool.config.device == "cpu" else "cuda"]
        typical = lengths[:1] if count else np.ones(1, dtype=np.int32)
        self.pacer = Pacer(
            lengths=lengths,
            work=budgets.work,
            budget=budgets.full,
            least=budgets.least,
            engines=pool.engines if self.is_timed else 1,
            stop_at=stop_at,
            # a resumed run did not build the prompts itself: estimate what that took
            prepare_seconds=max(budgets.prepare_seconds, PREPARE_A_TOKEN * float(prepared.rows["tokens"].sum())),
            slow=slow * float(budgets.work(typical)[0]) / max(int(typical[0]), 1),
        )

    def _resume(self) -> None:
        """Take up whole shards of earlier sessions, row by row; a full prompt counts more than one cut to less."""
        smaller: list[tuple[int, Shard, Float]] = []
        for group, number, shard, logprobs in self.run.shards():
            budget = self.full_budget
            if group.startswith("late"):
                self._numbers, budget = max(self._numbers, number + 1), int(group.removeprefix("late"))
            if budget != self.full_budget:
                smaller.append((budget, shard, logprobs))
            elif group != "probe":
                self._know(shard, logprobs, budget)
        for budget, shard, logprobs in smaller if self.is_timed else []:
            if budget not in self._prepared_at:
                try:
                    self._prepared_at[budget] = self._rebuild(budget, np.zeros(len(self.tried), dtype=np.bool_))
                except DeadlinePassed:
                    continue
            has_prompt = self._prepared_at[budget].lengths[shard.rows] > 0
            self._know_new(shard, logprobs, budget, has_prompt & ~self.tried[shard.rows, 0])

    def _know(self, shard: Shard, logprobs: Float, budget: int) -> None:
        """Put a shard's log-probabilities where they belong."""
        first, exchanged = shard.rows[~shard.swapped], shard.rows[shard.swapped]
        self.first[first], self.second[exchanged] = logprobs[~shard.swapped], logprobs[shard.swapped][:, SWAPPED]
        self.tried[first, 0], self.tried[exchanged, 1], self.budgets[first] = True, True, budget

    def _know_new(self, shard: Shard, logprobs: Float, budget: int, new: NDArray[np.bool_]) -> None:
        self._know(Shard(shard.rows[new], shard.swapped[new], 0), logprobs[new], budget)

    def read_all(self, share: float | None) -> None:
        """Read the first order of all rows, then the exchanged order of those that the swap policy picks.

        With a deadline, what there was no time for stays unread, and so does what an engine left that failed for good.

        Args:
            share: the swap policy (see `judge.scoring.settings.swap_share`).

        Raises:
            JudgeError: the engines do not work.
        """
        if self.reader.pool.ready_at is None:
            self.progress.step("loading the model")
        try:
            self._read_orders(share)
        except DeadlinePassed:
            self.progress.note("deadline: the time for reading is up; the engines are stopped")
        except JudgeError as error:
            # an engine that does not start is to be put right, whatever an earlier session has read
            if not self.is_timed or not self.reader.tokens:
                raise
            self.failed = str(error)
            self.progress.warn(f"{error}; rows that were not read get the class priors")
        if share != 1:  # an earlier session may have read the exchanged order of other rows
            self.second[~self.asked] = np.nan

    def _read_orders(self, share: float | None) -> None:
        self._share = share
        rows = np.arange(len(self.tried))
        if share == 1 and not self.is_timed:  # a row's two orders share a prefix, which is read once
            self.asked[:] = True
            self._read_group("both", rows, [False, True])
        try:
            self._read_group("first", rows, [False])
        finally:
            if share != 0 and self._lacks_first_orders():
                for _, picked in self._picks(rows):
                    self.asked[picked] = True
                    break
        if share == 0 or self._lacks_first_orders():
            return
        for name, picked in self._picks(rows):
            self.asked[picked] = True
            self._read_group(name, picked, [True])
            if not self.tried[picked, 1].all():
                return

    def _picks(self, rows: Rows) -> Iterator[tuple[str, Rows]]:
        if self._share == 1 and not self.is_timed:  # those without a number in the first order too
            return iter([("swap", rows)])
        return rows_to_swap(self._share, rows, self.first, self.second)

    def _lacks_first_orders(self) -> bool:
        """Whether a first order was not read, or with fewer tokens: then no exchanged order is read."""
        return not self.tried[:, 0].all() or bool(self._changed().any())

    def _changed(self) -> NDArray[np.bool_]:
        """Return the rows whose prompt was cut more than the full budget asks for, shape (rows,)."""
        result = np.zeros(len(self.tried), dtype=np.bool_)
        full = self.prepared.rows
        for budget, prepared in self._prepared_at.items():
            if prepared is not self.prepared:
                cut = (prepared.rows["cut"] != full["cut"]).any(axis=1)
                cut |= prepared.rows["cut_turns"] != full["cut_turns"]
                result |= cut & self.tried[:, 0] & (self.budgets == budget)
        return result

    def _read_group(self, group: str, rows: Rows, orders: Sequence[bool]) -> None:
        """Read what is missing of some rows: planned shards as long as there is time, then what the time allows.

        Args:
            group: names the planned shards, which are the same in every session.
            rows: exchanged orders are read in this order near the deadline; the planned shards have the best order.
            orders: which orders of a row are read together.
        """
        self._count()
        if self.tried[rows][:, np.array(orders, dtype=np.int64)].all():
            return
        lengths = self.prepared.rows["length"]
        order = rows[reading_order(lengths[rows], self.prepared.rows["prompt_hash"][rows])]
        shards = make_shards(order, orders, lengths, self.shard_tokens)
        whole = {n: s for n, s in enumerate(shards) if not self.tried[s.rows, s.swapped.astype(np.int64)].any()}
        if len(orders) == 2:  # the rows of other shards have one order already: they are read as two groups
            waiting = np.concatenate([np.empty(0, dtype=np.int64), *(shard.rows for shard in whole.values())])
        else:
            waiting = rows if orders[0] else order
            waiting = waiting[~self.tried[waiting, int(orders[0])]]
        self._has_noted_lateness = False
        self.pacer.begin(waiting, list(whole.items()), self.shard_tokens, orders[0])
        while True:
            step, has_read = self._read_steps(group, whole)
            if isinstance(step, Prepare):
                self._prepare(step.budget)
            elif not has_read or not self.is_timed:  # a pacer with a deadline may wait for what is being read
                return

    def _next(self) -> Step:
        """Return the next step; note once in a group that not all of it will be read."""
        pacer, now = self.pacer, time.monotonic()
        if not self.is_timed:
            return pacer.next(now)
        rows, late = len(pacer.rows_left), -pacer.seconds_left_over(now)
        step = pacer.next(now)
        if not self._has_noted_lateness and late > 0 and pacer.own_shards and (pacer.swapped or pacer.last):
            self._has_noted_lateness = True
            what = "the exchanged order of the" if pacer.swapped else "the"
            first = "least certain" if pacer.swapped else "shortest"
            self._note(f"{what} {rows:,} rows left would end {duration(late)} late; the {first} are read first")
        return step

    def _note(self, text: str) -> None:
        rows = self.pacer.rows_left
        lengths, speed = self.prepared.lengths[rows], self.pacer.speed.value(time.monotonic())
        if speed is not None and len(rows):
            tokens = speed * float(lengths.sum()) / max(float(self.pacer.work(lengths).sum()), 1e-9)
            text = f"at {tokens:,.0f} tokens/s {text}"
        self.progress.note(f"deadline: {text}")

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

    def _read_steps(self, group: str, whole: Mapping[int, Shard]) -> tuple[Step, bool]:
        """Read what the pacer wants until it wants something else; return that, and whether anything was read."""
        pacer, steps = self.pacer, dict[int, tuple[Read, int]]()
        step: Step = None

        def jobs() -> Iterator[ShardJob]:
            nonlocal step
            while isinstance(step := self._next(), Read):
                steps[step.key] = step, pacer.budget_now
                if step.number is not None:
                    shard = whole[step.number]
                else:
                    tokens = int(pacer.lengths_now[step.rows].sum())
                    shard = Shard(step.rows.astype(np.int32), np.full(len(step.rows), pacer.swapped), tokens)
                load = partial(self._prepared_at[pacer.budget_now].prompts, shard)
                yield ShardJob(step.key, len(shard.rows), load, shard)

        def keep(key: int, shard: Shard, logprobs: Float) -> None:
            if self.is_timed:
                pacer.speed.begin(self.reader.since)
                pacer.finished(key, time.monotonic())
            self._keep(group, *steps[key], shard, logprobs)

        def moved(inside: Mapping[int, int]) -> None:
            pacer.speed.begin(self.reader.since)
            for key, prompts in inside.items():
                pacer.progress(key, prompts, time.monotonic())

        try:
            self.reader.read(jobs(), keep, pacer.stop_at, moved if self.is_timed else None)
        finally:
            if self.is_timed:
                pacer.speed.pause(time.monotonic())
        return step, bool(steps)

    def _keep(self, group: str, step: Read, budget: int, shard: Shard, logprobs: Float) -> None:
        """Take a shard's numbers and write it; those of a probe count only until its rows come again."""
        if step.probe:
            self._know_new(shard, logprobs, budget, ~self.tried[shard.rows, shard.swapped.astype(np.int64)])
        else:
            self._know(shard, logprobs, budget)
        self._count()
        if step.number is not None:
            self.run.write_shard(group, step.number, shard, logprobs)
        else:
            self.run.write_shard("probe" if step.probe else f"late{budget}", self._numbers, shard, logprobs)
            self._numbers += 1

    def _count(self) -> None:
        """Count what is planned and what is known."""
        lengths, first, second = self.pacer.lengths_now, self.tried[:, 0], self.tried[:, 1] & self.asked
        self.tally.all_prompts, self.tally.prompts = len(first) + int(self.asked.sum()), int(first.sum() + second.sum())
        self.tally.all_tokens = int(lengths.sum() + lengths[self.asked].sum())
        self.tally.tokens = int(lengths[first].sum() + lengths[second].sum())

    def result(self) -> tuple[Prepared, NDArray[np.uint32], int]:
        """Return the table with the counts of the prompts that were read, what was given up, the smallest budget."""
        rows, changed = self.prepared.rows.copy(), self._changed()
        flags = np.zeros(len(rows), dtype=np.uint32)
        for budget, prepared in self._prepared_at.items():
            chosen = changed & (self.budgets == budget)
            for name in ("length", "tokens", "cut", "cut_turns"):
                rows[name][chosen] = prepared.rows[name][chosen]
        flags[changed] |= np.uint32(Flag.SMALLER_BUDGET)
        flags[~self.tried[:, 0] & unread(self.second)] |= np.uint32(Flag.PRIOR)
        flags[self.asked & ~self.tried[:, 1]] |= np.uint32(Flag.SWAP_LEFT_OUT)
        smallest = int(self.budgets[changed].min()) if changed.any() else self.full_budget
        return replace(self.prepared, rows=rows), flags, smallest
