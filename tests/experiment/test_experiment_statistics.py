from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from judge.experiment.power import Demand, Spread, assumed, fewest_rows, smallest_difference
from judge.experiment.statistics import Difference, differences
from judge.prompting.verdict import Float
from judge.stats.metrics import MEASURES, Metric, accuracy, brier_scores, log_loss
from judge.stats.permutation import holm, sign_flip_test
from judge.stats.resample import Estimate, Resampler
from tests.kit.clustered_losses import made_groups, made_losses, named

TRUTH = np.array([0, 1, 2, 0])
SURE = 0.2 + 0.4 * np.eye(3)


def quick(scores: dict[str, Float], groups: NDArray[np.integer], margin: float = 0.01) -> list[Difference]:
    """Return the differences to arm 0 with as few resamples and permutations as will do."""
    return differences(scores, "0", groups, margin=margin, resamples=100, permutations=400)


def rows_to_show(difference: float, groups: NDArray[np.integer], spread: float, arms: int) -> int | None:
    """Return how many rows, in groups of these sizes, show a true difference with a probability of 80%."""
    demand = Demand(0.05, 0.8, arms)
    return fewest_rows(lambda grown: demand.smallest(grown) <= difference, assumed(groups, spread), len(groups), 1)


def spread_rows(rng: np.random.Generator, count: int, mean: float = 0.0, sd: float = 0.1) -> Float:
    """Return values of exactly this mean and standard deviation (that of a sample)."""
    values = rng.normal(size=count)
    values -= values.mean()
    scaled: Float = mean + sd * values / values.std(ddof=1)
    return scaled


