"""One way to read a table and what comes of it: the layout, the seconds with their range, and what to change.

Every suggestion is a case with one change, computed like the case itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from judge.errors import counted
from judge.hardware.cards import CARDS
from judge.models.arithmetic import ModelShape
from judge.planning.card_time import Share, engine_model, share_of_peak
from judge.planning.layout import Layout, Machine, lay_out
from judge.planning.lengths import PromptLengths
from judge.planning.time_model import TimeModel, TimeRange
from judge.scoring.settings import ScoreSettings

# A core's FLOP/s in float32 where nothing was measured: old and shared, usual, wide vector units.
CPU_FLOPS = (10e9, 50e9, 250e9)
# Bytes/s at which weights come from a disk, and the seconds in which an engine starts without them.
DISK_BYTES = (1.5e9, 0.4e9, 0.1e9)
START_SECONDS = (20.0, 40.0, 90.0)

Forecast = Literal["fits", "works", "may not fit", "does not fit", "cannot work"]
# Forecasts that ask for no change.
GOOD: tuple[Forecast, ...] = ("fits", "works")

# `--swap=auto` reads at least a tenth of the rows in the other order, and at most all.
AUTO_SWAP = (0.1, 0.5, 1.0)
# Smaller budgets that are tried where the time is too short.
BUDGETS = (3072, 2048, 1536, 1024, 768, 512)
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
_KINDS = ("T4", "L4", "A10", "RTX 3090", "RTX 4090", "A100 40GB", "A100 80GB", "H100 SXM", "H200")
# Rows picked evenly by length take a little more than their share of the time, as the longest is among them.
_ROUNDED = (0.999, 0.99, 0.95, 0.9, 0.8)
# A change that saves less is not worth a line.
_FASTER = 0.95


@dataclass(frozen=True)
class Case:
    """One way to read the table.

    Attributes:
        shape, config: the model.
        swap: shares of rows read in both orders: low, expected, high.
        measured: what a rehearsal of this case measured, or None.
    """

    shape: ModelShape
    config: Mapping[str, Any]
    lengths: PromptLengths
    swap: tuple[float, float, float]
    machine: Machine
    settings: ScoreSettings
    measured: TimeModel | None = None


@dataclass(frozen=True)
class Outcome:
    """What comes of a case.

    Attributes:
        layout: see `judge.planning.layout`.
        share: of the card's peak, or None on a CPU.
        load, read: seconds of loading the model and of reading the table; zero if it cannot work.
    """

    layout: Layout
    share: Share | None
    load: TimeRange
    read: TimeRange

    @property
    def works(self) -> bool:
        """Whether it can work at all."""
        return not self.layout.problems

    @property
    def total(self) -> TimeRange:
        """Seconds from the start to the last row."""
        return self.load.plus(self.read)


def forecast(outcome: Outcome, deadline: float | None) -> Forecast:
    """Return what an outcome means for a deadline, in seconds, or for none.

    `fits`: the whole range of hours is within it; `may not fit`: the likely time is, the upper end is not; `works`:
    there is no deadline.
    """
    if not outcome.works:
        return "cannot work"
    if deadline is None:
        return "works"
    if outcome.total.high <= deadline:
        return "fits"
    return "may not fit" if outcome.total.value <= deadline else "does not fit"


def evaluate(case: Case) -> Outcome:
    """Return the layout of a case and its times."""
    layout = lay_out(case.shape, case.config, case.machine, case.settings, case.lengths.budget)
    share = None if case.machine.card.is_cpu else share_of_peak(case.machine.card)
    nothing = TimeRange(0.0, 0.0, 0.0)
    if layout.problems:
        return Outcome(layout, share, nothing, nothing)
    read = layout.engine.shape
    size = read.weight_bytes(4 if read.dtype == "float32" else 2)
    load = TimeRange(*(start + size / disk for start, disk in zip(START_SECONDS, DISK_BYTES, strict=True)))
    return Outcome(layout, share, load, _reading(case, layout, share))


def _reading(case: Case, layout: Layout, share: Share | None) -> TimeRange:
    """Return the seconds of reading all prompts: each bound with its own lengths, swaps and speed."""
    bounds = []
    for i in range(3):
        tokens = case.lengths.at(case.lengths.factors[i])
        twice = 1 + case.swap[i]
        totals = (float(case.shape.flops(tokens).sum()) * twice, len(tokens) * twice, float(tokens.sum()) * twice)
        if case.measured is not None:
            seconds = case.measured.seconds(*totals)
            bounds.append((seconds.low, seconds.value, seconds.high)[i])
        elif share is None:
            bounds.append(totals[0] / (CPU_FLOPS[2 - i] * max(case.machine.cores, 1)))
        else:
            reached = (share.high, share.value, share.low)[i]
            bounds.append(engine_model(layout.engine, reached).seconds(*totals).value / layout.workers)
    return TimeRange(*bounds)


@dataclass(frozen=True)
class Suggestion:
    """A change, and what comes of it."""

    change: str
    outcome: Outcome


# A change in words, and the case with it.
Changes = Iterator[tuple[str, Case]]


def suggestions(case: Case, outcome: Outcome, deadline: float | None) -> Iterator[Suggestion]:
    """Yield of each kind the gentlest change that makes a case work in time, else the best one that helps at all."""
    works = outcome.works
    for kind in (
        *(_orders(case), _weights(case, works), _settings(case, works), _budgets(case)),
        *(_rows(case, outcome, deadline), _counts(case), _cards(case)),
    ):
        best: Suggestion | None = None
        for change, other in kind:
            found = evaluate(other)
            if not found.works or (works and found.total.value > _FASTER * outcome.total.value):
                continue
            if best is None or found.total.value < best.outcome.total.value:
                best = Suggestion(change, found)
            if forecast(found, deadline) in GOOD:
                best = Suggestion(change, found)
                break
        if best is not None:
            yield best


def _orders(case: Case) -> Changes:
    if case.swap[2] > 0:
        yield "--swap=off", replace(case, swap=(0.0, 0.0, 0.0))


def _weights(case: Case, works: bool) -> Changes:
    if case.shape.bits >= 16 and not (case.machine.card.is_cpu and works):
        config = {**case.config, "quantization_config": _AWQ}
        packed = replace(case.shape, bits=4, group_size=128)
        changed = replace(case, shape=packed, config=config, measured=None)
        yield "quantise the weights to 4 bits (judge quantize)", changed


def _settings(case: Case, works: bool) -> Changes:
    options: list[tuple[str, Any]] = []
    if not works and not case.machine.card.is_cpu:
        options = [("dtype", "auto"), ("parallel", "auto"), ("dtype", "float32"), ("parallel", "tensor")]
        options += [("batch_tokens", 4096), ("batch_tokens", 2048)]
    elif case.machine.count > 1 and case.settings.parallel != "auto":
        options = [("parallel", "auto")]
    for name, value in options:
        if getattr(case.settings, name) != value:
            settings = case.settings.model_copy(update={name: value})
            yield f"--{name.replace('_', '-')}={value}", replace(case, settings=settings, measured=None)


def _budgets(case: Case) -> Changes:
    for budget in BUDGETS:
        if budget < case.lengths.budget:
            lengths = case.lengths.under(budget)
            cut = lengths.cut_rows / max(lengths.rows, 1)
            yield f"--max-tokens={budget} (cuts {cut:.0%} of the rows)", replace(case, lengths=lengths)


def _rows(case: Case, outcome: Outcome, deadline: float | None) -> Changes:
    """Yield the number of rows, picked evenly by length, that can be read in time even in the slowest case."""
    if not outcome.works or deadline is None:
        return
    left = (deadline - outcome.load.high) / outcome.read.high
    order = case.lengths.tokens.argsort(kind="stable")
    for part in _ROUNDED:
        rows = math.floor(case.lengths.rows * left * part)
        if 0 < rows < case.lengths.rows:
            pick = order[np.linspace(0, case.lengths.rows - 1, rows).astype(int)]
            some = replace(case.lengths, tokens=case.lengths.tokens[pick], whole=case.lengths.whole[pick])
            yield f"{counted(rows, 'row')} instead of {case.lengths.rows:,}", replace(case, lengths=some)


def _counts(case: Case) -> Changes:
    for count in (2, 4, 8):
        if not case.machine.card.is_cpu and count > case.machine.count:
            more = replace(case.machine, count=count)
            yield f"--gpu={count}x{case.machine.card.name}", replace(case, machine=more, measured=None)


def _cards(case: Case) -> Changes:
    """Yield other card models, the smallest first."""
    machine = case.machine
    for name in _KINDS:
        if name != machine.card.name:
            shown = f"{machine.count}x{name}" if machine.count > 1 else name
            shown = f"'{shown}'" if " " in shown else shown
            other = Machine(CARDS[name], machine.count)
            yield f"--gpu={shown}", replace(case, machine=other, measured=None)
