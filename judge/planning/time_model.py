"""How long a run takes: seconds from FLOPs, tokens and prompts, fitted to measured points.

    seconds = fixed + FLOPs x a + tokens x b + prompts x c,    all of them at least zero

a is the cost of matrix products, b the cost of what moves with every token (activations, cache, norms), c the cost of a
prompt (scheduling, the output head, sampling). The fit is by non-negative least squares (Lawson and Hanson, 1974;
`scipy.optimize.nnls`) on relative errors, so that short runs count as much as long ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.runs.terminal import duration

Float = NDArray[np.float64]

# Share of predictions that should lie within the range.
RANGE_SHARE = 0.9
# A perfect fit says nothing about the next minutes on the same machine: measured runs repeat within a few per cent.
_LEAST_SPREAD = 0.05
# With as many points as terms, no residual is left to judge the fit by.
_UNKNOWN_SPREAD = 0.3


@dataclass(frozen=True)
class Point:
    """A measured run: what was read, and how long it took without loading the model."""

    flops: float
    prompts: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class TimeRange:
    """Seconds, with the range that holds the true value in about nine runs of ten."""

    low: float
    value: float
    high: float

    def plus(self, other: TimeRange) -> TimeRange:
        """Return the time of this and of something else after it."""
        return TimeRange(self.low + other.low, self.value + other.value, self.high + other.high)

    def __str__(self) -> str:
        return f"{duration(self.value)} ({duration(self.low)} to {duration(self.high)})"


@dataclass(frozen=True)
class TimeModel:
    """Costs of a run on one machine.

    Attributes:
        per_flop, per_token, per_prompt: seconds.
        spread: half-width of the range in logarithms, for a run like the measured ones.
        inverse: of the terms' normal matrix; it widens the range of runs unlike the measured ones. Empty if unknown.
        points: number of measured points, 0 for a model that was not fitted.
        source: tells the user where the costs come from.
    """

    per_flop: float
    per_token: float
    per_prompt: float
    spread: float
    inverse: tuple[tuple[float, ...], ...] = ()
    points: int = 0
    source: str = "measured"

    def seconds(self, flops: float, prompts: float, tokens: float) -> TimeRange:
        """Return how long a run with these totals takes, model loading not included."""
        terms = np.array([flops, tokens, prompts], dtype=np.float64)
        value = float(terms @ [self.per_flop, self.per_token, self.per_prompt])
        if value <= 0:
            return TimeRange(0.0, 0.0, 0.0)
        far = 1.0
        if self.inverse:
            relative = terms / value
            far = math.sqrt(1 + max(float(relative @ np.array(self.inverse) @ relative), 0.0))
        factor = math.exp(min(self.spread * far, 3.0))
        return TimeRange(value / factor, value, value * factor)


def fit(points: Sequence[Point], source: str = "measured") -> TimeModel:
    """Fit the three costs to measured runs.

    With fewer than three points, the last costs stay zero: with one point, a run costs its FLOPs alone.

    Raises:
        JudgeError: no points, or one that took no time.
    """
    from scipy.optimize import nnls

    rows = np.array([(p.flops, p.tokens, p.prompts) for p in points], dtype=np.float64).reshape(-1, 3)
    seconds = np.array([p.seconds for p in points], dtype=np.float64)
    if len(points) == 0 or not np.all(np.isfinite(rows)) or not np.all(seconds > 0) or not np.all(rows[:, 0] > 0):
        raise JudgeError("a time model is fitted to measured runs that did something and took time")
    relative = rows / seconds[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    columns = min(len(points), 3)
    design = np.where(np.arange(3) < columns, relative / scale, 0.0)
    costs, _ = nnls(design, np.ones(len(points)))
    # all terms count here, also those at zero: if the points cannot tell terms apart, other runs are uncertain
    inverse = np.linalg.pinv(design.T @ design) / np.outer(scale, scale)
    spread = _spread(design @ costs - 1, len(points) - columns)
    a, b, c = (float(cost) for cost in costs / scale)
    return TimeModel(a, b, c, spread, tuple(map(tuple, inverse.tolist())), len(points), source)


def _spread(residuals: Float, freedom: int) -> float:
    """Return the half-width of the range of a single prediction, relative."""
    from scipy.stats import t

    if freedom <= 0:
        return _UNKNOWN_SPREAD
    sigma = math.sqrt(float(residuals @ residuals) / freedom)
    return max(sigma * float(t.ppf((1 + RANGE_SHARE) / 2, freedom)), _LEAST_SPREAD)
