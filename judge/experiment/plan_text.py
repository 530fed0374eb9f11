"""What is said of an experiment before it runs: its arms, how they are compared, and what the rows can show."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from judge.errors import counted, printable
from judge.experiment.arm_figures import MEASURES
from judge.experiment.settings import ExperimentSettings
from judge.experiment.words import amount

WIDTH = 100


def plan_lines(settings: ExperimentSettings) -> Iterator[str]:
    """Yield what is known before the table is read: the arms and how they are compared."""
    yield line("arms", _listed([arm.name for arm in settings.arms]))
    yield line("baseline", printable(settings.baseline_name))
    yield line("metric", metric_text(settings))


def _listed(names: Sequence[str]) -> str:
    shown = "; ".join(printable(name) for name in names)
    return textwrap.shorten(f"{len(names)}: {shown}", WIDTH - 16, placeholder=" …")


def power_lines(settings: ExperimentSettings, rows: int, groups: int, smallest: float, spread: float) -> Iterator[str]:
    """Yield what the rows can show, before anything is read by a model.

    Args:
        settings: of the experiment.
        rows: how many every arm judges.
        groups: in how many prompt groups.
        smallest: the difference that is found at the power wanted; infinite where none is.
        spread: standard deviation of a row's paired difference that this assumes.
    """
    yield line("rows", f"{counted(rows, 'row')} in {counted(groups, 'prompt group')}, the same for every arm")
    assumed = f"{settings.power:.0%} power (assumed spread of a row's difference: {amount(spread, settings.metric)})"
    if math.isfinite(smallest):
        found = f"differences under {amount(smallest, settings.metric)} cannot be shown with {assumed}"
    else:
        found = f"no difference can be shown with {assumed}: too few prompt groups"
    margin = settings.smallest_that_matters
    if margin < smallest < math.inf:
        found += f"; that is more than the margin of {amount(margin, settings.metric)}, so give more rows if you can"
    yield from _wrapped("can show", found)


def metric_text(settings: ExperimentSettings) -> str:
    """Return what is measured, which way is better, and the margin."""
    measure, margin = MEASURES[settings.metric], amount(settings.smallest_that_matters, settings.metric)
    return f"{measure.name}, {measure.better} is better; differences within {margin} do not matter"


def line(name: str, content: str) -> str:
    """Return a line with a name in front, in columns."""
    return f"{name:16}{content}".rstrip()


def _wrapped(name: str, content: str) -> Iterator[str]:
    for part in textwrap.wrap(content, WIDTH - 16):
        yield line(name, part)
        name = ""
