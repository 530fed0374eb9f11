"""The sign-flip test against scipy, closed forms and simulations without a difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from judge.stats.permutation import sign_flip_test

unhurried = settings(deadline=None, max_examples=40)  # the cores are shared
SEEDS = st.integers(0, 2**32 - 1)


def clustered(seed: int, groups: int, effect: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Differences of rows that share a good part of their value with their group, one to four rows each."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
    shared = rng.standard_t(5, groups)
    return effect + shared[group] + 0.3 * rng.normal(size=len(group)), group


def by_scipy(differences: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """The exact p-value of scipy on the groups' sums."""
    sums = np.bincount(groups, weights=differences)
    found = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    return float(found.pvalue)


@pytest.mark.parametrize("groups", [2, 3, 7, 12])
def test_the_exact_p_value_is_that_of_scipy(groups: int) -> None:
    for seed in range(3):
        differences, group = clustered(seed, groups, effect=0.4)
        assert sign_flip_test(differences, group) == pytest.approx(by_scipy(differences, group), abs=1e-12)


def test_a_drawn_p_value_is_close_to_the_exact_one() -> None:
    differences, group = clustered(3, 15, effect=0.3)  # 2^15 flips are more than 10,000
    exact = by_scipy(differences, group)
    assert 0.02 < exact < 0.6
    error = np.sqrt(exact * (1 - exact) / 10_000)
    drawn = [sign_flip_test(differences, group, seed=seed) for seed in range(4)]
    assert len(set(drawn)) > 1
    assert np.abs(np.array(drawn) - exact).max() < 4 * error


def test_without_a_difference_p_values_are_uniform() -> None:
    found = np.array([sign_flip_test(*clustered(seed, 40), permutations=400) for seed in range(500)])
    assert stats.kstest(found, "uniform").pvalue > 0.001
    for level in (0.05, 0.2, 0.5):
        assert abs((found <= level).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / 500)


def test_flipping_rows_instead_of_groups_would_find_false_differences() -> None:
    rows = 0
    for seed in range(200):
        differences, _ = clustered(seed, 40)
        rows += sign_flip_test(differences, np.arange(len(differences)), permutations=200) <= 0.05
    assert rows / 200 > 0.12


def test_a_large_difference_has_the_smallest_p_value_that_there_can_be() -> None:
    group = np.arange(50)
    assert sign_flip_test(np.ones(50), group, permutations=999) == 1 / 1000
    assert sign_flip_test(np.ones(5), group[:5]) == 2 / 32


def test_very_many_groups_have_the_p_value_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.004, 0.012):
        differences = rng.normal(size=40_000)
        differences += shift - differences.mean()
        z = differences.sum() / np.sqrt((differences**2).sum())
        found = sign_flip_test(differences, np.arange(40_000), permutations=2000)
        assert found == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.05)


def test_a_single_group_or_no_difference_says_nothing() -> None:
    assert sign_flip_test(np.array([0.3, 0.4]), np.zeros(2, dtype=np.int64)) == 1
    assert sign_flip_test(np.zeros(100), np.arange(100)) == 1


def test_groups_without_a_difference_change_nothing() -> None:
    differences, group = clustered(1, 6, effect=1.0)
    more = np.concatenate([differences, np.zeros(500)])
    assert sign_flip_test(more, np.concatenate([group, 10 + np.arange(500)])) == sign_flip_test(differences, group)


@unhurried
@given(SEEDS, st.integers(1, 30))
def test_sign_scale_and_names_of_groups_change_nothing(seed: int, groups: int) -> None:
    differences, group = clustered(seed, groups)
    p = sign_flip_test(differences, group, permutations=300)
    assert 1 / 301 <= p <= 1
    assert sign_flip_test(-differences, group, permutations=300) == p
    assert sign_flip_test(4 * differences, group, permutations=300) == p
    assert sign_flip_test(differences, group.astype(np.uint64) + 2**63, permutations=300) == p


@unhurried
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=11))
def test_equal_totals_count_however_they_are_rounded(signs: list[float]) -> None:
    differences = np.array(signs) / 3 * 0.1
    heads = np.count_nonzero(differences)
    total = abs(round(float(np.sum(signs))))
    ways = stats.binom.pmf(np.arange(heads + 1), heads, 0.5)
    expected = ways[np.abs(2 * np.arange(heads + 1) - heads) >= total].sum()  # a coin that is tossed `heads` times
    assert sign_flip_test(differences, np.arange(len(signs))) == pytest.approx(expected, abs=1e-12)


def test_what_is_no_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="a group for each row"):
        sign_flip_test(np.ones(3), np.arange(2))
    with pytest.raises(ValueError, match="a group for each row"):
        sign_flip_test(np.ones(0), np.arange(0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        sign_flip_test(np.array([1.0, np.nan]), np.arange(2))
    with pytest.raises(ValueError, match="permutations=0"):
        sign_flip_test(np.ones(3), np.arange(3), permutations=0)
