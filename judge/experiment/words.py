"""A difference between an arm and the baseline in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from judge.errors import counted, printable
from judge.evaluation.compare import p_text
from judge.experiment.power import LEAST_GROUPS
from judge.experiment.settings import Metric
from judge.stats.resample import Estimate

Call = Literal["better", "worse", "equivalent", "undecided"]
_NAMES: dict[Metric, str] = {"log_loss": "log loss", "accuracy": "accuracy", "brier": "Brier score"}
_UNITS: dict[Metric, str] = {"log_loss": " nats", "accuracy": " points", "brier": ""}


@dataclass(frozen=True)
class Finding:
    """What there is to say.

    Attributes:
        arm: its name.
        baseline: name of the arm that it is compared with.
        metric: what is compared.
        estimate: arm minus baseline.
        call: what was found.
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


def sentence(found: Finding) -> str:
    """Return one line: the call, the difference with its interval, the p-value, and the remarks."""
    metric, value = found.metric, found.estimate.value
    arm, baseline = printable(found.arm), printable(found.baseline)
    if math.isnan(value):
        return f"{_NAMES[metric]}: {arm} against {baseline} is undecided: no row has a score of both"
    p = p_text(found.p_value) + (f" after correction for {found.arms} arms" if found.arms > 1 else "")
    if found.call in ("better", "worse"):
        low, high = found.estimate.low, found.estimate.high
        size = Estimate(value, low, high)
        if value < 0 and low is not None and high is not None:
            size = Estimate(-value, -high, -low)
        text = (
            f"{arm} is {found.call} than {baseline} by {amount(abs(value), metric)}{_interval(size, metric, '')}, {p}"
        )
    elif found.call == "equivalent":
        within = f"±{amount(found.margin, metric)}"
        text = f"{arm} is equivalent to {baseline} within {within}: {_signed(found.estimate, metric)}, {p}"
    else:
        text = f"{arm} against {baseline} is undecided: {_signed(found.estimate, metric)}, {p}"
    return "; ".join([f"{_NAMES[metric]}: {text}", *found.remarks])


def amount(value: float, metric: Metric, sign: str = "") -> str:
    """Return a difference with its unit: `0.0123 nats`, `1.2 points` or `0.0123`; `sign` may be `+`."""
    return _number(value, metric, sign) + _UNITS[metric]


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


def _number(value: float, metric: Metric, sign: str = "") -> str:
    number = f"{value * 100:{sign}.1f}" if metric == "accuracy" else f"{value:{sign}.4f}"
    return number.replace("-", "+") if sign and not float(number) else number  # no -0.0000


def _signed(estimate: Estimate, metric: Metric) -> str:
    return amount(estimate.value, metric, "+") + _interval(estimate, metric, "+")


def _interval(estimate: Estimate, metric: Metric, sign: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({_number(estimate.low, metric, sign)} to {_number(estimate.high, metric, sign)})"
