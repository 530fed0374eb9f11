"""What a rehearsal found, what follows from it for the whole run, and both in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from judge.errors import counted, printable
from judge.hardware.machine import GIB
from judge.planning.forecast import AUTO_SWAP, BUDGETS
from judge.planning.rehearsal_rows import Chosen, Rows
from judge.planning.time_model import Point, TimeModel, TimeRange
from judge.prompting.verdict import Float
from judge.runs.terminal import duration
from judge.tables.comparison import RowId

# How well loading, preparing and writing repeat.
_FIXED_SPREAD = 0.15
# Ids of failed rows that are named.
_SHOWN_ROWS = 5


@dataclass
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        rows, mean_tokens, longest_tokens: of the whole table under the budget.
        chosen: the rows that were read.
        failed: rows that came out as NaN, from 0.
        memory: bytes of each engine (see `judge.engine.worker.memory_in_use`).
        free_before: bytes of memory that were free before.
        prepare_seconds, load_seconds: of the table and of the model, at the same time.
        setup_seconds: from the start until both were done, hashing included.
        write_seconds: for as many predictions as the table has rows.
        points: the timed parts of the sample, in the order in which they were read; the last repeats the first.
        engine_failures: engines that had to be replaced.
        notes: what was said of them.
        batch_tokens: most tokens in one step, at the start and in the end.
        model: fitted to `points`.
        ran_with: what `judge plan --rehearsal` compares: model, config_sha256, engines, dtype.
    """

    rows: int
    mean_tokens: float
    longest_tokens: int
    chosen: Chosen
    failed: list[int] = field(default_factory=list)
    memory: dict[int, dict[str, int]] = field(default_factory=dict)
    free_before: int | None = None
    prepare_seconds: float = 0.0
    load_seconds: float = 0.0
    setup_seconds: float = 0.0
    write_seconds: float = 0.0
    points: list[Point] = field(default_factory=list)
    engine_failures: int = 0
    notes: list[str] = field(default_factory=list)
    batch_tokens: tuple[int, int] = (0, 0)
    model: TimeModel | None = None
    ran_with: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens that all engines read together in a second, over the sample."""
        return sum(p.tokens for p in self.points) / sum(p.seconds for p in self.points)

    @property
    def read_rows(self) -> int:
        """Different rows that were read."""
        chosen = self.chosen
        return len({*chosen.longest.tolist(), *chosen.awkward_rows.tolist(), *np.concatenate(chosen.sample).tolist()})


@dataclass(frozen=True)
class Costs:
    """What predicts the time of the whole table.

    Attributes:
        lengths: tokens of each row's prompt, shape (rows,).
        flops: of prompts of given lengths.
        share: of the rows that are read in both orders; None: `--swap=auto`.
    """

    lengths: Rows
    flops: Callable[[Rows], Float]
    share: float | None


def reading_time(model: TimeModel, drift: float, costs: Costs) -> TimeRange:
    """Return how long reading all prompts takes, both orders of those rows that the swap policy picks.

    The range joins what the fit leaves open and `drift`, by how much the same rows took another time later on: parts
    that are minutes apart tell more of a machine's moods than those that follow each other.

    Args:
        drift: |log| of the ratio of two times of the same rows.
    """
    totals = [float(costs.flops(costs.lengths).sum()), len(costs.lengths), int(costs.lengths.sum())]
    shares = AUTO_SWAP if costs.share is None else (costs.share,) * 3
    low, value, high = (model.seconds(*(total * (1 + share) for total in totals)) for share in shares)

    def width(estimate: TimeRange, bound: float) -> float:
        fitted = abs(math.log(bound / estimate.value)) if estimate.value > 0 and bound > 0 else 0.0
        return math.exp(math.hypot(fitted, drift))

    return TimeRange(low.value / width(low, low.low), value.value, high.value * width(high, high.high))


def total_time(found: Rehearsal, costs: Costs) -> TimeRange:
    """Return how long the whole run takes: setting up, reading and writing."""
    assert found.model is not None, "the sample was read"
    reading = reading_time(found.model, drift_of(found.points), costs)
    fixed, spread = found.setup_seconds + found.write_seconds, 1 + _FIXED_SPREAD
    return reading.plus(TimeRange(fixed / spread, fixed, fixed * spread))


def drift_of(points: list[Point]) -> float:
    """Return |log| of the last part's time over that of the same rows before, 0 where none was repeated."""
    same = [p for p in points[:-1] if replace(p, seconds=points[-1].seconds) == points[-1]]
    return abs(math.log(points[-1].seconds / same[0].seconds)) if same else 0.0


