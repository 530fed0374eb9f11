"""Ensembles: the guarantee, weights against closed forms and simulations, files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss as sklearn_log_loss

from judge.cli.ensemble import run_ensemble
from judge.errors import JudgeError
from judge.evaluation.blend import blend, fit_weights
from judge.evaluation.ensemble import Ensemble, ensemble, parse_weights
from judge.evaluation.members import labelled_rows, read_members
from judge.evaluation.settings import EnsembleSettings
from judge.predictions.file import read_predictions
from judge.prompting.verdict import Float
from judge.stats.metrics import log_losses
from judge.tables.split import folds
from judge.tables.table import Table
from tests.kit.blended_judges import QUICK, WINNERS, drawn, files, read_frame, simulated, write


def blended(members: list[Path], table: Path | None = None, options: EnsembleSettings = QUICK) -> Ensemble:
    return ensemble(read_members(members), None if table is None else Table.open(table), options)


def error_of(members: list[Path], table: Path | None = None, options: EnsembleSettings = QUICK) -> str:
    with pytest.raises(JudgeError) as caught:
        blended(members, table, options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_figure_of_a_fitted_blend_is_out_of_fold() -> None:
    frame, p = simulated(150, 3, (0.5, 2.0, 3.0), prompts=40)
    stored = [stored_of(frame, q, name) for q, name in zip(p, "xyz", strict=True)]
    measured = ensemble(stored, table_of(frame), QUICK).measured
    assert measured is not None
    rows = labelled_rows(stored, table_of(frame), "refuse")
    fold = folds(rows.rows.groups, rows.rows.labels, 5, 0)
    losses = np.empty(150)
    for number in range(5):
        weights = fit_weights(rows.p[:, fold != number], rows.rows.labels[fold != number])
        losses[fold == number] = log_losses(blend(rows.p[:, fold == number], weights), rows.rows.labels[fold == number])
    assert measured.blend.log_loss.value == pytest.approx(losses.mean(), rel=1e-12)
    assert measured.folds == 5
    for group in np.unique(rows.rows.groups):
        assert len(set(fold[rows.rows.groups == group])) == 1


def stored_of(frame: pd.DataFrame, p: Float, name: str) -> Any:
    from judge.predictions.file import StoredPredictions

    flags = np.zeros(len(frame), dtype=np.uint32)
    return StoredPredictions(name, "predictions", [str(i) for i in frame["id"]], p, None, flags)


def table_of(frame: pd.DataFrame) -> Table:
    return Table("t.csv", frame=frame)


def test_judges_with_errors_of_their_own_are_better_together() -> None:
    frame, p = simulated(1500, 1, (1.0, 1.0))
    result = ensemble([stored_of(frame, q, n) for q, n in zip(p, "xy", strict=True)], table_of(frame), QUICK)
    measured = result.measured
    assert measured is not None
    np.testing.assert_allclose(result.weights, 0.5, atol=0.12)
    labels = [WINNERS.index(w) for w in frame["winner"]]
    singles = [sklearn_log_loss(labels, q) for q in p]
    assert [m.log_loss.value for m in measured.members] == pytest.approx(singles, rel=1e-12)
    assert measured.best == "xy"[int(np.argmin(singles))]
    assert measured.gain.value == pytest.approx(min(singles) - measured.blend.log_loss.value, rel=1e-9)
    assert measured.gain.low is not None
    assert measured.gain.low > 0
    assert measured.conclusion.startswith(f"the blend is better than {measured.best} alone by 0.0")
    assert measured.warnings == []


def test_a_judge_that_only_adds_noise_is_said_to_bring_nothing() -> None:
    frame, p = simulated(400, 2, (0.0,))
    rng = np.random.default_rng(2)
    worse = softmax(np.log(p[0]) + rng.normal(0, 2.5, p[0].shape), axis=1)
    result = ensemble([stored_of(frame, p[0], "good"), stored_of(frame, worse, "noisy")], table_of(frame), QUICK)
    assert result.weights[0] > 0.9
    assert result.measured is not None
    assert result.measured.conclusion == (
        "the blend is not better than good alone: it is good alone, the other members got no weight"
    )


def test_a_gain_that_chance_explains_is_not_shown() -> None:
    frame, p = simulated(60, 6, (0.6, 0.8))
    result = ensemble([stored_of(frame, q, n) for q, n in zip(p, "xy", strict=True)], table_of(frame), QUICK)
    measured = result.measured
    assert measured is not None
    assert 0 < result.weights[0] < 1
    assert measured.gain.low is not None
    assert measured.gain.high is not None
    assert measured.gain.low < 0 < measured.gain.high
    assert measured.conclusion.startswith(f"the blend is not shown to be better than {measured.best} alone: a gain of")


def test_given_weights_are_measured_as_they_are() -> None:
    frame, p = simulated(120, 5, (1.0, 1.0))
    stored = [stored_of(frame, q, n) for q, n in zip(p, "xy", strict=True)]
    result = ensemble(stored, table_of(frame), EnsembleSettings(weights=(0.25, 0.75), resamples=100))
    assert (result.weights, result.fitted) == ([0.25, 0.75], False)
    labels = [WINNERS.index(w) for w in frame["winner"]]
    assert result.measured is not None
    assert result.measured.folds is None
    expected = sklearn_log_loss(labels, blend(p, [0.25, 0.75]))
    assert result.measured.blend.log_loss.value == pytest.approx(expected, rel=1e-12)
    expected = sklearn_log_loss(labels, blend(p, [0.5, 0.5]))
    assert result.measured.equal.log_loss.value == pytest.approx(expected, rel=1e-12)


def test_ids_must_be_the_same_in_all_files(tmp_path: Path) -> None:
    p, _ = drawn(0, 2, 4)
    one = write(tmp_path / "x.parquet", ["a", "b", "c", "d"], p[0])
    two = write(tmp_path / "y.parquet", ["a", "\x1b[1m"], p[1, :2])
    assert error_of([one, two]) == (
        "y.parquet: has no prediction for 3 rows of x.parquet (for example id b); has predictions for 1 row that "
        "x.parquet does not have (for example id \\x1b[1m); give predictions of the same table"
    )
    three = write(tmp_path / "z.parquet", ["a", "b", "c", "a"], p[1])
    assert error_of([one, three]) == (
        "z.parquet: row 4 (id a), column 'id' appears twice (first in row 1); keep one of them"
    )


def test_ids_must_be_those_of_the_table(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=10)
    frame = pd.read_csv(table)
    frame[:8].to_csv(table, index=False)
    assert error_of(members, table).startswith(
        "x.parquet: has predictions for 2 rows that t.csv does not have (for example id 108)"
    )


def test_the_same_judge_twice_is_refused(tmp_path: Path) -> None:
    _, members = files(tmp_path, rows=5)
    assert error_of([members[0], members[1], members[0]]).endswith("x.parquet: is given twice; give each judge once")
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "x.parquet"
    read_frame(members[0])[::-1].to_parquet(copy, index=False)
    assert error_of([members[0], copy]) == (
        f"{copy}: holds the same probabilities as {members[0]}; give each judge once"
    )


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ("0.5,0.3,0.2", "--weights=0.5,0.3,0.2: 3 weights for 2 files; give one each"),
        ("1", "--weights=1: 1 weight for 2 files; give one each"),
        ("1.5,-0.5", "--weights=1.5,-0.5: expected numbers of 0 or more"),
        ("nan,1", "--weights=nan,1: expected numbers of 0 or more"),
        ("0.6,0.6", "--weights=0.6,0.6: they sum to 1.2, expected 1"),
        ("0.6;0.4", "--weights='0.6;0.4': expected numbers joined by commas, such as 0.6,0.4"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, weights: str, problem: str) -> None:
    _, members = files(tmp_path, rows=5)
    with pytest.raises(JudgeError) as caught:
        blended(members, None, EnsembleSettings(weights=parse_weights(weights)))
    assert str(caught.value).replace("'", "") == problem.replace("'", "")


def test_other_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=5)
    assert error_of(members[:1], table) == "an ensemble needs at least two files of predictions, 1 given"
    assert error_of(members, table, EnsembleSettings(resamples=5)) == "--resamples=5: expected 100 to 100,000"
    assert error_of(members, table, EnsembleSettings(seed=-1)) == "--seed=-1: expected a number of 0 or more"
    assert error_of(members, table, EnsembleSettings(folds=1)) == "--folds=1: expected 2 or more"
    assert error_of(members, table, EnsembleSettings(folds=6)) == (
        "--folds=6: the labelled rows have 5 prompt groups, fewer than folds; pass --folds=5"
    )
    frame = pd.read_csv(table).assign(prompt="One for all")
    frame.to_csv(table, index=False)
    assert error_of(members, table) == (
        "--folds=5: the labelled rows have 1 prompt group, fewer than folds; pass --weights, or give more rows"
    )
    result = blended(members, table, EnsembleSettings(weights=(0.5, 0.5)))
    assert result.measured is not None
    assert result.measured.gain.low is None
    assert result.measured.conclusion.startswith("with one prompt group it cannot be said")
    with pytest.raises(JudgeError, match="nothing to do"):
        list(run_ensemble(members, None, None, QUICK))


def test_rows_that_trained_any_member_are_refused_or_left_out(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    p = [read_predictions(path).p for path in members]
    ids = read_frame(members[0])["id"]
    flags = ["trained_on"] * 5 + ["trained_prompt"] * 2 + [""] * 53
    write(members[1], ids, p[1], flags)
    assert error_of(members, table) == (
        "y.parquet: 5 of 60 labelled rows trained this judge (for example id 100), so figures on them would say little "
        "about new rows; pass --trained-rows=drop to leave them out"
    )
    result = blended(members, table, EnsembleSettings(trained_rows="drop", resamples=100))
    assert result.measured is not None
    assert (result.measured.rows, result.measured.dropped) == (55, 5)
    labels = np.array([WINNERS.index(w) for w in pd.read_csv(table)["winner"]])
    expected = sklearn_log_loss(labels[5:], p[0][5:])
    assert result.measured.members[0].log_loss.value == pytest.approx(expected, rel=1e-12)
    assert result.measured.warnings == [
        "2 rows with the prompt of another row that trained a judge: the figures may be too good"
    ]
    write(members[0], ids, p[0], ["trained_on"] * 60)
    assert error_of(members, table, EnsembleSettings(trained_rows="drop")) == (
        "x.parquet, y.parquet: every labelled row trained a judge, so --trained-rows=drop leaves none"
    )


def test_files_without_flags_earn_a_warning(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    read_frame(members[0]).drop(columns="flags").to_parquet(members[0], index=False)
    result = blended(members, table)
    assert result.measured is not None
    assert result.measured.warnings == ["x.parquet: no column flags, so it is not known whether rows trained the judge"]


def test_a_single_file_is_no_ensemble_whatever_is_asked_of_it(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    for place in (None, table):
        with pytest.raises(JudgeError, match="needs at least two files of predictions, 1 given"):
            list(run_ensemble(members[:1], place, None, QUICK))
