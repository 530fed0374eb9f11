"""`judge compare`: differences against closed forms, what is called a difference, and the rows that changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from sklearn import metrics as sklearn_metrics

from judge.cli.compare import compare as compare_command
from judge.cli.compare import json_text, text_lines
from judge.errors import JudgeError
from judge.evaluation.compare import CompareResult, compare
from judge.evaluation.settings import CompareSettings
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float
from judge.stats.permutation import sign_flip_test
from judge.tables.comparison import Flag
from judge.tables.table import Table

unhurried = settings(deadline=None, max_examples=25)  # the cores are shared
SEEDS = st.integers(0, 2**32 - 1)
WINNERS = ("model_a", "model_b", "tie")
QUICK = CompareSettings(resamples=200, permutations=400)


def frame_of(count: int, seed: int = 0, prompts: int | None = None) -> pd.DataFrame:
    """A table of `count` rows with a label; each of `prompts` prompts (default: as many as rows) on some of them."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"row-{i:03}" for i in range(count)],
            "prompt": [f"Question {i % (prompts or count)}?" for i in range(count)],
            "response_a": [f"first {i}" for i in range(count)],
            "response_b": [f"second {i}" for i in range(count)],
            "winner": [WINNERS[k] for k in rng.integers(0, 3, count)],
        }
    )


def labels_of(frame: pd.DataFrame) -> list[int]:
    return [WINNERS.index(w) for w in frame["winner"]]


def stored_of(frame: pd.DataFrame, p: Float, name: str, flags: Sequence[int] | None = None) -> StoredPredictions:
    words = np.array(flags or [0] * len(frame), dtype=np.uint32)
    return StoredPredictions(name, "predictions", [str(i) for i in frame["id"]], p, None, words)


def skilled(frame: pd.DataFrame, skill: float, seed: int) -> Float:
    """Predictions that are drawn at random, `skill` of them replaced by the truth."""
    p = np.random.default_rng(seed).dirichlet([2, 2, 2], len(frame))
    return np.asarray((1 - skill) * p + skill * np.eye(3)[labels_of(frame)])


def compared(frame: pd.DataFrame, a: Float, b: Float, options: CompareSettings = QUICK) -> CompareResult:
    table = Table("t.csv", on_bad_row="placeholder", frame=frame)
    return compare([stored_of(frame, a, "a.parquet"), stored_of(frame, b, "b.parquet")], table, options)


def test_figures_are_those_of_scikit_learn() -> None:
    frame = frame_of(150, prompts=60)
    a, b = skilled(frame, 0.1, 1), skilled(frame, 0.3, 2)
    labels = np.array(labels_of(frame))
    result = compared(frame, a, b)
    assert (result.rows, result.groups) == (150, 60)
    truth = np.eye(3)[labels]
    for name, expected in (
        ("log_loss", [sklearn_metrics.log_loss(labels, p) for p in (a, b)]),
        ("accuracy", [sklearn_metrics.accuracy_score(labels, p.argmax(axis=1)) for p in (a, b)]),
        ("brier", [3 * sklearn_metrics.mean_squared_error(truth, p) for p in (a, b)]),
    ):
        found = result.differences[name]
        assert [found.a.value, found.b.value] == pytest.approx(expected, rel=1e-12)
        assert found.difference.value == pytest.approx(expected[1] - expected[0], rel=1e-9)
        assert found.difference.low is not None
        assert found.difference.high is not None
        assert found.difference.low < found.difference.value < found.difference.high
    losses = [-np.log(p[np.arange(150), labels]) for p in (a, b)]
    p_value = sign_flip_test(losses[1] - losses[0], np.arange(150) % 60, 400)
    assert result.differences["log_loss"].p_value == pytest.approx(p_value, abs=0.03)  # groups in another order


@unhurried
@given(SEEDS, st.integers(2, 40), st.integers(1, 9))
def test_exchanging_the_judges_exchanges_the_signs(seed: int, count: int, prompts: int) -> None:
    frame = frame_of(count, seed, prompts)
    a, b = skilled(frame, 0.1, 1), skilled(frame, 0.2, 2)
    one, two = compared(frame, a, b), compared(frame, b, a)
    for name, found in one.differences.items():
        other = two.differences[name]
        assert (found.a, found.b, found.p_value) == (other.b, other.a, other.p_value)
        assert found.difference.value == -other.difference.value
    assert (one.verdicts.changed, one.verdicts.to_right, one.verdicts.to_wrong) == (
        two.verdicts.changed,
        two.verdicts.to_wrong,
        two.verdicts.to_right,
    )
    assert [row.id for row in one.most_changed] == [row.id for row in two.most_changed]


