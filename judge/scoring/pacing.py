"""What a run reads next, decided from its deadline and its own speed. It has no clock and no engine.

A run gives things up in this order: the exchanged order of rows; then tokens of the rows left (a smaller budget); then
rows (it reads the shortest first, so that most get numbers). The reading asks `next` for the next step, reports
`progress` and `finished`, and passes the time in; so the same decisions run against a real engine and in a simulation.
Work is what a prompt costs, in FLOPs or tokens; all times are seconds on the clock of time.monotonic().

A run without a deadline has its deadline at infinity: it reads whole shards in their order, then what is left over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from judge.runs.shards import Shard
from judge.scoring.speed import Speed

Work = Callable[[NDArray[np.int32]], NDArray[np.float64]]
Rows = NDArray[np.int64]

# Every prediction of the time that is needed is multiplied by this.
SAFETY = 1.05
# Of the time left: what a smaller budget must fit into, so that it need not be made smaller again soon, and a larger.
FITS_WELL, FITS_EASILY = 0.95, 0.88
# Each smaller budget that is tried is this share of the one before; the last is an eighth of the first.
BUDGET_STEP, LEAST_SHARE = 0.8, 1 / 8
# Near the deadline a shard takes at most this share of the time left, or a second.
SHARD_SHARE, LEAST_SECONDS = 0.1, 1.0
# A whole shard is begun while the time left is this many times its own.
SHARD_ROOM = 3.0
# Until the speed is known: a part of a shard, again and again for this share of the time left, ten seconds at most.
PROBE_PART, PROBE_SHARE, PROBE_SECONDS = 32, 0.02, 10.0
# Nothing of the first order is given up before this share of the time for reading has shown how fast it goes: a slow
# start is no measure of hours.
DECIDE_SHARE = 0.05


@dataclass(frozen=True)
class Read:
    """Rows to read next, together.

    Attributes:
        key: names this step in `Pacer.progress` and `Pacer.finished`.
        rows: row numbers, in the order to read them in, shape (prompts,).
        number: the number of the whole shard that these rows are; None if the pacer cut them itself.
        probe: the rows are read to measure the speed, and come again in whole shards.
    """

    key: int
    rows: Rows
    number: int | None
    probe: bool = False


@dataclass(frozen=True)
class Prepare:
    """Build the prompts of the rows left again, with another budget."""

    budget: int


Step = Read | Prepare | None


@dataclass
class _InFlight:
    step: Read
    work: float
    done: float = 0.0


@dataclass
class Pacer:
    """Decides what a run reads next so that it ends in time.

    Attributes:
        lengths: tokens of each row's prompt at the full budget, shape (rows,).
        work: returns what prompts of given lengths cost.
        budget: the full budget.
        least: the smallest budget that the template allows.
        engines: how many shards are read at a time.
        stop_at: when reading must have ended; infinity without a deadline.
        prepare_seconds: what building the prompts of all rows again takes.
        slow: a speed that any engine reaches, used until the first shard shows the real one.
        budget_now: the budget of the rows left.
        lengths_now: tokens of each row's prompt at the budget that it is or was read with, shape (rows,).
        last: the shortest rows are read first, because not all can be.
        swapped: the rows are read in the exchanged order.
        own_shards: the time for whole shards is over: shards are cut as the time allows.
    """

    lengths: NDArray[np.int32]
    work: Work
    budget: int
    least: int
    engines: int
    stop_at: float
    prepare_seconds: float
    slow: float
    budget_now: int = 0
    last: bool = False
    own_shards: bool = False
    speed: Speed = field(init=False)

    def __post_init__(self) -> None:
        self.budget_now, self.speed = self.budget, Speed(self.engines)
        self.lengths_now = self.lengths.copy()
        self._flying: dict[int, _InFlight] = {}
        self._done_work, self._keys = 0.0, 0
        self._order: Rows = np.empty(0, dtype=np.int64)
        self._whole: list[tuple[int, Shard]] = []
        self._shard_tokens = 0
        self.swapped = self._seen_whole = False
        self._left = np.zeros(len(self.lengths), dtype=np.bool_)
        self._probed = np.zeros(len(self.lengths), dtype=np.bool_)

    def begin(self, order: Rows, whole: Sequence[tuple[int, Shard]], shard_tokens: int, swapped: bool) -> None:
        """Take up rows to read: the first order of all, or the exchanged order of some.

        Args:
            order: the rows that are not read yet, in the order in which they are read near the deadline.
            whole: number and content of those planned shards of which nothing is read yet.
            shard_tokens: most tokens of a shard, if it has more than one row.
            swapped: these rows are read in the exchanged order, which is given up rather than cut.
        """
        self._order, self._whole, self._shard_tokens, self.swapped = order, list(whole), shard_tokens, swapped
        self._left[:] = False
        self._left[order] = True
        self._probed[:] = False

    @property
    def rows_left(self) -> Rows:
        """The rows that are neither read nor being read, in their order."""
        return self._order[self._left[self._order]]

    def seconds(self, work: float, now: float) -> float:
        """Return how long so much work takes all engines together, carefully."""
        speed = self.speed.value(now) or self.slow * self.engines
        return SAFETY * work / max(speed, 1e-9)

    def seconds_left_over(self, now: float, budget: int | None = None) -> float:
        """Return how much earlier than it must the reading of all rows left ends; negative: later.

        Args:
            budget: with which they would be read; the present one if None.
        """
        rows = self.rows_left
        lengths = self.lengths_now[rows] if budget is None else np.minimum(self.lengths[rows], budget)
        flying = sum(f.work - f.done for f in self._flying.values() if not f.step.probe)
        again = 0.0 if budget is None or budget == self.budget else self._preparing(len(rows))
        return self.stop_at - now - again - self.seconds(float(self.work(lengths).sum()) + flying, now)

    def _preparing(self, rows: int) -> float:
        return self.prepare_seconds * (0.3 + 0.7 * rows / max(len(self.lengths), 1))

    def next(self, now: float) -> Step:
        """Return what to do next, or None: wait for what is being read, or end if nothing is."""
        if not self._left.any() or now >= self.stop_at:
            return None
        if self.stop_at == math.inf:
            return self._next_whole() if self._whole else self._own_shard(now)
        if self._too_much_waits(now):
            return None
        if self._must_probe(now):
            return self._probe()
        if not self.own_shards and self._whole:
            if self._whole_shard_fits(now):
                return self._next_whole()
            self.own_shards = True
        self._left &= ~self._probed  # no whole shard comes again: what was read of them to know the speed counts
        if not self._left.any():
            return None
        if not self.swapped and self._knows_enough(now):
            change = self._other_budget(now)
            if change is not None:
                return change
        return self._own_shard(now)

    def _too_much_waits(self, now: float) -> bool:
        """Whether the pool has taken so much ahead that no more should wait in it, where nothing can be changed."""
        if len(self._flying) < self.engines:
            return False
        if self.speed.value(now) is None:
            return True
        waiting = sum(f.work - f.done for f in self._flying.values())
        return len(self._flying) > self.engines and self.seconds(waiting, now) > SHARD_SHARE * (self.stop_at - now)

    def _knows_enough(self, now: float) -> bool:
        busy = self.speed.busy(now)
        return busy >= DECIDE_SHARE * (busy + self.stop_at - now)

    def _must_probe(self, now: float) -> bool:
        if self.own_shards or not self._whole:
            return False
        left, shard = self.stop_at - now, self._whole[0][1]
        if self.speed.value(now) is None:
            slow = float(self.work(self.lengths_now[shard.rows]).sum()) / self.slow
            return slow > SHARD_SHARE * left and not self._probed[self._order].all()
        enough = self.speed.points >= 2 and self.speed.busy(now) >= min(PROBE_SHARE * left, PROBE_SECONDS)
        return not enough and not self._seen_whole and not self._probed[self._order].all()

    def _probe(self) -> Step:
        waiting = self._order[~self._probed[self._order]]
        rows = self._first_rows(waiting, max(self._shard_tokens // PROBE_PART, 1))
        self._probed[rows] = True
        return self._give(rows, None, probe=True)

    def _first_rows(self, rows: Rows, tokens: float) -> Rows:
        """Return as many of the first rows as have so many tokens together, at least one."""
        count = int(np.searchsorted(np.cumsum(self.lengths_now[rows]), tokens, side="right"))
        return rows[: max(count, 1)]

    def _whole_shard_fits(self, now: float) -> bool:
        if self.speed.value(now) is None:
            return True
        if self.seconds_left_over(now) < 0 and self._knows_enough(now):
            return False
        work = float(self.work(self.lengths_now[self._whole[0][1].rows]).sum())
        return SHARD_ROOM * self.engines * self.seconds(work, now) <= self.stop_at - now

    def _next_whole(self) -> Step:
        number, shard = self._whole.pop(0)
        rows = np.asarray(shard.rows, dtype=np.int64)
        return self._give(rows, number)

    def _budgets(self) -> list[int]:
        least = min(max(self.least, int(self.budget * LEAST_SHARE)), self.budget)
        steps, budget = [], float(self.budget)
        while budget > least:
            steps.append(int(budget))
            budget *= BUDGET_STEP
        return [*steps, least]

    def _other_budget(self, now: float) -> Step:
        """Return the step to a smaller budget if not all rows left fit, or to a larger if they easily do."""
        over, left = self.seconds_left_over(now), self.stop_at - now
        budgets = self._budgets()
        if over >= 0:
            self.last = False
            cut = (self.lengths[self.rows_left] > self.budget_now).any()
            for budget in [b for b in budgets if cut and b > self.budget_now]:
                if self.seconds_left_over(now, budget) >= (1 - FITS_EASILY) * left:
                    return Prepare(budget)
            return None
        longest = int(self.lengths_now[self.rows_left].max(initial=0))
        for budget in [b for b in budgets if b < min(self.budget_now, longest)]:
            if self.seconds_left_over(now, budget) >= (1 - FITS_WELL) * left:
                self.last = False
                return Prepare(budget)
        self.last = True
        least = budgets[-1]
        if least < min(self.budget_now, longest) and self._rows_that_fit(now, least) > 1.05 * self._rows_that_fit(now):
            return Prepare(least)
        return None

    def _rows_that_fit(self, now: float, budget: int | None = None) -> int:
        """Return how many of the rows left can be read, the shortest first."""
        rows = self.rows_left
        lengths = self.lengths_now[rows] if budget is None else np.minimum(self.lengths[rows], budget)
        time = self.stop_at - now - (0 if budget is None else self._preparing(len(rows)))
        speed = self.speed.value(now) or self.slow * self.engines
        work = np.cumsum(self.work(np.sort(lengths)))
        return int(np.searchsorted(SAFETY * work / max(speed, 1e-9), max(time, 0), side="right"))

    def prepared(self, budget: int, lengths: NDArray[np.int32]) -> None:
        """Take note that the prompts of the rows left have been built with this budget.

        Args:
            lengths: tokens of each row's prompt, shape (rows,); only those of the rows left matter.
        """
        self.budget_now = budget
        left = self._left
        self.lengths_now[left] = lengths[left]

    def _own_shard(self, now: float) -> Step:
        """Return a shard as large as the time left allows, None when not one more prompt can be read."""
        rows, left = self.rows_left, self.stop_at - now
        if self.last:
            rows = rows[np.argsort(self.lengths_now[rows], kind="stable")]
        speed = (self.speed.value(now) or self.slow * self.engines) / self.engines
        seconds = min(max(SHARD_SHARE * left, LEAST_SECONDS), left)
        each = self.work(self.lengths_now[rows])
        if SAFETY * each[0] / max(speed, 1e-9) > left:
            return None if self.swapped or self.last else self._give(rows[:1], None)
        within = int(np.searchsorted(np.cumsum(each), speed * seconds / SAFETY, side="right"))
        return self._give(self._first_rows(rows[: max(within, 1)], self._shard_tokens), None)

    def _give(self, rows: Rows, number: int | None, probe: bool = False) -> Read:
        self._keys += 1
        step = Read(self._keys, rows, number, probe)
        if not probe:
            self._left[rows] = False
        self._flying[step.key] = _InFlight(step, float(self.work(self.lengths_now[rows]).sum()))
        return step

    def progress(self, key: int, prompts: int, now: float) -> None:
        """Take note of how many prompts of a shard have been read so far."""
        shard = self._flying[key]
        shard.done = max(shard.done, shard.work * min(prompts / len(shard.step.rows), 1.0))
        self._observe(now)

    def finished(self, key: int, now: float) -> None:
        """Take note that a shard has been read."""
        shard = self._flying.pop(key)
        self._done_work += shard.work
        self._seen_whole |= not shard.step.probe  # which says more than any part
        self._observe(now)

    def _observe(self, now: float) -> None:
        # a shard without progress is half done on average; the engines are reading only the first ones of the queue
        running = list(self._flying.values())[: self.engines]
        self.speed.observe(now, self._done_work + sum(f.done or f.work / 2 for f in running))
