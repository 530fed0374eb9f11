"""Ensembles: the guarantee, weights against closed forms and simulations, files, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss as sklearn_log_loss

from judge.cli.ensemble import run_ensemble
from judge.cli.score import SubmissionOptions
from judge.errors import JudgeError
from judge.evaluation.blend import blend, fit_weights, log_probabilities
from judge.evaluation.ensemble import Ensemble, ensemble, parse_weights
from judge.evaluation.members import joint_flags, labelled_rows, read_members
from judge.evaluation.settings import EnsembleSettings
from judge.predictions.file import read_predictions
from judge.prompting.verdict import Float
from judge.stats.metrics import log_losses
from judge.tables.comparison import Flag
from judge.tables.split import folds
from judge.tables.table import Table

unhurried = settings(deadline=None, max_examples=60)  # the cores are shared
SEEDS = st.integers(0, 2**32 - 1)
WINNERS = ("model_a", "model_b", "tie")
QUICK = EnsembleSettings(resamples=200)


def drawn(seed: int, members: int, rows: int, zeros: bool = False) -> tuple[Float, Any]:
    """Random predictions of several members, shape (members, rows, 3), and labels."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.3, 0.5, 0.2], (members, rows))
    if zeros:
        p[rng.random((members, rows)) < 0.3] = np.eye(3)[rng.integers(0, 3)]
    return p, rng.integers(0, 3, rows)


