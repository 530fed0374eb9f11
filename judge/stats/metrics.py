"""Scores of predictions against labels. Probabilities are float64, shape (rows, 3), rows summing to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from judge.tables.comparison import VERDICTS

Metric = Literal["log_loss", "accuracy", "brier"]
UNIFORM_LOG_LOSS = float(np.log(3))
# A judge whose log loss is not at least this much lower than the class rates', in nats, knows nothing worth mentioning.
MARGIN = 0.005
# Bins of a calibration error.
BINS = 15


def log_losses(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the negative log-probability of each row's label in nats, shape (rows,).

    Args:
        p: any float type, shape (rows, 3); each row is normalised in float64 first. A probability of 0 counts as
            2.2e-16, the machine epsilon, which costs 36 nats, as in scikit-learn.
        labels: 0 (A), 1 (B) or 2 (tie), shape (rows,).

    Raises:
        ValueError: no rows, another number of labels than rows, or a row without a label (-1).
    """
    chosen = _normalised(p, labels)[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0)))


def log_loss(p: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean negative log-probability of the labels, in nats; arguments and errors as of `log_losses`."""
    return float(log_losses(p, labels).mean())


def hits(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return 1 for each row whose most probable verdict is its label, 0 otherwise, shape (rows,).

    Where k verdicts are equally probable, each counts 1/k, so that A and B are treated alike and the uniform
    distribution is right in a third of the rows; a row with NaN gives NaN. Arguments and errors as of `log_losses`.
    """
    _check_labels(p, labels)
    return np.asarray(called(p)[np.arange(len(labels)), labels])


def called(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 for each row's most probable verdict, 0 for the others; k equally probable ones get 1/k each.

    Args:
        p: any float type, shape (rows, 3); a row with NaN gives NaN.
    """
    values = np.asarray(p)
    best = values == values.max(axis=1, keepdims=True)
    share = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    return np.where(np.isnan(values).any(axis=1, keepdims=True), np.nan, share)


def verdicts(p: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return each row's most probable verdict, 0 (A), 1 (B) or 2 (tie), shape (rows,).

    Equally probable ones count as a tie, so that A and B are treated alike: a read-out in bfloat16 often gives both the
    same probability. A row with NaN is a tie too, so check for NaN before.

    Args:
        p: any float type, shape (rows, 3).
    """
    values = np.asarray(p)
    best = values == values.max(axis=1, keepdims=True)
    return np.where(best.sum(axis=1) == 1, best.argmax(axis=1), 2)


def brier_scores(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return each row's squared distance from the truth, summed over the three verdicts, 0 to 2, shape (rows,).

    The form for several classes of G. W. Brier, Verification of forecasts expressed in terms of probability, 1950.
    Rows are normalised first. Arguments and errors are those of `log_losses`.
    """
    return np.asarray(((_normalised(p, labels) - np.eye(3)[labels]) ** 2).sum(axis=1))


@dataclass(frozen=True)
class Measure:
    """How a metric is called and written.

    Attributes:
        name: of the metric.
        unit: behind a number, with a space before it; empty where the form says it.
        form: of a score.
        better: where better scores lie.
        scores: from probabilities, shape (rows, 3), and labels, shape (rows,), to each row's score, shape (rows,).
    """

    name: str
    unit: str
    form: str
    better: Literal["lower", "higher"]
    scores: Callable[[NDArray[np.floating], NDArray[np.integer]], NDArray[np.float64]]

    @property
    def signed_form(self) -> str:
        """The form of a difference."""
        return f"+{self.form}"

    @property
    def of_unit(self) -> str:
        """The unit as it follows a title: `, nats`."""
        return f",{self.unit}" if self.unit else ""


MEASURES: dict[Metric, Measure] = {
    "log_loss": Measure("log loss", " nats", ".4f", "lower", log_losses),
    "accuracy": Measure("accuracy", "", ".1%", "higher", hits),
    "brier": Measure("Brier score", "", ".4f", "lower", brier_scores),
}


def bin_gaps(chance: NDArray[np.floating], right: NDArray[np.floating], bins: int = BINS) -> NDArray[np.float64]:
    """Return each row's predicted chance minus what came true, in the column of its bin, shape (rows, bins).

    The mean of a column over all rows is the gap that this bin adds to a calibration error. The bins have equal width.
    Each holds its upper edge; the first holds its lower edge too.

    Args:
        chance: the predicted probability of something, shape (rows,).
        right: 1 where it came true, shape (rows,).
    """
    gaps = np.zeros((len(chance), bins))
    gaps[np.arange(len(chance)), bin_numbers(chance, bins)] = np.asarray(chance, dtype=np.float64) - right
    return gaps


def bin_numbers(chance: NDArray[np.floating], bins: int = BINS) -> NDArray[np.int64]:
    """Return the bin of each probability, 0 to bins - 1, shape (rows,)."""
    number = np.ceil(np.asarray(chance, dtype=np.float64) * bins) - 1
    return number.clip(0, bins - 1).astype(np.int64)


def expected_calibration_error(p: NDArray[np.floating], labels: NDArray[np.integer], bins: int = BINS) -> float:
    """Return the top-label calibration error over bins of equal width (C. Guo et al., On calibration of modern neural
    networks, 2017): the mean over rows of |mean confidence - share right| of the row's bin.

    The confidence is the largest of the row's three probabilities. Arguments and errors are those of `log_losses`.
    """
    confidence = _normalised(p, labels).max(axis=1)
    return float(np.abs(bin_gaps(confidence, hits(p, labels), bins).mean(axis=0)).sum())


def accuracy(p: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the share of rows whose most probable verdict is the label (`hits`)."""
    return float(hits(p, labels).mean())


def label_rates(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return how often each label occurs, shape (3,), summing to 1.

    Raises:
        ValueError: no rows, or a row without a label (-1).
    """
    _check_labels(np.empty((len(labels), 3)), labels)
    return np.asarray(np.bincount(labels, minlength=3) / len(labels))


def rates_text(rates: NDArray[np.floating]) -> str:
    """Return rates of the three verdicts as `A 40.0%, B 35.0%, tie 25.0%`."""
    return ", ".join(f"{name} {rate:.1%}" for name, rate in zip(VERDICTS, rates, strict=True))


def _normalised(p: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    _check_labels(p, labels)
    values = np.asarray(p, dtype=np.float64)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _check_labels(p: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if not len(labels):
        raise ValueError("there are no rows to score")
    if np.shape(p) != (len(labels), 3):
        raise ValueError(f"expected probabilities of shape ({len(labels)}, 3) for the labels, found {np.shape(p)}")
    if not np.isin(labels, (0, 1, 2)).all():  # -1 (no label) would index the tie's column
        raise ValueError("labels must be 0, 1 or 2: leave out the rows without a label")
