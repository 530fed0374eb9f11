from __future__ import annotations

import gzip
import inspect
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Cells, Comparison, Flag, clean_text
from judge.tables.table import OnBadRow, Table, read_ids
from judge.tables.table_files import CHUNK_ROWS
from tests.kit.table_writers import ALL_FORMATS, WRITERS, Row

HOSTILE = "\x1b[31mred\nline\u202e"
TEXT = st.text(max_size=20)
# In JSON, half a surrogate pair can be written too.
JSON_TEXT = st.text(st.one_of(st.characters(), st.sampled_from(["\ud83c", "\udf4d", "\ufeff", '"', "\r"])), max_size=20)
unhurried = settings(max_examples=40, deadline=None)  # each example writes files; the cores are shared


TYPED = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


def row(row_id: Any = 1, prompt: Any = "p", a: Any = "a", b: Any = "b", **more: Any) -> Row:
    return {"id": row_id, "prompt": prompt, "response_a": a, "response_b": b, **more}


def saved(folder: Path, suffix: str, rows: list[Row]) -> Path:
    path = folder / f"t{suffix}"
    WRITERS[suffix](path, rows)
    return path


def read(path: Path, cells: Cells = "auto", on_bad_row: OnBadRow = "error") -> tuple[list[Comparison], Table]:
    table = Table.open(path, cells, on_bad_row)
    return [c for chunk in table.chunks() for c in chunk], table


def read_frame(frame: pd.DataFrame) -> tuple[list[Comparison], Table]:
    table = Table("DataFrame", frame=frame)
    return [c for chunk in table.chunks() for c in chunk], table


def error_of(path: Path, cells: Cells = "auto", on_bad_row: OnBadRow = "error") -> str:
    with pytest.raises(JudgeError) as caught:
        read(path, cells, on_bad_row)
    text = str(caught.value)
    assert text.isprintable(), text  # one line, and nothing in it that a terminal obeys
    return text


def error_of_bytes(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return error_of(path)


# -- what is read ------------------------------------------------------------------------------------------


@ALL_FORMATS
def test_the_arena_table_is_read(tmp_path: Path, suffix: str) -> None:
    common = {"model_a": "gpt-4", "model_b": "vicuna"}
    rows = [
        row(30192, '["hi", "and?"]', '["a\\/1", null]', '["\\ud83c\\udf4d", "b2"]')
        | common
        | {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        row(7, '["is it nullable"]', '["null"]', '["null"]')
        | common
        | {"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
    ]
    found, table = read(saved(tmp_path, suffix, rows))
    one, two = found
    assert (one.prompt, one.response_a, one.response_b) == (("hi", "and?"), ("a/1", None), ("\N{PINEAPPLE}", "b2"))
    assert (one.label, one.flags) == (1, Flag.NULL_TURN)
    assert (two.prompt, two.response_a) == (("is it nullable",), ("null",))
    assert (two.label, two.flags) == (2, Flag.IDENTICAL)
    assert table.ids().to_pylist() == [30192, 7]
    assert table.ids().type == pa.int64()
    assert table.counts == {"rows": 2, "labelled": 2, "multi_turn": 1, "null_turn": 1, "identical": 1}


@ALL_FORMATS
def test_the_arena_test_table_without_models_and_labels_is_read(tmp_path: Path, suffix: str) -> None:
    found, table = read(saved(tmp_path, suffix, [row(1, '["p"]', '["a"]', '["b"]')]))
    assert [(c.prompt, c.label) for c in found] == [(("p",), -1)]
    assert table.counts["labelled"] == 0


@ALL_FORMATS
def test_the_wsdm_table_of_plain_texts_is_read(tmp_path: Path, suffix: str) -> None:
    rows = [
        row(
            "00a1", "Line one\nline two", "[INST] a", "[1] b", model_a="x", model_b="y", winner="model_b", language="en"
        ),
        row("5e10", "q", "a", "", model_a="x", model_b="y", winner="model_a", language="en"),
    ]
    found, table = read(saved(tmp_path, suffix, rows))
    assert found == [
        Comparison("00a1", ("Line one\nline two",), ("[INST] a",), ("[1] b",), 1, models=("x", "y"), language="en"),
        Comparison("5e10", ("q",), ("a",), ("",), 0, Flag.EMPTY_TEXT, models=("x", "y"), language="en"),
    ]
    assert table.ids().to_pylist() == ["00a1", "5e10"]


@ALL_FORMATS
def test_a_users_table_may_have_its_columns_in_any_order_and_others_between(tmp_path: Path, suffix: str) -> None:
    rows = [{"note": "n", "response_b": "b", "id": "x", "": "7", "response_a": "a", "prompt": "p"}]
    assert read(saved(tmp_path, suffix, rows))[0] == [Comparison("x", ("p",), ("a",), ("b",))]


@TYPED
def test_lists_that_are_lists_already_are_read(tmp_path: Path, suffix: str) -> None:
    rows = [row(1, ["p", "q"], ["a", None], ["b"]), row(2, [], [""], ["['b'"])]
    found, table = read(saved(tmp_path, suffix, rows))
    assert found == [
        Comparison(1, ("p", "q"), ("a", None), ("b",), flags=Flag.NULL_TURN | Flag.RAGGED),
        Comparison(2, (), ("",), ("['b'",), flags=Flag.EMPTY_LIST | Flag.RAGGED | Flag.EMPTY_TEXT),
    ]
    assert table.counts["ragged"] == 2
    assert table.counts["empty_list"] == 1


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
    ids=str,
)
def test_texts_of_every_parquet_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    cells = [["x é"], [None], None] if nested else ["x é", '["y", null]', None]
    texts = pa.array(cells, pa.string() if not nested else pa.list_(pa.string())).cast(kind)
    table = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "prompt": texts, "response_a": texts, "response_b": texts})
    pq.write_table(table, tmp_path / "t.parquet")
    found, _ = read(tmp_path / "t.parquet")
    second = (None,) if nested else ("y", None)
    assert [c.prompt for c in found] == [("x é",), second, (None,)]


