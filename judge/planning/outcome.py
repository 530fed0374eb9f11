"""One way to read a table, and what comes of it: the layout, and the seconds with their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from judge.models.arithmetic import ModelShape
from judge.planning.card_time import engine_model
from judge.planning.layout import Layout, Machine, lay_out
from judge.planning.lengths import PromptLengths
from judge.planning.published import Share, share_of_peak
from judge.planning.time_model import Estimate, TimeModel
from judge.scoring.settings import ScoreSettings

# A core's FLOP/s in float32 where nothing was measured: old and shared, usual, wide vector units.
CPU_FLOPS = (10e9, 50e9, 250e9)
# Bytes/s at which weights come from a disk, and the seconds in which an engine starts without them.
DISK_BYTES = (1.5e9, 0.4e9, 0.1e9)
START_SECONDS = (20.0, 40.0, 90.0)

Verdict = Literal["fits", "works", "may not fit", "does not fit", "cannot work"]
# With these, nothing needs to be changed.
GOOD: tuple[Verdict, ...] = ("fits", "works")


@dataclass(frozen=True)
class Case:
    """One way to read the table.

    Attributes:
        shape, config: the model.
        swap: shares of rows read in both orders: low, expected, high.
        measured: the machine's own time model, or None.
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
        load, read: seconds of loading the model and of reading the table; zero where it cannot work.
    """

    layout: Layout
    share: Share | None
    load: Estimate
    read: Estimate

    @property
    def works(self) -> bool:
        """Whether it can work at all."""
        return not self.layout.problems

    @property
    def total(self) -> Estimate:
        """Seconds from the start to the last row."""
        load, read = self.load, self.read
        return Estimate(load.low + read.low, load.value + read.value, load.high + read.high)


def verdict(outcome: Outcome, deadline: float | None) -> Verdict:
    """Return what an outcome means against a deadline, in seconds.

    `fits`: the whole range is within it; `may not fit`: the likely time is; `works`: there is no deadline.
    """
    if not outcome.works:
        return "cannot work"
    if deadline is None:
        return "works"
    if outcome.total.high <= deadline:
        return "fits"
    return "may not fit" if outcome.total.value <= deadline else "does not fit"


def evaluate(case: Case) -> Outcome:
    """Lay a case out and compute its times."""
    layout = lay_out(case.shape, case.config, case.machine, case.settings, case.lengths.budget)
    share = None if case.machine.card.is_cpu else share_of_peak(case.machine.card)
    nothing = Estimate(0.0, 0.0, 0.0)
    if layout.problems:
        return Outcome(layout, share, nothing, nothing)
    read = layout.engine.shape
    size = read.weight_bytes(4 if read.dtype == "float32" else 2)
    load = Estimate(*(start + size / disk for start, disk in zip(START_SECONDS, DISK_BYTES, strict=True)))
    return Outcome(layout, share, load, _reading(case, layout, share))


def _reading(case: Case, layout: Layout, share: Share | None) -> Estimate:
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
    return Estimate(*bounds)
