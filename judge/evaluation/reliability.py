"""Calibration of probabilities: reliability diagrams and calibration errors, with intervals that fit them.

A calibration error over bins adds up distances, so chance alone makes it larger than 0: of a judge that is calibrated
perfectly, and still more in a bootstrap of its rows. Hence the interval here is the basic one (reflected in the
figure, which takes off what resampling adds: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application,
1997, section 5.2), it reaches down to 0 unless chance explains the figure in fewer than 5% of cases, and the figure
that chance alone would give is shown beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.comparison import VERDICTS
from judge.evaluation.judged_rows import JudgedRows
from judge.metrics import BINS, bin_gaps, bin_numbers, hits
from judge.resample import Estimate, Float, Resampler, Undefined


@dataclass(frozen=True)
class Bin:
    """Rows whose probability of something lies in (low, high].

    Attributes:
        chance: their mean probability.
        right: how often it came true.
    """

    low: float
    high: float
    rows: int
    chance: float
    right: Estimate


@dataclass(frozen=True)
class Reliability:
    """How well one kind of probability is calibrated, over bins of equal width.

    Attributes:
        of: `top verdict`, or the verdict whose probability it is.
        bins: those that hold rows.
        error: the expected calibration error.
        by_chance: the error that perfectly calibrated probabilities would show on as many such rows, on average.
    """

    of: str
    bins: list[Bin]
    error: Estimate | Undefined
    by_chance: float | None


def reliabilities(rows: JudgedRows, resampler: Resampler) -> list[Reliability]:
    """Return the calibration of the most probable verdict, and of the probabilities of A, B and tie.

    The first's error is the top-label ECE (C. Guo et al., On calibration of modern neural networks, 2017); the mean of
    the other three is the class-wise ECE (M. Kull et al., Beyond temperature scaling, 2019).
    """
    p = rows.p / rows.p.sum(axis=1, keepdims=True)
    truth = np.eye(3)[rows.labels]
    found = [_reliability("top verdict", p.max(axis=1), hits(rows.p, rows.labels), resampler)]
    found += [_reliability(name, p[:, k], truth[:, k], resampler) for k, name in enumerate(VERDICTS)]
    return found


def _reliability(of: str, chance: Float, right: Float, resampler: Resampler) -> Reliability:
    number = bin_numbers(chance)
    bins = [_bin(k, chance, right, number == k, resampler) for k in np.unique(number)]
    if len(chance) < BINS:
        return Reliability(of, bins, Undefined(f"fewer rows ({len(chance)}) than bins ({BINS})"), None)
    return Reliability(of, bins, *calibration_error(chance, right, resampler))


def _bin(number: int, chance: Float, right: Float, inside: NDArray[np.bool_], resampler: Resampler) -> Bin:
    def share(totals: Float, _: Float) -> Float:
        return np.stack([totals[0] / totals[1]])

    (estimate,) = resampler.estimate(np.column_stack([right * inside, inside]), share)
    return Bin(number / BINS, (number + 1) / BINS, int(inside.sum()), float(chance[inside].mean()), estimate)


def calibration_error(chance: Float, right: Float, resampler: Resampler) -> tuple[Estimate, float | None]:
    """Return the calibration error of probabilities, and the one that chance alone would give on average.

    Args:
        chance: the predicted probability of something, shape (rows,).
        right: 1 where it came true, shape (rows,).
        resampler: of the same rows.
    """
    gaps = bin_gaps(chance, right)
    point = gaps.mean(axis=0)
    error = float(np.abs(point).sum())
    if resampler.groups < 2:
        return Estimate(error, None, None), None
    totals = resampler.totals(np.column_stack([gaps, np.ones(len(gaps))]))
    drawn = totals[:-1] / totals[-1]  # (bins, resamples)
    tail = (1 - resampler.level) / 2
    low, high = np.quantile(np.abs(drawn).sum(axis=0), [tail, 1 - tail])
    # resamples vary around the gaps that were found as those would around none, were the judge calibrated
    alone = np.abs(drawn - point[:, np.newaxis]).sum(axis=0)
    explained = error <= np.quantile(alone, resampler.level)
    lower = 0.0 if explained else max(0.0, 2 * error - float(high))
    return Estimate(error, lower, min(1.0, max(2 * error - float(low), error))), float(alone.mean())