@TYPED
def test_a_null_cell_is_a_null_turn(tmp_path: Path, suffix: str) -> None:
    found, table = read(saved(tmp_path, suffix, [row(1, "p", None, "b"), row(2, "p", "a", "b")]))
    assert found[0] == Comparison(1, ("p",), (None,), ("b",), flags=Flag.NULL_TURN)
    assert table.counts["null_turn"] == 1


@pytest.mark.parametrize("cells", ["auto", "json", "plain"])
def test_an_empty_csv_cell_is_an_empty_text_and_not_missing(tmp_path: Path, cells: Cells) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,prompt,response_a,response_b\n1,p,,NA\n")
    if cells == "json":
        assert "(id 1), column 'prompt' is not a valid JSON list" in error_of(path, cells)
    else:
        found, _ = read(path, cells)
        assert found == [Comparison("1", ("p",), ("",), ("NA",), flags=Flag.EMPTY_TEXT)]


def test_a_quoted_csv_cell_may_hold_line_breaks_quotes_and_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"id",prompt,response_a,response_b\r\n'
        b'1,"a, ""b""\r\nc\n\nd\re",  x  ,"[""y"", ""z""]"\r\n'
        b"\r\n"
        b'2,"""",it\'s 5" long,\r\n'
        b" \r\n"
    )
    found, table = read(path)
    assert found == [
        Comparison("1", ('a, "b"\r\nc\n\nd\re',), ("  x  ",), ("y", "z"), flags=Flag.RAGGED),
        Comparison("2", ('"',), ("it's 5\" long",), ("",), flags=Flag.EMPTY_TEXT),
    ]
    assert table.ids().to_pylist() == [1, 2]


def test_a_csv_cell_may_be_longer_than_the_csv_modules_default_limit(tmp_path: Path) -> None:
    path = saved(tmp_path, ".csv", [row(1, "x, " * 100_000)])
    assert read(path)[0][0].prompt == ("x, " * 100_000,)


