"""Tables written row by row, and read back; the text of the error where they cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from judge.errors import JudgeError
from judge.tables.comparison import Cells, Comparison
from judge.tables.table import OnBadRow, Table
from tests.kit.table_writers import WRITERS, Row


def row(row_id: Any = 1, prompt: Any = "p", a: Any = "a", b: Any = "b", **more: Any) -> Row:
    """Return a row; its three texts are short unless told otherwise."""
    return {"id": row_id, "prompt": prompt, "response_a": a, "response_b": b, **more}


def saved(folder: Path, suffix: str, rows: list[Row]) -> Path:
    """Write the rows to a file of the format that the suffix names."""
    path = folder / f"t{suffix}"
    WRITERS[suffix](path, rows)
    return path


def read(path: Path, cells: Cells = "auto", on_bad_row: OnBadRow = "error") -> tuple[list[Comparison], Table]:
    """Return the comparisons of a table file, and the table."""
    table = Table.open(path, cells, on_bad_row)
    return [c for chunk in table.chunks() for c in chunk], table


def read_frame(frame: pd.DataFrame) -> tuple[list[Comparison], Table]:
    """Return the comparisons of a DataFrame, and the table."""
    table = Table("DataFrame", frame=frame)
    return [c for chunk in table.chunks() for c in chunk], table


def error_of(path: Path, cells: Cells = "auto", on_bad_row: OnBadRow = "error") -> str:
    """Return the error that reading a file ends with; it is one line that a terminal shows as it stands."""
    with pytest.raises(JudgeError) as caught:
        read(path, cells, on_bad_row)
    text = str(caught.value)
    assert text.isprintable(), text  # one line, and nothing in it that a terminal obeys
    return text


def error_of_bytes(folder: Path, name: str, content: bytes) -> str:
    """Return the error that reading a file of these bytes ends with."""
    path = folder / name
    path.write_bytes(content)
    return error_of(path)
