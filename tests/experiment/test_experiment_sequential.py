from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from judge.experiment.sequential import FIRST_LOOK, RACE_SHARE, UNSEEN, Race
from judge.experiment.settings import Metric
from judge.experiment.statistics import differences
from judge.prompting.verdict import Float
from tests.kit.clustered_losses import made_groups, made_losses, named

Noise = Callable[[np.random.Generator, tuple[int, int]], Float]
NOISES: dict[str, Noise] = {
    "to the right": lambda rng, shape: rng.gamma(0.5, 1.0, shape) - 0.5,
    "to the left": lambda rng, shape: 0.5 - rng.gamma(0.5, 1.0, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
}


def raced(differences: Float, groups: NDArray[np.int64], batch: int = 50, metric: Metric = "log_loss") -> Race:
    """Return a race of arms 1, 2 ... that looked after every so many groups; differences (arms, rows)."""
    count = int(groups.max()) + 1
    race = Race([str(number + 1) for number in range(len(differences))], count, metric)
    ends = np.searchsorted(groups, np.arange(batch, count + 1, batch))
    for start, end in zip([0, *ends], ends, strict=False):
        running = {arm: differences[int(arm) - 1, start:end] for arm in race.running()}
        race.update(running, groups[start:end])
    return race


def clustered(rng: np.random.Generator, groups: NDArray[np.int64], noise: Noise) -> Float:
    """Return differences of mean 0 of five arms to a baseline; half of the variance is the group's."""
    of_groups, of_rows = noise(rng, (5, int(groups.max()) + 1)), noise(rng, (5, len(groups)))
    result: Float = 0.3 * (of_groups[:, groups] + of_rows)
    return result


@pytest.mark.parametrize("kind", NOISES)
def test_equal_arms_are_rarely_dropped_however_often_one_looks(kind: str) -> None:
    rng = np.random.default_rng(1)
    dropped = peeked = 0
    trials = 150
    for _ in range(trials):
        groups = made_groups(rng, 1500)
        values = clustered(rng, groups, NOISES[kind])
        dropped += bool(raced(values, groups).stopped)
        sums = np.stack([np.bincount(groups, weights=row) for row in values])
        error = np.sqrt((sums**2).cumsum(axis=1))
        z = sums.cumsum(axis=1)[:, 99:] / error[:, 99:]
        peeked += bool((z[:, ::50] > stats.norm.ppf(1 - 0.05 / 5)).any())
    assert dropped / trials <= 0.05
    assert peeked / trials > 0.1  # what a corrected one-sided test at each look would do


def test_an_arm_that_is_mostly_a_little_worse_and_rarely_far_better_is_not_dropped() -> None:
    rng = np.random.default_rng(2)
    dropped = 0
    for _ in range(60):
        values = np.where(rng.random((5, 1500)) < 0.02, -0.98, 0.02)
        dropped += bool(raced(values, np.arange(1500)).stopped)
    assert dropped <= 3


def test_race_and_final_tests_together_call_equal_arms_different_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(3)
    wrong, trials = 0, 120
    for _ in range(trials):
        groups = made_groups(rng, 300)
        losses = made_losses(rng, groups, 6)
        race = raced(losses[1:] - losses[0], groups, 25)
        found = differences(named(losses), "0", groups, resamples=100, permutations=400, stopped=race.stopped)
        wrong += any(one.call in ("better", "worse") for one in found)
    assert wrong / trials <= 0.05


def test_a_much_worse_arm_is_dropped_early_and_the_others_are_not() -> None:
    rng = np.random.default_rng(4)
    groups = made_groups(rng, 2000)
    losses = made_losses(rng, groups, 4)
    losses[2] += 0.2
    losses[3] -= 0.2
    race = raced(losses[1:] - losses[0], groups)
    assert set(race.stopped) == {"2"}
    assert race.running() == ["1", "3"]
    assert race.worse("2")
    assert not race.worse("3")
    stopped = race.stopped["2"]
    assert FIRST_LOOK <= stopped.groups <= 200
    assert stopped.rows == (groups < stopped.groups).sum()
    paired = (losses[2] - losses[0])[: stopped.rows]
    low, high = stopped.estimate.low, stopped.estimate.high
    assert stopped.estimate.value == pytest.approx(paired.mean())
    assert low is not None
    assert high is not None
    assert low < 0.2 < high
    assert stopped.p_value == race.p_value("2") <= 0.05 * RACE_SHARE / 3


def test_the_p_value_is_where_the_one_sided_bound_of_the_paper_is_0() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0.1, 0.3, 150)
    race = Race(["1", "2"], 400)
    race.update({"1": values, "2": -values}, np.arange(150))
    error = 0.05 * RACE_SHARE / 2
    rho2 = (-2 * math.log(2 * error) + math.log(-2 * math.log(2 * error)) + 1) / 200
    unseen = np.append(values, -UNSEEN)
    spread = 151 * rho2 + 1
    width = math.sqrt(2 * spread / (151**2 * rho2) * math.log1p(math.sqrt(spread) / (2 * race.p_value("1"))))
    assert unseen.mean() - unseen.std() * width == pytest.approx(0, abs=1e-12)
    assert race.p_value("2") == 1


def test_no_arm_is_dropped_before_the_first_look_or_where_few_groups_differ() -> None:
    race = Race(["1", "2"], 1000)
    rare = np.where(np.arange(FIRST_LOOK - 1) < 19, 3.0, 0.0)
    assert race.update({"1": np.full(FIRST_LOOK - 1, 3.0), "2": rare}, np.arange(FIRST_LOOK - 1)) == []
    assert race.update({"1": np.array([3.0]), "2": np.array([0.0])}, np.array([5000])) == ["1"]
    assert race.running() == ["2"]


def test_worse_is_lower_for_the_accuracy() -> None:
    groups = np.arange(600)
    values = np.where(np.random.default_rng(6).random((2, 600)) < 0.4, [[-1.0], [1.0]], 0.0)
    race = raced(values, groups, metric="accuracy")
    assert set(race.stopped) == {"1"}
    estimate = race.stopped["1"].estimate
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high < 0


def test_rows_without_a_score_do_not_count() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(0.1, 0.3, 300)
    gaps = np.where(rng.random(300) < 0.3, np.nan, values)
    there = np.isfinite(gaps)
    one, two = Race(["1"], 300), Race(["1"], 300)
    one.update({"1": gaps}, np.arange(300))
    two.update({"1": values[there]}, np.arange(300)[there])
    assert one.p_value("1") == two.p_value("1") < 1


def test_a_group_that_comes_twice_is_refused() -> None:
    race = Race(["1"], 300)
    race.update({"1": np.zeros(3)}, np.array([1, 1, 2]))
    with pytest.raises(ValueError, match="whole groups"):
        race.update({"1": np.zeros(2)}, np.array([2, 3]))
