from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from judge.stats.metrics import UNIFORM_LOG_LOSS, accuracy, hits, label_rates, log_loss, log_losses

unhurried = settings(deadline=None)  # the cores are shared
P = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.6, 0.3]])
LABELS = np.array([0, 2, 0])
WEIGHTS = st.floats(1e-3, 1e3)


def test_log_loss_is_the_mean_negative_log_of_the_labels_probabilities() -> None:
    assert log_loss(P, LABELS) == pytest.approx(-(math.log(0.7) + math.log(0.5) + math.log(0.1)) / 3, rel=1e-15)


@unhurried
@given(st.lists(st.tuples(WEIGHTS, WEIGHTS, WEIGHTS, st.integers(0, 2)), min_size=1))
def test_log_loss_of_rows_that_do_not_sum_to_1_is_that_of_their_shares(
    rows: list[tuple[float, float, float, int]],
) -> None:
    weights = np.array([r[:3] for r in rows])
    labels = np.array([r[3] for r in rows])
    expected = math.fsum(math.log(math.fsum(r[:3])) - math.log(r[:3][r[3]]) for r in rows) / len(rows)
    assert log_loss(weights, labels) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_log_loss_of_short_floats_is_computed_in_float64(dtype: type[np.floating[Any]]) -> None:
    """100,000 rows in float16 overflow and lose digits if they are summed as they are."""
    p = np.tile(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], dtype=dtype), (50_000, 1))
    labels = np.tile([0, 1], 50_000)
    assert log_loss(p, labels) == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2, rel=1e-12)
    thirds = np.full((9, 3), 1 / 3, dtype=dtype)  # not a third in float16, but the three are alike
    assert log_loss(thirds, np.arange(9) % 3) == pytest.approx(math.log(3), rel=1e-15)


def test_the_uniform_distribution_costs_ln_3_whatever_the_labels() -> None:
    for labels in ([0, 0, 0], [0, 1, 2], [2, 2, 1]):
        assert log_loss(np.full((3, 3), 1 / 3), np.array(labels)) == pytest.approx(UNIFORM_LOG_LOSS, rel=1e-15)
    assert pytest.approx(1.0986122886681098, rel=1e-15) == UNIFORM_LOG_LOSS


def test_a_zero_costs_36_nats_and_certainty_nothing() -> None:
    p = np.array([[0.0, 1.0, 0.0]])
    assert log_loss(p, np.array([0])) == pytest.approx(36.04365338911715, rel=1e-15)
    assert log_loss(p, np.array([1])) == 0.0
    assert log_loss(p * 5, np.array([1])) == 0.0


def test_nan_is_not_hidden() -> None:
    assert math.isnan(log_loss(np.array([[np.nan, 0.5, 0.5], [0.2, 0.3, 0.5]]), np.array([0, 1])))


@pytest.mark.parametrize(
    ("labels", "share"), [([0, 2, 0], 2 / 3), ([0, 2, 1], 1.0), ([1, 0, 2], 0.0), ([0, 0, 0], 1 / 3)]
)
def test_accuracy_is_the_share_of_most_probable_verdicts_that_are_right(labels: list[int], share: float) -> None:
    for dtype in (np.float64, np.float32, np.float16):
        assert accuracy(P.astype(dtype), np.array(labels)) == pytest.approx(share)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equally_probable_verdicts_share_the_hit_so_that_a_and_b_are_alike(dtype: type[np.floating[Any]]) -> None:
    p = np.array([[1 / 3, 1 / 3, 1 / 3], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.25, 0.5, 0.25]], dtype=dtype)
    assert hits(p, np.array([0, 1, 2, 1])).tolist() == [1 / 3, 0.5, 0.0, 1.0]
    assert hits(p[:, [1, 0, 2]], np.array([1, 0, 2, 0])).tolist() == [1 / 3, 0.5, 0.0, 1.0]


def test_a_row_with_nan_is_neither_hit_nor_miss() -> None:
    assert np.isnan(hits(np.array([[np.nan, 0.5, 0.5]]), LABELS[:1])).all()


@unhurried
@given(st.lists(st.tuples(WEIGHTS, WEIGHTS, WEIGHTS, st.integers(0, 2)), min_size=1))
def test_scores_are_scikit_learns(rows: list[tuple[float, float, float, int]]) -> None:
    p = np.array([r[:3] for r in rows])
    p /= p.sum(axis=1, keepdims=True)
    labels = np.array([r[3] for r in rows])
    expected = sklearn_metrics.log_loss(labels, p, labels=[0, 1, 2])
    assert log_loss(p, labels) == pytest.approx(expected, rel=1e-12)
    assert log_losses(p, labels).mean() == pytest.approx(expected, rel=1e-12)
    if all(np.sort(row)[2] > np.sort(row)[1] for row in p):  # scikit-learn's labels know no shared hits
        assert accuracy(p, labels) == pytest.approx(sklearn_metrics.accuracy_score(labels, p.argmax(axis=1)))


def test_label_rates_are_the_shares_of_the_three_labels() -> None:
    assert label_rates(np.array([0, 2, 0, 2])).tolist() == [0.5, 0.0, 0.5]
    assert label_rates(np.array([1])).tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="leave out the rows without a label"):
        label_rates(np.array([0, -1]))


@pytest.mark.parametrize(
    ("p", "labels", "error"),
    [
        (P, np.array([0, 1, -1]), "labels must be 0, 1 or 2: leave out the rows without a label"),
        (P, np.array([0, 1, 3]), "labels must be 0, 1 or 2: leave out the rows without a label"),
        (P, np.array([0, 1]), r"expected probabilities of shape \(2, 3\) for the labels, found \(3, 3\)"),
        (P[:, :2], LABELS, r"expected probabilities of shape \(3, 3\) for the labels, found \(3, 2\)"),
        (P[:0], LABELS[:0], "there are no rows to score"),
    ],
)
def test_labels_that_do_not_belong_to_the_probabilities_are_refused(
    p: NDArray[np.float64], labels: NDArray[np.int64], error: str
) -> None:
    for score in (log_loss, accuracy, log_losses, hits):
        with pytest.raises(ValueError, match=error):
            score(p, labels)