def test_json_lines_may_have_a_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [json.dumps(row(i), ensure_ascii=False) for i in (1, 2)]
    path.write_bytes(b"\xef\xbb\xbf" + f"\r\n{lines[0]}\r\n \r\n{lines[1]}".encode())
    assert [c.id for c in read(path)[0]] == [1, 2]


def test_a_unicode_line_separator_inside_json_lines_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson"
    path.write_text(json.dumps(row(1, "a\u2028b\x85c"), ensure_ascii=False), encoding="utf-8")
    assert read(path)[0][0].prompt == ("a\u2028b\x85c",)


def test_labels_of_json_lines_are_read_where_only_later_rows_have_them(tmp_path: Path) -> None:
    hot = {"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}
    path = saved(tmp_path, ".jsonl", [row(1), row(2, **hot), row(3, winner="model_b")])
    assert [c.label for c in read(path)[0]] == [-1, 2, 1]


@ALL_FORMATS
def test_a_suffix_in_capitals_is_known(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, suffix, [row(1)]).rename(tmp_path / f"T{suffix.upper()}")
    assert len(read(path)[0]) == 1


# -- the three formats agree -------------------------------------------------------------------------------


@st.composite
def json_rows(draw: st.DrawFn) -> list[Row]:
    def cell() -> str:
        turns = draw(st.lists(st.none() | JSON_TEXT, max_size=3))
        return json.dumps(turns, ensure_ascii=draw(st.booleans()) or not all(t is None or clean(t) for t in turns))

    count = draw(st.integers(1, 4))
    labels = [draw(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])) for _ in range(count)]
    hot = [dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), label, strict=True)) for label in labels]
    return [row(f"r{i}", cell(), cell(), cell()) | hot[i] for i in range(count)]


def clean(text: str) -> bool:
    return not clean_text(text)[1]


