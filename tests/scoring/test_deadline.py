"""Deadlines: how they are written, and that decisions from the speed end in time, on a simulated clock."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.deadline import DeadlinePassed, parse_deadline, parse_duration, process_began, within
from judge.errors import JudgeError
from judge.runs.shards import make_shards, reading_order
from judge.scoring.pacing import LEAST_SHARE, SAFETY, Pacer, Prepare, Read, Rows
from judge.scoring.speed import Speed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h30m", 30_600),
        ("8h", 28_800),
        ("90m", 5_400),
        ("45s", 45),
        ("8.5h", 30_600),
        ("30600", 30_600),
        (" 1H 2m 3s ", 3_723),
        ("0.5", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "8h30", "30m8h", "-5", "1e3", "nan", "inf", "8:30", "9 hours", "1.2.3", "\x1b[2J"]
)
def test_what_is_no_duration_is_refused_in_one_safe_line(text: str) -> None:
    with pytest.raises(JudgeError, match="is no duration; expected a duration such as 8h30m") as error:
        parse_duration(text)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"), [("0", "no time at all"), ("0h0m", "no time at all"), ("9999999h", "a year")]
)
def test_no_time_and_endless_time_are_refused(text: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        parse_duration(text)


def test_a_duration_counts_from_the_start_of_the_process() -> None:
    now = time.monotonic()
    assert parse_deadline("1h", now - 600).at == pytest.approx(now + 3000, abs=1)
    with pytest.raises(JudgeError, match=r"--deadline=10m: has passed already \(50 s ago\)"):
        parse_deadline("10m", now - 650)
    began = process_began()
    assert now - 86_400 < began < now  # this test has not run for a day
    assert process_began() == pytest.approx(began, abs=0.1)


def test_a_clock_time_is_of_the_local_zone_unless_it_names_one() -> None:
    soon = datetime.now().astimezone() + timedelta(hours=2)
    for text in (soon.replace(tzinfo=None).isoformat(), soon.isoformat()):
        assert parse_deadline(text).left() == pytest.approx(7200, abs=2)
    east = (soon.replace(tzinfo=None)).isoformat() + "+14:00"
    offset = soon.utcoffset()
    assert offset is not None
    late = 7200 + offset.total_seconds() - 14 * 3600
    if late > 0:
        assert parse_deadline(east).left() == pytest.approx(late, abs=2)
    else:
        with pytest.raises(JudgeError, match="has passed already"):
            parse_deadline(east)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2020-01-01T08:00", r"has passed already \([\d,]+ days ago\)"),
        ("2026-13-01", "is no date and time"),
        ("soon", "or a time such as"),
    ],
)
def test_times_that_are_none_or_past_are_refused(text: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        parse_deadline(text)


def test_work_is_waited_for_until_the_time_is_up() -> None:
    now = time.monotonic()
    assert within(now + 60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(now + 60, lambda: 1 // 0)
    end = threading.Event()
    with pytest.raises(DeadlinePassed):
        within(time.monotonic() + 0.1, end.wait)
    end.set()
    assert 0.1 <= time.monotonic() - now < 30


def test_the_speed_is_recent_and_silence_lowers_it() -> None:
    speed = Speed()
    speed.begin(100)
    assert speed.value(100) is None
    for second in range(1, 101):
        speed.observe(100 + second, 10.0 * second)
    assert speed.value(200) == pytest.approx(10)
    speed.pause(200)
    assert speed.value(5000) == pytest.approx(10)  # nothing was read meanwhile
    speed.begin(5000)
    for second in range(1, 101):
        speed.observe(5000 + second, 1000 + 30.0 * second)
    assert speed.value(5100) == pytest.approx(30)
    value = speed.value(5200)
    assert value is not None
    assert value < 20


# The machine that is simulated: its own clock, engines that read one shard after the other, prompts one by one.


def linear(lengths: np.ndarray) -> np.ndarray:
    return lengths.astype(np.float64)


@dataclass
class Machine:
    """A machine that reads what a pacer says.

    Attributes:
        rate: tokens a second of each engine at a time.
        ahead: shards that its pool takes before one is read.
    """

    pacer: Pacer
    rate: Callable[[float], float]
    prepare_seconds: float
    ahead: int
    now: float = 0.0
    used: float = 0.0  # when the last shard was finished
    budgets: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)  # the budget that each row was read with
    swapped: set[int] = field(default_factory=set)
    steps: int = 0

    def read(self, swapped: bool) -> None:
        while self.now < self.pacer.stop_at:
            step = self.pacer.next(self.now)
            if step is None:
                return
            if isinstance(step, Prepare):
                self.now += self.prepare_seconds
                if self.now >= self.pacer.stop_at:  # it is broken off when the time is up (deadline.stopping)
                    self.now = self.pacer.stop_at
                    return
                self.budgets.append(step.budget)
                self.pacer.prepared(step.budget, np.minimum(self.pacer.lengths, step.budget))
            else:
                self._round(step, swapped)

    def _round(self, first: Read, swapped: bool) -> None:
        pacer, waiting, running = self.pacer, [first], list[tuple[float, int, Read, int]]()
        pacer.speed.begin(self.now)
        more = True
        while True:
            while more and len(waiting) < self.ahead + (pacer.engines - len(running)):
                step = pacer.next(self.now)
                more = isinstance(step, Read)
                waiting += [step] if isinstance(step, Read) else []
            while waiting and len(running) < pacer.engines:
                step, budget = waiting.pop(0), pacer.budget_now
                self.steps += 1
                tokens = int(np.minimum(pacer.lengths[step.rows], budget).sum())
                heapq.heappush(running, (self.now + tokens / self.rate(self.now), step.key, step, budget))
            if not running:
                break
            at, _, step, budget = heapq.heappop(running)
            if at > pacer.stop_at:  # the engines are stopped in the middle of it
                self.now = pacer.stop_at
                break
            self.now = self.used = at
            pacer.finished(step.key, at)
            self._keep(step, budget, swapped)
        pacer.speed.pause(self.now)

    def _keep(self, step: Read, budget: int, swapped: bool) -> None:
        if step.number is not None:
            self.whole.append(step.number)
        for row in step.rows.tolist():
            if swapped:
                self.swapped.add(row)
            elif not step.probe or row not in self.numbers:
                self.numbers[row] = budget


@dataclass
class Outcome:
    machine: Machine
    shards: int
    lengths: np.ndarray
    seconds: float
    budget: int

    @property
    def cut(self) -> int:
        return sum(self.lengths[row] > budget for row, budget in self.machine.numbers.items() if budget < self.budget)

    @property
    def priors(self) -> int:
        return len(self.lengths) - len(self.machine.numbers)


def simulate(
    lengths: np.ndarray,
    rate: Callable[[float], float],
    seconds: float,
    *,
    engines: int = 1,
    ahead: int = 0,
    prepare_seconds: float = 5.0,
    shard_tokens: int = 20_000,
    budget: int = 2048,
    swap: bool = True,
) -> Outcome:
    lengths = np.minimum(lengths, budget).astype(np.int32)
    pacer = Pacer(lengths, linear, budget, 64, engines, seconds, prepare_seconds, slow=100.0)
    machine = Machine(pacer, rate, prepare_seconds, ahead)
    order: Rows = reading_order(lengths, np.arange(len(lengths), dtype=np.uint64))
    shards = list(enumerate(make_shards(order, [False], lengths, shard_tokens)))
    pacer.begin(order, shards, shard_tokens, swapped=False)
    machine.read(swapped=False)
    outcome = Outcome(machine, len(shards), lengths, seconds, budget)
    if swap and not outcome.cut and not outcome.priors:
        pacer.begin(order[::-1], list(enumerate(make_shards(order, [True], lengths, shard_tokens))), shard_tokens, True)
        machine.read(swapped=True)
    return outcome


def table_of(rows: int, seed: int) -> np.ndarray:
    """Lengths like those of real tables: most around 600 tokens, a few of ten thousand."""
    return np.clip(np.random.default_rng(seed).lognormal(6.3, 0.8, rows), 60, 12_000)


Speeds = st.floats(50, 20_000)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 800),
    seed=st.integers(0, 1000),
    speed=Speeds,
    share=st.floats(0.01, 4),
    slow_from=st.floats(0, 1),
    factor=st.sampled_from([1.0, 3.0, 1 / 3]),
    engines=st.integers(1, 4),
    ahead=st.sampled_from([0, 1, 30]),
    swap=st.booleans(),
)
def test_at_any_speed_reading_ends_in_time_and_gives_up_in_the_order(
    rows: int,
    seed: int,
    speed: float,
    share: float,
    slow_from: float,
    factor: float,
    engines: int,
    ahead: int,
    swap: bool,
) -> None:
    lengths = table_of(rows, seed)
    seconds = share * float(np.minimum(lengths, 2048).sum()) / (speed * engines)

    def rate(now: float) -> float:
        return speed / factor if now > slow_from * seconds else speed

    outcome = simulate(lengths, rate, seconds, engines=engines, ahead=ahead, prepare_seconds=0.02 * seconds, swap=swap)
    machine = outcome.machine
    assert machine.now <= seconds
    # an exchanged order only where every first order was read with the full budget
    assert not machine.swapped or (outcome.priors == 0 and outcome.cut == 0)
    # never fewer tokens than the least
    assert all(budget >= 2048 * LEAST_SHARE for budget in machine.numbers.values())
    # rows are given up for good only when there is no time for the next one
    if outcome.priors:
        shortest = int(lengths[[row for row in range(rows) if row not in machine.numbers]].min())
        assert machine.now + SAFETY * shortest / rate(machine.now) * 3 * engines >= 0.9 * seconds


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(300, 800),
    seed=st.integers(0, 1000),
    speed=st.floats(500, 20_000),
    share=st.floats(0.4, 1.9),
    engines=st.integers(1, 2),
)
def test_at_an_even_speed_little_time_is_wasted(rows: int, seed: int, speed: float, share: float, engines: int) -> None:
    lengths = table_of(rows, seed)
    seconds = share * float(np.minimum(lengths, 2048).sum()) / (speed * engines)
    outcome = simulate(
        lengths, lambda _: speed, seconds, engines=engines, prepare_seconds=0.01 * seconds, shard_tokens=4000
    )
    given_up = outcome.priors or outcome.cut or len(outcome.machine.swapped) < rows
    assert given_up
    assert outcome.machine.used >= 0.75 * seconds
    if share >= 1.25:  # there was time for all first orders
        assert outcome.priors == outcome.cut == 0


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 800),
    seed=st.integers(0, 1000),
    speed=st.floats(200, 20_000),
    engines=st.integers(1, 4),
    ahead=st.sampled_from([0, 1, 30]),
)
def test_a_run_with_plenty_of_time_reads_the_planned_shards(
    rows: int, seed: int, speed: float, engines: int, ahead: int
) -> None:
    lengths = table_of(rows, seed)
    seconds = 10 * float(np.minimum(lengths, 2048).sum()) / speed + 10 * 20_000 / speed
    outcome = simulate(lengths, lambda _: speed, seconds, engines=engines, ahead=ahead, swap=False)
    assert sorted(outcome.machine.whole) == list(range(outcome.shards))
    assert outcome.priors == outcome.cut == 0
    assert outcome.machine.budgets == []


def test_the_slowest_third_of_a_run_costs_tokens_before_it_costs_rows() -> None:
    lengths = table_of(5000, 1)
    seconds = 1.3 * float(np.minimum(lengths, 2048).sum()) / 5000
    slowed = simulate(lengths, lambda now: 5000.0 if now < 0.4 * seconds else 5000 / 3, seconds, swap=False)
    assert slowed.cut > 0
    assert slowed.machine.used > 0.95 * seconds
    # with the budget of the end from the start, all rows would have been read: what is lost is what nobody foresaw
    assert slowed.priors < 0.3 * len(lengths)
