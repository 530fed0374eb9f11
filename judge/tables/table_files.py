"""Reads the file formats of tables (CSV, Parquet, JSON Lines) in a stream, as columns of plain values."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from judge.errors import JudgeError, printable, suggestion
from judge.tables.comparison import LABEL_COLUMNS, SOFT_COLUMNS, TEXT_COLUMNS
from judge.tables.parquet_folder import parts_of

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, list[Any]]

NEEDED = ("id", *TEXT_COLUMNS)
DESCRIPTIONS = ("model_a", "model_b", "language", "source")
# Scoring and evaluating read these columns where they are there; training reads more.
OPTIONAL = (*LABEL_COLUMNS, "winner", *DESCRIPTIONS)
VERDICT_COLUMNS = (*LABEL_COLUMNS, "winner", *SOFT_COLUMNS)
TRAINING = (*OPTIONAL, *SOFT_COLUMNS, "weight")
SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
CHUNK_ROWS = 512


def table_kind(path: Path) -> str:
    """Return the format of a checked table: `csv`, `jsonl` or `parquet`. A folder is `parquet`."""
    return "parquet" if path.is_dir() else SUFFIXES[path.suffix.lower()]


def check_table(path: Path) -> None:
    """Check a table's file, or the files of a folder of Parquet files (`judge.tables.parquet_folder`).

    Raises:
        JudgeError: see `check_file`; or a folder holds no Parquet file.
    """
    for part in parts_of(path) or [path]:
        check_file(part)


def check_file(path: Path) -> None:
    """Check that a table's file can be opened and that its first bytes fit its suffix.

    Raises:
        JudgeError: it is a folder, cannot be read, is empty, or is no table file or another one than its suffix says.
    """
    if problem := _problem_of(path):
        raise JudgeError(f"{printable(str(path), 4096)}: {problem}")


def _problem_of(path: Path) -> str:
    if path.is_dir():
        return f"is a folder, expected a table file ({', '.join(SUFFIXES)})"
    kind = SUFFIXES.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if kind is None:
        unpack = " (unpack it first)" if path.suffix.lower() in (".gz", ".zip", ".bz2", ".xz", ".zst") else ""
        return f"unknown suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}{unpack}"
    if not head:
        return "the file is empty"
    content = _content_of(head)
    return "" if content in _CONTENTS[kind] else f"is named {path.suffix} but its content is {content}"


_PARQUET, _JSON, _TEXT = "a Parquet file", "JSON", "plain text"
_CONTENTS = {"csv": (_TEXT,), "parquet": (_PARQUET,), "jsonl": (_JSON, _TEXT)}  # of the files of each format
_MAGIC = {
    b"PAR1": _PARQUET,
    b"PK\x03\x04": "a zip archive (unpack it first)",
    b"\x1f\x8b": "gzip-compressed (unpack it first)",
    b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
}


def _content_of(head: bytes) -> str:
    """Return what a file's first bytes show that it is."""
    if found := next((content for magic, content in _MAGIC.items() if head.startswith(magic)), ""):
        return found
    if b"\x00" in head.partition(b"\n")[0]:
        return "binary data"
    return _JSON if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else _TEXT


def _need_columns(found: list[str], name: str, optional: tuple[str, ...]) -> list[str]:
    """Return which of a table's columns are read.

    Raises:
        JudgeError: a needed column is missing, or two columns that are read have the same name.
    """
    missing = [c for c in NEEDED if c not in found]
    if missing:
        hint = suggestion(missing[0], found)
        shown = ", ".join(printable(c, 30) for c in found[:12])
        raise JudgeError(f"{name}: no column {', '.join(map(repr, missing))}{hint}; the table has: {shown}")
    names = [c for c in (*NEEDED, *optional) if c in found]
    return check_unique(names, found, name)


def check_unique(columns: list[str], found: list[str], name: str) -> list[str]:
    """Return some columns of a table if `found`, all its columns, holds each once.

    Raises:
        JudgeError: two columns have the same name.
    """
    for column in columns:
        if found.count(column) > 1:
            shown = printable(column, 30)
            raise JudgeError(f"{name}: {found.count(column)} columns are named {shown!r}; keep one of them")
    return columns


