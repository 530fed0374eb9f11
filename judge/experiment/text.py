"""An experiment in words: what it compares, and what its rows can show."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from judge.errors import counted, printable
from judge.experiment.settings import ExperimentSettings
from judge.stats.metrics import MEASURES
from judge.stats.words import amount

WIDTH = 100  # columns of a terminal


def plan_lines(settings: ExperimentSettings) -> Iterator[str]:
    """Yield what is known before the table is read: the arms and how they are compared."""
    names = "; ".join(printable(arm.name) for arm in settings.arms)
    yield line("arms", textwrap.shorten(f"{len(settings.arms)}: {names}", WIDTH - 16, placeholder=" …"))
    yield line("baseline", printable(settings.baseline_name))
    yield line("metric", metric_text(settings))


def power_lines(settings: ExperimentSettings, rows: int, groups: int, smallest: float, spread: float) -> Iterator[str]:
    """Yield what the rows can show, before a model reads anything.

    Args:
        rows: how many every arm judges.
        groups: in how many prompt groups.
        smallest: the difference that is found at the power wanted; infinite where the rows cannot show any.
        spread: standard deviation of a row's paired difference that this assumes.
    """
    yield line("rows", f"{counted(rows, 'row')} in {counted(groups, 'prompt group')}, the same for every arm")
    assumed = f"{settings.power:.0%} power (assumed spread of a row's difference: {amount(spread, settings.metric)})"
    if math.isfinite(smallest):
        content = f"differences under {amount(smallest, settings.metric)} cannot be shown with {assumed}"
    else:
        content = f"no difference can be shown with {assumed}: too few prompt groups"
    margin = settings.smallest_that_matters
    if margin < smallest < math.inf:
        content += f"; that is more than the margin of {amount(margin, settings.metric)}, so give more rows if you can"
    name = "can show"
    for part in textwrap.wrap(content, WIDTH - 16):
        yield line(name, part)
        name = ""


def metric_text(settings: ExperimentSettings) -> str:
    """Return what is measured, which way is better, and the margin."""
    measure, margin = MEASURES[settings.metric], amount(settings.smallest_that_matters, settings.metric)
    return f"{measure.name}, {measure.better} is better; differences within {margin} do not matter"


def rate(rows_per_second: float) -> str:
    """Return rows per second with the digits that mean something."""
    return f"{rows_per_second:,.0f}" if rows_per_second >= 100 else f"{rows_per_second:.3g}"


def line(name: str, content: str) -> str:
    """Return a line with a name in front, in columns."""
    return f"{name:16}{content}".rstrip()
