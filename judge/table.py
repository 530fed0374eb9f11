"""Reading tables of comparisons: CSV, Parquet and JSON Lines files, or a DataFrame, a chunk at a time.

Files are streamed, so that memory does not grow with the number of rows. Every problem that a user can
cause is a `JudgeError` that names the file, the row, its id and the column.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from judge.comparison import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    BadCellError,
    Cells,
    Comparison,
    Flag,
    RowId,
    Turns,
    parse_cell,
    parse_label,
    row_flags,
    where,
)
from judge.errors import JudgeError, printable, suggestion

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

OnBadRow = Literal["error", "placeholder"]
Columns = dict[str, list[Any]]

NEEDED = ("id", *TEXT_COLUMNS)
OPTIONAL = (*LABEL_COLUMNS, "winner")
SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
CHUNK_ROWS = 512
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


@dataclass
class Table:
    """A table of comparisons that can be read once or more, chunk by chunk.

    `counts` (a Counter over `Flag`s and `rows`) and `ids` are complete after `chunks()` has ended.
    """

    name: str
    cells: Cells = "auto"
    on_bad_row: OnBadRow = "error"
    path: Path | None = None
    frame: pd.DataFrame | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _ids: list[RowId] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path, cells: Cells = "auto", on_bad_row: OnBadRow = "error") -> Table:
        """Return the table of a file.

        Raises:
            JudgeError: no such file, an unknown suffix, or a content that is not what the suffix says.
        """
        path = Path(path)
        _check_file(path)
        return cls(path.name, cells, on_bad_row, path=path)

    def chunks(self) -> Iterator[list[Comparison]]:
        """Yield the comparisons in the table's order, at most `CHUNK_ROWS` at a time.

        Raises:
            JudgeError: an unreadable file, a missing column, an empty table, a missing or repeated id,
                a cell that cannot be read (unless `on_bad_row` is `placeholder`).
        """
        self.counts, self._ids = Counter(), []
        seen: dict[RowId, int] = {}
        for columns in self._columns():
            rows = len(columns["id"])
            yield [self._comparison(columns, i, len(seen) + 1, seen) for i in range(rows)]
        if not seen:
            raise JudgeError(f"{self.name}: the table has no rows")

    def ids(self) -> pa.Array:
        """Return the ids of the rows read, in order, in their own type (int64, float64 or string).

        A CSV file has no types: its ids are integers if every one is written as an integer is (so that
        `007` stays text).
        """
        import pyarrow as pa

        if self.path is not None and SUFFIXES[self.path.suffix.lower()] == "csv":
            texts = [str(i) for i in self._ids]
            if all(_INTEGER.fullmatch(t) for t in texts):
                try:
                    return pa.array([int(t) for t in texts], pa.int64())
                except (OverflowError, pa.ArrowInvalid):
                    pass
            return pa.array(texts, pa.string())
        return pa.array(self._ids)

    def digest(self) -> str:
        """Return a SHA-256 over the table's content and the way its cells are read."""
        sha = hashlib.sha256(f"{self.cells} {self.on_bad_row}".encode())
        if self.path is not None:
            with self.path.open("rb") as file:
                while block := file.read(1 << 20):
                    sha.update(block)
        else:
            for columns in self._columns():
                sha.update(json.dumps(columns, default=str, sort_keys=True).encode())
        return sha.hexdigest()

    def _columns(self) -> Iterator[Columns]:
        if self.frame is not None:
            return _frame_columns(self.frame, self.name)
        assert self.path is not None
        reader = {"csv": _csv_columns, "parquet": _parquet_columns, "jsonl": _jsonl_columns}
        return reader[SUFFIXES[self.path.suffix.lower()]](self.path)

    def _comparison(self, columns: Columns, i: int, row: int, seen: dict[RowId, int]) -> Comparison:
        row_id = self._row_id(columns["id"][i], row, seen)
        cells: list[Turns] = []
        flags = Flag(0)
        for name in TEXT_COLUMNS:
            try:
                turns, cell_flags = parse_cell(columns[name][i], self.cells)
            except BadCellError as error:
                if self.on_bad_row == "error":
                    raise JudgeError(
                        f"{where(self.name, row, row_id, name)} {error}; mend it, or pass "
                        "--on-bad-row=placeholder to score the row with a placeholder"
                        + ("" if self.cells == "json" else ", or --cells=plain if cells are plain text")
                    ) from None
                turns, cell_flags = (None,), Flag.BAD_CELL
            cells.append(turns)
            flags |= cell_flags
        flags |= row_flags(*cells)
        self.counts["rows"] += 1
        self.counts.update(str(flag.name).lower() for flag in flags)
        self.counts["multi_turn"] += max(map(len, cells)) > 1
        label = parse_label({name: columns[name][i] for name in OPTIONAL if name in columns})
        self.counts["labelled"] += label >= 0
        return Comparison(row_id, cells[0], cells[1], cells[2], label, flags)

    def _row_id(self, value: Any, row: int, seen: dict[RowId, int]) -> RowId:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            raise JudgeError(f"{where(self.name, row, None, 'id')} is missing; every row needs an id")
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise JudgeError(
                f"{where(self.name, row, value, 'id')} is a {type(value).__name__}, expected a number or text"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise JudgeError(f"{where(self.name, row, value, 'id')} does not fit 64 bits; write it as text")
        if self._ids and isinstance(value, str) != isinstance(self._ids[0], str):
            raise JudgeError(f"{where(self.name, row, value, 'id')}: ids mix numbers and text; write all in one type")
        if value in seen:
            raise JudgeError(
                f"{where(self.name, row, value, 'id')} appears twice (first in row {seen[value]}); ids must be unique"
            )
        seen[value] = row
        self._ids.append(value)
        return value


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise JudgeError(f"{path}: is a folder, expected a table file ({', '.join(SUFFIXES)})")
    kind = SUFFIXES.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise JudgeError(f"{path}: cannot be read ({error.strerror})") from None
    if kind is None:
        raise JudgeError(
            f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}"
            + (" (unpack it first)" if path.suffix.lower() in (".gz", ".zip", ".bz2", ".xz", ".zst") else "")
        )
    if not head:
        raise JudgeError(f"{path}: the file is empty")
    found = _sniff(head)
    if found != kind and not (found == "text" and kind in ("csv", "jsonl")):
        raise JudgeError(f"{path}: is named {path.suffix} but its content is {_FOUND[found]}")