def text_lines(path: Path, name: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line ends, without a byte order mark.

    Raises:
        JudgeError: a line is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise JudgeError(
                    f"{name}: line {number} is not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8"
                ) from None
            yield text


# The csv module's errors in words for somebody who looks at the file.
_CSV_FAULTS = {
    "expected after": "text behind a closing quote",
    "unexpected end": "a quote is never closed",
    "new-line character": "a carriage return outside quotes",
}


def csv_rows(path: Path, name: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file as texts, the header first, without blank lines.

    This uses the standard library's reader in strict mode. pandas guesses where a row has a field too many or too few,
    or writes `\\"` for a quote.

    Raises:
        JudgeError: the file is not UTF-8, a quote is out of place, or a row is longer or shorter than the header.
    """
    csv.field_size_limit(sys.maxsize)  # the default is 128 KiB, and one long conversation has more
    reader = csv.reader(text_lines(path, name), strict=True)
    width = 0
    try:
        for row in reader:
            if len(row) <= 1 and not "".join(row).strip():
                continue
            width = width or len(row)
            if len(row) != width:
                raise JudgeError(
                    f"{name}: the row that ends in line {reader.line_num} has {len(row)} fields, the header {width}; "
                    "texts with commas, quotes or line breaks must stand in quotes"
                )
            yield row
    except csv.Error as error:
        reason = next((why for words, why in _CSV_FAULTS.items() if words in str(error)), printable(str(error)))
        raise JudgeError(
            f"{name}: is not valid CSV at line {reader.line_num} ({reason}); texts with commas, quotes or line "
            "breaks must stand in quotes, and quotes in them be doubled"
        ) from None


def _csv_columns(path: Path, name: str, optional: tuple[str, ...]) -> Iterator[Columns]:
    rows = csv_rows(path, name)
    header = next(rows, None)
    if header is None:
        raise JudgeError(f"{name}: the file is empty")
    places = {column: header.index(column) for column in _need_columns(header, name, optional)}
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        yield {column: [row[i] for row in chunk] for column, i in places.items()}


def _parquet_columns(path: Path, name: str, optional: tuple[str, ...]) -> Iterator[Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # With buffer_size, pyarrow reads a column chunk page by page, so one huge row group is never in memory whole.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = _need_columns(file.schema_arrow.names, name, optional)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=names):
                yield {column: batch.column(column).to_pylist() for column in names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split()), 160)
        raise JudgeError(f"{name}: cannot be read as Parquet ({reason})") from None


def _jsonl_columns(path: Path, name: str, optional: tuple[str, ...]) -> Iterator[Columns]:
    rows = _needed_objects(path, name, optional)
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        # Any row may lack an optional column, so look at all rows.
        names = (*NEEDED, *(c for c in optional if any(c in row for row in chunk)))
        yield {name: [row.get(name) for row in chunk] for name in names}


def _needed_objects(path: Path, name: str, optional: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for number, (place, row) in enumerate(json_objects(path, name)):
        if number == 0:
            _need_columns(list(row), name, optional)
        missing = [c for c in NEEDED if c not in row]
        if missing:
            raise JudgeError(f"{place}: no {missing[0]!r} in this row")
        yield row


def json_objects(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with the words that say where it is, without blank lines.

    Raises:
        JudgeError: a line is not UTF-8 or no JSON object.
    """
    for number, line in enumerate(text_lines(path, name), start=1):
        if not line.strip():
            continue
        place, reason = f"{name}: line {number}", ""
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.pos}"
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            reason = printable(str(error))
        if reason:
            raise JudgeError(f"{place}: is not JSON ({reason}); one object a line")
        if not isinstance(row, dict):
            raise JudgeError(f'{place}: expected an object such as {{"id": 1, "prompt": …}}; one object a line')
        yield place, row


def frame_columns(frame: pd.DataFrame, name: str, optional: tuple[str, ...] = OPTIONAL) -> Iterator[Columns]:
    """Yield a DataFrame's columns, `CHUNK_ROWS` rows at a time; see `file_columns`."""
    names = _need_columns([str(c) for c in frame.columns], name, optional)
    for start in range(0, len(frame), CHUNK_ROWS):
        part = frame.iloc[start : start + CHUNK_ROWS]
        yield {column: [_plain_value(v) for v in part[column].tolist()] for column in names}


def _plain_value(value: Any) -> Any:
    """Return a value of an object column as a plain Python value; a missing value is None."""
    import pandas as pd

    if value is pd.NA or value is pd.NaT:
        return None
    return value.tolist() if isinstance(value, (np.number, np.ndarray)) else value


def file_columns(path: Path, name: str, optional: tuple[str, ...] = OPTIONAL) -> Iterator[Columns]:
    """Yield a table's columns, `CHUNK_ROWS` rows at a time; the files of a folder follow one another.

    Args:
        path: a file that `check_file` has accepted, or a folder that `check_table` has.
        name: what errors call it.
        optional: columns to read where they are there, besides the needed ones.

    Raises:
        JudgeError: the file cannot be read or lacks a needed column, or the files of a folder differ in their columns.
    """
    if path.is_dir():
        return _folder_columns(path, name, optional)
    reader = {"csv": _csv_columns, "parquet": _parquet_columns, "jsonl": _jsonl_columns}
    return reader[table_kind(path)](path, name, optional)


def _folder_columns(path: Path, name: str, optional: tuple[str, ...]) -> Iterator[Columns]:
    first: list[str] = []
    for part in parts_of(path):
        part_name = f"{name}/{printable(part.name, 255)}"
        for columns in _parquet_columns(part, part_name, optional):
            first = first or list(columns)
            if (odd := next(iter({*first} ^ {*columns}), None)) is not None:
                lacking = "the first file" if odd in columns else "this file"
                raise JudgeError(f"{part_name}: {lacking} has no column {odd!r}; the files of a folder are one table")
            yield columns
