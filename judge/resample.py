"""Intervals by resampling whole groups of rows.

Rows with the same prompt are not independent: a judge that misreads a question misreads all its rows. An interval
that resamples rows is then too narrow, so groups are resampled (the cluster bootstrap: A. C. Davison and
D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError

Float = NDArray[np.float64]
Statistic = Callable[[Float, Float], Float]

RESAMPLES = 2000
MOST_RESAMPLES = 100_000
LEVEL = 0.95
# In simulations of skewed, clustered losses the 95% interval holds the truth in about 94% from 50 groups on, and in
# 87% at 20 (the BCa method does no better there).
FEW_GROUPS = 50
# More groups than these are drawn in blocks.
MOST_BLOCKS = 4096
_DRAWN_AT_ONCE = 1 << 16
# No group comes up so often in a resample: it would be a chance of 1 in 10^30 for each.
_MOST_TIMES = 32


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `low` and `high` are None where a single group leaves nothing to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Undefined:
    """A figure that these rows do not have; the reason is for the user."""

    reason: str


def means(totals: Float, counts: Float) -> Float:
    """Return the mean of each column over rows: shape (columns, resamples) for totals of that shape."""
    result: Float = totals / counts
    return result


def check_resampling(resamples: int, seed: int) -> None:
    """Check the settings of a bootstrap.

    Raises:
        JudgeError: one is out of range.
    """
    if not 100 <= resamples <= MOST_RESAMPLES:
        raise JudgeError(f"--resamples={resamples}: expected 100 to {MOST_RESAMPLES:,}")
    if seed < 0:
        raise JudgeError(f"--seed={seed}: expected a number of 0 or more")


class Resampler:
    """The same resamples of prompt groups for every figure of the same rows (percentile bootstrap over groups).

    Groups are drawn with replacement, as many as there are; the number of rows varies between resamples, so a mean is
    a ratio of two sums. It agrees with `scipy.stats.bootstrap` (percentile, the same generator), but adds up how often
    each group was drawn instead of copying groups, and draws once for all figures.

    More than `MOST_BLOCKS` groups are first put together at random, by their keys, into so many blocks, which are
    drawn instead. Blocks are as independent as groups are, so an interval has the same width on average; its own
    random error grows by about a percent, and its cost no longer grows with the table.

    Args:
        groups: the key of each row's group, any integers, shape (rows,).
        resamples: how many; 2,000 leave about 2% of an interval's width to chance.
        seed: the same seed and rows give the same bytes, on any number of threads and in any order of the rows.
        level: how often the interval should hold the true figure.

    Raises:
        ValueError: no rows.
    """

    def __init__(
        self, groups: NDArray[np.integer], resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
    ) -> None:
        keys, number = np.unique(groups, return_inverse=True)
        if not len(keys):
            raise ValueError("there are no rows to resample")
        self.groups, self.level = len(keys), level
        if len(keys) > MOST_BLOCKS:
            number, keys = _blocks(keys)[number], np.arange(MOST_BLOCKS)
        self._blocks, self._number = len(keys), number
        self._times = _times_drawn(len(keys), resamples, np.random.default_rng(seed))

    def totals(self, values: NDArray[np.floating]) -> Float:
        """Return the sum of each column in each resample, shape (columns, resamples).

        Raises:
            ValueError: another number of rows than groups were given, or a value that is NaN or infinite.
        """
        return np.asarray(self._sums(self._checked(values)) @ self._times)

    def _checked(self, values: NDArray[np.floating]) -> Float:
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or len(table) != len(self._number):
            rows = np.shape(self._number)
            raise ValueError(f"expected values (rows, columns) and groups (rows,), found {table.shape}, {rows}")
        if not np.isfinite(table).all():
            raise ValueError("the values hold NaN or infinity")
        return table

    def _sums(self, table: Float) -> Float:
        """Return the sum of each column in each block, rounded so that sums of sums are exact, (columns, blocks)."""
        # Multiples of a power of two whose sums stay below 2^53 of them add up without rounding: a matrix product then
        # has the same bytes on any number of threads, and rows may come in any order.
        scale = 2.0 ** (50 - np.ceil(np.log2(np.abs(table).sum(axis=0).clip(1e-250) * _MOST_TIMES)))
        whole = np.rint(table * scale)
        sums = [np.bincount(self._number, weights=column, minlength=self._blocks) for column in whole.T]
        return np.asarray(np.stack(sums) / scale[:, np.newaxis])

    def estimate(self, values: NDArray[np.floating], statistic: Statistic = means) -> list[Estimate]:
        """Estimate figures of the rows and their intervals.

        Args:
            values: what is added up of each row, shape (rows, columns).
            statistic: from totals, shape (columns, resamples), and numbers of rows, shape (resamples,), to figures,
                shape (figures, resamples). The default gives the mean of each column. A figure may be NaN in
                resamples that lack the rows it is about, which are then left out of its interval.

        Returns:
            One estimate a figure. `low` and `high` are None where there is a single group, or where more than half of
            the resamples lack the rows that the figure is about.

        Raises:
            ValueError: see `totals`.
        """
        table = np.column_stack([self._checked(values), np.ones(len(self._number))])
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = table.sum(axis=0)[:, np.newaxis]
            points = statistic(whole[:-1], whole[-1])[:, 0]
            if self.groups < 2:
                return [Estimate(float(point), None, None) for point in points]
            drawn = self._sums(table) @ self._times
            figures = statistic(drawn[:-1], drawn[-1])
        return [self._interval(float(point), row) for point, row in zip(points, figures, strict=True)]

    def _interval(self, point: float, drawn: Float) -> Estimate:
        there = drawn[np.isfinite(drawn)]
        if len(there) < len(drawn) / 2:
            return Estimate(point, None, None)
        tail = (1 - self.level) / 2
        low, high = np.quantile(there, [tail, 1 - tail])
        return Estimate(point, float(low), float(high))


def group_bootstrap(
    values: NDArray[np.floating],
    groups: NDArray[np.integer],
    statistic: Statistic = means,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Estimate]:
    """Estimate figures of the rows and their intervals: `Resampler.estimate` for a single use.

    Raises:
        ValueError: no rows, shapes that do not belong together, or a value that is NaN or infinite.
    """
    return Resampler(groups, resamples, seed, level).estimate(values, statistic)


def _blocks(keys: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return a block's number for each of the sorted keys, shape (groups,); blocks have equally many groups."""
    # a fixed permutation, so that the blocks do not depend on the resampling's seed
    order = np.random.default_rng(0).permutation(len(keys))
    numbers: NDArray[np.integer] = order % MOST_BLOCKS
    return numbers


def _times_drawn(blocks: int, resamples: int, rng: np.random.Generator) -> Float:
    """Return how often each block is drawn in each resample, shape (blocks, resamples)."""
    times = np.empty((blocks, resamples))
    together = max(1, _DRAWN_AT_ONCE // blocks)
    for start in range(0, resamples, together):
        count = min(together, resamples - start)
        drawn = rng.integers(0, blocks, (count, blocks)) + blocks * np.arange(count)[:, np.newaxis]
        times[:, start : start + count] = np.bincount(drawn.ravel(), minlength=count * blocks).reshape(count, blocks).T
    return times
