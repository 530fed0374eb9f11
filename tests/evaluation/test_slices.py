"""Figures on parts of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.slices import FEWEST_GROUPS, MOST_SLICES, Slice, slices_of
from judge.stats.metrics import hits, log_losses
from judge.stats.resample import Resampler
from tests.kit.made_rows import rows_of, sampled

unhurried = settings(deadline=None, max_examples=25)


def some_rows(n: int, seed: int = 0, **more: object) -> JudgedRows:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([1, 1, 1], n)
    return rows_of(p, sampled(p, rng), **more)


def sliced(rows: JudgedRows, resamples: int = 200) -> dict[str, list[Slice]]:
    found: dict[str, list[Slice]] = {}
    for one in slices_of(rows, Resampler(rows.groups, resamples)):
        found.setdefault(one.dimension, []).append(one)
    return found


def names(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=object)


def test_rows_that_are_all_alike_have_no_slices() -> None:
    assert slices_of(some_rows(30), Resampler(np.arange(30), 100)) == []


def test_a_slices_figures_are_those_of_its_rows_and_differ_from_all_others() -> None:
    language = names(["en"] * 60 + ["de"] * 40)
    rows = some_rows(100, language=language)
    (english, german) = sliced(rows)["language"]
    losses, right = log_losses(rows.p, rows.labels), hits(rows.p, rows.labels)
    assert (english.name, english.rows, english.groups, english.few) == ("en", 60, 60, False)
    assert english.log_loss.value == pytest.approx(losses[:60].mean(), rel=1e-12)
    assert german.accuracy.value == pytest.approx(right[60:].mean(), rel=1e-12)
    assert german.difference.value == pytest.approx(losses[60:].mean() - losses[:60].mean(), rel=1e-12)
    assert german.difference.low is not None
    assert german.difference.high is not None
    assert german.difference.low < german.difference.value < german.difference.high


def test_turns_and_lengths_stand_in_order_and_names_by_frequency() -> None:
    n = 120
    rows = some_rows(
        n,
        turns=np.array([1, 7, 2, 4] * 30),
        characters=np.array([[0, 8000, 0], [0, 999, 0], [10, 990, 0], [3000, 2000, 2999]] * 30),
        source=names(["b"] * 20 + ["a"] * 50 + [""] * 50),
    )
    found = sliced(rows)
    assert [(s.name, s.rows) for s in found["turns"]] == [("1", 30), ("2", 30), ("4 or more", 60)]
    assert [s.name for s in found["length"]] == ["0 to 999", "1,000 to 1,999", "4,000 to 7,999", "8,000 and more"]
    assert [(s.name, s.rows) for s in found["source"]] == [("a", 50), ("b", 20)]  # rows without one are in none


def test_rare_values_and_those_beyond_the_commonest_share_a_slice() -> None:
    values = [f"lang{k:02}" for k in range(12) for _ in range(20 - k)] + ["rare"] * 3
    assert values.count("lang10") == FEWEST_GROUPS
    found = sliced(some_rows(len(values), language=names(values)))["language"]
    assert [s.name for s in found] == [f"lang{k:02}" for k in range(MOST_SLICES)] + ["others"]
    assert found[-1].rows == sum(20 - k for k in range(MOST_SLICES, 12)) + 3
    few = ["x"] * 60 + ["y"] * FEWEST_GROUPS + ["z"] * (FEWEST_GROUPS - 1)
    found = sliced(some_rows(len(few), language=names(few)))["language"]
    assert [s.name for s in found] == ["x", "y", "others"]


def test_a_pair_of_models_is_the_same_whichever_wrote_a() -> None:
    models = np.array([["x", "y"], ["y", "x"], ["x", ""], ["z", "x"]] * 15, dtype=object)
    found = sliced(some_rows(60, models=models))["models"]
    assert {(s.name, s.rows) for s in found} == {("x / y", 30), ("x / z", 15)}


def test_cut_identical_and_empty_rows_have_slices() -> None:
    n = 90
    empty = np.zeros((n, 2), dtype=np.bool_)
    empty[:30, 1] = True
    rows = some_rows(n, cut=np.arange(n) % 3 == 0, identical=np.arange(n) >= 60, empty=empty)
    found = sliced(rows)
    assert {(s.name, s.rows) for s in found["budget"]} == {("cut", 30), ("whole", 60)}
    assert {(s.name, s.rows) for s in found["responses"]} == {
        ("one or both empty", 30),
        ("ordinary", 30),
        ("identical", 30),
    }


def test_a_slice_of_few_groups_says_so_and_of_one_group_has_no_interval() -> None:
    language = names(["en"] * 50 + ["de"] * 20 + ["fr"] * 20)
    groups = np.arange(90, dtype=np.uint64)
    groups[50:70] = 1000
    groups[70:] = 2000 + np.arange(20) % 5
    found = {s.name: s for s in sliced(some_rows(90, language=language, groups=groups))["language"]}
    assert [(s.groups, s.few) for s in found.values()] == [(50, False), (1, True), (5, True)]
    assert (found["de"].log_loss.low, found["de"].difference.high) == (None, None)
    assert found["fr"].log_loss.low is not None


def test_a_difference_from_a_few_other_rows_has_no_interval() -> None:
    for others, known in ((9, False), (10, True)):
        language = names(["en"] * 60 + ["de"] * others)
        english = sliced(some_rows(60 + others, language=language))["language"][0]
        assert (english.name, english.few) == ("en", False)
        assert english.log_loss.low is not None
        assert (english.difference.low is not None) == known


@unhurried
@given(st.integers(0, 2**32 - 1), st.integers(20, 80))
def test_the_slices_of_a_dimension_hold_every_row_once(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows = some_rows(
        n,
        seed,
        turns=rng.integers(1, 9, n),
        characters=rng.integers(0, 5000, (n, 3)),
        language=rng.choice(names(["en", "de", "fr", "zh"]), n),
        groups=rng.integers(0, 15, n).astype(np.uint64),
    )
    for dimension, found in sliced(rows, 100).items():
        assert sum(s.rows for s in found) == n, dimension
        loss = sum(s.rows * s.log_loss.value for s in found) / n
        assert loss == pytest.approx(log_losses(rows.p, rows.labels).mean(), rel=1e-9)


def test_slices_hold_their_truth_in_about_95_of_100_simulated_tables() -> None:
    rng = np.random.default_rng(8)
    held, trials = 0, 200
    for _ in range(trials):
        p = np.full((240, 3), [0.5, 0.3, 0.2])
        part = np.arange(240) < 80
        rows = rows_of(p, sampled(p, rng), language=names(["x"] * 80 + ["y"] * 160), groups=np.arange(240) // 2)
        first = slices_of(rows, Resampler(rows.groups, 300))[1]
        assert (first.name, first.rows) == ("x", part.sum())
        assert first.log_loss.low is not None
        assert first.log_loss.high is not None
        truth = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2))
        held += first.log_loss.low <= truth <= first.log_loss.high
    assert 180 <= held <= 199
