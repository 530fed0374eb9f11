"""Reads tables of comparisons, a chunk at a time: CSV, Parquet and JSON Lines files, or a DataFrame.

Files are streamed, so the texts of a long table never lie in memory together. Every mistake of a user's ends in a
`JudgeError` that names the file, the row, its id and the column.
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

from judge.errors import JudgeError, printable
from judge.tables.comparison import (
    TEXT_COLUMNS,
    BadCellError,
    Cells,
    Comparison,
    Flag,
    RowId,
    Target,
    Turns,
    clean_text,
    description_of,
    parse_cell,
    parse_label,
    row_flags,
    where,
)
from judge.tables.labels import LabelError, check_label_columns, read_label, read_source, read_weight
from judge.tables.parquet_folder import parts_of
from judge.tables.table_files import (
    DESCRIPTIONS,
    OPTIONAL,
    TRAINING,
    VERDICT_COLUMNS,
    Columns,
    check_file,
    check_table,
    file_columns,
    frame_columns,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

OnBadRow = Literal["error", "placeholder"]
Labels = Literal["optional", "required"]
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


@dataclass
class Table:
    """A table of comparisons. It can be read several times, chunk by chunk.

    Attributes:
        name: what errors call the table.
        cells: how the texts are read (`judge.tables.comparison.parse_cell`).
        on_bad_row: `placeholder` reads a cell that cannot be read as a null turn and flags the row.
        labels: `optional` for scoring: an unclear verdict counts as no label. `required` for training: every row must
            have a label, and soft labels, weights and sources are read too (`judge.tables.labels`).
        path, frame: where the rows come from; one of the two is given.
        counts: the number of rows, of labelled rows, of rows with several turns and of rows with each `Flag`. It is
            complete once `chunks` has ended, and so is `ids`.
    """

    name: str
    cells: Cells = "auto"
    on_bad_row: OnBadRow = "error"
    labels: Labels = "optional"
    path: Path | None = None
    frame: pd.DataFrame | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _rows: dict[RowId, int] = field(default_factory=dict)  # the row of each id, in order

    @classmethod
    def open(
        cls,
        path: str | Path,
        cells: Cells = "auto",
        on_bad_row: OnBadRow = "error",
        labels: Labels = "optional",
    ) -> Table:
        """Return the table of a file or, where labels are optional, of a folder of Parquet files.

        Raises:
            JudgeError: there is no such file, its suffix is unknown, or its content is not what the suffix says.
        """
        path = Path(path)
        if labels == "optional":
            check_table(path)
        else:
            check_file(path)
        return cls(printable(path.name or path.resolve().name, 255), cells, on_bad_row, labels, path=path)

    def chunks(self) -> Iterator[list[Comparison]]:
        """Yield the comparisons in the table's order, at most `CHUNK_ROWS` at a time.

        Raises:
            JudgeError: the file cannot be read, a column is missing, the table is empty, an id is missing or repeated,
                or a cell cannot be read (unless `on_bad_row` is `placeholder`). Where labels are required: a row has no
                clear label, or its weight or source makes no sense.
        """
        self.counts, self._rows = Counter(), {}
        for columns in self._columns():
            if self.labels == "required" and not self._rows:
                try:
                    check_label_columns(columns)
                except LabelError as error:
                    raise JudgeError(f"{self.name}: {error}") from None
            rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
            yield [self._comparison(values, len(self._rows) + 1) for values in rows]
        if not self._rows:
            raise JudgeError(f"{self.name}: the table has no rows")

    def ids(self) -> pa.Array:
        """Return the ids of the rows that have been read, in order, as int64, float64 or string.

        A CSV file has no types. Its ids are integers if every one is written as an integer, without leading zeros.
        """
        import pyarrow as pa

        if self.path is not None and self.path.suffix.lower() == ".csv" and not self.path.is_dir():
            texts = [str(i) for i in self._rows]
            if all(_INTEGER.fullmatch(t) for t in texts):
                try:
                    return pa.array([int(t) for t in texts], pa.int64())
                except (OverflowError, pa.ArrowInvalid):
                    pass
            return pa.array(texts, pa.string())
        return pa.array(list(self._rows))

    def digest(self) -> str:
        """Return a SHA-256 over the table's content and the way its cells are read.

        It covers a file's bytes, those of all parts of a folder in order, and the columns of a DataFrame that are read.
        Whether labels are required changes which columns are read, and so changes this hash.
        """
        sha = hashlib.sha256(f"{self.cells} {self.on_bad_row}".encode())
        if self.path is not None:
            for part in parts_of(self.path):
                with part.open("rb") as file:
                    while block := file.read(1 << 20):
                        sha.update(block)
        else:
            for columns in self._columns():
                sha.update(json.dumps(columns, default=str).encode())
        return sha.hexdigest()

    def _columns(self) -> Iterator[Columns]:
        optional = TRAINING if self.labels == "required" else OPTIONAL
        if self.frame is not None:
            return frame_columns(self.frame, self.name, optional)
        assert self.path is not None
        return file_columns(self.path, self.name, optional)

    def _comparison(self, values: dict[str, Any], row: int) -> Comparison:
        row_id = self._row_id(values["id"], row)
        cells: list[Turns] = []
        flags = Flag(0)
        for name in TEXT_COLUMNS:
            try:
                turns, cell_flags = parse_cell(values[name], self.cells)
            except BadCellError as error:
                if self.on_bad_row == "error":
                    raise JudgeError(f"{where(self.name, row, row_id, name)} {error}; {self._advice()}") from None
                turns, cell_flags = (None,), Flag.BAD_CELL
            cells.append(turns)
            flags |= cell_flags
        flags |= row_flags(*cells)
        self.counts["rows"] += 1
        self.counts.update(str(flag.name).lower() for flag in flags)
        self.counts["multi_turn"] += max(map(len, cells)) > 1
        model_a, model_b, language, source = (description_of(values.get(c)) for c in DESCRIPTIONS)
        target: Target | None = None
        weight = 1.0
        if self.labels == "optional":
            label = parse_label(values)
        else:
            try:
                label, target, weight, source = self._verdict(values)
            except LabelError as error:
                raise JudgeError(f"{where(self.name, row, row_id)}: {error}") from None
        self.counts["labelled"] += label >= 0
        models = (model_a, model_b)
        return Comparison(row_id, cells[0], cells[1], cells[2], label, flags, target, weight, source, models, language)

    def _verdict(self, values: dict[str, Any]) -> tuple[int, Target | None, float, str]:
        """Return the label, the target, the weight and the source of a row that must have a clear verdict."""
        label, target = read_label({name: values[name] for name in VERDICT_COLUMNS if name in values})
        return label, target, read_weight(values.get("weight")), read_source(values.get("source"))

    def _advice(self) -> str:
        if self.labels == "required":  # training learns nothing from a placeholder
            ways = ["mend it", "leave the row out", "pass --cells=plain if cells are plain text"]
        else:
            ways = ["mend it", "pass --on-bad-row=placeholder to score the row with a placeholder"]
            ways.append("--cells=plain if cells are plain text")
        return ", or ".join(ways[:2] if self.cells == "json" else ways)

    def _row_id(self, value: Any, row: int) -> RowId:
        blank = isinstance(value, str) and not value.strip()
        if value is None or blank or (isinstance(value, float) and math.isnan(value)):
            raise JudgeError(f"{where(self.name, row, None, 'id')} is missing; every row needs an id")
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            kind = type(value).__name__
            raise JudgeError(f"{where(self.name, row, None, 'id')} is a {kind}, expected a number or text")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise JudgeError(f"{where(self.name, row, None, 'id')} does not fit 64 bits; write it as text")
        if isinstance(value, str) and not value.isascii() and clean_text(value)[1]:
            raise JudgeError(f"{where(self.name, row, value, 'id')} holds a lone surrogate, which no file can store")
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            raise JudgeError(f"{where(self.name, row, value, 'id')} holds a line break; ids must fit in one line")
        first = next(iter(self._rows), value)
        if _id_kind(value) != _id_kind(first):
            raise JudgeError(
                f"{where(self.name, row, value, 'id')}: ids mix {_id_kind(first)} and {_id_kind(value)}; "
                "write all in one type"
            )
        if value in self._rows:
            raise JudgeError(
                f"{where(self.name, row, value, 'id')} appears twice (first in row {self._rows[value]}); "
                "ids must be unique"
            )
        self._rows[value] = row
        return value


def _id_kind(value: RowId) -> str:
    if isinstance(value, str):
        return "text"
    return "integers" if isinstance(value, int) else "decimal numbers"


def read_ids(path: str | Path) -> list[RowId]:
    """Return the ids of a table, in order. Texts that cannot be read do not matter.

    Raises:
        JudgeError: see `Table.chunks`.
    """
    table = Table.open(path, cells="plain", on_bad_row="placeholder")
    for _ in table.chunks():
        pass
    ids: list[RowId] = table.ids().to_pylist()
    return ids
