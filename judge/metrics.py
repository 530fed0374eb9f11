"""Scores of predictions against labels. Probabilities are float64, shape (rows, 3), rows summing to 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from judge.comparison import VERDICTS

UNIFORM_LOG_LOSS = float(np.log(3))
# A judge whose log loss is not lower than the class rates' by this much, in nats, knows nothing worth mentioning.
MARGIN = 0.005


def log_losses(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the negative log-probability of each row's label in nats, shape (rows,).

    Args:
        p: any float type, shape (rows, 3); rows are normalised in float64 first. A zero counts as the
            smallest positive double's neighbour of 1 (2.2e-16, 36 nats), as in scikit-learn.
        labels: 0 (A), 1 (B) or 2 (tie), shape (rows,).

    Raises:
        ValueError: no rows, another number of labels than rows, or a row without a label (-1).
    """
    _check_labels(p, labels)
    values = np.asarray(p, dtype=np.float64)
    values = values / values.sum(axis=1, keepdims=True)
    chosen = values[np.arange(len(labels)), labels]
    result: NDArray[np.float64] = -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0))
    return result


def log_loss(p: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean negative log-probability of the labels, in nats; arguments and errors as `log_losses`'s."""
    return float(log_losses(p, labels).mean())


def hits(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return 1 for each row whose most probable verdict is its label, 0 otherwise, shape (rows,).

    Where k verdicts are equally probable, each counts 1/k, so that A and B are treated alike and the uniform
    distribution is right in a third of the rows; a row with NaN gives NaN. Arguments and errors as `log_losses`'s.
    """
    _check_labels(p, labels)
    values = np.asarray(p)
    best = values == values.max(axis=1, keepdims=True)
    share = best[np.arange(len(labels)), labels] / np.maximum(best.sum(axis=1), 1)
    result: NDArray[np.float64] = np.where(np.isnan(values).any(axis=1), np.nan, share)
    return result


def accuracy(p: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the share of rows whose most probable verdict is the label (`hits`)."""
    return float(hits(p, labels).mean())


def label_rates(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return how often each label occurs, shape (3,), summing to 1.

    Raises:
        ValueError: no rows, or a row without a label (-1).
    """
    _check_labels(np.empty((len(labels), 3)), labels)
    rates: NDArray[np.float64] = np.bincount(labels, minlength=3) / len(labels)
    return rates


def rates_text(rates: NDArray[np.floating]) -> str:
    """Return rates of the three verdicts as `A 40.0%, B 35.0%, tie 25.0%`."""
    return ", ".join(f"{name} {rate:.1%}" for name, rate in zip(VERDICTS, rates, strict=True))


def _check_labels(p: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if not len(labels):
        raise ValueError("there are no rows to score")
    if np.shape(p) != (len(labels), 3):
        raise ValueError(f"expected probabilities of shape ({len(labels)}, 3) for the labels, found {np.shape(p)}")
    if not np.isin(labels, (0, 1, 2)).all():  # -1 (no label) would index the tie's column
        raise ValueError("labels must be 0, 1 or 2: leave out the rows without a label")