_FOUND = {
    "parquet": "a Parquet file",
    "jsonl": "JSON",
    "zip": "a zip archive (unpack it first)",
    "gzip": "gzip-compressed (unpack it first)",
    "binary": "binary data",
    "text": "plain text",
}


def _sniff(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if b"\x00" in head:
        return "binary"
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return "jsonl" if first in (b"{", b"[") else "text"


def _need_columns(found: list[str], name: str) -> list[str]:
    """Return the columns to read, or raise the error that names the missing ones."""
    missing = [c for c in NEEDED if c not in found]
    if missing:
        hint = suggestion(missing[0], found)
        shown = ", ".join(printable(c, 30) for c in found[:12])
        raise JudgeError(f"{name}: no column {', '.join(map(repr, missing))}{hint}; the table has: {shown}")
    return [c for c in (*NEEDED, *OPTIONAL) if c in found]


def _csv_columns(path: Path) -> Iterator[Columns]:
    import pandas as pd

    def text_error(error: Exception) -> JudgeError:
        reason = printable(" ".join(str(error).split()), 160)
        return JudgeError(f"{path.name}: cannot be read as CSV in UTF-8 ({reason})")

    try:
        header = pd.read_csv(path, nrows=0, dtype=object, encoding="utf-8", index_col=False)
        names = _need_columns([str(c) for c in header.columns], path.name)
        reader = pd.read_csv(
            path,
            usecols=names,
            dtype=object,  # every cell stays the text it is: "NA", "1e5" and "007" too
            keep_default_na=False,
            na_filter=False,
            encoding="utf-8",
            chunksize=CHUNK_ROWS,
        )
        with reader:
            for chunk in reader:
                yield {name: chunk[name].tolist() for name in names}
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise text_error(error) from None


def _parquet_columns(path: Path) -> Iterator[Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffer_size reads a column chunk page by page instead of whole, so that one huge row group
        # does not sit in memory at once
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = _need_columns(file.schema_arrow.names, path.name)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=names):
                yield {name: batch.column(name).to_pylist() for name in names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split()), 160)
        raise JudgeError(f"{path.name}: cannot be read as Parquet ({reason})") from None


def _jsonl_columns(path: Path) -> Iterator[Columns]:
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = _json_object(line, f"{path.name}: line {number}")
                names = names or _need_columns(list(row), path.name)
                missing = [c for c in NEEDED if c not in row]
                if missing:
                    raise JudgeError(f"{path.name}: line {number}: no {missing[0]!r} in this row")
                rows.append(row)
                if len(rows) == CHUNK_ROWS:
                    yield {name: [r.get(name) for r in rows] for name in names}
                    rows = []
    except UnicodeDecodeError as error:
        raise JudgeError(f"{path.name}: is not UTF-8 text (byte {error.start})") from None
    if rows:
        yield {name: [r.get(name) for r in rows] for name in names}


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise JudgeError(f"{place}: is not JSON ({printable(str(error))}); one object a line") from None
    if not isinstance(row, dict):
        raise JudgeError(f'{place}: expected an object such as {{"id": 1, "prompt": …}}; one object a line')
    return row


def _frame_columns(frame: pd.DataFrame, name: str) -> Iterator[Columns]:
    names = _need_columns([str(c) for c in frame.columns], name)
    for start in range(0, len(frame), CHUNK_ROWS):
        part = frame.iloc[start : start + CHUNK_ROWS]
        yield {column: part[column].tolist() for column in names}


def read_ids(path: str | Path) -> list[RowId]:
    """Return the ids of a table, in order; its texts need not be readable.

    Raises:
        JudgeError: see `Table.chunks`.
    """
    table = Table.open(path, cells="plain", on_bad_row="placeholder")
    for _ in table.chunks():
        pass
    ids: list[RowId] = table.ids().to_pylist()
    return ids
