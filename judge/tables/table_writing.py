"""Writes tables as CSV, Parquet or JSON Lines: chosen rows of a file with all their columns, or new rows.

A copy in the same format keeps texts and types; in JSON Lines it keeps the bytes of each row. A copy in another format
holds each value in a way that reads as the same comparison (with `cells="auto"`; a null in CSV is the list `[null]`).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.files import whole_file
from judge.tables.comparison import TEXT_COLUMNS, clean_text
from judge.tables.table_files import CHUNK_ROWS, SUFFIXES, check_unique, csv_rows, json_objects, table_kind, text_lines

Record = dict[str, Any]
Item = TypeVar("Item")

_ROW_GROUP = 16_384  # rows of a Parquet file that are read and written at once


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Check before any work that a table can be written to `path`.

    Raises:
        JudgeError: the suffix is unknown, its folder does not exist, it is a folder itself, or it is one of the inputs.
    """
    shown = printable(str(path), 4096)
    if path.suffix.lower() not in SUFFIXES:
        raise JudgeError(f"{shown}: unknown suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise JudgeError(f"{shown}: there is no folder {printable(str(path.parent), 4096)}; make it first")
    if path.is_dir():
        raise JudgeError(f"{shown}: is a folder, expected the name of a table file")
    if path.exists() and any(path.samefile(i) for i in inputs):
        raise JudgeError(f"{shown}: is one of the inputs, which are never overwritten; give another name")


def copy_rows(source: Path, keep: NDArray[np.bool_], path: Path) -> None:
    """Write chosen rows of a table, with all their columns, whole or not at all.

    Args:
        source: a table that `judge.tables.table.Table` has read without error.
        keep: which rows to write, shape (rows,), in the order in which `Table` reads them.
        path: the file to write; its suffix says the format.

    Raises:
        JudgeError: the source has changed since it was read, or the other format cannot hold one of its values.
    """
    name = printable(source.name, 255)
    if source.is_dir():
        raise JudgeError(f"{name}: is a folder; its rows are read where they are, and copied from a single file only")
    kinds = (table_kind(source), table_kind(path))
    with whole_file(path) as temporary:
        if kinds == ("csv", "csv"):
            rows = csv_rows(source, name)
            _write_text(temporary, map(csv_line, itertools.chain([next(rows, [])], _chosen(rows, keep, name))))
        elif kinds == ("jsonl", "jsonl"):
            lines = (line for line in text_lines(source, name) if line.strip())
            _write_text(temporary, (line.rstrip("\r\n") + "\n" for line in _chosen(lines, keep, name)))
        elif kinds == ("parquet", "parquet"):
            _copy_parquet(source, keep, temporary, name)
        else:
            columns, records = _read_records(source, name)
            _write(temporary, kinds[1], columns, _chosen(records, keep, name), name)


def write_records(path: Path, columns: list[str], records: Iterable[Record], types: Record | None = None) -> None:
    """Write new rows as a table, whole or not at all. A missing value is null, in CSV an empty cell or `[null]`.

    Args:
        path: the file; its suffix says the format.
        columns: the columns to write.
        records: the rows; CSV and JSON Lines take one after another.
        types: the pyarrow types of the columns. With them, Parquet takes the rows in groups; without, it needs all rows
            to find the types.

    Raises:
        JudgeError: a column has values of several types, which Parquet cannot hold.
    """
    with whole_file(path) as temporary:
        _write(temporary, table_kind(path), columns, records, printable(path.name, 255), types)


def csv_line(cells: Iterable[Any]) -> str:
    """Return a row of a CSV file; a reader gets back the same texts, whatever they hold."""
    buffer = io.StringIO(newline="")
    # The csv module quotes a lone carriage return only if the line's end has one, so give it one and cut it off.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue()[:-2] + "\n"


def _chosen(items: Iterable[Item], keep: NDArray[np.bool_], name: str) -> Iterator[Item]:
    count = 0
    for item in items:
        count += 1
        if count <= len(keep) and keep[count - 1]:
            yield item
    _check_count(count, keep, name)


def _check_count(count: int, keep: NDArray[np.bool_], name: str) -> None:
    if count != len(keep):
        raise JudgeError(f"{name}: has {counted(count, 'row')}, had {len(keep):,}; it changed while it was read")


def _write_text(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def _copy_parquet(source: Path, keep: NDArray[np.bool_], path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        _check_count(file.metadata.num_rows, keep, name)
        compression = file.metadata.row_group(0).column(0).compression.lower().replace("uncompressed", "none")
        with pq.ParquetWriter(path, file.schema_arrow, compression=compression) as writer:
            start = 0
            for batch in file.iter_batches(batch_size=_ROW_GROUP):
                writer.write_batch(batch.filter(pa.array(keep[start : start + len(batch)])))
                start += len(batch)


def _read_records(source: Path, name: str) -> tuple[list[str], Iterator[Record]]:
    """Return all columns of a table, and its rows."""
    import pyarrow.parquet as pq

    kind = table_kind(source)
    if kind == "csv":
        rows = csv_rows(source, name)
        header = next(rows, [])
        return check_unique(header, header, name), (dict(zip(header, row, strict=True)) for row in rows)
    if kind == "jsonl":
        columns = list(dict.fromkeys(c for _, row in json_objects(source, name) for c in row))
        return columns, (row for _, row in json_objects(source, name))
    file = pq.ParquetFile(source)
    columns = list(file.schema_arrow.names)
    batches = file.iter_batches(batch_size=CHUNK_ROWS)
    return check_unique(columns, columns, name), (record for batch in batches for record in batch.to_pylist())


def _write(
    path: Path, kind: str, columns: list[str], records: Iterable[Record], name: str, types: Record | None = None
) -> None:
    if kind == "csv":
        rows = ([_csv_cell(record.get(c), c) for c in columns] for record in records)
        _write_text(path, map(csv_line, itertools.chain([columns], rows)))
    elif kind == "jsonl":
        lines = ({c: _plain(record[c]) for c in columns if c in record} for record in records)
        _write_text(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    elif types is None:
        _write_parquet(path, columns, list(records), name)
    else:
        _write_typed_parquet(path, {column: types[column] for column in columns}, iter(records))


def _csv_cell(value: Any, column: str) -> str:
    """Return a value as a CSV cell; a missing text becomes `[null]`, which reads as the same turn."""
    value = _plain(value)
    if value is None:
        return "[null]" if column in TEXT_COLUMNS else ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN as null; dates, decimals and bytes as text; no lone surrogates."""
    if isinstance(value, str):
        return clean_text(value)[0]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def _write_parquet(path: Path, columns: list[str], records: list[Record], name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = []
    for column in columns:
        try:
            arrays.append(pa.array([_plain(record.get(column)) for record in records]))
        except (pa.ArrowException, OverflowError) as error:
            shown, reason = printable(column, 30), printable(" ".join(str(error).split()), 160)
            raise JudgeError(
                f"{name}: column {shown!r} cannot be written as Parquet ({reason}); write .jsonl instead"
            ) from None
    pq.write_table(pa.Table.from_arrays(arrays, names=columns), path)


def _write_typed_parquet(path: Path, types: Record, records: Iterator[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(types.items())
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(records, CHUNK_ROWS)):
            writer.write_table(pa.Table.from_pylist([_plain(record) for record in group], schema))
