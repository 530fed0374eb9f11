"""Mock tables: the rows of a given table drawn again, with new ids and with every kind of awkward row.

A mock table has any number of rows, so a run can be rehearsed at its full length before the real table is there.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge.data.mock_awkward import Awkward, Form, kinds_for, place_awkward
from judge.errors import JudgeError, counted
from judge.tables.comparison import LABEL_COLUMNS, TEXT_COLUMNS, Cells, Comparison, Turns, clean_text
from judge.tables.table import Table
from judge.tables.table_files import file_columns
from judge.tables.table_writing import Record, check_output, write_records

DEMO_TABLE = Path(__file__).parents[1] / "demo" / "comparisons.csv"
AWKWARD_SHARE = 0.01  # of all rows
MOST_ROWS = 10_000_000
_MOST_KEPT = 50_000  # rows of the table that are held in memory; of a longer table a random sample
_WINNERS = ("model_a", "model_b", "tie")


@dataclass(frozen=True)
class _Source:
    """What the rows of a mock table are drawn from.

    Attributes:
        rows: the table's rows, or a random sample of a long table.
        total: the number of rows that the table has.
        form: how most of its cells hold their turns.
        columns: the columns that it has of those that judge reads.
    """

    rows: list[Comparison]
    total: int
    form: Form
    columns: list[str]


def mock_table(
    table: Path,
    rows: int,
    output: Path,
    seed: int = 0,
    labels: bool = False,
    cells: Cells = "auto",
    awkward: float = AWKWARD_SHARE,
    overwrite: bool = False,
) -> list[str]:
    """Write a mock table; the same arguments give the same file.

    Args:
        table: the table whose rows are drawn, with replacement.
        rows: how many rows to write.
        output: the file to write; its suffix says the format.
        seed: another seed draws other rows.
        labels: also write the verdicts and the names of the models that the drawn rows have.
        cells: how the table's cells are read.
        awkward: share of the rows that are made awkward.
        overwrite: whether an existing file may be replaced.

    Returns:
        The lines to print.

    Raises:
        JudgeError: the table cannot be read, the file cannot be written, or an argument makes no sense.
    """
    if not 1 <= rows <= MOST_ROWS:
        raise JudgeError(f"--rows={rows}: expected 1 to {MOST_ROWS:,}")
    if not 0 <= awkward <= 0.5:
        raise JudgeError(f"--awkward={awkward}: expected a share between 0 and 0.5")
    check_output(output, [table])
    if output.exists() and not overwrite:
        raise JudgeError(f"{output}: is there already; give another name, or pass --overwrite to replace it")
    source = _read_source(table, cells, seed)
    columns = _columns(source, labels, table)
    form: Form = "json" if output.suffix.lower() == ".csv" and source.form == "list" else source.form
    pick = random.Random(f"places {seed}")  # noqa: S311 - repeatable
    places = place_awkward(pick, rows, awkward, kinds_for(form))
    write_records(output, columns, _records(source, rows, seed, form, places), _types(form))
    lines = [f"{output}: {counted(rows, 'row')}, drawn from {counted(source.total, 'row')} of {table.name}"]
    if places:
        names = sorted(Counter(kind.name for kind in places.values()).items())
        lines.append(f"awkward rows  {len(places):,}: " + ", ".join(f"{number:,} {name}" for name, number in names))
    return lines


def _read_source(path: Path, cells: Cells, seed: int) -> _Source:
    """Read a table in one pass; cells that cannot be read count as null."""
    table = Table.open(path, cells, on_bad_row="placeholder")
    pick = random.Random(f"sample {seed}")  # noqa: S311 - repeatable
    kept: list[Comparison] = []
    total = 0
    for row in (row for chunk in table.chunks() for row in chunk):
        total += 1
        if len(kept) < _MOST_KEPT:
            kept.append(row)
        elif (place := pick.randrange(total)) < _MOST_KEPT:  # so each row has the same chance to stay
            kept[place] = row
    first = next(file_columns(path, path.name))
    values = [value for name in TEXT_COLUMNS for value in first[name] if value is not None]
    lists = sum(not isinstance(value, str) for value in values)
    json_texts = sum(isinstance(value, str) and value.lstrip().startswith("[") for value in values)
    form: Form = "json" if cells == "json" or (cells == "auto" and json_texts > len(values) / 2) else "plain"
    return _Source(kept, total, "list" if lists > len(values) / 2 else form, list(first))


def _columns(source: _Source, labels: bool, table: Path) -> list[str]:
    """Return the columns to write: without labels those that a table to be scored has."""
    verdict = ["winner"] if "winner" in source.columns and LABEL_COLUMNS[0] not in source.columns else LABEL_COLUMNS
    if not labels:
        return [name for name in source.columns if name in ("id", *TEXT_COLUMNS, "language")]
    if not any(row.label >= 0 for row in source.rows):
        raise JudgeError(f"{table.name}: has no verdicts to draw; leave --labels out")
    return [name for name in source.columns if name not in (*LABEL_COLUMNS, "winner", "source")] + [*verdict]


def _records(source: _Source, rows: int, seed: int, form: Form, places: dict[int, Awkward]) -> Iterator[Record]:
    for number in range(rows):
        pick = random.Random(f"{seed} {number}")  # noqa: S311 - repeatable
        row = pick.choice(source.rows)
        cells = [*row.prompt], [*row.response_a], [*row.response_b]
        if number in places:
            cells = places[number].make(pick, cells)
        yield {
            "id": number + 1,
            **{name: _cell(tuple(cell), form) for name, cell in zip(TEXT_COLUMNS, cells, strict=True)},
            "language": row.language,
            "model_a": row.models[0],
            "model_b": row.models[1],
            **{name: int(label == row.label) for label, name in enumerate(LABEL_COLUMNS)},
            "winner": _WINNERS[row.label] if row.label >= 0 else None,
        }


def _types(form: Form) -> Record:
    """Return the types that Parquet gives the columns."""
    import pyarrow as pa

    texts = pa.list_(pa.string()) if form == "list" else pa.string()
    types = dict.fromkeys(("language", "model_a", "model_b", "winner"), pa.string())
    return types | {"id": pa.int64()} | dict.fromkeys(LABEL_COLUMNS, pa.int8()) | dict.fromkeys(TEXT_COLUMNS, texts)


def _cell(turns: Turns, form: Form) -> Any:
    """Return a cell in the table's form. JSON writes a lone surrogate as an escape, which any file can hold."""
    if form == "list":
        return list(turns)
    if form == "plain" and len(turns) == 1:
        return turns[0]
    text = json.dumps(turns, ensure_ascii=False)
    return json.dumps(turns) if clean_text(text)[1] else text
