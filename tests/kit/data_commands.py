"""What the tests of `judge data` share: rows with verdicts, written to files and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from judge.tables.comparison import Comparison
from judge.tables.table import Labels, Table
from judge.tables.table_writing import write_records

Row = dict[str, Any]
VERDICTS = ["model_a", "model_b", "tie"]
LONG = "Please write a short poem about the river and the cloud above the city"


def row(row_id: Any, prompt: str, verdict: int = 0, a: str = "a", b: str = "b", **more: Any) -> Row:
    return {"id": row_id, "prompt": prompt, "response_a": a, "response_b": b, "winner": VERDICTS[verdict], **more}


def write(path: Path, rows: list[Row]) -> Path:
    write_records(path, list(rows[0]), rows)
    return path


def question(number: int) -> str:
    """A prompt that is no near-duplicate of another number's."""
    return f"{10007 * number * number}?"


def several(count: int, first: int = 0, ties: int = 3) -> list[Row]:
    """Rows with different prompts; every `ties`-th is a tie."""
    return [
        row(first + i, question(first + i), 2 if i % ties == 0 else i % 2, a=f"a{i}", b=f"b{i}") for i in range(count)
    ]


def read(path: Path, labels: Labels = "required") -> list[Comparison]:
    return [r for chunk in Table.open(path, labels=labels).chunks() for r in chunk]


Judge = Callable[..., tuple[int, list[str]]]  # runs `judge data …` and returns its exit status and its lines
