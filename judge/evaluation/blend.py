"""The arithmetic of an ensemble: predictions blended in log space, and the weights with the lowest log loss.

The blend is a logarithmic opinion pool: p is proportional to the product of p_k^w_k over the members k. The weights w_k
are not negative and sum to 1 (T. Heskes, Selecting Weighting Factors in Logarithmic Opinion Pools, 1998; as a product
of experts, G. E. Hinton, 2002).

On any data, the blend is never worse than the worst member. The normaliser, which sums the members' weighted geometric
mean over the verdicts, is at most 1 (Hölder's inequality). Dividing by it can only raise the probability of the true
verdict. So the log loss of each row is at most the weighted mean of the members' losses of that row, and the same holds
for the mean over rows. If a member could not score a row, this holds for the members that could.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from judge.prompting.verdict import Float, probabilities

# Weights are rounded to millionths: further digits are noise, and would differ between machines.
_PARTS = 1_000_000


def log_probabilities(p: NDArray[np.floating]) -> Float:
    """Return finite logarithms of probabilities, shape (..., 3): zeros count as 2.2e-16, rows are normalised."""
    values = np.maximum(np.asarray(p, dtype=np.float64), np.finfo(np.float64).eps)
    return np.asarray(np.log(values / values.sum(axis=-1, keepdims=True)))


def blend(p: NDArray[np.floating], weights: Sequence[float] | Float, scored: NDArray[np.bool_] | None = None) -> Float:
    """Blend probabilities in log space.

    Args:
        p: of each member, shape (members, rows, 3).
        weights: of each member, not negative, summing to 1.
        scored: which members could score which rows, shape (members, rows); None if all could. The members that scored
            a row share the weight of those that could not, in proportion to their own weights (equally if these are 0).

    Returns:
        The normalised weighted geometric mean, shape (rows, 3).
    """
    shares = np.repeat(np.asarray(weights, dtype=np.float64)[:, np.newaxis], np.shape(p)[1], axis=1)
    if scored is not None:
        usable = np.where(scored.any(axis=0), scored, True)  # if no member scored a row, each gives it 1/3
        shares = np.where(usable, shares, 0.0)
        shares = np.where(shares.sum(axis=0) > 0, shares, usable)
        shares = shares / shares.sum(axis=0)
    return probabilities((shares[:, :, np.newaxis] * log_probabilities(p)).sum(axis=0))


def fit_weights(p: NDArray[np.floating], labels: NDArray[np.integer]) -> Float:
    """Return the weights with the lowest log loss, shape (members,), rounded to millionths that sum to 1.

    The log loss of the blend is convex in the weights (log-sum-exp minus a linear function), so a local minimum on the
    simplex is the minimum. Sequential quadratic programming with the exact gradient searches for it (D. Kraft, 1988).
    Apart from the rounding, the result is never worse on these rows than equal weights or any single member.

    Args:
        p: of each member, shape (members, rows, 3).
        labels: 0, 1 or 2, shape (rows,).
    """
    from scipy.optimize import minimize

    logs = log_probabilities(p)
    members = len(logs)
    chosen = logs[:, np.arange(len(labels)), labels]

    def objective(weights: Float) -> tuple[float, Float]:
        # sums, because the last digit of a matrix product would depend on the number of threads
        mixed = (weights[:, np.newaxis, np.newaxis] * logs).sum(axis=0)
        highest = mixed.max(axis=1, keepdims=True)
        powers = np.exp(mixed - highest)
        total = powers.sum(axis=1, keepdims=True)
        losses = (highest + np.log(total))[:, 0] - (weights[:, np.newaxis] * chosen).sum(axis=0)
        slopes = ((powers / total) * logs).sum(axis=2) - chosen
        return float(losses.mean()), slopes.mean(axis=1)

    equal = np.full(members, 1 / members)
    solution = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    candidates = [equal, *np.eye(members)]
    if np.isfinite(solution.x).all():
        candidates.insert(0, on_simplex(solution.x))
    parts = np.rint(_PARTS * min(candidates, key=lambda weights: objective(weights)[0]))
    parts[np.argmax(parts)] += _PARTS - parts.sum()
    return np.asarray(parts / _PARTS)


def on_simplex(weights: Float) -> Float:
    """Return the weights with negative ones set to 0, scaled to sum to 1."""
    positive = np.clip(weights, 0, None)
    return np.asarray(positive / positive.sum())
