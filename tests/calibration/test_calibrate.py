"""Fitting calibrations: known ones are found again, none is accepted where none is needed, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from judge.calibration.calibrate import CalibrateResult, CalibrateSettings, calibrate
from judge.calibration.fit import cross_validate, make_task
from judge.errors import JudgeError
from judge.models.calibration import METHODS, Calibration, Method
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import SWAPPED, Float, mean_of_read, probabilities
from judge.stats.metrics import expected_calibration_error, log_loss, log_losses
from judge.tables.comparison import Flag
from tests.kit.calibrated_rows import drawn, frame_of, logprobs, simulated, stored_for, table_of

QUICK = CalibrateSettings(resamples=200)


def unread(rows: int) -> Float:
    return np.full((rows, 3), np.nan)


def run(stored: StoredPredictions, frame: Any, **values: Any) -> CalibrateResult:
    return calibrate(stored, table_of(frame), QUICK.model_copy(update=values))


def error_of(stored: StoredPredictions, frame: Any, **values: Any) -> str:
    with pytest.raises(JudgeError) as caught:
        run(stored, frame, **values)
    assert str(caught.value).isprintable()
    return str(caught.value)


TRUTHS: dict[str, Calibration] = {
    "temperature": Calibration(method="temperature", scale=(0.6, 0.6, 0.6), bias=(0, 0, 0)),
    "temperature+bias": Calibration(method="temperature+bias", scale=(1.4, 1.4, 1.4), bias=(0.4, -0.1, -0.3)),
    "vector": Calibration(method="vector", scale=(0.5, 1.0, 1.3), bias=(-0.2, -0.3, 0.5)),
}


def standard_errors(design: Float, p: Float) -> Float:
    """Square roots of the inverse Fisher information of a conditional logit with the true probabilities `p`."""
    centred = design - np.einsum("rc,rck->rk", p, design)[:, np.newaxis]
    errors: Float = np.sqrt(np.diag(np.linalg.inv(np.einsum("rc,rck,rcl->kl", p, centred, centred))))
    return errors


@pytest.mark.parametrize("method", list(TRUTHS))
def test_a_known_calibration_is_found_again_within_its_standard_errors(method: Method) -> None:
    rows, truth = 4000, TRUTHS[method]
    first = probabilities(logprobs(rows, 1))
    p = truth.apply(first, unread(rows))
    task = make_task(method, first, unread(rows), drawn(p, 1))
    theta = task.fit(np.ones(rows, dtype=np.bool_))
    scales = truth.scale if method == "vector" else truth.scale[:1]
    expected = np.array([*scales, *(() if method == "temperature" else truth.bias[:2])])
    errors = standard_errors(task.design, p)
    assert errors.max() < 0.1
    assert (np.abs(theta - expected) < 4 * errors).all()
    assert task.calibration(theta).bias == pytest.approx(truth.bias, abs=0.3)


def test_a_known_bias_of_position_is_found_again() -> None:
    """Each order of a row is its own reading of a judge that prefers what is shown first; the labels know no order."""
    rows = 6000
    rng = np.random.default_rng(0)
    fair = logprobs(rows, 2)
    labels = drawn(probabilities(fair), 2)
    bias, scale = np.array([0.5, -0.4, -0.1]), 0.8
    # what the judge says is such that scale * log p + bias gives back the fair probabilities in either order
    first, second = ((x - bias) / scale for x in (fair, fair[:, SWAPPED]))
    second = second[:, SWAPPED]
    partly = np.where(rng.random((rows, 1)) < 0.3, np.nan, second)  # some rows were read in one order only
    for exchanged in (second, partly):
        task = make_task("position", probabilities(first), probabilities(exchanged), labels)
        found = task.calibration(task.fit(np.ones(rows, dtype=np.bool_)))
        np.testing.assert_array_equal(np.bincount(task.row, task.weights), 1)  # no row counts twice
        # readings of a row share its label, so there are no more facts than rows
        errors = standard_errors(task.design[:rows], probabilities(fair))
        assert abs(found.scale[0] - scale) < 4 * errors[0]
        assert (np.abs(np.array(found.bias[:2]) - bias[:2]) < 4 * errors[1:]).all()
        assert sum(found.bias) == pytest.approx(0, abs=1e-12)


def test_without_content_means_that_log_probabilities_are_subtracted() -> None:
    p = probabilities(logprobs(5, 0))
    empty = np.array([0.5, 0.2, 0.3])
    task = make_task("contextual", p, unread(5), np.zeros(5, int), (0.5, 0.2, 0.3))
    calibrated = task.calibration(task.fit(np.ones(5, dtype=np.bool_))).apply(p, unread(5))
    expected = p / empty
    np.testing.assert_allclose(calibrated, expected / expected.sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("method", list(TRUTHS))
def test_a_judge_that_needs_it_gains_what_the_truth_would_gain(method: Method) -> None:
    stored, frame = simulated(1500, TRUTHS[method], seed=3)
    result = run(stored, frame)
    labels = np.array([("model_a", "model_b", "tie").index(w) for w in frame["winner"]])
    truth = log_loss(TRUTHS[method].apply(stored.p, unread(1500)), labels)
    assert result.accepted
    assert result.log_loss.value == pytest.approx(log_loss(stored.p, labels), abs=1e-9)
    assert result.after.log_loss.value == pytest.approx(truth, abs=0.01)
    assert result.after.gain.value == pytest.approx(result.log_loss.value - result.after.log_loss.value, abs=1e-12)
    assert result.ece == pytest.approx(expected_calibration_error(stored.p, labels), abs=1e-9)
    if method != "vector":
        assert result.after.ece < result.ece


def test_the_calibration_that_is_kept_says_what_it_was_fitted_on() -> None:
    stored, frame = simulated(600, TRUTHS["temperature"], prompts=200)
    result = run(stored, frame)
    kept = result.calibration("f" * 64, "prompt")
    assert kept.numbers() == result.methods[result.chosen].calibration.numbers()
    fitted = kept.fitted
    assert fitted is not None
    assert (fitted.rows, fitted.groups, fitted.orders, fitted.predictions) == (600, 200, "one", "f" * 64)
    assert fitted.log_loss == (result.log_loss.value, result.after.log_loss.value)
    assert fitted.gain[0] == result.after.gain.value
    assert Calibration.model_validate_json(kept.model_dump_json()) == kept


def test_a_judge_that_is_calibrated_already_hardly_ever_gets_one() -> None:
    accepted, gains = [], []
    for seed in range(40):
        stored, frame = simulated(200, seed=seed)
        result = run(stored, frame, seed=seed, folds=3)
        accepted.append(result.accepted)
        gains.append(result.after.gain.value)
    assert sum(accepted) <= 2  # at 2.5% of 40, three or more would come up once in 90 times
    assert np.mean(gains) < 0  # what is fitted to chance costs on other rows


def test_the_choice_among_methods_is_inside_the_nested_figures() -> None:
    """By hand: for each fold, the method with the lowest loss in a cross-validation over the other folds."""
    rows, count = 90, 3
    first = probabilities(logprobs(rows, 5))
    labels = drawn(TRUTHS["vector"].apply(first, unread(rows)), 5)
    fold = np.arange(rows) % count
    tasks = [make_task(method, first, unread(rows), labels) for method in METHODS[:3]]
    fitted, after, nested = cross_validate(tasks, first, unread(rows), labels, fold)

    def held_out(task: int, train: Any, test: Any) -> Float:
        calibration = tasks[task].calibration(tasks[task].fit(train))
        return calibration.apply(first[test], unread(int(test.sum())))

    chosen = set()
    for outer in range(count):
        losses = np.zeros(3)
        for task in range(3):
            for inner in {0, 1, 2} - {outer}:
                test = fold == inner
                losses[task] += log_losses(held_out(task, (fold != outer) & ~test, test), labels[test]).sum()
        best = int(losses.argmin())
        chosen.add(best)
        np.testing.assert_allclose(nested[fold == outer], held_out(best, fold != outer, fold == outer), atol=1e-6)
        np.testing.assert_allclose(after[0][fold == outer], held_out(0, fold != outer, fold == outer), atol=1e-6)
    assert len(chosen) > 1  # or nothing was chosen
    assert [c.method for c in fitted] == list(METHODS[:3])


def test_rows_of_a_prompt_are_in_one_fold_so_a_copied_table_gains_nothing() -> None:
    """Every row fifty times: with rows of a prompt in several folds, chance would look like a sure gain."""
    stored, frame = simulated(30, seed=1)
    assert stored.first is not None
    labels = np.array([("model_a", "model_b", "tie").index(w) for w in frame["winner"]])
    many = frame_of(np.tile(labels, 50), prompts=30)
    result = run(stored_for(many, np.tile(stored.first, (50, 1))), many, folds=10)
    assert result.groups == 30
    assert not result.accepted
    assert any("only 30 prompt groups" in warning for warning in result.warnings)


def test_a_biased_order_is_put_right_where_both_were_read() -> None:
    rows = 1200
    fair = logprobs(rows, 4)
    labels = drawn(probabilities(fair), 4)
    bias = np.array([1.2, -1.0, -0.2])
    noise = np.random.default_rng(0).normal(size=(2, rows, 3)) * 0.1
    first, second = fair + bias + noise[0], (fair[:, SWAPPED] + bias)[:, SWAPPED] + noise[1]
    frame = frame_of(labels)
    result = run(stored_for(frame, first, second), frame)
    assert result.orders == "both"
    assert result.chosen == "position"
    assert result.accepted
    assert result.methods["position"].calibration.bias == pytest.approx(-bias, abs=0.3)
    one = run(stored_for(frame, first), frame)
    assert "position" not in one.methods
    assert "one order only" in one.left_out["position"]


def test_what_was_calibrated_already_is_fitted_anew_from_what_was_read() -> None:
    stored, frame = simulated(300, TRUTHS["temperature"])
    changed = replace(stored, p=TRUTHS["temperature"].apply(stored.p, unread(300)))
    assert run(changed, frame).methods == run(stored, frame).methods


def test_a_submission_is_calibrated_from_its_probabilities() -> None:
    stored, frame = simulated(300, TRUTHS["temperature"])
    submission = replace(stored, kind="submission", first=None, second=None, flags=None)
    result = run(submission, frame)
    assert result.methods["vector"].calibration.scale == pytest.approx(
        run(stored, frame).methods["vector"].calibration.scale, rel=1e-6
    )
    assert any("no column flags" in warning for warning in result.warnings)
    assert any("no log-probabilities" in warning for warning in result.warnings)


def test_neither_order_of_rows_nor_repetition_changes_anything() -> None:
    stored, frame = simulated(120, TRUTHS["vector"], prompts=60)
    shuffled = frame.sample(frac=1, random_state=3)
    assert run(stored, shuffled) == run(stored, frame)
    assert run(stored, frame, seed=1) != run(stored, frame)


def test_rows_that_say_nothing_are_left_out_and_counted() -> None:
    stored, frame = simulated(150, TRUTHS["temperature"])
    assert stored.first is not None
    assert stored.flags is not None
    frame.loc[:9, "winner"] = None
    first, flags = stored.first.copy(), stored.flags.copy()
    first[10:13] = np.nan
    flags[13] = Flag.NOT_SCORED
    flags[14:20] = Flag.TRAINED_ON
    flags[20:25] = Flag.TRAINED_PROMPT
    damaged = replace(stored, first=first, flags=flags)
    result = run(damaged, frame, trained_rows="drop")
    counts = result.rows
    assert (counts.table, counts.unlabelled, counts.dropped, counts.not_scored, counts.used) == (150, 10, 6, 4, 130)
    assert any("5 rows with the prompt of another row that trained this judge" in w for w in result.warnings)
    text = error_of(damaged, frame)
    assert "6 of 140 labelled rows trained this judge (for example id row-14)" in text
    assert "--trained-rows=drop" in text


def test_a_class_without_rows_leaves_the_temperature_alone() -> None:
    stored, frame = simulated(300)
    frame = frame[frame["winner"] != "tie"]
    kept = frame.index.to_numpy()
    assert stored.first is not None
    two = stored_for(frame, stored.first[kept])
    result = run(two, frame)
    assert list(result.methods) == ["temperature"]
    assert result.left_out["vector"] == "no row is labelled tie, so nothing is known of that verdict's bias"
    assert "--method=vector: no row is labelled tie" in error_of(two, frame, method="vector")


def test_what_cannot_be_calibrated_is_one_clear_line() -> None:
    stored, frame = simulated(40)
    one = frame.assign(winner="tie")
    assert "t.csv: all 40 labels are tie, which says nothing" in error_of(stored, one)
    assert (
        "the labelled rows have 12 prompts, too few for 15 folds; give more rows with a label, or --folds=12"
        in error_of(stored, frame.assign(prompt=[f"q {i % 12}" for i in range(40)]), folds=15)
    )
    few = error_of(stored, frame.assign(prompt=[f"q {i % 9}" for i in range(40)]), folds=3)
    assert "the labelled rows have 9 prompts, too few to tell a gain from chance; give rows with 10 prompts" in few
    assert "the labelled rows have 1 prompt, too few" in error_of(stored, frame.assign(prompt="q"))
    assert "has no prediction for 1 row of t.csv (for example id new)" in error_of(
        stored, frame.assign(id=["new", *frame["id"][1:]])
    )
    assert "no row has a label" in error_of(stored, frame.drop(columns="winner"))
    assert stored.first is not None
    nothing = replace(stored, first=np.full_like(stored.first, np.nan))
    assert "no labelled row was scored" in error_of(nothing, frame)
    trained = replace(stored, flags=np.full(40, int(Flag.TRAINED_ON), dtype=np.uint32))
    assert "--trained-rows=drop leaves none" in error_of(trained, frame, trained_rows="drop")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 2}, "--folds=2: expected 3 to 20"),
        ({"folds": 21}, "--folds=21: expected 3 to 20"),
        ({"resamples": 10}, "--resamples=10: expected 100 to 100,000"),
        ({"seed": -1}, "--seed=-1: expected a number of 0 or more"),
        ({"method": "position"}, "--method=position: each row was read in one order only"),
        ({"method": "contextual"}, "--method=contextual: it needs the model: give --bundle"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    assert message in error_of(*simulated(40), **values)


def test_one_method_alone_is_not_chosen_and_its_figures_are_its_own() -> None:
    stored, frame = simulated(200, TRUTHS["temperature"])
    alone, all_of_them = run(stored, frame, method="temperature"), run(stored, frame)
    assert list(alone.methods) == ["temperature"]
    assert alone.left_out == {}
    assert alone.after == alone.methods["temperature"].figures == all_of_them.methods["temperature"].figures


def test_labels_that_a_judge_never_misses_give_finite_numbers() -> None:
    labels = np.arange(60) % 3
    first = np.log(np.full((60, 3), 1e-3))
    first[np.arange(60), labels] = np.log(1 - 2e-3)
    result = run(stored_for(frame_of(labels), first), frame_of(labels))
    assert result.accepted
    assert all(np.isfinite(found.calibration.scale).all() for found in result.methods.values())
    assert 0 < result.after.log_loss.value < result.log_loss.value


def test_time_grows_with_the_rows_so_that_a_hundred_thousand_take_seconds() -> None:
    rows = 20_000
    first, second = (probabilities(logprobs(rows, seed)) for seed in (1, 2))
    labels = drawn(mean_of_read(first, second), 3)
    began = time.process_time()
    tasks = [make_task(method, first, second, labels, (0.4, 0.3, 0.3)) for method in METHODS]
    cross_validate(tasks, first, second, labels, np.arange(rows) % 5)
    assert time.process_time() - began < 8  # 1 s on a slow core
