"""Ids of tables, and tables that are DataFrames."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Comparison, Flag
from judge.tables.table import read_ids
from judge.tables.table_files import CHUNK_ROWS
from tests.kit.read_tables import error_of, read, read_frame, row, saved
from tests.kit.table_writers import ALL_FORMATS, WRITERS

HOSTILE = "\x1b[31mred\nline\u202e"
unhurried = settings(max_examples=40, deadline=None)  # each example writes files; the cores are shared


# -- ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "ids", "kind"),
    [
        (".csv", ["3", "1", "2"], pa.int64()),
        (".csv", ["0", "-5", "9223372036854775807"], pa.int64()),
        (".csv", ["1", "9223372036854775808"], pa.string()),
        (".csv", ["007", "1"], pa.string()),
        (".csv", ["1", "2.0"], pa.string()),
        (".csv", ["1", " 2"], pa.string()),
        (".csv", ["1", "+2"], pa.string()),
        (".csv", ["-0", "1"], pa.string()),
        (".csv", ["1", "1e5"], pa.string()),
        (".csv", ["1", "01", "1.0", "٣"], pa.string()),
        (".csv", ["NA", "null", "nan"], pa.string()),
        (".csv", ["true", "b é"], pa.string()),
        (".parquet", [3, 1, 2**63 - 1, -(2**63)], pa.int64()),
        (".parquet", ["007", "7"], pa.string()),
        (".parquet", [1.5, 0.1], pa.float64()),
        (".jsonl", [3, 1, 2**63 - 1, -(2**63)], pa.int64()),
        (".jsonl", ["007", "7", "7.0"], pa.string()),
        (".jsonl", [1.5, 0.1, 2.0], pa.float64()),
    ],
)
def test_ids_keep_their_type_and_order(tmp_path: Path, suffix: str, ids: list[Any], kind: pa.DataType) -> None:
    path = saved(tmp_path, suffix, [row(i) for i in ids])
    _, table = read(path)
    assert table.ids().type == kind
    expected = [int(i) for i in ids] if suffix == ".csv" and kind == pa.int64() else ids
    assert table.ids().to_pylist() == read_ids(path) == expected


IDS = st.lists(
    st.text(min_size=1).filter(lambda t: t.strip() and "\n" not in t and "\r" not in t), min_size=1, unique=True
)


@unhurried
@given(IDS | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True))
def test_ids_of_any_text_and_64_bit_integer_are_the_same_in_all_formats(ids: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = [read_ids(saved(Path(folder), suffix, [row(i) for i in ids])) for suffix in WRITERS]
    assert found[1] == found[2] == ids
    assert list(map(str, found[0])) == list(map(str, ids))


@pytest.mark.parametrize(
    ("suffix", "ids", "error"),
    [
        (".csv", ["1", "2", "1"], "row 3 (id 1), column 'id' appears twice (first in row 1); ids must be unique"),
        (".parquet", [5, 5], "row 2 (id 5), column 'id' appears twice (first in row 1); ids must be unique"),
        (".jsonl", ["a", "a"], "row 2 (id a), column 'id' appears twice (first in row 1); ids must be unique"),
        (".jsonl", [1.5, 1.5], "row 2 (id 1.5), column 'id' appears twice (first in row 1); ids must be unique"),
        (".csv", ["1", ""], "row 2, column 'id' is missing; every row needs an id"),
        (".csv", ["  ", "1"], "row 1, column 'id' is missing; every row needs an id"),
        (".parquet", [1, None], "row 2, column 'id' is missing; every row needs an id"),
        (".parquet", [1.5, float("nan")], "row 2, column 'id' is missing; every row needs an id"),
        (".jsonl", [None], "row 1, column 'id' is missing; every row needs an id"),
        (".jsonl", [1, float("nan")], "row 2, column 'id' is missing; every row needs an id"),
        (".jsonl", [True], "row 1, column 'id' is a bool, expected a number or text"),
        (".jsonl", [[1]], "row 1, column 'id' is a list, expected a number or text"),
        (".jsonl", [{"a": HOSTILE}], "row 1, column 'id' is a dict, expected a number or text"),
        (".parquet", [b"x"], "row 1, column 'id' is a bytes, expected a number or text"),
        (".parquet", [[1]], "row 1, column 'id' is a list, expected a number or text"),
        (".jsonl", [2**63], "row 1, column 'id' does not fit 64 bits; write it as text"),
        (".jsonl", [-(2**63) - 1], "row 1, column 'id' does not fit 64 bits; write it as text"),
        (".jsonl", [1, "1"], "row 2 (id 1), column 'id': ids mix integers and text; write all in one type"),
        (".jsonl", ["1", 1], "row 2 (id 1), column 'id': ids mix text and integers; write all in one type"),
        (
            ".jsonl",
            [2**60 + 1, 2.5],
            "row 2 (id 2.5), column 'id': ids mix integers and decimal numbers; write all in one type",
        ),
        (
            ".jsonl",
            [1, 1.0],
            "row 2 (id 1.0), column 'id': ids mix integers and decimal numbers; write all in one type",
        ),
        (".jsonl", ["\ud83c"], "row 1 (id \\ud83c), column 'id' holds a lone surrogate, which no file can store"),
        (".jsonl", ["a\rb"], "row 1 (id a\\rb), column 'id' holds a line break; ids must fit in one line"),
        (".csv", ["a\nb"], "row 1 (id a\\nb), column 'id' holds a line break; ids must fit in one line"),
    ],
)
def test_an_id_that_is_missing_repeated_or_no_id_is_an_error(
    tmp_path: Path, suffix: str, ids: list[Any], error: str
) -> None:
    assert error_of(saved(tmp_path, suffix, [row(i) for i in ids])) == f"t{suffix}: {error}"


def test_an_id_that_appears_in_two_chunks_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path, ".csv", [row(i % (CHUNK_ROWS + 5)) for i in range(CHUNK_ROWS + 6)])
    assert error_of(path).startswith(f"t.csv: row {CHUNK_ROWS + 6} (id 0), column 'id' appears twice (first in row 1)")


# -- ids alone ---------------------------------------------------------------------------------------------


@ALL_FORMATS
def test_ids_are_read_from_a_table_whose_texts_are_not_readable(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, suffix, [row(2, '["', "[", "['"), row(1, "[1", "", "x")])
    assert read_ids(path) == [2, 1]


# -- frames ------------------------------------------------------------------------------------------------


def test_a_frame_of_any_pandas_types_is_read() -> None:
    frame = pd.DataFrame(
        {
            "id": np.array([np.int64(3), np.int32(1), 2], dtype=object),
            "prompt": pd.array(["p", None, '["q", null]'], dtype="string"),
            "response_a": pd.Categorical(["a", "b", "a"]),
            "response_b": [np.array(["x", None], dtype=object), ["y"], np.nan],
            "winner_model_a": pd.array([True, None, False], dtype="boolean"),
            "winner_model_b": [0.0, np.nan, 0.0],
            "winner_tie": np.array([0, 0, 1], dtype=np.int8),
        },
        index=["r", "r", "s"],
    )
    found, table = read_frame(frame)
    assert found == [
        Comparison(3, ("p",), ("a",), ("x", None), 0, Flag.NULL_TURN | Flag.RAGGED),
        Comparison(1, (None,), ("b",), ("y",), -1, Flag.NULL_TURN),
        Comparison(2, ("q", None), ("a",), (None,), 2, Flag.NULL_TURN | Flag.RAGGED),
    ]
    assert table.ids().equals(pa.array([3, 1, 2], pa.int64()))


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (pd.array([1, None], dtype="Int64"), "row 2, column 'id' is missing; every row needs an id"),
        (pd.array(["a", None], dtype="string"), "row 2, column 'id' is missing; every row needs an id"),
        ([1, None], "row 2, column 'id' is missing; every row needs an id"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]), "row 1, column 'id' is a Timestamp, expected a number or text"),
        ([(1, 2), 3], "row 1, column 'id' is a tuple, expected a number or text"),
        ([10**5000, 1], "row 1, column 'id' does not fit 64 bits; write it as text"),
        ([np.array([1, 2]), np.array([1, 2])], "row 1, column 'id' is a list, expected a number or text"),
        ([1, 1], "row 2 (id 1), column 'id' appears twice (first in row 1); ids must be unique"),
    ],
)
def test_an_id_of_a_frame_that_is_no_id_is_an_error(ids: Any, error: str) -> None:
    frame = pd.DataFrame({"id": pd.Series(ids), "prompt": "p", "response_a": "a", "response_b": "b"})
    with pytest.raises(JudgeError) as caught:
        read_frame(frame)
    assert str(caught.value) == f"DataFrame: {error}"


def test_an_empty_frame_and_missing_columns_are_errors() -> None:
    with pytest.raises(JudgeError, match=r"^DataFrame: the table has no rows$"):
        read_frame(pd.DataFrame([row(1)]).iloc[:0])
    with pytest.raises(JudgeError, match=r"^DataFrame: no column 'id', 'prompt', 'response_a', 'response_b'; "):
        read_frame(pd.DataFrame({0: [1]}))
