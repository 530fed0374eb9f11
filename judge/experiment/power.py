"""How large a difference so many rows can show, and how many rows a difference needs: before a run and after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from judge.experiment.settings import Metric
from judge.stats.resample import LEVEL

POWER = 0.8
# Fewer prompt groups than these say too little about their own spread to decide anything.
LEAST_GROUPS = 20
MOST_ROWS = 10_000_000

# What to expect before a run of the standard deviation of a row's paired difference. Measured: judges trained alike or
# the two orders of one judge against their mean, on 640 and 1,392 labelled rows, had 0.16 to 0.37 nats (log loss), 0.32
# to 0.48 (accuracy) and 0.09 to 0.25 (Brier score); two orders against each other had 0.54, 0.67 and 0.41.
SPREADS: dict[Metric, float] = {"log_loss": 0.3, "accuracy": 0.45, "brier": 0.2}
# And of the correlation of two rows of a prompt group. Measured in the same pairs: 0 to 0.15, mostly 0.05.
ALIKE = 0.1


@dataclass(frozen=True)
class Spread:
    """How far a mean difference may be from the true one: standard errors by where they come from.

    Attributes:
        groups: standard error that comes from the choice of prompt groups.
        group_count: how many groups there are; their error has a t distribution with one degree of freedom less.
        seeds: standard error that comes from the training seeds; 0 for arms that are not trained.
        seed_freedom: its degrees of freedom.
    """

    groups: float
    group_count: float
    seeds: float = 0.0
    seed_freedom: float = 1.0

    def quantile(self, tail: float) -> float:
        """Return the distance that the error exceeds in one direction with probability `tail`, below 0.5.

        The quantiles of the two parts are added as their errors are, in squares (W. G. Howe, Approximate confidence
        limits on the mean of X + Y where X and Y are two tabled independent random variables, 1974). A normal law for
        the sum, or Satterthwaite's degrees of freedom, would promise too much with two seeds.
        """
        return math.hypot(_t_quantile(self.groups, self.group_count - 1, tail), self.seeds_quantile(tail))

    def seeds_quantile(self, tail: float) -> float:
        """Return the part of `quantile` that comes from the seeds."""
        return _t_quantile(self.seeds, self.seed_freedom, tail)

    def tail(self, distance: float) -> float:
        """Return the probability that the error exceeds `distance` in one direction: the inverse of `quantile`."""
        from scipy.special import stdtr

        if distance < 0:
            return 1 - self.tail(-distance)
        if distance == 0:
            return 0.5
        if self.seeds == 0:
            return float(stdtr(self.group_count - 1, -distance / self.groups)) if self.groups else 0.0
        low, high = math.log(1e-15), math.log(0.5)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.quantile(math.exp(middle)) > distance else (low, middle)
        return math.exp(high)

    def grown(self, times: float) -> Spread:
        """Return the spread of so many times the rows, in groups of the same sizes, with the same seeds."""
        return replace(self, groups=self.groups / math.sqrt(times), group_count=self.group_count * times)


@dataclass(frozen=True)
class Demand:
    """What is asked of a test.

    Attributes:
        error: the rate of wrong calls over all arms, for example 0.05.
        power: how often a difference should be found.
        arms: how many arms are compared with the baseline; Holm's strictest level is `error / arms`.
    """

    error: float
    power: float
    arms: int

    def smallest(self, spread: Spread) -> float:
        """Return the smallest true difference that a two-sided test at Holm's strictest level finds so often."""
        return spread.quantile(self.error / self.arms / 2) + spread.quantile(1 - self.power)

    def decides(self, spread: Spread, margin: float, surely: bool = False) -> bool:
        """Return whether either a difference or equivalence is shown so often, whatever the true difference is.

        A difference is shown from `quantile(error / 2)` on, equivalence up to `margin - quantile(error)`. Between these
        lies what is undecided; the worst true difference lies in its middle.
        """
        level = self.error / self.arms
        gap = spread.quantile(level / 2) + spread.quantile(level) - margin
        return gap <= (0.0 if surely else 2 * spread.quantile(self.power / 2))

    def decides_at(self, spread: Spread, margin: float, difference: float) -> bool:
        """Return whether one of both is shown so often if the true difference is this one."""
        level = self.error / self.arms
        reach = spread.quantile(level) + spread.quantile(1 - self.power)
        return self.smallest(spread) <= abs(difference) or reach <= margin - abs(difference)


def _t_quantile(error: float, freedom: float, tail: float) -> float:
    from scipy.special import stdtrit

    return error * float(stdtrit(freedom, 1 - tail)) if error > 0 else 0.0


def assumed(groups: NDArray[np.integer], spread: float) -> Spread:
    """Return the spread that rows in these groups will have, shape (rows,), if a row's difference has this s.d.

    Rows of a group are taken to correlate by `ALIKE`; the variance of the mean grows by the design effect
    1 + ALIKE (m - 1), where m is the mean size of the group of a row (L. Kish, Survey Sampling, 1965, section 5.4).
    """
    sizes = np.unique(groups, return_counts=True)[1]
    rows = int(sizes.sum())
    effect = 1 + ALIKE * (float((sizes**2).sum()) / rows - 1)
    return Spread(spread * math.sqrt(effect / rows), len(sizes))


def smallest_difference(
    groups: NDArray[np.integer], spread: float, arms: int, level: float = LEVEL, power: float = POWER
) -> float:
    """Return the smallest true difference that these rows would show with probability `power`, known before the run.

    Args:
        groups: the key of each row's prompt group, shape (rows,).
        spread: standard deviation of a row's paired difference; see `SPREADS` for what to expect.
        arms: how many are compared with the baseline, which is not counted; Holm's strictest level is taken.
        level: 1 minus the rate of wrong calls over all arms.
        power: how often it should be shown.

    Returns:
        The difference in the metric's unit; infinite for a single group.
    """
    expected = assumed(groups, spread)
    return math.inf if expected.group_count < 2 else Demand(1 - level, power, arms).smallest(expected)


def rows_to_show(
    difference: float,
    groups: NDArray[np.integer],
    spread: float,
    arms: int,
    level: float = LEVEL,
    power: float = POWER,
) -> int | None:
    """Return how many rows, in groups of these sizes, show a true difference with probability `power`.

    Returns:
        At least the rows of `LEAST_GROUPS` groups; None where not even `MOST_ROWS` would. Arguments as
        `smallest_difference`'s.
    """
    expected, demand = assumed(groups, spread), Demand(1 - level, power, arms)
    return fewest_rows(lambda grown: demand.smallest(grown) <= abs(difference), expected, len(groups), 1)


def fewest_rows(enough: Callable[[Spread], bool], spread: Spread, rows: int, least: int) -> int | None:
    """Return the smallest number of rows whose spread is enough, at least `least`, or None if `MOST_ROWS` are not.

    Args:
        enough: whether a spread is; if one is, smaller ones are too.
        spread: that of so many `rows` as there are.
        rows: see `spread`.
        least: the smallest answer.
    """
    low = max(least, math.ceil(LEAST_GROUPS * rows / spread.group_count))
    high = MOST_ROWS
    if low > high or not enough(spread.grown(high / rows)):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(spread.grown(middle / rows)) else (middle + 1, high)
    return low
