"""The fitted time model: known costs are found again, ranges hold, and nothing is fitted to nonsense."""

from __future__ import annotations

import math

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.planning.time_model import RANGE_SHARE, Point, fit

_COSTS = (2e-12, 3e-5, 4e-3)  # seconds per FLOP, token and prompt


def point(rng: np.random.Generator, noise: float = 0.0, length: int | None = None) -> Point:
    """A run of a model of 50 million weights with quadratic attention, with relative noise."""
    tokens = length or int(rng.integers(50, 3000))
    prompts = int(rng.integers(2, 60))
    flops = prompts * (1e8 * tokens + 3e4 * tokens * tokens)
    seconds = float(np.dot(_COSTS, (flops, prompts * tokens, prompts)))
    return Point(flops, prompts, prompts * tokens, seconds * math.exp(rng.normal(0, noise)) if noise else seconds)


def test_costs_without_noise_are_found_again() -> None:
    rng = np.random.default_rng(0)
    model = fit([point(rng) for _ in range(8)])
    assert (model.per_flop, model.per_token, model.per_prompt) == pytest.approx(_COSTS, rel=1e-6)
    other = point(rng)
    estimate = model.seconds(other.flops, other.prompts, other.tokens)
    assert estimate.value == pytest.approx(other.seconds, rel=1e-6)
    # no fit is taken to be better than the machine repeats
    assert estimate.high / estimate.value == pytest.approx(estimate.value / estimate.low)
    assert estimate.high / estimate.value > 1.04


def test_the_range_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        model = fit([point(rng, noise=0.1) for _ in range(9)])
        other = point(rng, noise=0.1)
        estimate = model.seconds(other.flops, other.prompts, other.tokens)
        inside.append(estimate.low <= other.seconds <= estimate.high)
    # three standard errors of 400 draws; terms at zero leave fewer, so it may hold more often
    assert RANGE_SHARE - 3 * math.sqrt(RANGE_SHARE * (1 - RANGE_SHARE) / 400) <= np.mean(inside) <= 0.99


def test_a_run_unlike_the_measured_ones_gets_a_wider_range() -> None:
    rng = np.random.default_rng(2)
    model = fit([point(rng, noise=0.05, length=length) for length in (300, 350, 400, 450, 500, 550)])

    def width(tokens: int) -> float:
        estimate = model.seconds(10 * (1e8 * tokens + 3e4 * tokens * tokens), 10, 10 * tokens)
        return estimate.high / estimate.low

    assert width(20) > width(400)
    assert width(20_000) > width(400)


def test_no_cost_is_negative() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        model = fit([point(rng, noise=0.5) for _ in range(4)])
        assert min(model.per_flop, model.per_token, model.per_prompt) >= 0
        assert max(model.per_flop, model.per_token, model.per_prompt) > 0


def test_one_point_is_taken_to_cost_its_flops() -> None:
    model = fit([Point(4e12, 10, 1000, 8.0)])
    assert model.per_flop == pytest.approx(2e-12)
    assert (model.per_token, model.per_prompt) == (0, 0)
    assert model.seconds(1e12, 1, 1).value == pytest.approx(2.0)
    assert model.seconds(1e12, 1, 1).high > 1.3 * 2.0  # nothing is known of how well it fits


def test_nothing_to_do_takes_no_time() -> None:
    model = fit([Point(4e12, 10, 1000, 8.0)])
    assert model.seconds(0, 0, 0).high == 0


@pytest.mark.parametrize(
    "points",
    [[], [Point(1e12, 1, 1, 0.0)], [Point(0.0, 1, 1, 1.0)], [Point(math.nan, 1, 1, 1.0)]],
    ids=["none", "no time", "no work", "not a number"],
)
def test_what_is_no_measurement_is_refused(points: list[Point]) -> None:
    with pytest.raises(JudgeError, match="measured runs"):
        fit(points)