@unhurried
@given(json_rows())
@example([row("r0", '["\\ud83c"]', '["\\ud83c\\udf4d"]', '["null", null]')])
def test_the_same_json_lists_give_equal_comparisons_in_the_three_formats(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = [read(saved(Path(folder), suffix, rows)) for suffix in WRITERS]
    expected = [
        tuple(
            tuple(t if t is None else clean_text(t)[0] for t in json.loads(r[c]))
            for c in ("prompt", "response_a", "response_b")
        )
        for r in rows
    ]
    for found, table in results:
        assert [(c.prompt, c.response_a, c.response_b) for c in found] == expected
        assert found == results[0][0]
        assert table.counts == results[0][1].counts
        assert table.ids().to_pylist() == [r["id"] for r in rows]


@unhurried
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4))
@example([("\x00", "\r", "\ufeff")])
@example([("[1", "['a", '["')])
def test_the_same_plain_texts_give_equal_comparisons_in_the_three_formats(texts: list[tuple[str, str, str]]) -> None:
    rows = [row(i, *three) for i, three in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        results = [read(saved(Path(folder), suffix, rows), "plain") for suffix in WRITERS]
    for found, table in results:
        assert [(c.prompt[0], c.response_a[0], c.response_b[0]) for c in found] == texts
        assert [(c.flags, c.label) for c in found] == [(c.flags, c.label) for c in results[0][0]]
        assert table.ids().equals(pa.array(range(len(texts)), pa.int64()))


@unhurried
@given(st.lists(st.lists(st.none() | TEXT, max_size=3), min_size=1, max_size=4))
def test_the_same_native_lists_give_equal_comparisons_in_parquet_json_lines_and_a_frame(
    cells: list[list[str | None]],
) -> None:
    rows = [row(i, cell, cell, cells[0]) for i, cell in enumerate(cells)]
    with tempfile.TemporaryDirectory() as folder:
        results = [read(saved(Path(folder), suffix, rows))[0] for suffix in (".parquet", ".jsonl")]
        results.append(read_frame(pd.read_parquet(Path(folder) / "t.parquet"))[0])
    for found in results:
        assert [c.prompt for c in found] == [tuple(cell) for cell in cells]
        assert found == results[0]


# -- chunks ------------------------------------------------------------------------------------------------


@ALL_FORMATS
def test_a_table_of_several_chunks_is_read_whole_and_in_order(tmp_path: Path, suffix: str) -> None:
    rows = [row(i * 7 % 10_007, f"p{i}", winner="model_a") for i in range(2 * CHUNK_ROWS + 3)]
    table = Table.open(saved(tmp_path, suffix, rows))
    for _ in range(2):  # a table can be read again
        chunks = list(table.chunks())
        assert [len(c) for c in chunks] == [CHUNK_ROWS, CHUNK_ROWS, 3]
        assert [c.prompt[0] for chunk in chunks for c in chunk] == [r["prompt"] for r in rows]
        assert table.ids().equals(pa.array([r["id"] for r in rows], pa.int64()))
        assert table.counts["rows"] == table.counts["labelled"] == len(rows)


def test_a_frame_of_several_chunks_is_read_whole_and_in_order() -> None:
    frame = pd.DataFrame([row(i, f"p{i}") for i in range(CHUNK_ROWS + 1)])
    found, table = read_frame(frame.set_index(frame["id"] * 3))
    assert [c.prompt[0] for c in found] == list(frame["prompt"])
    assert table.ids().type == pa.int64()


@ALL_FORMATS
def test_the_first_chunk_comes_without_reading_the_rest(tmp_path: Path, suffix: str) -> None:
    """What lies behind the first chunk is spoilt; only reading on finds it."""
    rows = [row(i, "x" * 200) for i in range(4 * CHUNK_ROWS)]
    path = saved(tmp_path, suffix, rows)
    if suffix == ".parquet":
        pq.write_table(pq.read_table(path), path, row_group_size=CHUNK_ROWS, compression="none", use_dictionary=False)
        start = pq.ParquetFile(path).metadata.row_group(3).column(1).data_page_offset
        content = bytearray(path.read_bytes())
        content[start : start + 500] = b"\xff" * 500
        path.write_bytes(content)
    else:
        path.write_bytes(path.read_bytes() + b"\xff\n")
    table = Table.open(path)
    assert inspect.isgeneratorfunction(Table.chunks)
    chunks = table.chunks()
    assert [c.id for c in next(chunks)] == [type(c.id)(i) for i, c in enumerate(next(Table.open(path).chunks()))]
    with pytest.raises(
        JudgeError, match=r"t\.\w+: (line \d+ is not UTF-8 text \(byte 0xff\)|cannot be read as Parquet)"
    ):
        list(chunks)


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
def test_ids_of_any_text_and_any_64_bit_integer_are_the_same_in_the_three_formats(ids: list[Any]) -> None:
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


# -- bad cells ---------------------------------------------------------------------------------------------

BAD_CELLS: list[tuple[str, Cells]] = [
    ('["a", "b"', "auto"),
    ("['a', 'b']", "auto"),
    ('["a"] trailing', "auto"),
    ('["a", ' + "[" * 100_000, "auto"),
    ('["a", 1]', "auto"),
    ("[1, 2]", "json"),
    ("plain", "json"),
]


@ALL_FORMATS
@pytest.mark.parametrize(("cell", "cells"), BAD_CELLS, ids=[c[:15] for c, _ in BAD_CELLS])
def test_a_bad_cell_is_an_error_that_names_file_row_id_and_column(
    tmp_path: Path, suffix: str, cell: str, cells: Cells
) -> None:
    good = '["x"]'
    path = saved(tmp_path, suffix, [row(5, good, good, good), row(17, good, cell, good), row(18, good, good, good)])
    text = error_of(path, cells)
    assert text.startswith(f"t{suffix}: row 2 (id 17), column 'response_a' ")
    assert "--on-bad-row=placeholder" in text
    assert ("--cells=plain" in text) == (cells == "auto")


@ALL_FORMATS
@pytest.mark.parametrize(("cell", "cells"), BAD_CELLS, ids=[c[:15] for c, _ in BAD_CELLS])
def test_a_bad_cell_can_be_kept_as_a_placeholder(tmp_path: Path, suffix: str, cell: str, cells: Cells) -> None:
    good = '["x"]'
    path = saved(tmp_path, suffix, [row(5, good, good, '["y"]'), row(17, good, cell, '["y", "z"]')])
    found, table = read(path, cells, "placeholder")
    assert (found[0].flags, found[1].flags) == (Flag(0), Flag.BAD_CELL | Flag.RAGGED)
    assert (found[1].prompt, found[1].response_a, found[1].response_b) == (("x",), (None,), ("y", "z"))
    assert table.counts["bad_cell"] == 1
    assert table.counts["null_turn"] == 0
    assert table.ids().to_pylist() == [5, 17]


def test_the_text_of_a_bad_cell_is_tested_word_for_word(tmp_path: Path) -> None:
    assert error_of(saved(tmp_path, ".csv", [row(17, "['a', 'b']")])) == (
        "t.csv: row 1 (id 17), column 'prompt' is not a valid JSON list (Expecting value at character 1); mend it, or "
        "pass --on-bad-row=placeholder to score the row with a placeholder, or --cells=plain if cells are plain text"
    )


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (1, "is a number, expected text or a list of texts"),
        (True, "is true or false, expected text or a list of texts"),
        ({"role": "user"}, "is an object, expected text or a list of texts"),
        ([["x"]], "holds a list as turn 1, expected text or null"),
        ([{"content": "x"}], "holds an object as turn 1, expected text or null"),
    ],
)
@TYPED
def test_a_cell_of_another_type_is_an_error(tmp_path: Path, suffix: str, cell: Any, reason: str) -> None:
    assert error_of(saved(tmp_path, suffix, [row(1, cell)])).startswith(
        f"t{suffix}: row 1 (id 1), column 'prompt' {reason};"
    )