@unhurried
@given(SEEDS)
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    frame = frame_of(30, seed, 12)
    a, b = skilled(frame, 0.1, 1), skilled(frame, 0.2, 2)
    order = np.random.default_rng(seed).permutation(30)
    assert json_text(compared(frame, a, b)) == json_text(compared(frame.iloc[order], a[order], b[order]))


def test_a_planted_difference_is_found_and_named() -> None:
    frame = frame_of(300)
    result = compared(frame, skilled(frame, 0.1, 1), skilled(frame, 0.4, 1))
    loss, accuracy = result.differences["log_loss"], result.differences["accuracy"]
    assert loss.p_value == 1 / 401
    assert loss.conclusion.startswith(f"log loss: b.parquet is better by {-loss.difference.value:.4f} nats (0.")
    assert loss.conclusion.endswith("), p = 0.0025")
    assert accuracy.conclusion.startswith(
        f"accuracy: b.parquet is better by {100 * accuracy.difference.value:.1f} points ("
    )
    other = compared(frame, skilled(frame, 0.4, 1), skilled(frame, 0.1, 1)).differences
    assert other["log_loss"].conclusion == loss.conclusion.replace("b.parquet", "a.parquet")
    assert other["brier"].conclusion.startswith("Brier score: a.parquet is better by 0.")


def test_judges_that_are_equally_good_are_not_told_apart() -> None:
    found = 0
    for seed in range(60):
        frame = frame_of(80, seed)
        options = CompareSettings(resamples=100, permutations=100, rows=0)
        loss = compared(frame, skilled(frame, 0.2, 2 * seed), skilled(frame, 0.2, 2 * seed + 1), options)
        found += "is better by" in loss.differences["log_loss"].conclusion
    assert found <= 8  # 5% of 60 are 3; more than 8 have a chance of 1 in 400
    assert loss.differences["log_loss"].conclusion.startswith("log loss: no difference shown; ")


def test_an_interval_alone_does_not_make_a_difference() -> None:
    frame = frame_of(4)
    labels = labels_of(frame)
    a, b = np.full((4, 3), 1 / 3), np.full((4, 3), 0.1)
    b[np.arange(4), labels] = 0.8
    loss = compared(frame, a, b).differences["log_loss"]
    assert loss.difference.high is not None
    assert loss.difference.high < 0
    assert loss.p_value == 2 / 16
    assert "no difference shown" in loss.conclusion


def test_changed_verdicts_and_rows_are_counted_and_listed() -> None:
    frame = frame_of(5)
    frame["winner"] = ["model_a", "model_a", "model_b", "tie", "tie"]
    frame.loc[1, "prompt"] = json.dumps([None, " ", "A \x1b[31mlong\n prompt" + "." * 100])
    a = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]])
    b = np.array([[0.1, 0.8, 0.1], [0.9, 0.0, 0.1], [0.3, 0.5, 0.2], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6]])
    result = compared(frame, a, b)
    assert (result.verdicts.changed, result.verdicts.to_right, result.verdicts.to_wrong) == (3, 1, 1)
    rows = result.most_changed
    assert [row.id for row in rows] == ["row-001", "row-000", "row-003", "row-002"]
    assert [row.moved for row in rows] == pytest.approx([0.8, 0.7, 0.3, 0.1])
    assert rows[0].human == "A"
    assert rows[0].b == (0.9, 0.0, 0.1)
    lines = list(text_lines(result))
    assert "3 of 5 rows got another verdict from judge B than from judge A: 1 became right, 1 wrong" in lines
    shown = next(line for line in lines if line.startswith("row-001"))
    assert shown.startswith(
        "row-001   0.80  0.10 0.80 0.10    0.90 0.00 0.10    A      A \\x1b[31mlong\\n prompt......"
    )
    assert shown.endswith("…")
    assert all(line.isprintable() for line in lines)
    assert [row.id for row in compared(frame, a, b, QUICK.model_copy(update={"rows": 2})).most_changed] == [
        "row-001",
        "row-000",
    ]
    assert compared(frame, a, b, QUICK.model_copy(update={"rows": 0})).most_changed == []


def test_rows_are_listed_in_columns_whatever_their_ids_hold() -> None:
    frame = frame_of(3)
    frame["id"] = ["\x1b[31m\x07" * 9, "日本語", "x"]
    p = np.random.default_rng(0).dirichlet([2, 2, 2], (2, 3))
    lines = list(text_lines(compared(frame, *p)))
    start = next(i for i, line in enumerate(lines) if line.startswith("id "))
    places = {cell_len(line[: line.index("  0.")]) for line in lines[start + 1 : start + 4]}
    assert places == {lines[start].index("moved") - 1}  # the numbers under it have a blank before them


