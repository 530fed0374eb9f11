"""Fits the calibration methods to labelled rows, each as a conditional logit, and cross-validates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.models.calibration import Calibration, Method, Three, log_of
from judge.prompting.verdict import SWAPPED, Float, as_three, mean_of_read
from judge.stats.metrics import log_losses
from judge.stats.softmax_fit import fit_softmax

# Two parameters give three biases that sum to 0: a number added to all three would change nothing.
_BIASES = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])


@dataclass(frozen=True)
class Task:
    """A calibration method on labelled rows, ready to be fitted to any part of them.

    A reading is one row in one order for `position`, and one row for the other methods.

    Attributes:
        method: the calibration method.
        design: for `judge.stats.softmax_fit.fit_softmax`, shape (readings, 3, parameters).
        labels: of the readings, shape (readings,); for `position` as the prompt shows the responses.
        row: number of the row of each reading, shape (readings,).
        weights: of the readings, shape (readings,); the readings of a row weigh 1 together.
        without_content: biases of `contextual`, which has no parameters.
    """

    method: Method
    design: Float
    labels: NDArray[np.integer]
    row: NDArray[np.int64]
    weights: Float
    without_content: Three | None = None

    def fit(self, chosen: NDArray[np.bool_], start: Float | None = None) -> Float:
        """Return the parameters, shape (parameters,), that fit the chosen rows, a mask of shape (rows,), best."""
        # with a scale below 0 the calibrated judge would say the opposite of its reading
        scales, part = {"vector": 3, "contextual": 0}.get(self.method, 1), chosen[self.row]
        bounds = [(0.0, None)] * scales + [(None, None)] * (self.design.shape[2] - scales)
        weights = self.weights[part]
        return fit_softmax(self.design[part], self.labels[part], start=start, bounds=bounds, weights=weights)

    def calibration(self, theta: Sequence[float] | Float) -> Calibration:
        """Return the calibration with these parameters."""
        if self.without_content is not None:
            return Calibration(method=self.method, scale=(1.0, 1.0, 1.0), bias=self.without_content)
        values = [float(value) for value in theta]
        scale, biases = (values[:3], values[3:]) if self.method == "vector" else ([values[0]] * 3, values[1:])
        a, b = biases or (0.0, 0.0)
        return Calibration(method=self.method, scale=(scale[0], scale[1], scale[2]), bias=(a, b, 0.0 - a - b))


def make_task(
    method: Method, first: Float, second: Float, labels: NDArray[np.integer], content_free: Three | None = None
) -> Task:
    """Set a method up for labelled rows.

    Args:
        first, second: probabilities as `Calibration.apply` takes them; each row was read in one order at least.
        labels: 0, 1 or 2, shape (rows,).
        content_free: for `contextual`: probabilities of the first, the second and tie for prompts without content.
    """
    if method == "position":
        return _position(first, second, labels)
    rows = len(labels)
    x = log_of(mean_of_read(first, second))
    without_content: Three | None = None
    if method == "contextual":
        if content_free is None:
            raise ValueError("contextual calibration needs the probabilities of prompts without content")
        design = np.empty((rows, 3, 0))
        log_p = log_of(np.array([content_free]))[0]
        without_content = as_three(log_p.mean() - log_p)
    elif method == "temperature":
        design = x[:, :, np.newaxis]
    elif method == "temperature+bias":
        design = _with_biases(x[:, :, np.newaxis])
    else:
        design = _with_biases(x[:, :, np.newaxis] * np.eye(3))
    return Task(method, design, labels, np.arange(rows), np.ones(rows), without_content)


def _with_biases(scales: Float) -> Float:
    """Return a design of scales, shape (readings, 3, scales), with the two columns of the biases behind them."""
    biases = np.broadcast_to(_BIASES, (len(scales), 3, 2))
    return np.concatenate([scales, biases], axis=2)


def _position(first: Float, second: Float, labels: NDArray[np.integer]) -> Task:
    """Set up `position`: each order of a row is a reading of its own, as the prompt shows the responses.

    Scoring takes the mean of both orders. Its log loss is no larger than the mean of the losses that are fitted here:
    the logarithm of a mean is no less than the mean of the logarithms (Jensen's inequality).
    """
    read = [np.flatnonzero(~np.isnan(p).any(axis=1)) for p in (first, second)]
    shown = np.concatenate([first[read[0]], second[read[1]][:, SWAPPED]])
    row = np.concatenate(read)
    exchanged = np.array(SWAPPED)[labels]
    shown_labels = np.concatenate([labels[read[0]], exchanged[read[1]]])
    weights = 1 / np.bincount(row, minlength=len(labels))[row]
    return Task("position", _with_biases(log_of(shown)[:, :, np.newaxis]), shown_labels, row, weights)


def cross_validate(
    tasks: Sequence[Task], first: Float, second: Float, labels: NDArray[np.integer], fold: NDArray[np.int64]
) -> tuple[list[Calibration], list[Float], Float]:
    """Fit every method to all rows, to all but each fold, and to all but each pair of folds.

    Args:
        tasks: at least one, the simplest first.
        first, second: probabilities as `Calibration.apply` takes them.
        labels: 0, 1 or 2, shape (rows,).
        fold: the fold of each row, from 0 on, no fold empty, shape (rows,); at least three folds if there are
            several tasks.

    Returns:
        The calibrations fitted to all rows; each method's probabilities out of fold, shape (rows, 3); and the nested
        ones, shape (rows, 3): each row's probabilities out of fold by the method that is the best on the other folds.
    """
    rows, count = len(labels), int(fold.max()) + 1
    parts = [fold == k for k in range(count)]
    inner = np.zeros((len(tasks), count, count))  # [task, i, j]: summed losses on fold j of a fit without folds i and j
    fitted, after = [], []
    for number, task in enumerate(tasks):
        whole = task.fit(np.ones(rows, dtype=np.bool_))
        fitted.append(task.calibration(whole))
        out = np.empty((rows, 3))
        for i, part in enumerate(parts):
            out[part] = task.calibration(task.fit(~part, whole)).apply(first[part], second[part])
            for j in range(i if len(tasks) > 1 else 0):
                calibration = task.calibration(task.fit(~(part | parts[j]), whole))
                for held, outer in ((i, j), (j, i)):
                    chosen = parts[held]
                    p = calibration.apply(first[chosen], second[chosen])
                    inner[number, outer, held] = log_losses(p, labels[chosen]).sum()
        after.append(out)
    best = inner.sum(axis=2).argmin(axis=0)  # (folds,); of equally good methods the simplest
    nested = np.stack(after)[best[fold], np.arange(rows)]
    return fitted, after, nested
