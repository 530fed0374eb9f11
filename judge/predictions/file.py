"""Reading files of probabilities: predictions that `judge score` wrote, or anybody's submission.

Nothing is taken on trust: every problem is a `JudgeError` that names the file, the row, its id and the column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable, suggestion
from judge.prompting.verdict import NAMES, Float
from judge.tables.comparison import LABEL_COLUMNS, TEXT_COLUMNS, Flag, where
from judge.tables.parquet_folder import parts_of
from judge.tables.table_files import check_table, csv_rows, table_kind

Kind = Literal["predictions", "submission"]

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "predictions": tuple(f"p_{name}" for name in NAMES),
    "submission": LABEL_COLUMNS,
}
ORDERS = {prefix: tuple(f"{prefix}logprob_{name}" for name in NAMES) for prefix in ("", "swap_")}
OPTIONAL = ("verdict_mass", "flags", *ORDERS[""], *ORDERS["swap_"], "cut_prompt", "cut_a", "cut_b", "cut_turns")
# How far the three may sum from 1. Shorter floats lose more: three rounded float16 are up to 5e-4 off.
SUM_TOLERANCE = 1e-6
_FLAGS = {str(flag.name).lower(): flag for flag in Flag}


@dataclass(frozen=True)
class StoredPredictions:
    """The rows of a file of probabilities, in its order.

    Attributes:
        name: the file's name, safe to print.
        kind: which of the two kinds of file it is.
        ids: as text, each once.
        p: probabilities of A, B and tie as stored, shape (rows, 3).
        verdict_mass: shape (rows,), NaN where it is not known; None if the file has no such column.
        flags: `Flag`s, shape (rows,); None if the file has no such column.
        first: log-probabilities with A shown first, shape (rows, 3), NaN where not read; None if the file has none.
        second: the same with B shown first, mapped back to the table's A and B.
        cut: whether a row's prompt was cut to fit the budget, shape (rows,); None if the file does not say.
    """

    name: str
    kind: Kind
    ids: list[str]
    p: Float
    verdict_mass: Float | None
    flags: NDArray[np.uint32] | None
    first: Float | None = None
    second: Float | None = None
    cut: NDArray[np.bool_] | None = None

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """Return which rows have a flag, shape (rows,); no row has one if the file has no flags."""
        if self.flags is None:
            return np.zeros(len(self.ids), dtype=np.bool_)
        return np.asarray((self.flags & np.uint32(flag)) != 0)


def read_predictions(path: Path) -> StoredPredictions:
    """Read a file of probabilities, .parquet or .csv, or a folder of Parquet files, and check every row.

    Raises:
        JudgeError: the file cannot be read or is something else, a column is missing, an id is missing or twice
            there, a probability is none, three do not sum to 1, or a flag is not known.
    """
    check_table(path)
    name = printable(path.name, 255)
    form = table_kind(path)
    if form == "jsonl":
        raise JudgeError(f"{name}: predictions are .parquet or .csv files")
    kind, columns, eps = _parquet(path, name) if form == "parquet" else _csv(path, name)
    if not len(columns["id"]):
        raise JudgeError(f"{name}: the file has no rows")
    ids = _checked_ids(columns["id"], name)
    p = np.column_stack([columns[c] for c in COLUMNS[kind]])
    _check_probabilities(p, ids, kind, name, max(SUM_TOLERANCE, eps))
    flags = _parsed_flags(columns["flags"], ids, name) if "flags" in columns else None
    first, second = (_logprobs(columns, names) for names in ORDERS.values())
    return StoredPredictions(name, kind, ids, p, columns.get("verdict_mass"), flags, first, second, _cut(columns))


def _logprobs(columns: dict[str, Any], names: tuple[str, ...]) -> Float | None:
    """Return the log-probabilities of an order; a row that no probabilities follow from is not read."""
    if not set(names) <= columns.keys():
        return None
    values = np.column_stack([columns[name] for name in names])
    highest = values.max(axis=1, keepdims=True)  # NaN where one is
    return np.where(np.isfinite(highest), values, np.nan)


def _cut(columns: dict[str, Any]) -> NDArray[np.bool_] | None:
    names = [name for name in columns if name.startswith("cut_")]
    if not names:
        return None
    lost = np.column_stack([columns[name] for name in names]) > 0
    return np.asarray(lost.any(axis=1), dtype=np.bool_)


def _choose(found: Sequence[str], name: str) -> tuple[Kind, list[str]]:
    """Return what kind of file has these columns, and which of them to read."""
    if set(TEXT_COLUMNS) <= set(found):
        raise JudgeError(f"{name}: is a table of comparisons; give the predictions that judge score wrote for it")
    has = {kind: set(columns) <= set(found) for kind, columns in COLUMNS.items()}
    kind: Kind = "submission" if has["submission"] and not has["predictions"] else "predictions"
    missing = [c for c in ("id", *COLUMNS[kind]) if c not in found]
    if missing:
        shown = ", ".join(printable(c, 30) for c in found[:12])
        raise JudgeError(
            f"{name}: no column {', '.join(map(repr, missing))}{suggestion(missing[0], found)}; expected predictions "
            f"(id, {', '.join(COLUMNS['predictions'])}) or a submission (id, {', '.join(LABEL_COLUMNS)}), "
            f"found: {shown}"
        )
    names = ["id", *COLUMNS[kind], *(c for c in OPTIONAL if c in found)]
    for column in names:
        if (times := list(found).count(column)) > 1:
            raise JudgeError(f"{name}: {times} columns are named {column!r}; keep one of them")
    return kind, names


def _csv(path: Path, name: str) -> tuple[Kind, dict[str, Any], float]:
    rows = csv_rows(path, name)
    header = next(rows, None)
    if header is None:
        raise JudgeError(f"{name}: the file is empty")
    kind, names = _choose(header, name)
    places = [header.index(column) for column in names]
    cells = [[row[i] for i in places] for row in rows]
    columns: dict[str, Any] = {column: [row[k] for row in cells] for k, column in enumerate(names)}
    for column in columns.keys() - {"id", "flags"}:
        columns[column] = np.array([_number(text) for text in columns[column]], dtype=np.float64)
    return kind, columns, 0.0


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        return math.nan


def _parquet(path: Path, name: str) -> tuple[Kind, dict[str, Any], float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parts = []
        for part in parts_of(path):
            with pq.ParquetFile(part) as file:
                kind, names = _choose(file.schema_arrow.names, name)
                parts.append(file.read(columns=names))
        table = pa.concat_tables(parts)
        columns: dict[str, Any] = {c: table.column(c).to_pylist() for c in names if c in ("id", "flags")}
        eps = 0.0
        for column in names:
            if column in columns:
                continue
            values = table.column(column)
            if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or values.type == pa.null()):
                raise JudgeError(f"{name}: column {column!r} holds {printable(str(values.type), 40)}, expected numbers")
            if values.type == pa.float16() and column in COLUMNS[kind]:
                eps = float(np.finfo(np.float16).eps)
            columns[column] = values.cast(pa.float64()).to_numpy()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split()), 160)
        raise JudgeError(f"{name}: cannot be read as Parquet ({reason})") from None
    return kind, columns, eps


def _checked_ids(values: Sequence[Any], name: str) -> list[str]:
    """Return the ids as text, as they are compared with a table's: a CSV file has no types."""
    rows: dict[str, int] = {}
    for row, value in enumerate(values, start=1):
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            raise JudgeError(f"{where(name, row, None, 'id')} is missing; every row needs an id")
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise JudgeError(
                f"{where(name, row, None, 'id')} is of type {type(value).__name__}, expected a number or text"
            )
        if (first := rows.setdefault(str(value), row)) != row:
            raise JudgeError(f"{where(name, row, value, 'id')} appears twice (first in row {first}); keep one of them")
    return list(rows)