# -- flags and counts --------------------------------------------------------------------------------------


@ALL_FORMATS
def test_ragged_and_empty_lists_are_kept_flagged_and_counted(tmp_path: Path, suffix: str) -> None:
    rows = [
        row(1, '["p", "q"]', '["a"]', '["b", "c"]'),
        row(2, "[]", "[]", "[]"),
        row(3, '["p"]', "[]", '["b"]'),
        row(4, '["p"]', '["same", null]', '["same", null]'),
        row(5, '["p"]', '["a"]', '["b"]'),
    ]
    found, table = read(saved(tmp_path, suffix, rows))
    assert [c.flags for c in found] == [
        Flag.RAGGED,
        Flag.EMPTY_LIST | Flag.IDENTICAL,
        Flag.EMPTY_LIST | Flag.RAGGED,
        Flag.NULL_TURN | Flag.RAGGED | Flag.IDENTICAL,
        Flag(0),
    ]
    assert (found[1].prompt, found[2].response_a) == ((), ())
    assert found[0].prompt == ("p", "q")
    expected = {"rows": 5, "labelled": 0, "multi_turn": 2, "ragged": 3, "empty_list": 2, "identical": 2, "null_turn": 1}
    assert table.counts == expected


# -- files that cannot be read -----------------------------------------------------------------------------

HEADER = b"id,prompt,response_a,response_b\n"
LINE = json.dumps(row(1)).encode() + b"\n"


