"""Racing: arms that are clearly worse than the baseline are dropped while rows still come in.

Looking after every batch and stopping at the first "p < 0.05" finds a difference between equal arms in a quarter of
the runs and more. A confidence sequence holds at all looks together, however many and whenever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.experiment.power import LEAST_GROUPS
from judge.experiment.settings import Metric
from judge.stats.resample import LEVEL, Estimate

# The share of the error rate that a race spends; the tests at its end have the rest, so that both together keep to it.
RACE_SHARE = 0.2
# The sequence is asymptotic: an arm that is mostly a little worse and rarely far better looks clearly worse until the
# first rare group comes. So no arm is dropped before so many groups,
FIRST_LOOK = 100
# and one more group is always counted, in which every row of the arm is better by this much (nats, or a right verdict).
UNSEEN = 1.0


@dataclass(frozen=True)
class Stopped:
    """What is known of an arm that a race has dropped, at the moment when it was.

    Attributes:
        rows: of the arm that counted.
        groups: their prompt groups.
        estimate: mean difference, arm minus baseline, and its interval of the confidence sequence. A race stops when a
            difference looks large, so the value is too far from 0 on average; the interval allows for that.
        p_value: always valid, one-sided.
    """

    rows: int
    groups: int
    estimate: Estimate
    p_value: float


class Race:
    """A sequential test of each arm against the baseline that keeps its error rate under peeking.

    It is the one-sided asymptotic confidence sequence of I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and
    A. Ramdas, Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 2024, on the
    sums of the groups' paired differences: groups must come in random order, each whole. The error rate is split evenly
    over arms. The mean of the sums over the mean size of a group is the mean difference of a row, the figure that is
    tested at the end.

    Args:
        arms: names of the arms beside the baseline.
        groups: how many prompt groups there are in all; the sequence is tightest in the middle of the race.
        metric: says which direction is worse.
        level: 1 minus the experiment's error rate, of which the race spends `RACE_SHARE`.
        first_look: groups before which no arm is dropped.
    """

    def __init__(
        self,
        arms: Sequence[str],
        groups: int,
        metric: Metric = "log_loss",
        level: float = LEVEL,
        first_look: int = FIRST_LOOK,
    ) -> None:
        self.arms, self.level, self.first_look = tuple(arms), level, first_look
        self.error = (1 - level) * RACE_SHARE / max(len(arms), 1)
        self._sign = -1.0 if metric == "accuracy" else 1.0
        self._rho2 = _best_rho2(self.error, max(groups / 2, first_look))
        self._seen: set[int] = set()
        # of each arm: groups, groups that differ, rows, sum of the groups' sums, sum of their squares
        self._sums = np.zeros((5, len(arms)))
        self._p = np.ones(len(arms))
        self.stopped: dict[str, Stopped] = {}

    def running(self) -> list[str]:
        """Return the arms that are not dropped."""
        return [arm for arm in self.arms if arm not in self.stopped]

    def worse(self, arm: str) -> bool:
        """Return whether the arm was found clearly worse than the baseline; it stays so."""
        return arm in self.stopped

    def update(self, differences: Mapping[str, NDArray[np.floating]], groups: NDArray[np.integer]) -> list[str]:
        """Add the rows of groups that were not seen before, and look.

        Args:
            differences: of each arm that is still running, arm minus baseline in the metric, shape (rows,). NaN where
                one of both could not be scored: such a row does not count.
            groups: the key of each row's prompt group, shape (rows,).

        Returns:
            The arms that are dropped now.

        Raises:
            ValueError: a group that was in an earlier update, or an arm that runs and is missing.
        """
        keys, number = np.unique(groups, return_inverse=True)
        if not self._seen.isdisjoint(keys.tolist()):
            raise ValueError("a prompt group came twice: a race needs whole groups")
        self._seen.update(keys.tolist())
        for i, arm in enumerate(self.arms):
            if arm not in self.stopped:
                values = self._sign * np.asarray(differences[arm], dtype=np.float64)
                there = np.isfinite(values)
                rows = np.bincount(number[there], minlength=len(keys))
                sums = np.bincount(number[there], weights=values[there], minlength=len(keys))
                of_groups = [(rows > 0).sum(), (sums != 0).sum(), rows.sum(), sums.sum(), (sums**2).sum()]
                self._sums[:, i] += of_groups
        return self._look()

    def p_value(self, arm: str) -> float:
        """Return the always-valid p-value that the arm is not worse: the smallest of all looks so far."""
        return float(self._p[self.arms.index(arm)])

    def _look(self) -> list[str]:
        dropped = []
        for i, arm in enumerate(self.arms):
            groups, differing, rows, total, squares = (float(value) for value in self._sums[:, i])
            if arm in self.stopped or groups < self.first_look or differing < LEAST_GROUPS:
                continue
            size = rows / groups
            self._p[i] = min(self._p[i], self._p_now(total - UNSEEN * size, squares + (UNSEEN * size) ** 2, groups + 1))
            if self._p[i] <= self.error:
                mean = total / groups
                deviation = math.sqrt(max(squares / groups - mean**2, 0.0))
                half = deviation * _two_sided(groups, self._rho2, 1 - self.level)
                scale = self._sign * groups / rows  # from sums of groups to rows
                low, high = sorted((scale * (mean - half), scale * (mean + half)))
                estimate = Estimate(scale * mean, low, high)
                self.stopped[arm] = Stopped(int(rows), int(groups), estimate, float(self._p[i]))
                dropped.append(arm)
        return dropped

    def _p_now(self, total: float, squares: float, count: float) -> float:
        """Return the smallest error rate at which the one-sided lower bound of the mean is over 0.

        The bound is mean - deviation sqrt(2 s / (n^2 rho^2) log(1 + sqrt(s) / (2 error))) with s = n rho^2 + 1.
        """
        if total <= 0:
            return 1.0
        spread = count * self._rho2 + 1
        variance = squares / count - (total / count) ** 2  # over 0: not all groups are alike
        exponent = total**2 / variance * self._rho2 / (2 * spread)
        return min(1.0, math.sqrt(spread) / 2 / math.expm1(min(exponent, 700.0)))


def _two_sided(count: float, rho2: float, error: float) -> float:
    """Return the half width of the two-sided confidence sequence in standard deviations: the paper's theorem 2.2."""
    spread = count * rho2 + 1
    return math.sqrt(2 * spread / (count**2 * rho2) * math.log(math.sqrt(spread) / error))


def _best_rho2(error: float, count: float) -> float:
    """Return the squared parameter that makes the one-sided sequence about tightest at this count (appendix B.2)."""
    doubled = -2 * math.log(2 * error)
    return (doubled + math.log(doubled) + 1) / count