def _check_probabilities(p: Float, ids: Sequence[str], kind: Kind, name: str, tolerance: float) -> None:
    bad = ~(np.isfinite(p) & (p >= 0))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        value = p[row, column]
        found = f"{value:g}" if math.isfinite(value) else "missing, NaN, infinite or not a number"
        raise JudgeError(
            f"{where(name, row + 1, ids[row], COLUMNS[kind][column])} is {found}, expected a probability"
            + _more(np.asarray(bad.any(axis=1)))
        )
    with np.errstate(over="ignore"):
        total = p.sum(axis=1)
    off: NDArray[np.bool_] = ~(np.abs(total - 1) <= tolerance)
    if off.any():
        row = int(np.argmax(off))
        raise JudgeError(
            f"{where(name, row + 1, ids[row])}: {', '.join(COLUMNS[kind])} sum to {total[row]:.8g}, expected 1"
            + _more(off)
        )


def _more(rows: NDArray[np.bool_]) -> str:
    return f" (and {int(rows.sum()) - 1:,} more such rows)" if rows.sum() > 1 else ""


def _parsed_flags(values: Iterable[Any], ids: Sequence[str], name: str) -> NDArray[np.uint32]:
    known: dict[Any, int] = {None: 0, "": 0}
    flags = np.zeros(len(ids), dtype=np.uint32)
    for i, value in enumerate(values):
        if not isinstance(value, (str, type(None))):
            raise JudgeError(f"{where(name, i + 1, ids[i], 'flags')} is of type {type(value).__name__}, expected text")
        if value not in known:
            words = str(value).split(",")
            strange = next((w for w in words if w not in _FLAGS), None)
            if strange is not None:
                hint = suggestion(strange, _FLAGS)
                raise JudgeError(
                    f"{where(name, i + 1, ids[i], 'flags')}: unknown flag {printable(strange, 40)}{hint}; "
                    "the file was changed, or written by another version of judge"
                )
            known[value] = sum({int(_FLAGS[w]) for w in words})
        flags[i] = known[value]
    return flags