def decide(found: Rehearsal, costs: Costs, budget: int, deadline: float | None) -> tuple[bool, str]:
    """Return whether a run fits, and the verdict in one line; without a deadline, any model that works fits.

    Args:
        budget: most tokens of a prompt.
        deadline: seconds that the run may take, None where it does not matter.
    """
    if len(found.failed) > found.read_rows / 2:
        rows = f"{len(found.failed):,} of {found.read_rows:,} rows"
        return False, f"does not work: {rows} came out as NaN; try another --dtype"
    total = total_time(found, costs)
    if deadline is None:
        return True, f"takes about {total}"
    if total.high <= deadline:
        spare = duration(deadline - total.high)
        return True, f"fits in {duration(deadline)} with at least {spare} to spare ({_expected(total)})"
    both = costs.share != 0
    fitting = None
    for most in ([budget] if both else []) + [smaller for smaller in BUDGETS if smaller < budget]:
        time = total_time(found, Costs(np.minimum(costs.lengths, most), costs.flops, 0.0))
        if time.high <= deadline:
            options = ["--swap=off"] * both + [f"--max-tokens={most}"] * (most < budget)
            fitting = " ".join(options), time
            break
    return False, too_long_line(total, deadline, fitting, budget > min(BUDGETS))


def _expected(total: TimeRange) -> str:
    return f"{duration(total.value)} expected, {duration(total.low)} to {duration(total.high)}"


def too_long_line(
    total: TimeRange, deadline: float, fitting: tuple[str, TimeRange] | None, smaller_budgets: bool = True
) -> str:
    """Return the verdict of a run that may not end in time.

    Args:
        fitting: options with which it would, and the time then.
        smaller_budgets: smaller budgets were tried.
    """
    word = "may not fit" if total.value <= deadline else "does not fit"
    if fitting:
        advice = f"{fitting[0]} takes {duration(fitting[1].value)}, at most {duration(fitting[1].high)}"
    else:
        tried = "no smaller budget of 512 tokens or more fits either: " if smaller_budgets else ""
        advice = f"{tried}take a smaller model or more cards"
    end = f"; or score with --deadline={_short(deadline)}, which gives up what there is no time for"
    return f"{word} in {duration(deadline)} ({_expected(total)}): {advice}{end}"


def _short(seconds: float) -> str:
    minutes = int(seconds / 60 + 0.01)
    if minutes < 1:
        return f"{seconds:.0f}s"
    hours, rest = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{rest}m" if rest or not hours else "")


def lines(
    found: Rehearsal, total: TimeRange, reading: TimeRange, ids: Sequence[RowId], gpus: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the figures of a rehearsal, each with its label.

    Args:
        total, reading: predicted seconds of the whole run, and of the reading of all prompts.
        ids: of the table's rows, in order.
        gpus: names of the cards, empty on a CPU.
    """
    chosen = found.chosen
    whole = "all rows" if chosen.whole else f"{sum(map(len, chosen.sample)):,} random rows"
    kinds = ", ".join(f"{len(rows)} {kind}" for kind, rows in chosen.awkward.items())
    mean, longest = found.mean_tokens, found.longest_tokens
    yield "table", f"{counted(found.rows, 'row')}, {mean:,.0f} tokens on average, longest {longest:,}"
    yield "read", f"the {len(chosen.longest):,} longest, {whole}" + (f"; {kinds}" if kinds else "")
    yield from (("memory", text) for text in _memory_texts(found, gpus))
    started, ended = found.batch_tokens
    if ended < started:
        yield "batch", f"{started:,} tokens were too many for the memory; {ended:,} worked: --batch-tokens={ended}"
    if found.failed:
        shown = ", ".join(printable(str(ids[row]), 40) for row in found.failed[:_SHOWN_ROWS])
        more = f" and {len(found.failed) - _SHOWN_ROWS:,} more" if len(found.failed) > _SHOWN_ROWS else ""
        rows = counted(len(found.failed), "row")
        yield "failed", f"{rows} came out as NaN; they would get 1/3 and a flag (id {shown}{more})"
    else:
        yield "failed", "none"
    yield "speed", f"{found.tokens_per_second:,.0f} tokens/s"
    model, table = duration(found.load_seconds), duration(found.prepare_seconds)
    yield "loading", f"{model} the model, {table} the table, together {duration(found.setup_seconds)}"
    yield "reading", str(reading)
    yield "writing", duration(found.write_seconds)
    yield "total", str(total)


def _memory_texts(found: Rehearsal, gpus: Sequence[str]) -> Iterator[str]:
    """Yield the peak memory of each engine process, and of the card that it is on."""
    for number, memory in sorted(found.memory.items()):
        name = f"engine {number + 1}: " if len(found.memory) > 1 else ""
        parts = []
        if "total" in memory:
            card = f" ({gpus[number]})" if number < len(gpus) else ""
            parts.append(
                f"{memory['device'] / GIB:.1f} GiB held on the card, "
                f"{memory['used'] / GIB:.1f} of {memory['total'] / GIB:.1f} GiB of it taken{card}"
            )
        if "host" in memory:
            free = f" ({found.free_before / GIB:.1f} GiB were free)" if found.free_before and not parts else ""
            parts.append(f"{memory['host'] / GIB:.1f} GiB of the machine's memory at most{free}")
        yield name + "; ".join(parts)
