"""`judge data mix`: writes one table for training out of several sources, with weights.

Data from elsewhere helps only if it looks like the task's own data. Users lost in a contest when they added rows with
10 % ties to a task with 30 %. So the report puts the verdicts of every source beside those of the first one.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.data.survey import Survey, group_counts, rates, survey_all
from judge.errors import JudgeError, counted, printable
from judge.stats.metrics import rates_text
from judge.tables.comparison import LABEL_COLUMNS, NO_LABEL, SOFT_COLUMNS, TEXT_COLUMNS, VERDICTS, Cells, Comparison
from judge.tables.overlap import Prompts, overlap
from judge.tables.split import shuffled
from judge.tables.table import Table
from judge.tables.table_files import file_columns
from judge.tables.table_writing import Record, check_output, write_records

MODEL_COLUMNS = ("model_a", "model_b")
DRIFT = 0.05  # a verdict more or less frequent by more than this is worth a warning


@dataclass(frozen=True)
class MixPart:
    """A source, its weight, and which of its rows the mix takes, shape (rows,)."""

    table: Survey
    weight: float
    taken: NDArray[np.bool_]


def mix(
    sources: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    rows: int | None = None,
    seed: int = 0,
    cells: Cells = "auto",
) -> list[str]:
    """Write one table out of several, with the columns of the LMSYS table and `source` and `weight`.

    Without `rows`, the mix takes all rows and multiplies a row's weight by its source's. With `rows`, it draws that
    many, whole prompt groups at a time, from each source in proportion to the source's weight. The rows then keep their
    own weights, since the source's weight would count twice otherwise.

    Args:
        sources: the tables; the report compares the others with the first one.
        weights: a weight for each source, or an empty sequence for 1 each.
        output: the table to write.
        rows: how many rows to draw.
        seed: another seed draws other rows.
        cells: how cells are read.

    Returns:
        The report.

    Raises:
        JudgeError: a table cannot be read, a weight makes no sense, or a source has fewer rows than the mix needs.
    """
    check_output(output, sources)
    weights = _checked_weights(sources, weights)
    tables, prompts = survey_all(sources, cells)
    taken = [np.ones(len(table), np.bool_) for table in tables]
    if rows is not None:
        taken = [_draw(table, size, seed) for table, size in zip(tables, _sizes(tables, weights, rows), strict=True)]
        weights = [1.0] * len(tables)
    parts = [MixPart(*part) for part in zip(tables, weights, taken, strict=True)]
    soft = SOFT_COLUMNS if any(part.table.rows["soft"][part.taken].any() for part in parts) else ()
    columns = ["id", *MODEL_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, *soft, "source", "weight"]
    write_records(output, columns, _records(parts, cells))
    return _report(parts, prompts)


def _checked_weights(sources: Sequence[Path], weights: Sequence[float]) -> list[float]:
    chosen = list(weights) or [1.0] * len(sources)
    if len(chosen) != len(sources):
        raise JudgeError(
            f"{counted(len(sources), 'source')} and {counted(len(chosen), 'weight')}: give one --weight for each "
            "--source, in the same order, or none"
        )
    for source, weight in zip(sources, chosen, strict=True):
        if not (np.isfinite(weight) and weight > 0):
            raise JudgeError(f"weight {weight} of {printable(source.name, 255)}: expected a number over 0")
    name, times = Counter(source.stem for source in sources).most_common(1)[0]
    if times > 1:
        raise JudgeError(f"two sources are named {printable(name)!r}; rename one: the name says where a row is from")
    return chosen


def _sizes(tables: Sequence[Survey], weights: Sequence[float], rows: int) -> list[int]:
    """Return how many rows to draw from each table, `rows` in all (largest remainders)."""
    if rows < len(tables):
        raise JudgeError(f"--rows {rows}: expected at least {len(tables)}, one of each source")
    exact = np.array(weights) / np.sum(weights) * rows
    sizes = np.floor(exact).astype(int)
    for i in np.argsort(sizes - exact, kind="stable")[: rows - int(sizes.sum())]:
        sizes[i] += 1
    for table, size, due in zip(tables, sizes.tolist(), exact, strict=True):
        if size > len(table):
            most = int(min(len(t) / w for t, w in zip(tables, exact / rows, strict=True)))
            raise JudgeError(
                f"{table.name}: has {counted(len(table), 'row')}, its part of {rows:,} is {due:,.0f}; "
                f"ask for at most --rows {most}, or give it less weight"
            )
    return [int(size) for size in sizes]


def _draw(table: Survey, size: int, seed: int) -> NDArray[np.bool_]:
    """Choose whole groups in shuffled order, and skip those that are larger than what is left; shape (rows,)."""
    groups, inverse, counts = np.unique(table.rows["group"], return_inverse=True, return_counts=True)
    chosen = np.zeros(len(groups), np.bool_)
    left = size
    for group in np.argsort(shuffled(groups, seed)):
        if counts[group] <= left:
            chosen[group] = True
            left -= int(counts[group])
    return chosen[inverse]


def _records(parts: Sequence[MixPart], cells: Cells) -> Iterator[Record]:
    ids = [row_id for part in parts for row_id in itertools.compress(part.table.ids, part.taken)]
    clash = len({str(i) for i in ids}) < len(ids)
    as_text = len({type(i) for i in ids}) > 1  # a column has one type
    for part in parts:
        path, name = part.table.path, part.table.name
        table = Table.open(path, cells, labels="required")
        chunks = zip(table.chunks(), file_columns(path, name, MODEL_COLUMNS), strict=True)
        rows = (
            (row, {c: columns[c][i] for c in MODEL_COLUMNS if c in columns})
            for chunk, columns in chunks
            for i, row in enumerate(chunk)
        )
        for (row, models), row_id, taken in zip(rows, part.table.ids, part.taken, strict=True):
            if taken:
                shown = f"{path.stem}:{row_id}" if clash else str(row_id) if as_text else row_id
                yield {"id": shown, **models, **_cells(row, path.stem, part.weight)}


def _cells(row: Comparison, name: str, weight: float) -> Record:
    record: Record = {c: json.dumps(list(getattr(row, c)), ensure_ascii=False) for c in TEXT_COLUMNS}
    if row.label != NO_LABEL:
        record |= {c: int(row.label == i) for i, c in enumerate(LABEL_COLUMNS)}
    if row.target is not None:
        record |= dict(zip(SOFT_COLUMNS, row.target, strict=True))
    return record | {"source": row.source or name, "weight": row.weight * weight}


def _report(parts: Sequence[MixPart], prompts: Prompts) -> list[str]:
    chosen = [part.table.rows[part.taken] for part in parts]
    weights = [rows["weight"] * part.weight for rows, part in zip(chosen, parts, strict=True)]
    total = float(sum(w.sum() for w in weights)) or 1.0
    shares = [rates(rows["verdict"], w) for rows, w in zip(chosen, weights, strict=True)]
    names = [printable(part.table.path.stem, 40) for part in parts]
    lines = [
        f"{name}: {counted(len(rows), 'row')} of {len(part.table):,}, {w.sum() / total:.1%} of the weight; "
        f"{rates_text(share)}"
        for name, rows, part, w, share in zip(names, chosen, parts, weights, shares, strict=True)
    ]
    mixed = rates(np.concatenate([rows["verdict"] for rows in chosen]), np.concatenate(weights))
    lines.append(f"the mix: {counted(sum(map(len, chosen)), 'row')}; {rates_text(mixed)}")
    for name, share in [*zip(names[1:], shares[1:], strict=True), ("the mix", mixed)]:
        lines += _drifts(name, share, names[0], shares[0])
    groups = zip(names, map(group_counts, chosen), strict=True)
    for (name, left), (other, right) in itertools.combinations(groups, 2):
        lines += overlap(prompts, left, right).lines(name, other)
    return lines


def _drifts(name: str, share: NDArray[np.float64], first: str, expected: NDArray[np.float64]) -> Iterator[str]:
    for verdict, ours, theirs in zip(VERDICTS, share, expected, strict=True):
        if abs(ours - theirs) > DRIFT:
            yield f"warning: {verdict} is {ours:.1%} of {name} and {theirs:.1%} of {first}; a judge learns such rates"
