"""Figures of labelled rows against scikit-learn, closed forms and simulations whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression

from judge.evaluation.quality import Figure, area_under_curve, figures_of, length_baseline, mean_where
from judge.evaluation.reliability import calibration_error, class_wise_error, reliabilities
from judge.stats.metrics import (
    BINS,
    bin_gaps,
    bin_numbers,
    brier_scores,
    called,
    expected_calibration_error,
    hits,
    log_losses,
)
from judge.stats.resample import Estimate, Resampler, Undefined
from judge.tables.split import folds
from tests.kit.made_rows import rows_of, sampled

unhurried = settings(deadline=None, max_examples=30)  # the cores are shared
SEEDS = st.integers(0, 2**32 - 1)


def simulated(n: int, seed: int = 0, sharpness: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities and labels that were drawn with them; a sharpness over 1 makes the first too certain."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([1.5, 1.5, 1.0], n)
    labels = sampled(p, rng)
    told = p**sharpness
    return told / told.sum(axis=1, keepdims=True), labels


def value(figure: Figure) -> float:
    assert isinstance(figure, Estimate)
    return figure.value


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_figure_that_scikit_learn_has_is_the_same(dtype: type[np.floating[Any]]) -> None:
    p, labels = simulated(400)
    p = p.astype(dtype)
    exact = p.astype(np.float64) / p.astype(np.float64).sum(axis=1, keepdims=True)
    top = p.argmax(axis=1)
    assert (called(p).max(axis=1) == 1).all()  # no row with two equal ones, which scikit-learn counts otherwise
    rows = rows_of(p, labels)
    figures = figures_of(rows, Resampler(rows.groups, 100))
    assert figures.log_loss.value == pytest.approx(sklearn_metrics.log_loss(labels, exact), rel=1e-12)
    assert figures.accuracy.value == pytest.approx(sklearn_metrics.accuracy_score(labels, top), rel=1e-12)
    brier = sklearn_metrics.brier_score_loss(labels, exact, scale_by_half=False)
    assert figures.brier.value == pytest.approx(brier, rel=1e-12)
    assert np.array_equal(figures.confusion, sklearn_metrics.confusion_matrix(labels, top))
    precision, recall, _, support = sklearn_metrics.precision_recall_fscore_support(labels, top)
    for k, one in enumerate(figures.verdicts):
        assert value(one.precision) == pytest.approx(precision[k], rel=1e-12)
        assert value(one.recall) == pytest.approx(recall[k], rel=1e-12)
        assert one.labelled == support[k]
        assert value(one.auc) == pytest.approx(sklearn_metrics.roc_auc_score(labels == k, exact[:, k]), rel=1e-12)


def test_brier_scores_of_short_floats_are_computed_in_float64() -> None:
    p = np.array([[0.5, 0.25, 0.25]], dtype=np.float16)
    assert brier_scores(p, np.array([0])).tolist() == [0.375]
    assert brier_scores(p, np.array([0])).dtype == np.float64


def test_equally_probable_verdicts_share_the_call() -> None:
    p = np.array([[0.4, 0.4, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]])
    assert called(p).tolist() == [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]]
    assert hits(p, np.array([0, 2, 1])).tolist() == [0.5, 1 / 3, 0]
    assert np.isnan(called(np.array([[np.nan, 0.5, 0.5]]))).all()


@unhurried
@given(SEEDS, st.integers(5, 60), st.booleans())
def test_the_area_under_the_curve_is_scikit_learns_with_ties_too(seed: int, n: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 4, n) / 4 if coarse else rng.random(n)
    true = rng.random(n) < 0.5
    true[:2] = [True, False]
    found = area_under_curve(score, true, Resampler(np.arange(n), 100))
    assert found.value == pytest.approx(sklearn_metrics.roc_auc_score(true, score), rel=1e-12)


def test_the_areas_interval_is_that_of_resampling_whole_groups() -> None:
    rng = np.random.default_rng(4)
    n = 600
    groups = np.repeat(np.arange(n // 4), 4)
    true = rng.random(n) < 0.4
    score = rng.normal(size=n) + true + 0.7 * rng.normal(size=n // 4)[groups]
    found = area_under_curve(score, true, Resampler(groups, 2000))
    members = np.arange(n).reshape(-1, 4)
    drawn = []
    for _ in range(400):
        rows = members[rng.integers(0, n // 4, n // 4)].ravel()
        drawn.append(sklearn_metrics.roc_auc_score(true[rows], score[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_the_intervals_hold_the_truth_in_about_95_of_100_simulated_tables() -> None:
    """The truth is what a table of a million rows of the same kind shows; rows come in clusters of three."""

    def table(groups: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        number = np.repeat(np.arange(groups), 3)
        z = rng.normal(size=(groups, 3))[number] + 0.6 * rng.normal(size=(3 * groups, 3))
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        told = np.exp(1.3 * z)
        return told / told.sum(axis=1, keepdims=True), sampled(p, rng), number

    def figures(seed: int, groups: int, resamples: int) -> dict[str, Figure]:
        p, labels, number = table(groups, seed)
        rows = rows_of(p, labels, groups=number)
        resampler = Resampler(rows.groups, resamples)
        loss, brier, right = resampler.estimate(
            np.column_stack([log_losses(p, labels), brier_scores(p, labels), hits(p, labels)])
        )
        said = called(p)[:, 1]
        return {
            "log loss": loss,
            "Brier": brier,
            "accuracy": right,
            "AUC": area_under_curve(p[:, 2], labels == 2, resampler),
            "precision": mean_where(labels == 1, said, resampler, ""),
            "recall": mean_where(said, labels == 1, resampler, ""),
        }

    truth = {name: value(figure) for name, figure in figures(99, 100_000, 100).items()}
    trials = 200
    held = dict.fromkeys(truth, 0)
    for trial in range(trials):
        for name, figure in figures(trial, 100, 400).items():
            assert isinstance(figure, Estimate)
            assert figure.low is not None
            assert figure.high is not None
            held[name] += figure.low <= truth[name] <= figure.high
    # 95% of 200, three standard errors (4.6%) either way
    assert {name: count for name, count in held.items() if not 181 <= count <= 199} == {}


def test_the_calibration_error_is_the_weighted_gap_to_the_truth() -> None:
    p = np.array([[0.9, 0.05, 0.05]] * 10 + [[0.2, 0.6, 0.2]] * 5)
    labels = np.array([0] * 7 + [1] * 3 + [1] * 5)
    assert expected_calibration_error(p, labels) == pytest.approx((10 * 0.2 + 5 * 0.4) / 15, rel=1e-12)


def test_a_probability_at_an_edge_is_in_the_bin_below_it() -> None:
    assert bin_numbers(np.array([0.0, 0.2, 0.2 + 1e-9, 0.4, 1.0])).tolist() == [0, 2, 3, 5, BINS - 1]
    assert bin_numbers(np.array([1.0 + 1e-12])).tolist() == [BINS - 1]  # rounding


@unhurried
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_every_probability_lies_in_its_bin(chances: list[float]) -> None:
    number = bin_numbers(np.array(chances))
    for chance, k in zip(chances, number, strict=True):
        assert k / BINS <= chance + 1e-12
        assert chance <= (k + 1) / BINS + 1e-12
    assert number.min() >= 0
    assert number.max() < BINS


def test_a_calibration_errors_interval_holds_the_truth_calibrated_or_not() -> None:
    trials, n = 100, 600
    for sharpness in (1.0, 1.2, 1.8):
        p, labels = simulated(400_000, 77, sharpness)
        truth = 0.0 if sharpness == 1.0 else expected_calibration_error(p, labels)
        gaps = [bin_gaps(p[:, k], labels == k).mean(axis=0) for k in range(3)]
        by_class = 0.0 if sharpness == 1.0 else float(np.abs(gaps).sum() / 3)
        held = [0, 0]
        for trial in range(trials):
            p, labels = simulated(n, trial, sharpness)
            resampler = Resampler(np.arange(n), 200)
            error, _ = calibration_error(bin_gaps(p.max(axis=1), hits(p, labels)), resampler)
            mean = class_wise_error(rows_of(p, labels), resampler)
            for k, (found, true) in enumerate(((error, truth), (mean, by_class))):
                assert isinstance(found, Estimate)
                assert found.low is not None
                assert found.high is not None
                assert found.low <= found.value <= found.high
                held[k] += found.low <= true <= found.high
        assert min(held) >= 0.88 * trials, (sharpness, held, truth)  # the reflected interval: 0.80 at 1.2
    assert truth > 0.1


def test_where_all_came_true_the_calibration_errors_interval_is_widened() -> None:
    p = np.tile([0.96, 0.03, 0.01], (40, 1))
    rows = rows_of(p, np.zeros(40, dtype=np.int64))
    resampler = Resampler(rows.groups, 100)
    figures = figures_of(rows, resampler)
    reach = 1 - 0.025 ** (1 / 40)
    assert isinstance(figures.ece, Estimate)  # right in 40 of 40 rows, which 96% often are
    assert [figures.ece.value, figures.ece.low] == pytest.approx([0.04, 0.0])
    assert figures.ece.high == pytest.approx(0.04 + reach)
    assert isinstance(figures.class_wise_ece, Estimate)
    assert figures.class_wise_ece.value == pytest.approx((0.04 + 0.03 + 0.01) / 3)
    assert figures.class_wise_ece.high == pytest.approx(0.08 / 3 + reach)
    assert [figures.accuracy.low, figures.accuracy.high] == pytest.approx([1 - reach, 1.0])


def test_figures_of_rows_of_a_single_group_have_no_interval() -> None:
    p, labels = simulated(60)
    p[:, 2] = np.where(np.arange(60) < 2, 2.0, 0.0)
    labels = np.where(np.arange(60) < 2, 2, labels.clip(max=1))
    rows = rows_of(p, labels, groups=(np.arange(60) - 1).clip(0).astype(np.uint64))
    figures = figures_of(rows, Resampler(rows.groups, 100))
    tie = figures.verdicts[2]
    for figure in (tie.precision, tie.recall, tie.auc, figures.ties.on_ties):
        assert isinstance(figure, Estimate)
        assert (figure.low, figure.high) == (None, None)
    assert isinstance(figures.ties.on_others, Estimate)
    assert figures.ties.on_others.low is not None


def test_classes_that_are_told_apart_perfectly_leave_the_area_an_interval() -> None:
    true = np.arange(60) < 6
    found = area_under_curve(true.astype(np.float64), true, Resampler(np.arange(60), 100))
    # six pairs of rows of their own: a chance of 2.5% that all of them are in order
    assert [found.value, found.low, found.high] == pytest.approx([1.0, 0.025 ** (1 / 6), 1.0])
    found = area_under_curve(true.astype(np.float64), ~true, Resampler(np.arange(60), 100))
    assert [found.value, found.low, found.high] == pytest.approx([0.0, 0.0, 1 - 0.025 ** (1 / 6)])


def test_what_chance_alone_gives_is_what_calibrated_judges_show() -> None:
    errors, expected = [], []
    for trial in range(60):
        p, labels = simulated(600, trial)
        error, by_chance = calibration_error(bin_gaps(p.max(axis=1), hits(p, labels)), Resampler(np.arange(600), 300))
        errors.append(error.value)
        expected.append(by_chance)
    assert np.mean(np.array(expected, dtype=np.float64)) == pytest.approx(np.mean(errors), rel=0.12)


def test_a_reliability_diagram_has_every_row_once() -> None:
    p, labels = simulated(500)
    rows = rows_of(p, labels)
    top, *classes = reliabilities(rows, Resampler(rows.groups, 100))
    assert top.of == "top verdict"
    assert [one.of for one in classes] == ["A", "B", "tie"]
    for one, chance in zip([top, *classes], [p.max(axis=1), *p.T], strict=True):
        assert sum(b.rows for b in one.bins) == 500
        assert sum(b.rows * b.chance for b in one.bins) == pytest.approx(chance.sum())
    for k, one in enumerate(classes):
        assert sum(b.rows * b.right.value for b in one.bins) == pytest.approx((labels == k).sum())
        assert value(one.error) == pytest.approx(
            sum(b.rows * abs(b.chance - b.right.value) for b in one.bins) / 500, rel=1e-9
        )
    assert value(top.error) == pytest.approx(expected_calibration_error(p, labels), rel=1e-12)
    mean = np.mean([value(one.error) for one in classes])
    assert value(class_wise_error(rows, Resampler(rows.groups, 100))) == pytest.approx(mean, rel=1e-12)


def test_fewer_rows_than_bins_and_a_single_class_give_reasons() -> None:
    rows = rows_of(np.array([[0.2, 0.5, 0.3]] * 5), np.ones(5, dtype=np.int64))
    figures = figures_of(rows, Resampler(rows.groups, 100))
    assert figures.ece == Undefined("fewer rows (5) than bins (15)")
    assert figures.class_wise_ece == figures.ece
    assert figures.over_length_baseline == Undefined("the labels have one class only")
    a, b, tie = figures.verdicts
    assert (a.precision, a.recall, a.auc) == (
        Undefined("A is the most probable in no row"),
        Undefined("nobody's verdict is A"),
        Undefined("nobody's verdict is A"),
    )
    assert value(b.precision) == value(b.recall) == 1.0
    assert b.auc == Undefined("every verdict is B")
    assert tie.auc == Undefined("nobody's verdict is tie")
    assert figures.ties.on_ties == Undefined("nobody's verdict is tie")
    assert value(figures.ties.decided_accuracy) == 1.0


def test_a_decided_row_whose_responses_are_given_as_much_is_half_right() -> None:
    rows = rows_of(
        np.array([[0.3, 0.3, 0.4], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7], [0.1, 0.2, 0.7]]), np.array([0, 1, 0, 0])
    )
    figures = figures_of(rows, Resampler(rows.groups, 100))
    assert value(figures.ties.decided_accuracy) == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)


def test_a_single_group_has_figures_without_intervals() -> None:
    p, labels = simulated(40)
    rows = rows_of(p, labels, groups=np.zeros(40, dtype=np.uint64))
    figures = figures_of(rows, Resampler(rows.groups, 100))
    for figure in (figures.log_loss, figures.brier, figures.ece, figures.verdicts[0].auc, figures.ties.on_ties):
        assert isinstance(figure, Estimate)
        assert (figure.low, figure.high) == (None, None)
    assert figures.over_length_baseline == Undefined("fewer prompt groups (1) than folds (5)")


def test_the_length_baseline_is_scikit_learns_regression_across_folds() -> None:
    rng = np.random.default_rng(0)
    n = 300
    characters = np.column_stack([np.full(n, 50), rng.integers(20, 2000, n), rng.integers(20, 2000, n)])
    ratio = np.log1p(characters[:, 1]) - np.log1p(characters[:, 2])
    logits = np.column_stack([0.5 * ratio, -0.5 * ratio, -0.4 * np.abs(ratio)])
    labels = sampled(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rng)
    rows = rows_of(np.full((n, 3), 1 / 3), labels, characters=characters)
    fold = folds(rows.groups, labels, 5, 0)
    features = np.column_stack([ratio, np.abs(ratio)])
    expected = np.empty(n)
    for k in range(5):
        model = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-10).fit(features[fold != k], labels[fold != k])
        fitted = (fold != k).sum()
        p = (fitted * model.predict_proba(features[fold == k]) + 1) / (fitted + 3)  # a row of each verdict more
        expected[fold == k] = log_losses(p, labels[fold == k])
    found = length_baseline(rows)
    assert not isinstance(found, Undefined)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found.mean() < np.log(3) - 0.02  # it does know something here


def test_a_verdict_that_some_folds_lack_does_not_ruin_the_length_baseline() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 60)
    labels[0] = 2  # no other fold has a tie
    rows = rows_of(np.full((60, 3), 1 / 3), labels, characters=rng.integers(20, 2000, (60, 3)))
    found = length_baseline(rows)
    assert not isinstance(found, Undefined)
    assert found.max() == found[0]
    assert found[0] == pytest.approx(np.log(48 + 3), abs=0.05)  # one of 48 rows and three
