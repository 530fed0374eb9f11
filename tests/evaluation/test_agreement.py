"""Agreement as published benchmarks count it: one hand-counted example a figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score

from judge.evaluation.agreement import AgreementFigure, agreement_figures
from judge.evaluation.judged_rows import JudgedRows
from judge.stats.resample import Estimate, Resampler
from tests.kit.made_rows import certain, made_rows, probabilities_of

LETTERS = "ABT"


def figures(rows: JudgedRows) -> dict[str, AgreementFigure]:
    return {one.key: one for one in agreement_figures(rows, Resampler(rows.groups, 200))}


def judged(labels: str, first: str, second: str) -> JudgedRows:
    """Return rows whose verdicts with A first and with B first (mapped back) are given as letters."""
    one, two = certain(first), certain(second)
    return made_rows((one + two) / 2, [LETTERS.index(x) for x in labels], first=one, second=two)


#          1234567890
LABELS = "AAAAABBTTT"
FIRST_ = "AABATBATAT"
SECOND = "ABBTTBBTTA"


# The rows above, counted by hand.
@pytest.mark.parametrize(
    ("key", "rows", "expected"),
    [
        # A first alone against the label: rows 1, 2, 4, 6, 8, 10 are right
        ("one_order_agreement", 10, 6 / 10),
        # right in both orders: rows 1, 6 and 8; rows 2, 4 and 10 are right in one only
        ("autoj_agreement", 10, 3 / 10),
        # the same in both: 1 (A), 3 (B), 5 (tie), 6 (B), 8 (tie)
        ("consistency", 10, 5 / 10),
        # combined A T B T T B T T T T against A A A A A B B T T T: rows 1, 6, 8, 9, 10
        ("mtbench_s1", 10, 5 / 10),
        # combined A or B and labelled A or B: rows 1 (right), 3 (wrong), 6 (right)
        ("mtbench_s2", 3, 2 / 3),
        # labelled A or B: rows 1-7. Right: 1, 4 (A and tie), 6. Neither: 2 (A and B), 5 (ties), 7. Wrong: 3
        ("judgebench", 7, 3 / 7),
    ],
)
def test_a_figure_is_what_the_benchmark_counts(key: str, rows: int, expected: float) -> None:
    found = figures(judged(LABELS, FIRST_, SECOND))[key]
    assert found.estimate is not None
    assert (found.rows, found.remark) == (rows, "")
    assert found.estimate.value == pytest.approx(expected)
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert 0 <= found.estimate.low <= found.estimate.value <= found.estimate.high <= 1


def test_benchmarks_without_ties_take_the_more_probable_of_a_and_b() -> None:
    # leads of A over B in the two orders; a tie is the most probable throughout
    first = probabilities_of([0.1, 0.1, -0.1, 0.0, -0.1], 0.6)
    second = probabilities_of([0.1, -0.1, -0.1, 0.1, -0.1], 0.6)
    found = figures(made_rows(first, [0, 0, 0, 0, 2], first=first, second=second))
    expected = {
        # rows labelled A or B, 1-4: right in both, in one, in none, and in the second only (no lead in the first)
        "llmbar_accuracy": (1 + 0.5 + 0 + 0.5) / 4,
        # the same response in both: rows 1 and 3; no lead agrees with nothing
        "llmbar_agreement": 2 / 4,
        # as the accuracy, but no lead is half right
        "rewardbench": (1 + 0.5 + 0 + 0.75) / 4,
    }
    for key, value in expected.items():
        estimate = found[key].estimate
        assert found[key].rows == 4
        assert estimate is not None
        assert estimate.value == pytest.approx(value), key


def test_one_order_only_says_which_figures_need_both() -> None:
    p = certain("AABT")
    found = figures(made_rows(p, [0, 1, 1, 2], first=p))
    measured = {key for key, one in found.items() if one.estimate is not None}
    assert measured == {"kappa", "one_order_agreement", "macro_f1", "rewardbench"}
    for key in found.keys() - measured:
        assert found[key].remark == "needs both orders, and only one was read (score with --swap all)"
    one_order = found["rewardbench"].estimate
    assert one_order is not None
    assert one_order.value == pytest.approx(2 / 3)


def test_a_file_without_orders_has_only_what_its_probabilities_show() -> None:
    found = figures(made_rows(certain("AABT"), [0, 1, 1, 2]))
    assert {key for key, one in found.items() if one.estimate is not None} == {"kappa"}
    assert found["one_order_agreement"].remark == "the file does not hold the log-probabilities of an order"
    assert found["autoj_agreement"].remark == "the file does not hold the log-probabilities of an order"


def test_only_rows_read_twice_are_in_the_figures_of_both_orders() -> None:
    first, second = certain("AAAA"), certain("AABB")
    second[2:] = np.nan
    found = figures(made_rows(first, [0, 0, 0, 0], first=first, second=second))
    assert found["consistency"].rows == 2
    assert found["consistency"].remark == "over the 2 of 4 rows read in both orders"
    consistency = found["consistency"].estimate
    assert consistency is not None
    assert [consistency.value, consistency.low, consistency.high] == pytest.approx([1, 0.025 ** (1 / 2), 1])
    assert found["one_order_agreement"].remark == ""


def test_a_row_that_was_not_scored_is_wrong_and_inconsistent() -> None:
    p = certain("AA")
    p[1] = np.nan
    third = np.array([[0.6, 0.2, 0.2], [1 / 3, 1 / 3, 1 / 3]])
    found = figures(made_rows(third, [0, 0], first=p, second=p, unscored=[False, True]))
    expected = {
        "one_order_agreement": 0.5,
        "autoj_agreement": 0.5,
        "consistency": 0.5,
        "mtbench_s1": 0.5,
        "mtbench_s2": 1.0,  # without a verdict it is among the errors, which S2 leaves out
        "judgebench": 0.5,
        "llmbar_accuracy": 0.5,
        "llmbar_agreement": 0.5,
        "rewardbench": 0.75,  # run_generative.py gives an error half
    }
    for key, value in expected.items():
        estimate = found[key].estimate
        assert estimate is not None
        assert estimate.value == pytest.approx(value), key


def test_unscored_rows_count_for_no_figure_of_both_orders_read_in_part() -> None:
    first, second = certain("AAAAAA"), certain("AAAABB")
    first[0] = second[0] = second[1] = np.nan  # row 0 could not be scored, row 1 was read once
    rows = made_rows(certain("AAAAAA"), [0] * 6, first=first, second=second, unscored=[True] + [False] * 5)
    found = figures(rows)
    assert (found["consistency"].rows, found["one_order_agreement"].rows) == (4, 6)
    assert found["consistency"].estimate is not None
    assert found["consistency"].estimate.value == pytest.approx(2 / 4)
    assert found["consistency"].remark == "over the 4 of 6 rows read in both orders"
    assert found["one_order_agreement"].estimate is not None
    assert found["one_order_agreement"].estimate.value == pytest.approx(5 / 6)


def test_equally_probable_verdicts_are_a_tie() -> None:
    even = np.array([[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [1 / 3] * 3, [0.2, 0.4, 0.4]])
    found = figures(made_rows(even, [0, 1, 2, 2], first=even, second=certain("TTTA")))
    for key, expected in (("one_order_agreement", 2 / 4), ("consistency", 3 / 4), ("autoj_agreement", 1 / 4)):
        estimate = found[key].estimate
        assert estimate is not None
        assert estimate.value == pytest.approx(expected), key


def test_exchanging_a_and_b_changes_no_figure() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 200, 3)) + 1.0  # often equal
    first, second = (p / p.sum(axis=1, keepdims=True) for p in (first, second))
    labels, turned = rng.integers(0, 3, 200), [1, 0, 2]
    one = figures(made_rows(first, labels, first=first, second=second))
    other = figures(
        made_rows(first[:, turned], np.array(turned)[labels], first=first[:, turned], second=second[:, turned])
    )
    for key, found in one.items():
        estimate, exchanged = found.estimate, other[key].estimate
        assert estimate is not None
        assert exchanged is not None
        assert exchanged.value == pytest.approx(estimate.value, abs=1e-12), key


def test_figures_that_no_resample_can_change_have_no_interval_and_say_so() -> None:
    p = certain("AABBTT")
    found = figures(made_rows(p, [0, 0, 1, 1, 2, 2], first=p, second=p))
    kappa = found["kappa"]
    assert (kappa.estimate, kappa.remark) == (Estimate(1, None, None), "no interval: it is the same in all resamples")
    agreement = found["one_order_agreement"].estimate
    assert agreement is not None
    assert [agreement.value, agreement.low, agreement.high] == pytest.approx([1, 0.025 ** (1 / 6), 1])


def test_ties_only_leave_nothing_for_benchmarks_without_ties() -> None:
    p = certain("AT")
    found = figures(made_rows(p, [2, 2], first=p, second=p))
    for key in ("judgebench", "llmbar_accuracy", "llmbar_agreement", "rewardbench"):
        assert (found[key].estimate, found[key].remark) == (None, "no row's label is A or B")
    assert found["mtbench_s2"].remark == "no row where neither the label nor the judge's verdict is a tie"


def test_kappa_is_undefined_where_everything_is_one_class() -> None:
    p = certain("AAA")
    found = figures(made_rows(p, [0, 0, 0], first=p, second=p))["kappa"]
    assert (found.estimate, found.remark) == (None, "all labels and verdicts are the same one")


def test_a_single_group_has_figures_without_intervals() -> None:
    p = certain("ABT")
    rows = made_rows(p, [0, 1, 0], first=p, second=p, groups=[7, 7, 7])
    for one in figures(rows).values():
        assert one.estimate is not None
        assert (one.estimate.low, one.estimate.high) == (None, None)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_figures_agree_with_scikit_learn_and_with_each_other(rows: list[tuple[int, int, int]]) -> None:
    labels, first, second = (list(column) for column in zip(*rows, strict=True))
    one, two = (certain("".join(LETTERS[x] for x in verdicts)) for verdicts in (first, second))
    found = {key: one.estimate for key, one in figures(made_rows(one, labels, first=one, second=two)).items()}
    f1, kappa = found["macro_f1"], found["kappa"]
    assert f1 is not None
    assert f1.value == pytest.approx(f1_score(labels, first, labels=[0, 1, 2], average="macro", zero_division=0))
    if kappa is None:
        assert len({*labels, *first}) == 1
    else:
        assert kappa.value == pytest.approx(cohen_kappa_score(labels, first, labels=[0, 1, 2]), abs=1e-12)
    both, consistent, single = found["autoj_agreement"], found["consistency"], found["one_order_agreement"]
    assert both is not None
    assert consistent is not None
    assert single is not None
    assert both.value <= min(consistent.value, single.value) + 1e-12
    assert all(estimate is None or math.isfinite(estimate.value) for estimate in found.values())


def test_keys_are_unique_and_every_figure_says_what_it_counts() -> None:
    found = agreement_figures(judged(LABELS, FIRST_, SECOND), Resampler(np.arange(10), 100))
    assert len({one.key for one in found}) == len(found) == 11
    assert all(one.name and one.counts and one.source for one in found)
