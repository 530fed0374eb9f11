from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from judge.stats.resample import MOST_BLOCKS, Estimate, Float, Resampler

unhurried = settings(deadline=None, max_examples=30)  # the cores are shared
KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=6, unique=True)


def clustered(rng: np.random.Generator, groups: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return skewed values of mean 1, alike within a group, in groups of 1 to 8 rows: values (rows, 1), groups."""
    sizes = rng.geometric(0.4, groups).clip(1, 8)
    number = np.repeat(np.arange(groups), sizes)
    values = 0.8 * rng.gamma(2.0, 0.5, groups)[number] + 0.2 * rng.exponential(1.0, len(number))
    return values[:, np.newaxis], number


def test_intervals_over_groups_hold_the_truth_and_those_over_rows_do_not() -> None:
    rng = np.random.default_rng(20)
    held = {"groups": 0, "rows": 0}
    trials = 400
    for _ in range(trials):
        values, groups = clustered(rng, 120)
        for kind, keys in (("groups", groups), ("rows", np.arange(len(values)))):
            (estimate,) = Resampler(keys, 300).estimate(values)
            assert estimate.low is not None
            assert estimate.high is not None
            held[kind] += estimate.low <= 1.0 <= estimate.high
    assert 0.93 <= held["groups"] / trials <= 0.97
    assert held["rows"] / trials < 0.85


def test_it_is_scipys_percentile_bootstrap_of_ratios_of_sums() -> None:
    rng = np.random.default_rng(3)
    values, groups = rng.random((300, 2)), rng.integers(0, 70, 300)
    inside = groups == np.unique(groups)[:, np.newaxis]
    sums, counts = values.T @ inside.T, inside.sum(axis=1)
    expected = stats.bootstrap(
        (np.arange(len(counts)),),
        lambda drawn, axis: sums[:, drawn].sum(axis) / counts[drawn].sum(axis),
        n_resamples=500,
        batch=50,
        vectorized=True,
        method="percentile",
        confidence_level=1 - 2 * Resampler(groups).tail(),
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = Resampler(groups, 500, seed=5).estimate(values)
    assert [e.value for e in found] == pytest.approx(values.mean(axis=0), rel=1e-13)
    assert [e.low for e in found] == pytest.approx(expected.low, rel=1e-12)
    assert [e.high for e in found] == pytest.approx(expected.high, rel=1e-12)


@unhurried
@given(st.data())
def test_neither_the_order_of_rows_nor_names_of_groups_change_an_interval(data: st.DataObject) -> None:
    keys = data.draw(KEYS)
    numbers = data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=2, max_size=30))
    order = data.draw(st.permutations(range(len(numbers))))
    values = np.arange(len(numbers), dtype=np.float64)[:, np.newaxis]  # sums of whole numbers are exact
    groups = np.array(numbers)
    renamed = np.array(sorted(keys), dtype=np.uint64)[groups]
    expected = Resampler(groups, 100).estimate(values)
    assert Resampler(renamed[order], 100).estimate(values[order]) == expected


def test_the_seed_and_nothing_else_decides_the_resamples() -> None:
    values, groups = clustered(np.random.default_rng(0), 60)
    first = Resampler(groups, 200, seed=1).estimate(values)
    assert Resampler(groups, 200, seed=1).estimate(values) == first
    other = Resampler(groups, 200, seed=2).estimate(values)
    assert other[0].value == first[0].value
    assert other[0].low != first[0].low


def test_figures_that_are_estimated_apart_use_the_same_resamples() -> None:
    values, groups = clustered(np.random.default_rng(0), 60)
    resampler = Resampler(groups, 200, seed=3)
    both = resampler.estimate(np.hstack([values, values**2]))
    assert resampler.estimate(values) + resampler.estimate(values**2) == both
    assert both == Resampler(groups, 200, seed=3).estimate(np.hstack([values, values**2]))


def test_more_groups_than_blocks_have_intervals_of_the_right_width() -> None:
    values, groups = clustered(np.random.default_rng(1), 3 * MOST_BLOCKS)
    (found,) = Resampler(groups).estimate(values)
    sums, counts = (np.bincount(groups, weights=w) for w in (values[:, 0], np.ones(len(values))))
    # the ratio's standard error over groups, by linearisation (W. G. Cochran, Sampling Techniques, section 2.11)
    error = np.sqrt(((sums - values.mean() * counts) ** 2).sum()) / len(values)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)


def of_the_rest(totals: Float, _: Float) -> Float:
    """Return the mean of the first column over the rows that the second marks."""
    return np.stack([totals[0] / totals[1]])


def test_a_figure_about_rows_that_resamples_lack_leaves_these_out() -> None:
    chosen = np.zeros((40, 1))
    chosen[7] = 1.0
    nothing = Resampler(np.arange(40), 300).estimate(0 * np.hstack([chosen, chosen]), of_the_rest)[0]
    assert np.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (None, None)
    chosen[20] = 1.0  # 87% of the resamples hold a row of the two
    values = np.hstack([chosen * np.arange(40)[:, np.newaxis], chosen])
    (found,) = Resampler(np.arange(40), 300).estimate(values, of_the_rest, about=chosen[:, 0])
    assert (found.value, found.low, found.high) == (13.5, 7.0, 20.0)


def test_a_figure_about_rows_of_a_single_group_has_no_interval() -> None:
    chosen = np.arange(40) < 2
    values = np.column_stack([chosen * np.arange(40), chosen])
    alone = Resampler((np.arange(40) - 1).clip(0), 300)  # the two rows share a group
    assert alone.estimate(values, of_the_rest, about=chosen, shares=True) == [Estimate(0.5, None, None)]
    assert (alone.groups_of(chosen), alone.groups_of(~chosen), alone.groups) == (1, 38, 39)
    assert Resampler(np.arange(40), 300).estimate(values, of_the_rest, about=chosen)[0].low == 0.0


def test_the_percentiles_are_hesterbergs() -> None:
    for groups, expected in ((2, 0.0), (20, 0.0159), (50, 0.0212), (1000, 0.0248)):
        assert Resampler(np.arange(groups), 100).tail() == pytest.approx(expected, abs=5e-5)
    resampler = Resampler(np.arange(1000), 100, level=0.8)
    assert resampler.tail() == pytest.approx(0.1, abs=5e-4)
    assert resampler.tail(5) == pytest.approx(stats.norm.cdf(-np.sqrt(5 / 4) * stats.t(4).ppf(0.9)))


def test_with_few_groups_a_normal_mean_is_held_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    trials, held, plain = 600, 0, 0
    for _ in range(trials):
        values, resampler = rng.normal(size=(12, 1)), Resampler(np.arange(12), 400)
        (found,) = resampler.estimate(values)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
        low, high = np.quantile(resampler.totals(values), [0.025, 0.975])
        plain += low <= 0 <= high
    assert held / trials > 0.93
    assert plain < held - 0.01 * trials


def test_a_share_of_0_or_1_reaches_as_far_as_its_groups_can_tell() -> None:
    resampler = Resampler(np.repeat(np.arange(30), 4), 100)
    limit = stats.binomtest(0, 30).proportion_ci(method="exact").high
    none, every = resampler.estimate(np.repeat([[0.0, 1.0]], 120, axis=0), shares=True)
    assert [none.low, none.high] == pytest.approx([0.0, limit])
    assert [every.low, every.high] == pytest.approx([1 - limit, 1.0])
    # other figures that do not vary stay as they are, and so do shares that do not lie at an end
    assert resampler.estimate(np.full((120, 1), 1.0)) == [Estimate(1.0, 1.0, 1.0)]
    assert resampler.estimate(np.full((120, 1), 0.25), shares=True) == [Estimate(0.25, 0.25, 0.25)]
    both = resampler.estimate(np.ones((120, 2)), shares=[False, True])
    assert [both[0].low, both[1].low] == pytest.approx([1.0, 1 - limit])
    # one group that has nearly all the rows says little more than itself
    large = Resampler(np.array([0] * 97 + [1, 2, 3]), 100)
    assert large.reach() == pytest.approx(1 - 0.025 ** ((97**2 + 3) / 100**2), rel=1e-12)
    assert large.reach(np.arange(100) >= 97) == pytest.approx(1 - 0.025 ** (1 / 3))


def test_shares_near_the_end_are_held_where_resampling_alone_does_not() -> None:
    rng = np.random.default_rng(6)
    trials, held = 300, {True: 0, False: 0}
    for _ in range(trials):
        right = (rng.random((30, 1)) < 0.97).astype(np.float64)
        for share in held:
            (found,) = Resampler(np.arange(30), 200).estimate(right, shares=share)
            assert found.low is not None
            assert found.high is not None
            held[share] += found.low <= 0.97 <= found.high
    assert held[True] / trials > 0.95
    assert held[False] / trials < 0.7


def test_a_higher_level_gives_a_wider_interval() -> None:
    values, groups = clustered(np.random.default_rng(0), 60)
    narrow, wide = (Resampler(groups, 500, level=level).estimate(values)[0] for level in (0.5, 0.99))
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_columns_share_their_resamples() -> None:
    """The difference of two columns that differ by a constant has no spread."""
    values, groups = clustered(np.random.default_rng(0), 60)

    def difference(totals: Float, counts: Float) -> Float:
        result: Float = ((totals[0] - totals[1]) / counts)[np.newaxis]
        return result

    (estimate,) = Resampler(groups, 200).estimate(np.hstack([values, values - 0.25]), difference)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_single_group_has_a_value_and_no_interval() -> None:
    assert Resampler(np.array([7, 7])).estimate(np.array([[1.0], [2.0]])) == [Estimate(1.5, None, None)]


def test_memory_does_not_grow_with_groups_times_resamples() -> None:
    values = np.random.default_rng(0).random((57_000, 3))
    tracemalloc.start()
    Resampler(np.arange(57_000), 100).estimate(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # the resampled groups together are 57,000 x 100 x 8 bytes = 46 MB for each column


@pytest.mark.parametrize(
    ("values", "groups", "error"),
    [
        (np.zeros((0, 1)), np.zeros(0, dtype=int), "there are no rows to resample"),
        (np.zeros((2, 1)), np.zeros(3, dtype=int), r"expected values \(rows, columns\) and groups \(rows,\), found"),
        (np.zeros(2), np.zeros(2, dtype=int), r"expected values \(rows, columns\) and groups \(rows,\), found"),
        (np.array([[1.0], [np.nan]]), np.array([0, 1]), "the values hold NaN or infinity"),
        (np.array([[1.0], [np.inf]]), np.array([0, 1]), "the values hold NaN or infinity"),
    ],
)
def test_values_that_have_no_mean_are_refused(
    values: NDArray[np.float64], groups: NDArray[np.int64], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Resampler(groups).estimate(values)
