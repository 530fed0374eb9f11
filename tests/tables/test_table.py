"""Reading tables of comparisons: what is read, in which chunks, with which flags."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Cells, Comparison, Flag, clean_text
from judge.tables.table import Table
from judge.tables.table_files import CHUNK_ROWS
from tests.kit.read_tables import error_of, read, read_frame, row, saved
from tests.kit.table_writers import ALL_FORMATS, WRITERS, Row

TEXT = st.text(max_size=20)
# In JSON, half a surrogate pair can be written too.
JSON_TEXT = st.text(st.one_of(st.characters(), st.sampled_from(["\ud83c", "\udf4d", "\ufeff", '"', "\r"])), max_size=20)
unhurried = settings(max_examples=40, deadline=None)  # each example writes files; the cores are shared


TYPED = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


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
def test_columns_may_stand_in_any_order_with_others_between(tmp_path: Path, suffix: str) -> None:
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


def test_json_lines_may_have_a_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
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
def test_native_lists_give_equal_comparisons_in_parquet_json_and_a_frame(
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