def simulated(rows: int, seed: int, noise: tuple[float, ...], prompts: int | None = None) -> tuple[pd.DataFrame, Float]:
    """A table whose labels follow known probabilities, and members that see their logits with noise of their own."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (rows, 3))
    labels = [rng.choice(3, p=q) for q in softmax(logits, axis=1)]
    seen = [softmax((logits + rng.normal(0, s, logits.shape)) / np.sqrt(1 + s**2), axis=1) for s in noise]
    frame = pd.DataFrame(
        {
            "id": np.arange(rows) + 100,
            "prompt": [f"Question {i % (prompts or rows)}?" for i in range(rows)],
            "response_a": [f"first {i}" for i in range(rows)],
            "response_b": [f"second {i}" for i in range(rows)],
            "winner": [WINNERS[label] for label in labels],
        }
    )
    return frame, np.stack(seen)


def write(path: Path, ids: Any, p: Float, flags: list[str] | None = None) -> Path:
    frame = pd.DataFrame({"id": ids, "p_a": p[:, 0], "p_b": p[:, 1], "p_tie": p[:, 2]})
    frame["flags"] = flags or [""] * len(frame)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def files(
    folder: Path, rows: int = 60, noise: tuple[float, ...] = (0.8, 0.8), seed: int = 0
) -> tuple[Path, list[Path]]:
    """A labelled table file and a file of predictions of each member."""
    frame, p = simulated(rows, seed, noise)
    frame.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv", [
        write(folder / f"{name}.parquet", frame["id"], q) for name, q in zip("xyz", p, strict=False)
    ]


def blended(members: list[Path], table: Path | None = None, options: EnsembleSettings = QUICK) -> Ensemble:
    return ensemble(read_members(members), None if table is None else Table.open(table), options)


def error_of(members: list[Path], table: Path | None = None, options: EnsembleSettings = QUICK) -> str:
    with pytest.raises(JudgeError) as caught:
        blended(members, table, options)
    assert str(caught.value).isprintable()
    return str(caught.value)


# the blend


@unhurried
@given(SEEDS, st.integers(2, 5), st.booleans())
def test_no_row_of_a_blend_is_worse_than_the_weighted_mean_of_its_members(seed: int, count: int, zeros: bool) -> None:
    p, labels = drawn(seed, count, 20, zeros)
    weights = np.random.default_rng(seed).dirichlet(np.full(count, 0.5))
    members = np.stack([log_losses(q, labels) for q in p])
    own = log_losses(blend(p, weights), labels)
    assert (own <= weights @ members + 1e-9).all()
    assert own.mean() <= members.mean(axis=1).max() + 1e-9


@unhurried
@given(SEEDS, st.integers(2, 4))
def test_no_row_is_worse_than_those_members_that_could_score_it(seed: int, count: int) -> None:
    p, labels = drawn(seed, count, 20)
    rng = np.random.default_rng(seed)
    scored = rng.random((count, 20)) < 0.6
    scored[0, ~scored.any(axis=0)] = True
    weights = np.where(rng.random(count) < 0.3, 0, rng.random(count)) + 1e-12
    members = np.where(scored, [log_losses(q, labels) for q in p], -np.inf)
    assert (log_losses(blend(p, weights / weights.sum(), scored), labels) <= members.max(axis=0) + 1e-9).all()


def test_a_blend_is_the_softmax_of_the_weighted_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3, 50, 3))
    weights = np.array([0.5, 0.2, 0.3])
    found = blend(softmax(logits, axis=2), weights)
    np.testing.assert_allclose(found, softmax(np.einsum("k,krc->rc", weights, logits), axis=1), rtol=1e-12)


def test_all_weight_on_one_member_gives_that_member() -> None:
    p, _ = drawn(1, 3, 30)
    np.testing.assert_allclose(blend(p, [0, 1, 0]), p[1], atol=1e-12)


def test_zeros_are_floored_and_stay_finite() -> None:
    p = np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(blend(p, [0.5, 0.5])[0, :2], 0.5, atol=1e-7)
    assert np.isfinite(log_probabilities(p)).all()


def test_rows_that_a_member_could_not_score_come_from_the_others() -> None:
    p, _ = drawn(2, 3, 4)
    scored = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    weights = [0.5, 0.2, 0.3]
    found = blend(p, weights, scored)
    np.testing.assert_allclose(found[1], blend(p[1:], [0.4, 0.6])[1], rtol=1e-12)
    np.testing.assert_allclose(found[2], p[0, 2], rtol=1e-9)
    np.testing.assert_allclose(found[3], blend(p, weights)[3], rtol=1e-12)  # nobody: 1/3 each in real files
    weightless = blend(p, [1.0, 0.0, 0.0], scored)
    np.testing.assert_allclose(weightless[1], blend(p[1:], [0.5, 0.5])[1], rtol=1e-12)


# the weights


@unhurried
@given(SEEDS, st.integers(2, 5), st.integers(1, 60))
def test_fitted_weights_are_the_minimum(seed: int, count: int, rows: int) -> None:
    p, labels = drawn(seed, count, rows)
    weights = fit_weights(p, labels)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    # Kuhn-Tucker: the slope is the same in all weights above 0, and not lower in those that are 0
    logs = log_probabilities(p)
    mixed = blend(p, weights)
    slopes = ((mixed * logs).sum(axis=2) - logs[:, np.arange(rows), labels]).mean(axis=1)
    assert (slopes >= weights @ slopes - 2e-4).all()
    loss = log_losses(mixed, labels).mean()
    others = [*np.eye(count), np.full(count, 1 / count), *np.random.default_rng(seed).dirichlet(np.ones(count), 20)]
    assert loss <= min(log_losses(blend(p, other), labels).mean() for other in others) + 1e-6


def test_known_weights_are_recovered() -> None:
    rng = np.random.default_rng(5)
    p, _ = drawn(5, 3, 30_000)
    true = [0.6, 0.3, 0.1]
    cumulative = blend(p, true).cumsum(axis=1)
    labels = (rng.random((30_000, 1)) > cumulative[:, :2]).sum(axis=1)
    np.testing.assert_allclose(fit_weights(p, labels), true, atol=0.02)


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


# files


def test_the_order_of_rows_in_files_changes_nothing(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    one = list(run_ensemble(members, table, tmp_path / "one.parquet", QUICK, as_json=True))
    shuffled = read_frame(members[1]).sample(frac=1, random_state=1)
    shuffled.to_parquet(members[1], index=False)
    two = list(run_ensemble(members, table, tmp_path / "two.parquet", QUICK, as_json=True))
    assert one == two
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def read_frame(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


def test_the_output_has_the_first_files_order_or_the_tables(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=12)
    read_frame(members[0])[::-1].to_parquet(members[0], index=False)
    first = read_frame(members[0])["id"].tolist()
    list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK))
    out = read_frame(tmp_path / "out.parquet")
    assert out["id"].tolist() == first
    assert out.dtypes["id"] == np.int64
    list(run_ensemble(members, table, tmp_path / "out2.parquet", EnsembleSettings(weights=(0.5, 0.5), resamples=100)))
    by_table = read_frame(tmp_path / "out2.parquet")
    assert by_table["id"].tolist() == pd.read_csv(table)["id"].tolist() == first[::-1]
    pd.testing.assert_frame_equal(by_table, out[::-1].reset_index(drop=True))


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    for name in ("out.parquet", "out.csv"):
        lines = list(run_ensemble(members, table, tmp_path / name, QUICK))
        assert lines[-1] == f"wrote {tmp_path / name}"
        stored = read_predictions(tmp_path / name)
        record = json.loads((tmp_path / f"{name}.run.json").read_text())
        weights = [m["weight"] for m in record["members"]]
        both = read_members(members)
        np.testing.assert_array_equal(stored.p, blend(np.stack([m.p for m in both]), weights))
        assert [m["name"] for m in record["members"]] == ["x.parquet", "y.parquet"]
        assert record["members"][1]["sha256"] == hashlib.sha256(members[1].read_bytes()).hexdigest()
        assert record["table"] == hashlib.sha256(table.read_bytes()).hexdigest()
        assert record["measured"]["blend"]["log_loss"]["value"] > 0
        assert record["version"]


def test_flags_are_those_of_all_members(tmp_path: Path) -> None:
    p, _ = drawn(0, 2, 4)
    p[0, 1:3] = p[1, 2] = 1 / 3
    one = write(tmp_path / "x.parquet", range(4), p[0], ["identical", "not_scored", "not_scored", ""])
    two = write(tmp_path / "y.parquet", range(4), p[1], ["trained_on", "", "not_scored", ""])
    list(run_ensemble([one, two], None, tmp_path / "out.parquet", QUICK))
    out = read_frame(tmp_path / "out.parquet")
    assert out["flags"].tolist() == ["identical,trained_on", "", "not_scored", ""]
    values = out[["p_a", "p_b", "p_tie"]].to_numpy()
    np.testing.assert_allclose(values[1], p[1, 1], atol=1e-12)
    np.testing.assert_allclose(values[2], 1 / 3, rtol=1e-12)
    assert joint_flags(read_members([one, two]))[0] == Flag.IDENTICAL | Flag.TRAINED_ON


def test_a_submission_follows_the_sample(tmp_path: Path) -> None:
    _, members = files(tmp_path, rows=6)
    sample = tmp_path / "sample.csv"
    pd.DataFrame({"id": range(105, 99, -1), "winner": "model_a"}).to_csv(sample, index=False)
    wanted = SubmissionOptions(tmp_path / "sub.csv", sample)
    list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK, wanted))
    out, written = read_frame(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "sub.csv")
    assert written["id"].tolist() == list(range(105, 99, -1))
    expected = np.where(out["p_b"] > out["p_a"], "model_b", "model_a")[::-1]
    assert written["winner"].tolist() == expected.tolist()


def test_without_a_table_nothing_is_measured_and_the_output_says_so(tmp_path: Path) -> None:
    _, members = files(tmp_path, noise=(0.5, 1.0, 2.0))
    lines = list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK))
    assert lines == [
        "x.parquet  weight 0.3333",
        "y.parquet  weight 0.3333",
        "z.parquet  weight 0.3333",
        "60 rows; nothing was measured: give --table with labels",
        f"wrote {tmp_path / 'out.parquet'}",
    ]


def test_what_was_measured_is_printed(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=40)
    frame = pd.read_csv(table)
    frame.loc[:4, "winner"] = ""
    frame.to_csv(table, index=False)
    lines = list(run_ensemble(members, table, None, QUICK))
    assert lines[0] == "t.csv, 35 rows in 35 prompt groups; left out: 5 without a label"
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "x.parquet",
        "y.parquet",
        "equal weights",
        "blend, out of fold",
    ]
    assert lines[-1] == "warning: only 35 prompt groups: the intervals are too narrow"
    assert any("better than" in line for line in lines)


# what is refused


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


def test_no_input_is_overwritten_and_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    (tmp_path / "link.parquet").hardlink_to(members[1])
    before = {path: path.read_bytes() for path in (table, *members)}
    for output in (members[1], tmp_path / "link.parquet", tmp_path / "." / members[0].name):
        with pytest.raises(JudgeError, match="is to be written, but is also"):
            list(run_ensemble(members, table, output, QUICK))
    with pytest.raises(JudgeError, match="is to be written, but is also"):
        list(run_ensemble(members, table, tmp_path / "o.csv", QUICK, SubmissionOptions(tmp_path / "o.csv")))
    table.write_text(table.read_text().replace("Question", "[1]", 1))
    read_frame(members[1])[:5].to_parquet(tmp_path / "short.parquet", index=False)
    with pytest.raises(JudgeError):
        list(run_ensemble([members[0], tmp_path / "short.parquet"], None, tmp_path / "new.parquet", QUICK))
    assert {path: path.read_bytes() for path in members} == {path: before[path] for path in members}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "link.parquet",
        "short.parquet",
        "t.csv",
        "x.parquet",
        "y.parquet",
    ]


def test_a_single_file_is_no_ensemble_whatever_is_asked_of_it(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    for place in (None, table):
        with pytest.raises(JudgeError, match="needs at least two files of predictions, 1 given"):
            list(run_ensemble(members[:1], place, None, QUICK))


def test_nothing_is_written_where_one_of_the_outputs_cannot_be() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, closed = Path(name), Path(name) / "closed"
        closed.mkdir(mode=0o555)
        folder.chmod(0o777)
        _, members = files(folder)
        wanted = SubmissionOptions(closed / "sub.csv")
        user = os.geteuid()
        try:
            if user == 0:  # root may write everywhere
                os.seteuid(65534)
            with pytest.raises(JudgeError) as caught:
                list(run_ensemble(members, None, folder / "out.parquet", QUICK, wanted))
        finally:
            os.seteuid(user)
        assert str(caught.value) == f"{closed / 'sub.csv'}: cannot be written, its folder may not be written to"
        assert not (folder / "out.parquet").exists()
