"""Made-up tables: as long, as varied and as awkward as a given one, without any of its text.

Each row takes the lengths, languages and turns of a row that is drawn from the given table, moved a little, and is
filled with words in no order. Rows are made and written one after another, so that memory does not grow with them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from judge.data.mock_awkward import Awkward, kinds_for, place_awkward
from judge.data.mock_shapes import Form, RowShape, TableShape, TurnShape, read_shape
from judge.data.mock_words import made_up_text
from judge.errors import JudgeError, counted
from judge.files import whole_file
from judge.tables.comparison import LABEL_COLUMNS, TEXT_COLUMNS, Cells
from judge.tables.table_files import SUFFIXES
from judge.tables.table_writing import check_output, csv_line

Record = dict[str, Any]

# Of all rows; every kind is there at least once.
AWKWARD_SHARE = 0.01
_BATCH = 512  # rows written to a Parquet file at once
_WINNERS = ("model_a", "model_b", "tie")
_MODELS = 64  # made-up names of models


def mock_table(
    table: Path | None,
    rows: int,
    output: Path,
    seed: int = 0,
    labels: bool = False,
    cells: Cells = "auto",
    awkward: float = AWKWARD_SHARE,
) -> list[str]:
    """Write a made-up table; the same arguments give the same file.

    Args:
        table: whose lengths, languages, columns and form to take; None: the contest's, as published.
        rows: how many to write.
        output: the file; its suffix says the format.
        seed: another one gives other rows.
        labels: also write verdicts, drawn in the table's proportions, and names of models.
        cells: how the table's cells are read.
        awkward: share of the rows that are made awkward.

    Returns:
        What to print.

    Raises:
        JudgeError: the table cannot be read, the file cannot be written, or a number makes no sense.
    """
    if rows < 1:
        raise JudgeError(f"--rows={rows}: expected at least 1")
    if not 0 <= awkward <= 0.5:
        raise JudgeError(f"--awkward={awkward}: expected a share between 0 and 0.5")
    check_output(output, [table] if table else [])
    shape = read_shape(table, cells, seed) if table else TableShape()
    kind = SUFFIXES[output.suffix.lower()]
    form: Form = "json" if kind == "csv" and shape.form == "list" else shape.form
    pick = random.Random(f"places {seed}")  # noqa: S311 - repeatable
    places = place_awkward(pick, rows, awkward, kinds_for(form, kind))
    columns = _columns(shape, labels)
    characters = 0

    def count(records: Iterable[Record]) -> Iterator[Record]:
        nonlocal characters
        for record in records:
            characters += sum(len(record[name] or "") for name in TEXT_COLUMNS)
            yield record

    made = count(_records(shape, rows, seed, form, places, columns))
    with whole_file(output) as temporary:
        _write(temporary, kind, columns, made)
    return _lines(output, rows, shape, places, characters)


def _columns(shape: TableShape, labels: bool) -> list[str]:
    """Return the columns to write: the table's own, without verdicts and what else only training tables have."""
    plain = ("id", *TEXT_COLUMNS, "language")
    named = [name for name in shape.columns if name in plain] if shape.columns else list(plain[:4])
    if labels:
        verdict = ["winner"] if "winner" in shape.columns and LABEL_COLUMNS[0] not in shape.columns else LABEL_COLUMNS
        named += ["model_a", "model_b", *verdict]
    return named


def _records(
    shape: TableShape, rows: int, seed: int, form: Form, places: dict[int, Awkward], columns: list[str]
) -> Iterator[Record]:
    for number in range(rows):
        pick = random.Random(f"{seed} {number}")  # noqa: S311 - repeatable
        drawn = shape.draw(pick)
        cells = _fill(drawn, pick)
        if form == "plain":  # one turn is all that plain text holds
            cells = tuple([_joined(cell)] for cell in cells)  # type: ignore[assignment]
        if number in places:
            cells = places[number].make(pick, cells, shape.longest)
        record: Record = {"id": number + 1, "language": drawn.language}
        record |= {name: _cell(cell, form) for name, cell in zip(TEXT_COLUMNS, cells, strict=True)}
        label = pick.choices((0, 1, 2), shape.verdicts)[0]
        record |= {name: int(i == label) for i, name in enumerate(LABEL_COLUMNS)}
        record |= {"winner": _WINNERS[label]}
        record["model_a"], record["model_b"] = (f"model-{n + 1}" for n in pick.sample(range(_MODELS), 2))
        yield {name: record[name] for name in columns}


def _fill(shape: RowShape, pick: random.Random) -> tuple[list[str | None], list[str | None], list[str | None]]:
    """Return the texts of prompt, A and B."""
    prompt, a = _texts(shape.prompt, pick), _texts(shape.response_a, pick)
    return prompt, a, [*a] if shape.same else _texts(shape.response_b, pick)


def _texts(turns: tuple[TurnShape | None, ...], pick: random.Random) -> list[str | None]:
    return [None if t is None else made_up_text(pick, t.characters, t.language, t.symbols) for t in turns]


def _joined(cell: list[str | None]) -> str | None:
    texts = [text for text in cell if text is not None]
    return "\n".join(texts) if texts else None


def _cell(cell: list[str | None], form: Form) -> Any:
    """Return a cell in the table's form. Lone surrogates stand in JSON as escapes, which any file can hold."""
    if form == "list":
        return cell
    if form == "plain":
        return cell[0] if cell else None
    text = json.dumps(cell, ensure_ascii=False)
    return text if text.isascii() or not _has_surrogate(text) else json.dumps(cell)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _write(path: Path, kind: str, columns: list[str], records: Iterator[Record]) -> None:
    if kind == "parquet":
        _write_parquet(path, columns, records)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            file.write(csv_line(columns))
        for record in records:
            if kind == "csv":
                file.write(csv_line("" if value is None else value for value in record.values()))
            else:
                line = json.dumps(record, ensure_ascii=False)
                file.write((json.dumps(record) if _has_surrogate(line) else line) + "\n")


def _write_parquet(path: Path, columns: list[str], records: Iterator[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    batch = next_batch(records)
    types = {name: _arrow_type(name, batch) for name in columns}
    schema = pa.schema([(name, types[name]) for name in columns])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            batch = next_batch(records)


def next_batch(records: Iterator[Record]) -> list[Record]:
    """Return the next rows to write, an empty list at the end."""
    return [record for _, record in zip(range(_BATCH), records, strict=False)]


def _arrow_type(name: str, batch: list[Record]) -> Any:
    import pyarrow as pa

    if name == "id":
        return pa.int64()
    if name in LABEL_COLUMNS:
        return pa.int8()
    listed = name in TEXT_COLUMNS and any(isinstance(record[name], list) for record in batch)
    return pa.list_(pa.string()) if listed else pa.string()


def _lines(output: Path, rows: int, shape: TableShape, places: dict[int, Awkward], characters: int) -> list[str]:
    source = f"lengths of {counted(len(shape.rows), 'row')}" if shape.rows else "lengths as the contest's"
    lines = [f"{output}: {counted(rows, 'row')}, {characters / rows:,.0f} characters on average, {source}"]
    found = Counter(kind.name for kind in places.values())
    if found:
        lines.append(
            f"awkward rows  {len(places):,}: " + ", ".join(f"{n:,} {name}" for name, n in sorted(found.items()))
        )
    return lines