def test_a_difference_that_is_only_rounding_has_no_sign_and_lists_no_rows() -> None:
    frame = frame_of(40)
    p = skilled(frame, 0.2, 1)
    result = compared(frame, p, p.astype(np.float32).astype(np.float64))
    text = "\n".join(text_lines(result))
    assert "-0.0" not in text
    assert "rows that changed most" not in text
    assert result.most_changed  # programs get them


def test_rows_that_trained_one_of_the_judges_are_refused_or_left_out() -> None:
    frame = frame_of(70)
    trained = int(Flag.TRAINED_ON)
    members = [
        stored_of(frame, skilled(frame, 0.1, 1), "a.parquet", [trained] * 3 + [0] * 67),
        stored_of(frame, skilled(frame, 0.2, 2), "b.parquet", [0, trained, trained, trained] + [0] * 66),
    ]
    table = Table("t.csv", frame=frame)
    with pytest.raises(JudgeError) as caught:
        compare(members, table, QUICK)
    assert str(caught.value) == (
        "a.parquet, b.parquet: 4 of 70 labelled rows trained one of these judges (for example id row-000), so figures "
        "on them would say little about new rows; pass --trained-rows=drop to leave them out"
    )
    result = compare(members, table, QUICK.model_copy(update={"trained_rows": "drop"}))
    assert (result.rows, result.dropped) == (66, 4)
    expected = sklearn_metrics.log_loss(labels_of(frame)[4:], members[1].p[4:])
    assert result.differences["log_loss"].b.value == pytest.approx(expected, rel=1e-12)
    assert {row.id for row in result.most_changed}.isdisjoint({"row-000", "row-001", "row-002", "row-003"})


def test_one_prompt_group_has_no_interval() -> None:
    frame = frame_of(6, prompts=1)
    result = compared(frame, skilled(frame, 0.1, 1), skilled(frame, 0.2, 2))
    loss = result.differences["log_loss"]
    assert (loss.difference.low, loss.p_value) == (None, 1)
    assert loss.conclusion.endswith("; one prompt group leaves no interval")
    assert result.warnings == ["only 1 prompt group: there is no interval"]
    assert json.loads(json_text(result))["differences"]["log_loss"]["difference"]["low"] is None
    assert any("none (one prompt group)" in line for line in text_lines(result))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (CompareSettings(resamples=9), "--resamples=9: expected 100 to 100,000"),
        (CompareSettings(permutations=9), "--permutations=9: expected 100 to 1,000,000"),
        (CompareSettings(rows=-1), "--rows=-1: expected a number of 0 or more"),
        (CompareSettings(seed=-1), "--seed=-1: expected a number of 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(options: CompareSettings, problem: str) -> None:
    frame = frame_of(3)
    with pytest.raises(JudgeError) as caught:
        compared(frame, skilled(frame, 0.1, 1), skilled(frame, 0.2, 2), options)
    assert str(caught.value) == problem


def write(path: Path, ids: Sequence[str], p: Float) -> Path:
    pd.DataFrame({"id": ids, "p_a": p[:, 0], "p_b": p[:, 1], "p_tie": p[:, 2]}).to_csv(path, index=False)
    return path


def test_files_are_compared_by_id_and_unlabelled_rows_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = frame_of(60)
    frame.loc[:9, "winner"] = ""
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    kept = frame[10:]
    p = [np.random.default_rng(seed).dirichlet([2, 2, 2], 60) for seed in (1, 2)]
    order = np.random.default_rng(0).permutation(60)
    first = write(tmp_path / "a.csv", frame["id"].tolist(), p[0])
    second = write(tmp_path / "b.csv", frame["id"].iloc[order].tolist(), p[1][order])
    compare_command(first, second, tmp_path / "t.jsonl", QUICK, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["unlabelled"]) == (50, 10)
    for side, q in zip("ab", p, strict=True):
        expected = sklearn_metrics.log_loss(labels_of(kept), q[10:])
        assert found["differences"]["log_loss"][side]["value"] == pytest.approx(expected, rel=1e-12)
    assert found["settings"]["level"] == 0.95
    assert found["warnings"] == ["a.csv, b.csv: no column flags, so it is not known whether rows trained the judge"]
    compare_command(first, second, tmp_path / "t.jsonl", QUICK)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "judge A         a.csv",
        "judge B         b.csv",
        "table           t.jsonl, 50 rows in 50 prompt groups; left out: 10 without a label",
    ]


def test_a_judge_is_not_compared_with_itself(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet([2, 2, 2], 3)
    first, second = (write(tmp_path / name, ["x", "y", "z"], p) for name in ("a.csv", "b.csv"))
    with pytest.raises(JudgeError) as caught:
        compare_command(first, second, tmp_path / "t.csv", QUICK)
    assert str(caught.value) == "b.csv: holds the same probabilities as a.csv; give each judge once"
