"""Writes rows, just as they are, to each kind of table file that judge reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Row = dict[str, Any]


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write CSV; the first row has all columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Row]) -> None:
    """Write Parquet with the first row's columns and the types of the values."""
    pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in rows[0]}), path)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write JSON Lines; half surrogate pairs are written as escapes."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
}
ALL_FORMATS = pytest.mark.parametrize("suffix", WRITERS)
