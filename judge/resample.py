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

Float = NDArray[np.float64]
Statistic = Callable[[Float, Float], Float]

RESAMPLES = 2000
LEVEL = 0.95
# In simulations of skewed, clustered losses the 95% interval holds the truth in about 94% from 50 groups on, and in
# 87% at 20 (the BCa method does no better there).
FEW_GROUPS = 50
_DRAWN_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `low` and `high` are None where a single group leaves nothing to resample."""

    value: float
    low: float | None
    high: float | None


def means(totals: Float, counts: Float) -> Float:
    """Return the mean of each column over rows: shape (columns, resamples) for totals of that shape."""
    result: Float = totals / counts
    return result


def group_sums(values: NDArray[np.floating], groups: NDArray[np.integer]) -> tuple[Float, Float]:
    """Return the sum of each column and the number of rows in every group, in the order of the groups' keys.

    Args:
        values: shape (rows, columns).
        groups: the key of each row's group, any integers, shape (rows,).

    Returns:
        The sums, shape (columns, groups), and the counts, shape (groups,).

    Raises:
        ValueError: no rows, shapes that do not belong together, or a value that is NaN or infinite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or np.shape(groups) != (len(table),):
        raise ValueError(f"expected values (rows, columns) and groups (rows,), found {table.shape}, {np.shape(groups)}")
    if not len(table):
        raise ValueError("there are no rows to resample")
    if not np.isfinite(table).all():
        raise ValueError("the values hold NaN or infinity")
    number = np.unique(groups, return_inverse=True)[1]
    sums: Float = np.stack([np.bincount(number, weights=column) for column in table.T]).astype(np.float64)
    return sums, np.bincount(number).astype(np.float64)


def group_bootstrap(
    values: NDArray[np.floating],
    groups: NDArray[np.integer],
    statistic: Statistic = means,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Estimate]:
    """Estimate figures of the rows and their intervals (percentile bootstrap over groups).

    Every figure is computed on the same resamples. Groups are drawn with replacement, as many as there are; the
    number of rows varies between resamples, so a mean is a ratio of two sums. It agrees with `scipy.stats.bootstrap`
    (percentile, the same generator), but adds up how often each group was drawn instead of copying groups: memory is
    a few numbers a group, and 2,000 resamples of 57,000 groups take about two seconds.

    Args:
        values: what is added up of each row, shape (rows, columns).
        groups: the key of each row's group, any integers, shape (rows,).
        statistic: from totals, shape (columns, resamples), and numbers of rows, shape (resamples,), to figures,
            shape (figures, resamples). The default gives the mean of each column.
        resamples: how many; 2,000 leave about 2% of an interval's width to chance.
        seed: the same seed and rows give the same bytes; the order of rows may change the last digit.
        level: how often the interval should hold the true figure.

    Returns:
        One estimate a figure.

    Raises:
        ValueError: see `group_sums`.
    """
    sums, counts = group_sums(values, groups)
    columns = np.vstack([sums, counts])
    whole = columns.sum(axis=1, keepdims=True)
    points = statistic(whole[:-1], whole[-1])[:, 0]
    if columns.shape[1] < 2:
        return [Estimate(float(point), None, None) for point in points]
    drawn = _resampled_totals(columns, resamples, np.random.default_rng(seed))
    tail = (1 - level) / 2
    low, high = np.quantile(statistic(drawn[:-1], drawn[-1]), [tail, 1 - tail], axis=1)
    return [Estimate(*map(float, numbers)) for numbers in zip(points, low, high, strict=True)]


def _resampled_totals(columns: Float, resamples: int, rng: np.random.Generator) -> Float:
    """Return the total of each column in each resample, shape (columns, resamples)."""
    groups = columns.shape[1]
    totals = np.empty((len(columns), resamples))
    together = max(1, _DRAWN_AT_ONCE // groups)
    for start in range(0, resamples, together):
        count = min(together, resamples - start)
        drawn = rng.integers(0, groups, (count, groups)) + groups * np.arange(count)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups)
        # not a matrix product: its last digit would depend on the number of threads
        totals[:, start : start + count] = (columns[:, np.newaxis] * times).sum(axis=2)
    return totals
