"""The conditional logit against scikit-learn, against known parameters, and where no optimum exists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from judge.prompting.verdict import Float, probabilities
from judge.stats.softmax_fit import fit_softmax


def class_design(features: Float) -> Float:
    """Multinomial logistic regression with the tie as reference: weights and bias of A, then of B."""
    rows, width = features.shape
    with_bias = np.column_stack([features, np.ones(rows)])
    design = np.zeros((rows, 3, 2 * (width + 1)))
    design[:, 0, : width + 1] = with_bias
    design[:, 1, width + 1 :] = with_bias
    return design


def drawn(p: Float, seed: int) -> NDArray[np.int64]:
    u = np.random.default_rng(seed).random(len(p))
    labels: NDArray[np.int64] = (u[:, np.newaxis] > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    return labels


def simulated(rows: int, theta: Float, seed: int = 0) -> tuple[Float, NDArray[np.int64]]:
    design = np.random.default_rng(seed).normal(size=(rows, 3, len(theta)))
    return design, drawn(probabilities(design @ theta), seed + 1)


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 2)) * [1.0, 300.0]  # columns of very different size
    truth = np.array([[1.0, 0.002], [-0.5, 0.001], [0.0, -0.003]])
    labels = drawn(probabilities(features @ truth.T + [0.2, -0.1, 0.0]), 4)
    weights = rng.random(400)
    for weight in (None, weights):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=20_000, solver="newton-cg")
        scaled = features / [1.0, 300.0]
        model.fit(scaled, labels, sample_weight=weight)
        expected = (model.coef_ - model.coef_[2]) / [1.0, 300.0]
        theta = fit_softmax(class_design(features), labels, weights=weight)
        np.testing.assert_allclose(theta.reshape(2, 3)[:, :2], expected[:2], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(theta.reshape(2, 3)[:, 2], (model.intercept_ - model.intercept_[2])[:2], rtol=1e-4)


def test_known_parameters_are_recovered_within_their_standard_errors() -> None:
    truth = np.array([0.8, -0.4, 0.1])
    rows = 4000
    design, labels = simulated(rows, truth)
    theta = fit_softmax(design, labels)
    p = probabilities(design @ truth)
    centred = design - np.einsum("rc,rck->rk", p, design)[:, np.newaxis]
    information = np.einsum("rc,rck,rcl->kl", p, centred, centred)
    error = np.sqrt(np.diag(np.linalg.inv(information)))
    assert (np.abs(theta - truth) < 4 * error).all()


def test_the_slope_vanishes_at_the_result() -> None:
    design, labels = simulated(300, np.array([0.5, 1.5]))
    p = probabilities(design @ fit_softmax(design, labels))
    expected = np.einsum("rc,rck->k", p, design) - design[np.arange(300), labels].sum(axis=0)
    np.testing.assert_allclose(expected, 0, atol=1e-5)


def test_neither_what_the_verdicts_share_nor_the_start_has_an_effect() -> None:
    design, labels = simulated(200, np.array([0.5, -1.0]))
    theta = fit_softmax(design, labels)
    shifted = design + np.random.default_rng(1).normal(size=(200, 1, 2)) * 10
    np.testing.assert_allclose(fit_softmax(shifted, labels), theta, atol=1e-6)
    np.testing.assert_allclose(fit_softmax(design, labels, start=np.array([5.0, 5.0])), theta, atol=1e-6)


def test_a_weight_counts_like_that_many_rows() -> None:
    design, labels = simulated(100, np.array([0.5, -1.0]))
    times = np.random.default_rng(2).integers(0, 4, 100)
    many = fit_softmax(np.repeat(design, times, axis=0), np.repeat(labels, times))
    np.testing.assert_allclose(fit_softmax(design, labels, weights=times.astype(float)), many, atol=1e-7)


def test_bounds_hold_and_the_others_are_fitted_beside_them() -> None:
    design, labels = simulated(500, np.array([-0.7, 0.9]))
    theta = fit_softmax(design, labels, bounds=[(0, None), (None, None)])
    assert theta[0] == 0
    np.testing.assert_allclose(theta[1], fit_softmax(design[:, :, 1:], labels)[0], rtol=1e-5)
    inside = fit_softmax(design, labels, bounds=[(-5, 5), (0, 5)])
    np.testing.assert_array_equal(inside, fit_softmax(design, labels))


def test_separated_labels_give_large_but_finite_parameters() -> None:
    labels = np.arange(30) % 3
    design = np.eye(3)[labels][:, :, np.newaxis]
    theta = fit_softmax(design, labels)
    assert np.isfinite(theta).all()
    p = probabilities(design @ theta)
    assert 0.999 < p[np.arange(30), labels].min() < 1


def test_a_class_without_rows_gets_a_finite_bias_the_others_their_rates() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    design = np.broadcast_to([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], (40, 3, 2))
    theta = fit_softmax(design, labels)
    p = probabilities((design @ theta)[:1])
    assert np.isfinite(theta).all()
    np.testing.assert_allclose(p[0], [0.75, 0.25, 0], atol=1e-3)


def test_columns_that_say_nothing_or_the_same_get_the_shortest_answer() -> None:
    design, labels = simulated(300, np.array([0.8]))
    alone = fit_softmax(design, labels)
    doubled = np.concatenate([design, design, np.zeros_like(design), np.ones_like(design)], axis=2)
    np.testing.assert_allclose(fit_softmax(doubled, labels), [alone[0] / 2, alone[0] / 2, 0, 0], atol=1e-4)


@pytest.mark.parametrize("seed", [227, 1416, 2428, 3382])  # of 4,000 drawn, a few ended in a division by nearly 0
def test_a_class_without_rows_and_a_far_start_end_in_finite_parameters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 4 + seed % 3
    logs = np.log(probabilities(1.3 * rng.normal(size=(rows, 3))))
    labels = rng.integers(0, 2, rows)
    biases = np.broadcast_to([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], (rows, 3, 2))
    design = np.concatenate([logs[:, :, np.newaxis] * np.eye(3), biases], axis=2)
    start = np.array([1.0, 1, 20, 0, 0]) * rng.choice([1, 3, 10])
    bounds = [(0, None)] * 3 + [(None, None)] * 2
    theta = fit_softmax(design, labels, start=start, bounds=bounds)
    np.testing.assert_allclose(theta, fit_softmax(design, labels, bounds=bounds), rtol=0.02, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 30), width=st.integers(0, 3))
def test_the_result_is_finite_and_no_worse_than_nothing(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    design, labels = rng.normal(size=(rows, 3, width)) * 10.0 ** rng.integers(-4, 5), rng.integers(0, 3, rows)
    theta = fit_softmax(design, labels)
    assert theta.shape == (width,)
    assert np.isfinite(theta).all()
    chosen = probabilities(design @ theta)[np.arange(rows), labels]
    assert -np.log(chosen).mean() <= np.log(3) + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"design": np.zeros((4, 2, 1))}, "expected a design"),
        ({"labels": np.array([0, 1, 2])}, "expected a design"),
        ({"labels": np.array([0, 1, 2, -1])}, "labels must be 0, 1 or 2"),
        ({"design": np.full((4, 3, 1), np.nan)}, "NaN or infinity"),
        ({"design": np.zeros((0, 3, 1)), "labels": np.zeros(0, int)}, "no rows"),
        ({"weights": np.array([1.0, 1, 1, -1])}, "finite weights"),
        ({"weights": np.zeros(4)}, "finite weights"),
        ({"bounds": [(0, 1), (0, 1)]}, "expected 1 bounds"),
        ({"bounds": [(2, 1)]}, "lies above"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"design": np.ones((4, 3, 1)), "labels": np.array([0, 1, 2, 0])} | change
    with pytest.raises(ValueError, match=message):
        fit_softmax(values.pop("design"), values.pop("labels"), **values)