def parquet_bytes(rows: list[Row]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("t.csv", HEADER + b"1,p,a,b\n")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content", "found"),
    [
        (".csv", parquet_bytes([row(1)]), "a Parquet file"),
        (".jsonl", parquet_bytes([row(1)]), "a Parquet file"),
        (".csv", zip_bytes(), "a zip archive (unpack it first)"),
        (".csv", gzip.compress(HEADER, mtime=0), "gzip-compressed (unpack it first)"),
        (".parquet", gzip.compress(HEADER, mtime=0), "gzip-compressed (unpack it first)"),
        (".csv", LINE, "JSON"),
        (".parquet", LINE, "JSON"),
        (".parquet", HEADER + b"1,p,a,b\n", "plain text"),
        (".csv", b"\xd0\xcf\x11\xe0\x00\x00\x00", "binary data"),
        (".parquet", b"\x00" * 100, "binary data"),
        (".csv", HEADER.decode().encode("utf-16"), "UTF-16 text (save it as UTF-8)"),
        (".csv", HEADER.decode().encode("utf-16-le"), "binary data"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_an_error(
    tmp_path: Path, suffix: str, content: bytes, found: str
) -> None:
    text = error_of_bytes(tmp_path, f"t{suffix}", content)
    assert text == f"{tmp_path}/t{suffix}: is named {suffix} but its content is {found}"


@ALL_FORMATS
def test_a_file_of_no_bytes_is_an_error(tmp_path: Path, suffix: str) -> None:
    assert error_of_bytes(tmp_path, f"t{suffix}", b"") == f"{tmp_path}/t{suffix}: the file is empty"


NOT_CSV = (
    "is not valid CSV at line {line} ({why}); texts with commas, quotes or line breaks must stand in quotes, and "
    "quotes in them be doubled"
)
FIELDS = (
    "the row that ends in line {line} has {count} fields, the header 4; texts with commas, quotes or line breaks must "
    "stand in quotes"
)
NOT_UTF8 = "line {line} is not UTF-8 text (byte 0x{byte}); save the file as UTF-8"
AFTER_QUOTE = "text behind a closing quote"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\n \n\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (HEADER, "the table has no rows"),
        (HEADER.strip(), "the table has no rows"),
        (HEADER + b"1,p,a,b\n2,p,a\n", FIELDS.format(line=3, count=3)),
        (HEADER + b"1,p,a,b,\n", FIELDS.format(line=2, count=5)),
        (HEADER + b'1,"p\nq",a,b,c\n', FIELDS.format(line=3, count=5)),
        (HEADER + b"1,p\rq,a,b\n", NOT_CSV.format(line=2, why="a carriage return outside quotes")),
        (HEADER + b'1,"p,a,b\n2,p,a,b\n', NOT_CSV.format(line=3, why="a quote is never closed")),
        (HEADER + b'1,"a \\"b\\" c",a,b\n', NOT_CSV.format(line=2, why=AFTER_QUOTE)),
        (HEADER + b'1,"p" ,a,b\n', NOT_CSV.format(line=2, why=AFTER_QUOTE)),
        (HEADER + b"1,caf\xe9,a,b\n", NOT_UTF8.format(line=2, byte="e9")),
        (HEADER + b"1,\xed\xa0\xbc,a,b\n", NOT_UTF8.format(line=2, byte="ed")),
        (b"\xef\xbb\xbfid,pr\xffompt\n", NOT_UTF8.format(line=1, byte="ff")),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, content: bytes, error: str) -> None:
    assert error_of_bytes(tmp_path, "t.csv", content) == f"t.csv: {error}"


ONE_OBJECT = 'expected an object such as {"id": 1, "prompt": …}; one object a line'


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\n\n", "the table has no rows"),
        (HEADER + b"1,p,a,b\n", "line 1: is not JSON (Expecting value at character 0); one object a line"),
        (b"[" + LINE.strip() + b"]", f"line 1: {ONE_OBJECT}"),
        (b"[\n" + LINE + b"]\n", "line 1: is not JSON (Expecting value at character 2); one object a line"),
        (LINE + b"17\n", f"line 2: {ONE_OBJECT}"),
        (LINE + b"null\n", f"line 2: {ONE_OBJECT}"),
        (
            LINE + b'\n{"id": 2,\n',
            "line 3: is not JSON (Expecting property name enclosed in double quotes at character 10)",
        ),
        (
            LINE + LINE.strip() + LINE,
            f"line 2: is not JSON (Extra data at character {len(LINE) - 1}); one object a line",
        ),
        (LINE + b'{"id": 2, "prompt": "p", "response_a": "a"}', "line 2: no 'response_b' in this row"),
        (b'{"id": ' + b"[" * 100_000, "line 1: is not JSON (maximum recursion depth exceeded"),
        (b'{"id": ' + b"9" * 5000 + b"}", "line 1: is not JSON (Exceeds the limit"),
        (
            b'{"id\x1b[31m": 1}\n',
            "line 1: is not JSON (Invalid control character at at character 4); one object a line",
        ),
        (LINE + b'{"id": "\xe9"}', "line 2 is not UTF-8 text (byte 0xe9); save the file as UTF-8"),
    ],
)
def test_a_json_lines_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, content: bytes, error: str) -> None:
    assert error_of_bytes(tmp_path, "t.jsonl", content).startswith(f"t.jsonl: {error}")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (parquet_bytes([]), "no column 'id', 'prompt', 'response_a', 'response_b'; the table has: "),
        (parquet_bytes([row(1)])[:-20], "cannot be read as Parquet ("),
        (b"PAR1", "cannot be read as Parquet ("),
    ],
)
def test_a_parquet_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, content: bytes, error: str) -> None:
    assert error_of_bytes(tmp_path, "t.parquet", content).startswith(f"t.parquet: {error}")


