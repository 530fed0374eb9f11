"""Power: how small a difference the rows can show, and how many rows a difference needs, before a run and after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from judge.stats.metrics import Metric
from judge.stats.resample import CONFIDENCE, Estimate

POWER = 0.8
# With fewer prompt groups, the spread between groups is itself too uncertain to decide anything.
LEAST_GROUPS = 20
MOST_ROWS = 10_000_000

# The standard deviation of a row's paired difference that we assume before a run. We measured it on 640 and on 1,392
# labelled rows. Two judges trained alike, or one order of a judge against the mean of both orders: 0.16 to 0.37 nats
# (log loss), 0.32 to 0.48 (accuracy), 0.09 to 0.25 (Brier score). One order against the other: 0.54, 0.67 and 0.41.
SPREADS: dict[Metric, float] = {"log_loss": 0.3, "accuracy": 0.45, "brier": 0.2}
# The correlation of two rows of a prompt group that we assume. The same pairs of judges had 0 to 0.15, mostly 0.05.
ALIKE = 0.1


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean difference, in two parts: one from the prompt groups, one from the training seeds.

    Attributes:
        groups: the standard error because other prompt groups could have been drawn, in the metric's unit.
        group_count: number of prompt groups; the first part has a t distribution with `group_count - 1` degrees.
        seeds: the standard error because other training seeds could have been drawn; 0 for arms that are not trained.
        seed_freedom: degrees of freedom of the second part.
    """

    groups: float
    group_count: float
    seeds: float = 0.0
    seed_freedom: float = 1.0

    def quantile(self, tail: float) -> float:
        """Return the distance that the error exceeds in one direction with probability `tail`, below 0.5.

        Each part has its own t quantile; the square root of the sum of their squares is returned (W. G. Howe,
        Approximate confidence limits on the mean of X + Y where X and Y are two tabled independent random variables,
        1974). With two seeds, a normal law or Satterthwaite's degrees of freedom give intervals that are too narrow.
        """
        return math.hypot(_t_quantile(self.groups, self.group_count - 1, tail), self.seeds_quantile(tail))

    def seeds_quantile(self, tail: float) -> float:
        """Return the part of `quantile` that comes from the seeds."""
        return _t_quantile(self.seeds, self.seed_freedom, tail)

    @property
    def measured(self) -> bool:
        """Whether there are two groups, and two seeds where arms are trained: fewer have no spread."""
        return math.isfinite(self.groups) and math.isfinite(self.seeds)

    def widened(self, estimate: Estimate, level: float) -> Estimate:
        """Return an estimate over groups with an interval that holds the seeds' part too, or without an interval.

        Each side of the interval becomes the square root of the sum of two squares: its own width and
        `seeds_quantile`.
        """
        value, low, high = estimate.value, estimate.low, estimate.high
        if low is None or high is None or not self.measured:
            return Estimate(value, None, None)
        if not self.seeds:
            return estimate
        seeds = self.seeds_quantile((1 - level) / 2)
        return Estimate(value, value - math.hypot(value - low, seeds), value + math.hypot(high - value, seeds))

    def tail(self, distance: float) -> float:
        """Return the probability that the error exceeds `distance` in one direction: the inverse of `quantile`.

        With seeds the sum of two t distributions has no closed form, so the probability is found by bisection.
        """
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
        """Return the spread with `times` as many rows, in groups of the same sizes and with the same seeds."""
        return replace(self, groups=self.groups / math.sqrt(times), group_count=self.group_count * times)


@dataclass(frozen=True)
class Demand:
    """What the user asks of a test.

    Attributes:
        error: how often a call may be wrong, over all arms together, for example 0.05.
        power: how often the test should find a difference, for example 0.8.
        arms: how many arms are compared with the baseline. Holm's method tests the smallest p-value at `error / arms`;
            the methods below assume that level for every arm, which is on the safe side.
    """

    error: float
    power: float
    arms: int

    def smallest(self, spread: Spread) -> float:
        """Return the smallest true difference that a two-sided test finds with probability `power`."""
        return spread.quantile(self.error / self.arms / 2) + spread.quantile(1 - self.power)

    def decides(self, spread: Spread, margin: float, surely: bool = False) -> bool:
        """Return whether the test decides with probability `power`, whatever the true difference is.

        The test shows a difference where the mean reaches `quantile(level / 2)`, and equivalence where it is at most
        `margin - quantile(level)`. A mean in the gap between them leaves the call undecided. The true difference that
        is hardest to decide lies in the middle of the gap.

        Args:
            spread: of the mean difference.
            margin: of equivalence.
            surely: ask that there is no gap at all, instead of the power.
        """
        level = self.error / self.arms
        gap = spread.quantile(level / 2) + spread.quantile(level) - margin
        return gap <= (0.0 if surely else 2 * spread.quantile(self.power / 2))

    def decides_at(self, spread: Spread, margin: float, difference: float) -> bool:
        """Return whether the test decides with probability `power` if `difference` is the true difference."""
        level = self.error / self.arms
        reach = spread.quantile(level) + spread.quantile(1 - self.power)
        return self.smallest(spread) <= abs(difference) or reach <= margin - abs(difference)


def _t_quantile(error: float, freedom: float, tail: float) -> float:
    from scipy.special import stdtrit

    return error * float(stdtrit(freedom, 1 - tail)) if error > 0 else 0.0


def assumed(groups: NDArray[np.integer], spread: float) -> Spread:
    """Return the spread to expect before a run.

    Rows of one prompt group correlate, by `ALIKE`. So the variance of the mean grows by the design effect
    1 + ALIKE (m - 1), where m is the size of a row's group, averaged over rows (L. Kish, Survey Sampling, 1965,
    section 5.4).

    Args:
        groups: the key of each row's prompt group, shape (rows,).
        spread: standard deviation of a row's paired difference.
    """
    sizes = np.unique(groups, return_counts=True)[1]  # (groups,)
    rows = int(sizes.sum())
    effect = 1 + ALIKE * (float((sizes**2).sum()) / rows - 1)
    return Spread(spread * math.sqrt(effect / rows), len(sizes))


def smallest_difference(
    groups: NDArray[np.integer], spread: float, arms: int, level: float = CONFIDENCE, power: float = POWER
) -> float:
    """Return the smallest true difference that these rows would show with probability `power`, known before the run.

    Args:
        groups: the key of each row's prompt group, shape (rows,).
        spread: standard deviation of a row's paired difference; see `SPREADS` for what to expect.
        arms: how many arms are compared with the baseline, which is not counted.
        level: 1 minus the rate of wrong calls over all arms.
        power: how often the rows should show it.

    Returns:
        The difference in the metric's unit; infinite for a single group.
    """
    expected = assumed(groups, spread)
    return math.inf if expected.group_count < 2 else Demand(1 - level, power, arms).smallest(expected)


def fewest_rows(enough: Callable[[Spread], bool], spread: Spread, rows: int, least: int) -> int | None:
    """Return the smallest number of rows that is enough, or None if `MOST_ROWS` are not enough.

    Args:
        enough: says whether a spread is small enough; it must be so for every smaller spread too.
        spread: the spread of `rows` rows.
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
