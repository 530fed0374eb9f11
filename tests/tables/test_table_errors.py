"""Tables that cannot be read: each ends in one clear line."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Cells, Flag
from tests.kit.read_tables import error_of, error_of_bytes, read, read_frame, row, saved
from tests.kit.table_writers import ALL_FORMATS, Row

HOSTILE = "\x1b[31mred\nline\u202e"


TYPED = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


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
def test_a_column_that_appears_twice_is_an_error(tmp_path: Path, name: str) -> None:
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
