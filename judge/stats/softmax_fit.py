"""Fitting a conditional logit, which calibration and the length baseline share.

The model: in each row, the logit of a verdict is a weighted sum of what we know about that verdict in that row
(D. McFadden, Conditional Logit Analysis of Qualitative Choice Behavior, 1974). The negative log-likelihood is convex,
so it has at most one minimum, and Newton's method finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from judge.stats.resample import Float

Bounds = Sequence[tuple[float | None, float | None]]

# If no single parameters are the best, we add this times half their squared length to the mean loss (with each column
# scaled to a root mean square of 1). It is far too small to matter where the best parameters are unique.
RIDGE = 1e-6
# A curvature below this counts as flat. (Columns have unit size.)
_FLAT = 1e-7
# The search stops where the slope of the mean loss is below this.
_SLOPE = 1e-9
# We add this to the curvature that the search steps by; it does not move the minimum. Without it, the search would
# divide by 1e-290 where a class has no row.
_DAMPING = 1e-12


def fit_softmax(
    design: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    start: NDArray[np.floating] | None = None,
    bounds: Bounds | None = None,
    weights: NDArray[np.floating] | None = None,
) -> Float:
    """Return the parameters theta of `logits[:, c] = sum_k theta_k design[:, c, k]` that make the labels likeliest.

    The optimum may not be unique: a direction may separate the labels perfectly (as where a class has a bias parameter
    and no row), or two columns may say the same. Then a ridge of `RIDGE` is added. The result is finite, still nearly
    the best, and the shortest of the best: a column that says nothing gets 0.

    Args:
        design: shape (rows, 3, parameters). Adding the same number to all three verdicts of a row changes nothing.
        labels: 0 (A), 1 (B) or 2 (tie), shape (rows,).
        start: where the search begins, shape (parameters,); zeros if None. It changes the time, not the result.
        bounds: the lowest and highest value of each parameter, None for no bound.
        weights: of the rows, 0 or more, shape (rows,); 1 if None.

    Returns:
        theta, float64, shape (parameters,).

    Raises:
        ValueError: no rows, shapes that do not belong together, a label that is not 0, 1 or 2, numbers that are not
            finite, weights that are negative or all 0.
    """
    values, share = _checked(design, labels, weights)
    parameters = values.shape[2]
    low, high = _limits(bounds, parameters)
    if parameters == 0:
        return np.zeros(0)
    values = values - values.mean(axis=1, keepdims=True)
    size = np.sqrt(np.einsum("r,rck->k", share, values**2) / 3)
    size[size <= 1e-12 * max(size.max(), 1e-300)] = 1.0  # a column of zeros: do not divide by 0
    columns = np.ascontiguousarray(np.moveaxis(values / size, 2, 0))  # (parameters, rows, 3)
    loss = _Loss(columns, labels, share)
    begin = np.zeros(parameters) if start is None else np.asarray(start, np.float64) * size
    theta = _minimum(loss, np.clip(begin, low * size, high * size), low * size, high * size)
    if np.linalg.eigvalsh(loss.curvature(theta)).min() < _FLAT:
        loss.ridge = RIDGE
        zero = np.clip(np.zeros(parameters), low * size, high * size)
        theta = _minimum(loss, zero, low * size, high * size)
    return np.asarray(np.clip(theta / size, low, high))


def _checked(
    design: NDArray[np.floating], labels: NDArray[np.integer], weights: NDArray[np.floating] | None
) -> tuple[Float, Float]:
    """Return the design in float64, and the share of each row in the mean loss."""
    values = np.asarray(design, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != 3 or np.shape(labels) != values.shape[:1]:
        raise ValueError(
            f"expected a design (rows, 3, parameters) and labels (rows,), found {values.shape}, {np.shape(labels)}"
        )
    rows = len(values)
    if not rows:
        raise ValueError("there are no rows to fit")
    if not np.isin(labels, (0, 1, 2)).all():  # -1 (no label) would index the tie's column
        raise ValueError("labels must be 0, 1 or 2: leave out the rows without a label")
    if not np.isfinite(values).all():
        raise ValueError("the design holds NaN or infinity")
    share = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (rows,) or not np.isfinite(share).all() or share.min() < 0 or share.sum() == 0:
        raise ValueError(f"expected {rows} finite weights of 0 or more, not all 0")
    return values, share / share.sum()


def _limits(bounds: Bounds | None, parameters: int) -> tuple[Float, Float]:
    given = [(None, None)] * parameters if bounds is None else bounds
    if len(given) != parameters:
        raise ValueError(f"expected {parameters} bounds, found {len(given)}")
    low, high = np.array(given, dtype=np.float64).reshape(-1, 2).T  # None becomes NaN
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    if not (low <= high).all():
        raise ValueError("a lower bound lies above its upper bound")
    return low, high


class _Loss:
    """The mean negative log-likelihood in nats, with its slope and curvature.

    It adds up with `einsum`: the last digit of a matrix product would depend on the number of threads.

    Args:
        columns: the design, shape (parameters, rows, 3).
        labels: 0, 1 or 2, shape (rows,).
        share: the weight of each row in the mean, shape (rows,), summing to 1.
    """

    def __init__(self, columns: Float, labels: NDArray[np.integer], share: Float) -> None:
        self.columns, self.share = columns, share
        self.rows = np.arange(len(share))
        self.labels = labels
        self.ridge = 0.0
        # the labels' part of the slope, shape (parameters,); it does not depend on theta
        self.chosen = np.einsum("r,kr->k", share, columns[:, self.rows, labels])

    def _probabilities(self, theta: Float) -> tuple[Float, Float]:
        """Return the probabilities of the verdicts, shape (rows, 3), and each row's loss in nats, shape (rows,)."""
        logits = np.einsum("k,krc->rc", theta, self.columns)
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1)
        p /= total[:, np.newaxis]
        losses: Float = np.log(total) - logits[self.rows, self.labels]
        return p, losses

    def value_and_slope(self, theta: Float) -> tuple[float, Float]:
        """Return the loss at `theta`, and its gradient, shape (parameters,)."""
        p, losses = self._probabilities(theta)
        p *= self.share[:, np.newaxis]
        slope = np.einsum("rc,krc->k", p, self.columns) - self.chosen + self.ridge * theta
        return float(np.einsum("r,r->", self.share, losses) + self.ridge * (theta @ theta) / 2), slope

    def curvature(self, theta: Float) -> Float:
        """Return the Hessian at `theta`, shape (parameters, parameters)."""
        p, _ = self._probabilities(theta)
        spread = self.columns - np.einsum("rc,krc->kr", p, self.columns)[:, :, np.newaxis]
        spread *= np.sqrt(p * self.share[:, np.newaxis])
        return np.asarray(np.einsum("krc,lrc->kl", spread, spread) + (self.ridge + _DAMPING) * np.eye(len(theta)))


def _minimum(loss: _Loss, start: Float, low: Float, high: Float) -> Float:
    """Return where the loss is lowest between the limits, shape (parameters,).

    Newton's method searches without the limits first; only if its minimum lies outside does a bounded search follow.
    """
    from scipy.optimize import minimize

    options = {"gtol": _SLOPE, "maxiter": 200}
    free: Float = minimize(
        loss.value_and_slope, start, jac=True, hess=loss.curvature, method="trust-exact", options=options
    ).x
    if ((low <= free) & (free <= high)).all():
        return free
    options = {"gtol": _SLOPE, "ftol": 1e-15, "maxiter": 1000}
    bounded: Float = minimize(
        loss.value_and_slope,
        np.clip(free, low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options=options,
    ).x
    return bounded
