"""An experiment in words: what it compares, what its rows can show, and the sentence about a difference."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from judge.errors import counted, printable
from judge.experiment.power import LEAST_GROUPS
from judge.experiment.settings import ExperimentSettings
from judge.stats.metrics import MEASURES, Metric
from judge.stats.resample import Estimate
from judge.stats.words import amount, amount_interval, p_text

Call = Literal["better", "worse", "equivalent", "undecided"]
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
        settings: of the experiment.
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


@dataclass(frozen=True)
class Claim:
    """What the sentence about a difference says.

    Attributes:
        arm: its name.
        baseline: name of the arm that it is compared with.
        metric: what is compared.
        estimate: arm minus baseline.
        call: which of the four it is.
        p_value: that the call rests on, corrected for the number of arms.
        arms: how many arms are compared with the baseline.
        margin: within which arms are equivalent.
        remarks: what else must be said, in the order of saying.
    """

    arm: str
    baseline: str
    metric: Metric
    estimate: Estimate
    call: Call
    p_value: float
    arms: int
    margin: float
    remarks: Sequence[str] = field(default=())


def sentence(claim: Claim) -> str:
    """Return one line: the call, the difference with its interval, the p-value, and the remarks."""
    metric, estimate, name = claim.metric, claim.estimate, MEASURES[claim.metric].name
    arm, baseline = printable(claim.arm), printable(claim.baseline)
    if math.isnan(estimate.value):
        return f"{name}: {arm} against {baseline} is undecided: no row has a score of both"
    p = p_text(claim.p_value) + (f" after correction for {claim.arms} arms" if claim.arms > 1 else "")
    if claim.call in ("better", "worse"):
        size = estimate.times(-1) if estimate.value < 0 else estimate
        text = f"{arm} is {claim.call} than {baseline} by {_with_interval(size, metric, '')}, {p}"
    elif claim.call == "equivalent":
        within = f"±{amount(claim.margin, metric)}"
        text = f"{arm} is equivalent to {baseline} within {within}: {_with_interval(estimate, metric, '+')}, {p}"
    else:
        text = f"{arm} against {baseline} is undecided: {_with_interval(estimate, metric, '+')}, {p}"
    return "; ".join([f"{name}: {text}", *claim.remarks])


def _with_interval(estimate: Estimate, metric: Metric, sign: str) -> str:
    """Return a difference with its unit, and its interval without one: `0.0123 nats (0.0012 to 0.0234)`."""
    ends = amount_interval(estimate, metric, sign)
    return amount(estimate.value, metric, sign) + (f" ({ends})" if ends else "")


def few_groups(groups: int) -> str:
    """Say that there are too few prompt groups."""
    verb = "is" if groups == 1 else "are"
    return f"{counted(groups, 'prompt group')} {verb} too few to decide, {LEAST_GROUPS} are needed"


def few_differ(differing: int, groups: int) -> str:
    """Say that nearly all differences are exactly 0."""
    return f"only {differing:,} of {counted(groups, 'prompt group')} differ, too few to say by how much others would"


def rows_to_decide(needed: int | None, as_seen: int | None, seeds: bool) -> str:
    """Say how many rows would decide it.

    Args:
        needed: whatever the true difference is; None if `MOST_ROWS` are not enough.
        as_seen: if the true difference is the one seen.
        seeds: whether the arms are trained with seeds.
    """
    if needed is None and as_seen is None:
        return "more rows alone would not decide it" + (", more training seeds might" if seeds else "")
    if needed is None:
        return f"about {_about(as_seen)} rows would decide it if the difference is the one seen"
    if as_seen is None or as_seen > 0.8 * needed:
        return f"about {_about(needed)} rows would decide it"
    return f"about {_about(needed)} rows would decide it, {_about(as_seen)} if the difference is the one seen"


def _about(rows: int | None) -> str:
    """Return a number rounded up to two digits."""
    if not rows:
        return "0"
    step: int = 10 ** max(len(str(rows)) - 2, 0)
    return f"{-(-rows // step) * step:,}"