def test_missing_files_folders_and_unknown_suffixes_are_one_clear_line(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no.csv") == f"{tmp_path}/no.csv: cannot be read (No such file or directory)"
    assert error_of(tmp_path / "no" / "no.csv").endswith("no.csv: cannot be read (No such file or directory)")
    (tmp_path / "folder.csv").mkdir()
    assert error_of(tmp_path / "folder.csv") == (
        f"{tmp_path}/folder.csv: is a folder, expected a table file (.csv, .parquet, .pq, .jsonl, .ndjson)"
    )
    known = "expected one of .csv, .parquet, .pq, .jsonl, .ndjson"
    for name, error in {
        "t.xlsx": f"unknown suffix '.xlsx', {known}",
        "t": f"unknown suffix '', {known}",
        "t.csv.gz": f"unknown suffix '.gz', {known} (unpack it first)",
        "t.json": f"unknown suffix '.json', {known}",
    }.items():
        assert error_of_bytes(tmp_path, name, b"x") == f"{tmp_path}/{name}: {error}"


def test_an_empty_parquet_table_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row(1)]).slice(0, 0), tmp_path / "t.parquet")
    assert error_of(tmp_path / "t.parquet") == "t.parquet: the table has no rows"


def test_parquet_text_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    spoilt = pa.StringArray.from_buffers(1, pa.array([0, 4], pa.int32()).buffers()[1], pa.py_buffer(b"caf\xe9"))
    fine = pa.array(["x"])
    table = pa.table({"id": fine, "prompt": spoilt, "response_a": fine, "response_b": fine})
    pq.write_table(table, tmp_path / "t.parquet")
    assert error_of(tmp_path / "t.parquet").startswith(
        "t.parquet: cannot be read as Parquet ('utf-8' codec can't decode"
    )


def test_a_nul_character_inside_a_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEADER + b"1,be\x00fore,a,b\n")
    assert read(tmp_path / "t.csv")[0][0].prompt == ("be\x00fore",)


# -- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (
            ["id", "promt", "response_a", "response_b"],
            "no column 'prompt' (did you mean 'promt'?); the table has: id, promt, response_a, response_b",
        ),
        (
            [" id", "prompt", "response_a", "response_b"],
            "no column 'id' (did you mean ' id'?); the table has:  id, prompt, response_a, response_b",
        ),
        (["id", "text"], "no column 'prompt', 'response_a', 'response_b'; the table has: id, text"),
        (["ID", "Prompt"], "no column 'id', 'prompt', 'response_a', 'response_b'; the table has: ID, Prompt"),
    ],
)
@ALL_FORMATS
def test_missing_columns_are_named_with_a_suggestion(
    tmp_path: Path, suffix: str, columns: list[str], error: str
) -> None:
    assert error_of(saved(tmp_path, suffix, [dict.fromkeys(columns, "x")])) == f"t{suffix}: {error}"


@pytest.mark.parametrize("name", ["id", "prompt", "winner"])
def test_a_column_that_appears_twice_is_an_error_in_csv_parquet_and_a_frame(tmp_path: Path, name: str) -> None:
    names = [*row(), "winner", name]
    error = f"2 columns are named '{name}'; keep one of them"
    assert error_of_bytes(tmp_path, "t.csv", f"{','.join(names)}\n1,p,a,b,tie,x\n".encode()) == f"t.csv: {error}"
    pq.write_table(pa.table([pa.array([str(i)]) for i in range(6)], names=names), tmp_path / "t.parquet")
    assert error_of(tmp_path / "t.parquet") == f"t.parquet: {error}"
    with pytest.raises(JudgeError, match=f"DataFrame: {error}"):
        read_frame(pd.DataFrame([range(6)], columns=names))