def test_row_scores_are_the_metrics_rows() -> None:
    p = SURE[[0, 1, 0, 0]]
    assert MEASURES["log_loss"].scores(p, TRUTH).mean() == pytest.approx(log_loss(p, TRUTH))
    assert MEASURES["accuracy"].scores(p, TRUTH).tolist() == [1, 1, 0, 1]
    assert MEASURES["accuracy"].scores(p, TRUTH).mean() == accuracy(p, TRUTH)
    assert MEASURES["brier"].scores(p, TRUTH).tolist() == brier_scores(p, TRUTH).tolist()
    assert np.isnan(MEASURES["log_loss"].scores(np.full((4, 3), np.nan), TRUTH)).all()


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "brier"])
def test_the_arm_that_is_right_more_often_is_better_by_every_metric(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    right, often = SURE[labels], SURE[np.where(rng.random(300) < 0.7, labels, (labels + 1) % 3)]
    scores = {name: MEASURES[metric].scores(p, labels) for name, p in (("base", often), ("arm", right))}
    (found,) = differences(scores, "base", np.arange(300), metric, resamples=100)
    assert found.call == "better"
    assert "arm is better than base by" in found.sentence
    assert (found.estimate.value > 0) == (metric == "accuracy")
    (turned,) = differences(scores, "arm", np.arange(300), metric, resamples=100)
    assert turned.call == "worse"
    assert turned.estimate.value == pytest.approx(-found.estimate.value)


def test_the_parts_are_the_bootstrap_the_sign_flips_and_holms_correction() -> None:
    rng = np.random.default_rng(2)
    groups = made_groups(rng, 80)
    scores = named(made_losses(rng, groups, 4))
    found = differences(scores, "0", groups, resamples=300, permutations=500, seed=7)
    assert [one.arm for one in found] == ["1", "2", "3"]
    for one in found:
        paired = scores[one.arm] - scores["0"]
        (estimate,) = Resampler(groups, 300, seed=7).estimate(paired[:, np.newaxis])
        assert [one.estimate.value, one.estimate.low, one.estimate.high] == pytest.approx(
            [estimate.value, estimate.low, estimate.high]
        )
        assert one.p_value == sign_flip_test(paired, groups, 500, 7)
        assert (one.rows, one.groups, one.unscored) == (len(groups), 80, 0)
    assert [one.p_holm for one in found] == holm([one.p_value for one in found])


@pytest.mark.parametrize("mean", [0.0, 0.006, -0.012])
def test_equivalence_is_two_one_sided_t_tests_where_each_row_is_a_group(mean: float) -> None:
    values = spread_rows(np.random.default_rng(3), 400, mean)
    (found,) = quick({"0": np.zeros(400), "1": values}, np.arange(400))
    above = stats.ttest_1samp(values, 0.01, alternative="less").pvalue
    below = stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
    assert found.p_equivalent == pytest.approx(max(above, below), rel=1e-9)


def test_a_spread_that_clusters_is_larger_and_as_simulated() -> None:
    rng = np.random.default_rng(4)
    means, seen = [], []
    for _ in range(300):
        groups = made_groups(rng, 100)
        losses = made_losses(rng, groups, 2)
        means.append((losses[1] - losses[0]).mean())
        seen.append(assumed(groups, 0.3).groups)
    assert np.mean(seen) == pytest.approx(np.std(means), rel=0.1)


def test_with_many_groups_the_smallest_difference_is_the_textbooks() -> None:
    groups = np.arange(100_000)
    z = stats.norm.ppf(1 - 0.05 / 2 / 5) + stats.norm.ppf(0.8)
    assert smallest_difference(groups, 0.3, arms=5) == pytest.approx(z * 0.3 / math.sqrt(100_000), rel=1e-3)
    z = stats.norm.ppf(1 - 0.1 / 2) + stats.norm.ppf(0.9)
    assert smallest_difference(groups, 1.0, 1, level=0.9, power=0.9) == pytest.approx(z / math.sqrt(100_000), rel=1e-3)
    assert smallest_difference(np.zeros(50, dtype=np.int64), 0.3, 1) == math.inf


def test_the_rows_asked_for_have_the_smallest_difference_wanted() -> None:
    groups = np.repeat(np.arange(200), 3)
    rows = rows_to_show(0.02, groups, 0.3, arms=2)
    assert rows is not None
    whole = rows - rows % 3
    many, few = np.repeat(np.arange(whole // 3 + 1), 3), np.repeat(np.arange(whole // 3 - 1), 3)
    assert smallest_difference(many, 0.3, 2) <= 0.02 < smallest_difference(few, 0.3, 2)
    assert rows_to_show(0.00001, groups, 0.3, arms=2) is None
    assert rows_to_show(5.0, groups, 0.3, arms=2) == 60  # 20 groups are the least


@settings(deadline=None, max_examples=50)
@given(
    st.floats(0.001, 1),
    st.integers(20, 5000),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.integers(1, 9),
    st.floats(1e-4, 0.4),
)
def test_tail_and_quantile_of_a_spread_are_inverse(
    groups: float, count: int, seeds: float, freedom: int, tail: float
) -> None:
    spread = Spread(groups, count, seeds, freedom)
    distance = spread.quantile(tail)
    assert spread.tail(distance) == pytest.approx(tail, rel=1e-6)
    assert spread.tail(-distance) == pytest.approx(1 - tail, rel=1e-6)
    assert distance >= math.hypot(groups, seeds) * stats.norm.ppf(1 - tail) * 0.999


def most_by_chance(trials: int, rate: float = 0.05) -> int:
    """Return how many events of this rate so many trials have at most, but for one test in a hundred."""
    return int(stats.binom.ppf(0.99, trials, rate))


@pytest.mark.parametrize(("arms", "trials"), [(1, 400), (5, 250)])
def test_equal_arms_are_called_different_in_at_most_5_percent(arms: int, trials: int) -> None:
    rng = np.random.default_rng(10 + arms)
    wrong = held = 0
    for _ in range(trials):
        groups = made_groups(rng, 80)
        found = quick(named(made_losses(rng, groups, arms + 1)), groups)
        wrong += any(one.call in ("better", "worse") for one in found)
        low, high = found[0].estimate.low, found[0].estimate.high
        assert low is not None
        assert high is not None
        held += low <= 0 <= high
    assert wrong <= most_by_chance(trials)  # 4.5% of 4,000 trials with one arm, 4.9% of 2,500 with five
    assert held / trials >= 0.91  # 100 resamples only


def test_opposite_skew_is_called_different_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(16)
    wrong = 0
    for _ in range(300):
        groups = made_groups(rng, 80)
        found = quick(named(made_losses(rng, groups, 2, opposite=True)), groups)
        wrong += found[0].call in ("better", "worse")
    assert wrong <= most_by_chance(300)  # 4.6% of 4,000 trials


@pytest.mark.parametrize("arms", [1, 3])
def test_the_rows_asked_for_find_a_difference_with_the_promised_power(arms: int) -> None:
    rng = np.random.default_rng(20 + arms)
    sizes = made_groups(rng, 500)
    rows = rows_to_show(0.02, sizes, 0.15, arms)
    assert rows is not None
    trials, right, wrong = 200, 0, 0
    for _ in range(trials):
        groups = made_groups(rng, round(rows * 500 / len(sizes)))
        losses = made_losses(rng, groups, arms + 1, 0.15)
        losses[1] += 0.02
        found = quick(named(losses), groups)
        right += found[0].call == "worse"
        wrong += found[0].call in ("better", "equivalent")
    assert 0.74 <= right / trials <= 0.88
    assert wrong / trials <= 0.01


@pytest.mark.parametrize("planted", [0.0, 0.005, 0.01])
def test_the_rows_needed_decide_whatever_the_true_difference_is(planted: float) -> None:
    rng = np.random.default_rng(30)

    def measured(count: int) -> Difference:
        groups = made_groups(rng, count)
        losses = made_losses(rng, groups, 2, 0.1)
        losses[1] += planted
        return quick(named(losses), groups)[0]

    again: list[str] = []
    while len(again) < 60:
        first = measured(150)
        if first.call == "undecided":
            assert first.rows_needed is not None
            assert first.rows_needed > first.rows
            assert "would decide it" in first.sentence
            again.append(measured(round(150 * first.rows_needed / first.rows)).call)
        else:
            assert first.rows_needed is None
    # 77% of 400 trials at the worst difference, 0.005: the spread seen in the first rows has an error of its own
    assert again.count("undecided") <= most_by_chance(60, 0.23)


def test_equal_arms_are_equivalent_and_arms_a_margin_apart_are_not() -> None:
    rng = np.random.default_rng(40)
    calls: dict[float, list[str]] = {0.0: [], 0.01: []}
    for planted, called in calls.items():
        for _ in range(100):
            groups = made_groups(rng, 1200)
            losses = made_losses(rng, groups, 2, 0.1)
            losses[1] += planted
            called.append(quick(named(losses), groups)[0].call)
    assert calls[0.0].count("equivalent") >= 90
    assert calls[0.01].count("equivalent") <= 8  # 5 expected at the margin itself


def test_a_small_difference_that_is_shown_is_called_equivalent_and_said() -> None:
    values = spread_rows(np.random.default_rng(5), 2000, 0.005, 0.05)
    (found,) = quick({"0": np.zeros(2000), "1": values}, np.arange(2000))
    assert found.call == "equivalent"
    assert found.p_holm < 0.05
    assert found.sentence.startswith("log loss: 1 is equivalent to 0 within ±0.0100 nats: +0.0050 nats (")
    assert found.sentence.endswith("; a difference is shown, smaller than what matters")


def trained(
    rng: np.random.Generator, arms: int, seeds: int, apart: float
) -> tuple[dict[str, Float], NDArray[np.int64]]:
    groups = made_groups(rng, 100)
    losses = made_losses(rng, groups, arms)[:, np.newaxis]
    noise = rng.normal(size=(arms, seeds, len(groups))) * 0.1
    return named(losses + rng.normal(size=(arms, seeds, 1)) * apart + noise), groups


@pytest.mark.parametrize(("arms", "seeds", "apart"), [(2, 2, 0.1), (2, 3, 0.03), (4, 2, 0.1)])
def test_the_interval_holds_the_spread_between_seeds(arms: int, seeds: int, apart: float) -> None:
    rng = np.random.default_rng(50)
    held = narrow = wrong = 0
    trials = 200
    for _ in range(trials):
        scores, groups = trained(rng, arms, seeds, apart)
        found = quick(scores, groups)
        averaged = quick({name: values.mean(axis=0) for name, values in scores.items()}, groups)
        for of, results in ((0, found), (1, averaged)):
            low, high = results[0].estimate.low, results[0].estimate.high
            assert low is not None
            assert high is not None
            held += (low <= 0 <= high) * (of == 0)
            narrow += (low <= 0 <= high) * (of == 1)
        wrong += any(one.call in ("better", "worse") for one in found)
        assert found[0].seeds == seeds
    assert held >= trials - most_by_chance(trials)
    assert wrong <= most_by_chance(trials)
    assert narrow / trials < 0.85


def test_the_sentence_says_that_two_seeds_leave_little_certainty() -> None:
    rng = np.random.default_rng(6)
    groups = made_groups(rng, 100)
    apart = np.array([[-0.05], [0.05]])
    scores = {name: values + apart for name, values in named(made_losses(rng, groups, 2)).items()}
    (found,) = quick(scores, groups)
    assert found.call == "undecided"
    assert found.rows_needed is None
    assert "more rows alone would not decide it, more training seeds might" in found.sentence
    assert found.sentence.endswith("2 seeds say little, train more")
    (once,) = quick({name: values[:1] for name, values in scores.items()}, groups)
    assert (once.call, once.smallest, once.estimate.low) == ("undecided", math.inf, None)
    assert "one training seed does not show what training leaves to chance" in once.sentence


def test_an_arm_that_is_not_trained_adds_no_spread_between_seeds() -> None:
    scores, groups = trained(np.random.default_rng(7), 3, 4, 0.02)
    mixed = quick({"0": scores["0"].mean(axis=0), "1": scores["1"], "2": scores["2"].mean(axis=0)}, groups)
    assert [one.seeds for one in mixed] == [4, 0]
    assert mixed[1].p_value == sign_flip_test(scores["2"].mean(axis=0) - scores["0"].mean(axis=0), groups, 400)


def test_an_arm_whose_seeds_differ_far_more_has_its_own_error() -> None:
    rng = np.random.default_rng(8)
    scores, groups = trained(rng, 6, 2, 0.01)
    calm = quick(scores, groups)
    scores["1"] = scores["1"] + np.array([[-0.3], [0.3]])
    wild = quick(scores, groups)
    assert wild[0].smallest > 10 * calm[0].smallest
    assert wild[0].smallest > 5 * wild[1].smallest


def test_arms_that_are_the_same_are_equivalent_where_there_are_rows_enough() -> None:
    same = np.linspace(0.1, 2, 100)
    (found,) = quick({"0": same, "1": same}, np.arange(100))
    assert (found.call, found.estimate.value, found.p_value, found.smallest) == ("equivalent", 0.0, 1.0, 0.0)
    (found,) = quick({"0": same[:40], "1": same[:40]}, np.arange(40))
    assert found.call == "undecided"
    assert "only 0 of 40 prompt groups differ" in found.sentence
    assert found.rows_needed == 90  # -log(0.05) / 0.01 groups with a typical difference of 0.3 nats


def test_too_few_groups_decide_nothing() -> None:
    values = np.full(57, 0.5)
    (found,) = quick({"0": np.zeros(57), "1": values}, np.arange(57) // 3)
    assert found.p_holm < 0.01
    assert found.call == "undecided"
    assert found.sentence.endswith("; 19 prompt groups are too few to decide, 20 are needed")
    (found,) = quick({"0": np.zeros(57), "1": values}, np.zeros(57, dtype=np.int64))
    assert (found.call, found.estimate, found.smallest) == ("undecided", Estimate(0.5, None, None), math.inf)
    assert found.rows_needed is None
    assert "1 prompt group is too few" in found.sentence
    (found,) = quick({"0": np.zeros(60), "1": np.full(60, 0.5)}, np.arange(60) // 3)
    assert found.call == "worse"


def test_rows_without_a_score_are_left_out_of_that_arm_alone() -> None:
    rng = np.random.default_rng(9)
    groups = made_groups(rng, 90)
    scores = named(made_losses(rng, groups, 3))
    scores["1"] = np.where(np.arange(len(groups)) % 5 == 0, np.nan, scores["1"])
    there = np.isfinite(scores["1"])
    found = quick(scores, groups)
    assert [one.unscored for one in found] == [int((~there).sum()), 0]
    assert "rows without a score left out" in found[0].sentence
    assert found[0].estimate.value == pytest.approx((scores["1"] - scores["0"])[there].mean())
    (alone,) = quick({name: values[there] for name, values in scores.items() if name != "2"}, groups[there])
    assert (found[0].p_value, found[0].smallest > 0) == (alone.p_value, True)
    (nothing,) = quick({"0": scores["0"], "1": np.full(len(groups), np.nan)}, groups)
    assert (nothing.call, nothing.rows, nothing.p_value) == ("undecided", 0, 1.0)
    assert nothing.sentence == "log loss: 1 against 0 is undecided: no row has a score of both"


def test_accuracy_is_told_in_points_and_names_are_printed_safely() -> None:
    rng = np.random.default_rng(12)
    base = (rng.random(400) < 0.5).astype(np.float64)
    arm = np.where(rng.random(400) < 0.4, 1.0, base)
    (found,) = differences({"base": base, "a\x1b[31m": arm}, "base", np.arange(400), "accuracy", resamples=100)
    assert found.sentence.startswith("accuracy: a\\x1b[31m is better than base by ")
    assert " points (" in found.sentence


def test_the_same_seed_gives_the_same_result() -> None:
    rng = np.random.default_rng(13)
    groups = made_groups(rng, 60)
    scores = named(made_losses(rng, groups, 3))
    first, again = (differences(scores, "0", groups, resamples=100, permutations=200, seed=1) for _ in range(2))
    assert first == again
    assert differences(scores, "0", groups, resamples=100, permutations=200, seed=2) != first


def test_scores_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="the baseline 'x' is not among the arms"):
        differences({"a": np.zeros(3)}, "x", np.arange(3))
    with pytest.raises(ValueError, match=r"b: expected scores \(rows,\) or \(seeds, rows\) of 3 rows, found \(2,\)"):
        differences({"a": np.zeros(3), "b": np.zeros(2)}, "a", np.arange(3))
    with pytest.raises(ValueError, match="there are no rows"):
        differences({"a": np.zeros(0)}, "a", np.arange(0))
    assert differences({"a": np.zeros(3)}, "a", np.arange(3)) == []
