"""Verdicts for training: what is read, and what is refused with which words."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Comparison, Flag
from judge.tables.labels import LabelError, check_label_columns, read_label, read_source, read_weight
from judge.tables.table import Labels, Table
from tests.kit.table_writers import ALL_FORMATS, WRITERS, Row


def hot(a: Any, b: Any, tie: Any) -> Row:
    return {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}


def soft(a: Any, b: Any, tie: Any) -> Row:
    return {"p_a": a, "p_b": b, "p_tie": tie}


# -- one row -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (hot(1, 0, 0), 0),
        (hot("0", "1", "0"), 1),
        (hot(0.0, 0.0, 1.0), 2),
        (hot(False, True, False), 1),
        (hot(" True ", "false", "FALSE"), 0),
        (hot(np.int8(0), np.int8(0), np.int8(1)), 2),
        ({"winner": "model_b"}, 1),
        ({"winner": " Tie (bothbad) "}, 2),
        ({**hot(None, None, None), "winner": "model_a"}, 0),
        ({**hot(math.nan, math.nan, math.nan), "winner": "model_a"}, 0),
        ({**hot("", " ", ""), "winner": "tie"}, 2),
        ({**hot(0, 1, 0), "winner": "model_b"}, 1),
        ({**hot(0, 1, 0), "winner": ""}, 1),
        ({**hot(0, 1, 0), **soft(None, None, None)}, 1),
        ({**hot(0, 1, 0), **soft("", "", "")}, 1),
    ],
)
def test_a_hard_verdict_is_read(values: Row, label: int) -> None:
    assert read_label(values) == (label, None)


@pytest.mark.parametrize(
    ("values", "label", "target"),
    [
        (soft(0.5, 0.25, 0.25), -1, (0.5, 0.25, 0.25)),
        (soft("0.5", " 0.25", "2.5e-1"), -1, (0.5, 0.25, 0.25)),
        (soft(1, 0, 0), -1, (1.0, 0.0, 0.0)),
        (soft(Decimal("0.5"), Decimal("0.5"), Decimal(0)), -1, (0.5, 0.5, 0.0)),
        ({**hot(1, 0, 0), **soft(0, 0.5, 0.5)}, 0, (0.0, 0.5, 0.5)),  # a vote may differ from the likeliest
        ({"winner": "tie", **soft(0.5, 0.5, 0)}, 2, (0.5, 0.5, 0.0)),
    ],
)
def test_a_soft_verdict_is_read_with_and_without_a_hard_one(values: Row, label: int, target: Any) -> None:
    assert read_label(values) == (label, target)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (hot(0, 0, 0), "winner_model_a is 0, winner_model_b is 0, winner_tie is 0; one must be 1 and the others 0"),
        (hot(1, 0, 1), "winner_model_a is 1, winner_model_b is 0, winner_tie is 1; one must be 1 and the others 0"),
        (hot(1, None, None), "winner_model_a is 1, winner_model_b is empty, winner_tie is empty; one must be 1 and"),
        (hot(2, 0, 0), "winner_model_a is 2, winner_model_b is 0, winner_tie is 0; one must be 1 and the others 0"),
        (hot("yes", "no", "no"), "winner_model_a is 'yes', winner_model_b is 'no', winner_tie is 'no'; one must be"),
        (hot(0.5, 0.5, 0), "winner_model_a is 0.5, winner_model_b is 0.5, winner_tie is 0; one must be 1 and the"),
        (hot(None, None, None), "has no verdict (winner_model_a, winner_model_b, winner_tie: empty); add one, or"),
        ({"winner": "gpt-4"}, "winner is 'gpt-4', expected one of model_a, model_b, tie, tie (bothbad)"),
        ({"winner": "\x1b[31m"}, "winner is '\\x1b[31m', expected one of"),
        ({"winner": None}, "has no verdict (winner: empty); add one, or leave the row out"),
        (
            {**hot(1, 0, 0), "winner": "model_b"},
            "winner_model_a is 1 but winner is 'model_b'; keep the one that is true",
        ),
        (soft(None, None, None), "has no verdict (p_a, p_b, p_tie: empty); add one, or leave the row out"),
        (soft(0.5, 0.5, 0.5), "p_a is 0.5, p_b is 0.5, p_tie is 0.5; they sum to 1.5, expected probabilities that"),
        (soft(0.5, 0.5, 0.0011), "p_a is 0.5, p_b is 0.5, p_tie is 0.0011; they sum to 1.0011, expected"),
        (soft(1.5, -0.5, 0), "p_a is 1.5, p_b is -0.5, p_tie is 0; each must be a number of 0 or more, expected"),
        (soft(math.nan, 0.5, 0.5), "p_a is nan, p_b is 0.5, p_tie is 0.5; each must be a number of 0 or more,"),
        (soft("nan", "nan", "nan"), "p_a is 'nan', p_b is 'nan', p_tie is 'nan'; each must be a number of 0 or"),
        (soft(math.inf, 0, 0), "p_a is inf, p_b is 0, p_tie is 0; each must be a number of 0 or more, expected"),
        (soft(0.5, 0.5, None), "p_a is 0.5, p_b is 0.5, p_tie is empty; each must be a number of 0 or more,"),
        (soft("half", 0.5, 0), "p_a is 'half', p_b is 0.5, p_tie is 0; each must be a number of 0 or more,"),
        (soft("1_0", 0, 0), "p_a is '1_0', p_b is 0, p_tie is 0; each must be a number of 0 or more, expected"),
        (soft(True, 0, 0), "p_a is True, p_b is 0, p_tie is 0; each must be a number of 0 or more, expected"),
        ({**hot(1, 0, 0), **soft(1, 1, 1)}, "p_a is 1, p_b is 1, p_tie is 1; they sum to 3, expected"),
    ],
)
def test_an_unclear_verdict_is_refused_with_its_columns_and_their_values(values: Row, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_label(values)
    assert str(caught.value).startswith(reason)
    assert str(caught.value).isprintable()


@given(st.tuples(*[st.floats(0, 1)] * 3).filter(lambda p: sum(p) > 1e-3), st.floats(-9.9e-4, 9.9e-4))
def test_soft_labels_that_sum_nearly_to_1_are_scaled_to_1(p: tuple[float, ...], error: float) -> None:
    numbers = [x / sum(p) * (1 + error) for x in p]
    _, target = read_label(soft(*numbers))
    assert target is not None
    assert sum(target) == pytest.approx(1, abs=1e-12)
    assert target == pytest.approx([x / sum(p) for x in p], abs=1e-12)


CELLS = st.one_of(
    st.sampled_from([0, 1, "0", "1", 0.5, "0.5", "tie", "model_a"]),
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.text(max_size=9) | st.binary(max_size=3) | st.lists(st.integers(), max_size=2),
)
CHOICES = st.tuples(*[st.booleans()] * 3).map(
    lambda use: [c for c, u in zip([hot(0, 0, 0), ["winner"], soft(0, 0, 0)], use, strict=True) if u for c in c]
)


@given(CHOICES.flatmap(lambda columns: st.fixed_dictionaries(dict.fromkeys(columns, CELLS))))
def test_any_values_are_a_verdict_or_one_clear_line(values: Row) -> None:
    reason = "none"
    label, target = -1, None
    try:
        label, target = read_label(values)
    except LabelError as error:
        reason = str(error)
    else:
        assert label in (0, 1, 2) or (label == -1 and target is not None)
        assert target is None or (min(target) >= 0 and sum(target) == pytest.approx(1))
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (["id", "prompt"], "there are no verdicts to learn from; give the columns winner_model_a, winner_model_b,"),
        (["winner_model_a", "winner_tie"], "there is a column winner_model_a, winner_tie but no winner_model_b; give"),
        (["winner", "p_a"], "there is a column p_a but no p_b, p_tie; give all three"),
    ],
)
def test_missing_label_columns_are_named(columns: list[str], reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        check_label_columns(columns)
    assert str(caught.value).startswith(reason)


def test_each_kind_of_label_columns_is_enough() -> None:
    for columns in (hot(0, 0, 0), ["winner"], soft(0, 0, 0)):
        check_label_columns(columns)


@pytest.mark.parametrize(
    ("value", "weight"), [(None, 1), ("", 1), (0, 0), (2, 2), ("0.5", 0.5), (1e9, 1e9), (Decimal("1.5"), 1.5)]
)
def test_a_weight_is_read_and_is_1_where_there_is_none(value: Any, weight: float) -> None:
    assert read_weight(value) == weight


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-1, "-1"),
        (math.nan, "nan"),
        ("NaN", "'NaN'"),
        (math.inf, "inf"),
        ("much", "'much'"),
        (True, "True"),
        ([1], "[1]"),
    ],
)
def test_a_weight_that_is_none_is_refused(value: Any, shown: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_weight(value)
    assert str(caught.value) == f"weight is {shown}, expected a number of 0 or more"


def test_a_source_is_text_or_nothing() -> None:
    assert [read_source(v) for v in (None, "", " arena ", "a\ud83cb")] == ["", "", "arena", "a\ufffdb"]
    with pytest.raises(LabelError, match="source is 7, expected text"):
        read_source(7)


# -- swapping ----------------------------------------------------------------------------------------------


@given(st.sampled_from([-1, 0, 1, 2]), st.none() | st.tuples(*[st.floats(0, 1)] * 3), st.floats(0, 9))
def test_swapping_exchanges_the_target_and_twice_is_the_same(label: int, target: Any, weight: float) -> None:
    row = Comparison("x", ("p",), ("a",), ("b",), label, Flag(0), target, weight, "arena")
    other = row.swapped()
    assert other.target == (None if target is None else (target[1], target[0], target[2]))
    assert (other.weight, other.source, other.label) == (weight, "arena", {0: 1, 1: 0}.get(label, label))
    assert other.swapped() == row


# -- tables ------------------------------------------------------------------------------------------------


def row(row_id: Any = 1, **more: Any) -> Row:
    return {"id": row_id, "prompt": "p", "response_a": "a", "response_b": "b", **more}


def read(folder: Path, suffix: str, rows: list[Row], labels: Labels = "required") -> list[Comparison]:
    path = folder / f"t{suffix}"
    WRITERS[suffix](path, rows)
    return [c for chunk in Table.open(path, labels=labels).chunks() for c in chunk]


@ALL_FORMATS
def test_labels_weights_and_sources_of_a_training_table_are_read(tmp_path: Path, suffix: str) -> None:
    rows = [
        row(1, **hot(1, 0, 0), **soft(None, None, None), weight=0.5, source="arena"),
        row(2, **hot(None, None, None), **soft(0.25, 0.25, 0.5), weight=None, source=None),
    ]
    one, two = read(tmp_path, suffix, rows)
    assert (one.label, one.target, one.weight, one.source) == (0, None, 0.5, "arena")
    assert (two.label, two.target, two.weight, two.source) == (-1, (0.25, 0.25, 0.5), 1.0, "")


@ALL_FORMATS
def test_scoring_does_not_look_at_what_only_training_reads(tmp_path: Path, suffix: str) -> None:
    rows = [row(1, **hot(0, 1, 1), **soft(7.0, 7.0, 7.0), weight=-1.0)]
    (found,) = read(tmp_path, suffix, rows, labels="optional")
    assert (found.label, found.target, found.weight) == (-1, None, 1.0)


@ALL_FORMATS
@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({}, ": there are no verdicts to learn from; give the columns"),
        ({"p_a": 1}, ": there is a column p_a but no p_b, p_tie; give all three"),
        (hot(1, 1, 0), ": row 1 (id 7): winner_model_a is "),
        (soft(0.5, 0.4, 0), ": row 1 (id 7): p_a is "),
        ({"winner": "model_a", "weight": -1}, ": row 1 (id 7): weight is "),
    ],
)
def test_a_table_without_clear_verdicts_is_one_clear_line(tmp_path: Path, suffix: str, more: Row, error: str) -> None:
    with pytest.raises(JudgeError) as caught:
        read(tmp_path, suffix, [row(7, **more)])
    assert str(caught.value).startswith(f"t{suffix}{error}")
    assert str(caught.value).isprintable()


def test_a_later_row_without_a_verdict_is_named(tmp_path: Path) -> None:
    rows = [row(i, winner="tie") for i in range(600)] + [row(600)]
    with pytest.raises(JudgeError) as caught:
        read(tmp_path, ".jsonl", rows)
    assert (
        str(caught.value) == "t.jsonl: row 601 (id 600): has no verdict (winner: empty); add one, or leave the row out"
    )


def test_a_bad_cell_is_not_to_be_scored_with_a_placeholder(tmp_path: Path) -> None:
    with pytest.raises(JudgeError) as caught:
        read(tmp_path, ".csv", [row(1, winner="tie") | {"prompt": "['p']"}])
    assert str(caught.value).endswith(
        "(Expecting value at character 1); mend it, or leave the row out, or pass --cells=plain if cells are plain text"
    )


def test_a_frame_is_read_strictly_too() -> None:
    frame = pd.DataFrame([row(1, winner="model_a", weight=2.0), row(2, winner="tie", weight=3.0)])
    table = Table("DataFrame", labels="required", frame=frame)
    assert [(c.label, c.weight) for chunk in table.chunks() for c in chunk] == [(0, 2.0), (2, 3.0)]
    frame.loc[1, "winner"] = "nobody"
    with pytest.raises(JudgeError, match=r"DataFrame: row 2 \(id 2\): winner is 'nobody'"):
        list(table.chunks())


def test_the_digest_of_a_frame_covers_what_training_reads() -> None:
    frame = pd.DataFrame([row(1, winner="model_a", weight=2.0)])
    heavier = frame.assign(weight=3.0)

    def digest(f: pd.DataFrame, labels: Labels) -> str:
        return Table("DataFrame", labels=labels, frame=f).digest()

    assert digest(frame, "required") != digest(heavier, "required")
    assert digest(frame, "optional") == digest(heavier, "optional")
    without = frame.drop(columns="weight")
    assert digest(without, "required") == digest(without, "optional")