def test_other_columns_may_appear_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x,prompt,x,response_a,response_b\n1,,p,,a,b\n")
    assert len(read(path)[0]) == 1


@ALL_FORMATS
def test_hostile_column_names_and_ids_never_reach_a_message_raw(tmp_path: Path, suffix: str) -> None:
    missing = saved(tmp_path, suffix, [{"id": "1", f"prompt{HOSTILE}": "x"}])
    assert "\\x1b[31m" in error_of(missing)
    one_line = HOSTILE.replace("\n", "")
    twice = saved(tmp_path, suffix, [row(one_line), row(one_line)])
    assert f"t{suffix}: row 2 (id \\x1b[31mredline\\u202e), column 'id' appears twice" in error_of(twice)
    bad = saved(tmp_path, suffix, [row(one_line, '["')])
    assert "(id \\x1b[31mredline\\u202e), column 'prompt' is not a valid" in error_of(bad)


def test_a_hostile_file_name_never_reaches_a_message_raw(tmp_path: Path) -> None:
    for name, content in (("\x1b[31m\n.csv", b""), ("\x1b[31m\n.csv", HEADER), ("\u202e\n.x", b"x"), ("\r.csv", LINE)):
        error_of_bytes(tmp_path, name, content)
    error_of(tmp_path / "\x1b[0mno\n.csv")


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


# -- digests -----------------------------------------------------------------------------------------------


def test_the_digest_changes_with_the_content_and_with_how_cells_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path, ".csv", [row(1)])
    frame = pd.DataFrame([row(1)])
    digests = [
        Table.open(path).digest(),
        Table.open(path, cells="plain").digest(),
        Table.open(path, on_bad_row="placeholder").digest(),
        Table.open(saved(tmp_path, ".csv", [row(2)])).digest(),
        Table("f", frame=frame).digest(),
        Table("f", frame=frame.assign(prompt="q")).digest(),
    ]
    assert len(set(digests)) == len(digests)
    assert Table.open(saved(tmp_path, ".csv", [row(1)])).digest() == digests[0]
    assert Table("g", frame=frame.copy()).digest() == digests[4]


# -- ids alone ---------------------------------------------------------------------------------------------


@ALL_FORMATS
def test_ids_are_read_from_a_table_whose_texts_are_not_readable(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, suffix, [row(2, '["', "[", "['"), row(1, "[1", "", "x")])
    assert read_ids(path) == [2, 1]


# -- anything at all ---------------------------------------------------------------------------------------

PIECES = [
    *(b"id,", b"id", b"prompt", b"response_a", b"response_b", b",", b"\n", b"\r", b'"', b" ", b"\\", b"1", b"null"),
    *(b"[", b"{", b"}", b":", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xc3\xa9", b"PAR1", b"PK\x03\x04"),
    *(HEADER, LINE, b"2,p,a,b\n"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([".csv", ".jsonl", ".parquet"]),
    st.sampled_from([b"", HEADER, LINE]),
    st.lists(st.sampled_from(PIECES)),
)
def test_any_bytes_are_a_table_or_one_clear_line(suffix: str, start: bytes, rest: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        path.write_bytes(start + b"".join(rest))
        try:
            found, table = read(path)
        except JudgeError as error:
            assert str(error).isprintable()  # noqa: PT017 - some inputs are tables, so `raises` does not fit
        else:
            assert len(table.ids()) == len(found) > 0


@settings(max_examples=100, deadline=None)
@given(st.integers(4, 3000), st.integers(0, 255))
def test_a_spoilt_parquet_file_is_a_table_or_one_clear_line(place: int, value: int) -> None:
    content = bytearray(parquet_bytes([row(1, ["p"]), row(2, ["q", None])]))
    content[place % len(content)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        path.write_bytes(content)
        try:
            read(path, on_bad_row="placeholder")
        except JudgeError as error:
            assert str(error).isprintable()  # noqa: PT017
