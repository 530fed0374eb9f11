"""The arithmetic of a blend, and the weights that fit best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from judge.evaluation.blend import blend, fit_weights, log_probabilities
from judge.stats.metrics import log_losses
from tests.kit.blended_judges import drawn

unhurried = settings(deadline=None, max_examples=60)  # the cores are shared


SEEDS = st.integers(0, 2**32 - 1)


@unhurried
@given(SEEDS, st.integers(2, 5), st.booleans())
def test_no_row_of_a_blend_is_worse_than_the_weighted_mean_of_members(seed: int, count: int, zeros: bool) -> None:
    p, labels = drawn(seed, count, 20, zeros)
    weights = np.random.default_rng(seed).dirichlet(np.full(count, 0.5))
    members = np.stack([log_losses(q, labels) for q in p])
    own = log_losses(blend(p, weights), labels)
    assert (own <= weights @ members + 1e-9).all()
    assert own.mean() <= members.mean(axis=1).max() + 1e-9


@unhurried
@given(SEEDS, st.integers(2, 4))
def test_no_row_is_worse_than_those_members_that_could_score_it(seed: int, count: int) -> None:
    p, labels = drawn(seed, count, 20)
    rng = np.random.default_rng(seed)
    scored = rng.random((count, 20)) < 0.6
    scored[0, ~scored.any(axis=0)] = True
    weights = np.where(rng.random(count) < 0.3, 0, rng.random(count)) + 1e-12
    members = np.where(scored, [log_losses(q, labels) for q in p], -np.inf)
    assert (log_losses(blend(p, weights / weights.sum(), scored), labels) <= members.max(axis=0) + 1e-9).all()


def test_a_blend_is_the_softmax_of_the_weighted_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3, 50, 3))
    weights = np.array([0.5, 0.2, 0.3])
    found = blend(softmax(logits, axis=2), weights)
    np.testing.assert_allclose(found, softmax(np.einsum("k,krc->rc", weights, logits), axis=1), rtol=1e-12)


def test_all_weight_on_one_member_gives_that_member() -> None:
    p, _ = drawn(1, 3, 30)
    np.testing.assert_allclose(blend(p, [0, 1, 0]), p[1], atol=1e-12)


def test_zeros_are_floored_and_stay_finite() -> None:
    p = np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(blend(p, [0.5, 0.5])[0, :2], 0.5, atol=1e-7)
    assert np.isfinite(log_probabilities(p)).all()


def test_rows_that_a_member_could_not_score_come_from_the_others() -> None:
    p, _ = drawn(2, 3, 4)
    scored = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    weights = [0.5, 0.2, 0.3]
    found = blend(p, weights, scored)
    np.testing.assert_allclose(found[1], blend(p[1:], [0.4, 0.6])[1], rtol=1e-12)
    np.testing.assert_allclose(found[2], p[0, 2], rtol=1e-9)
    np.testing.assert_allclose(found[3], blend(p, weights)[3], rtol=1e-12)  # nobody: 1/3 each in real files
    weightless = blend(p, [1.0, 0.0, 0.0], scored)
    np.testing.assert_allclose(weightless[1], blend(p[1:], [0.5, 0.5])[1], rtol=1e-12)


@unhurried
@given(SEEDS, st.integers(2, 5), st.integers(1, 60))
def test_fitted_weights_are_the_minimum(seed: int, count: int, rows: int) -> None:
    p, labels = drawn(seed, count, rows)
    weights = fit_weights(p, labels)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    # Kuhn-Tucker: the slope is the same in all weights above 0, and not lower in those that are 0
    logs = log_probabilities(p)
    mixed = blend(p, weights)
    slopes = ((mixed * logs).sum(axis=2) - logs[:, np.arange(rows), labels]).mean(axis=1)
    assert (slopes >= weights @ slopes - 2e-4).all()
    loss = log_losses(mixed, labels).mean()
    others = [*np.eye(count), np.full(count, 1 / count), *np.random.default_rng(seed).dirichlet(np.ones(count), 20)]
    assert loss <= min(log_losses(blend(p, other), labels).mean() for other in others) + 1e-6


def test_known_weights_are_recovered() -> None:
    rng = np.random.default_rng(5)
    p, _ = drawn(5, 3, 30_000)
    true = [0.6, 0.3, 0.1]
    cumulative = blend(p, true).cumsum(axis=1)
    labels = (rng.random((30_000, 1)) > cumulative[:, :2]).sum(axis=1)
    np.testing.assert_allclose(fit_weights(p, labels), true, atol=0.02)
