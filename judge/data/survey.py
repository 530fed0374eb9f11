"""Reads a table for training once and strictly, and keeps the few numbers of each row that `judge data` needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from judge.errors import JudgeError, printable
from judge.tables.comparison import Cells, Comparison, Flag, RowId
from judge.tables.overlap import Overlap, Prompts, overlap
from judge.tables.split import in_order, row_key, stratum
from judge.tables.table import Table

_MOST_SOURCES = 8  # so many are compared, each with every other

_ROW = np.dtype(
    [
        ("group", np.uint64),  # `group_key`
        ("key", np.uint64),  # `row_key`
        ("verdict", np.int8),  # `stratum`: the likeliest verdict of a soft label
        ("agreed", np.int8),  # the verdict, turned so that a copy with A and B exchanged has the same
        ("soft", np.bool_),
        ("identical", np.bool_),
        ("weight", np.float64),
    ]
)


@dataclass(frozen=True)
class Survey:
    """What is kept of a table.

    Attributes:
        rows: a record of `_ROW` for each row, shape (rows,).
        sources: where each row comes from; the file's name for a row that does not say.
        counts: what `Table` has counted.
    """

    path: Path
    name: str
    ids: list[RowId]
    rows: NDArray[Any]
    sources: list[str]
    counts: Counter[str]

    def __len__(self) -> int:
        return len(self.ids)


def survey(path: Path, cells: Cells, prompts: Prompts) -> Survey:
    """Read a table strictly, and add its first prompts to `prompts`.

    Raises:
        JudgeError: the table cannot be read, or a row has no clear verdict.
    """
    table = Table.open(path, cells, labels="required")
    records, sources = [], []
    for row in (row for chunk in table.chunks() for row in chunk):
        records.append(_record(row, prompts.add(row)))
        sources.append(row.source or path.stem)
    ids = table.ids().to_pylist()
    return Survey(path, table.name, ids, np.array(records, _ROW), sources, table.counts)


def _record(row: Comparison, group: int) -> tuple[Any, ...]:
    verdict = stratum(row)
    agreed = verdict if verdict not in (0, 1) or in_order(row) else 1 - verdict
    identical = Flag.IDENTICAL in row.flags
    return group, row_key(row), verdict, agreed, row.target is not None, identical, row.weight


def survey_all(paths: Sequence[Path], cells: Cells) -> tuple[list[Survey], Prompts]:
    """Read several tables.

    Raises:
        JudgeError: see `survey`; or a file is given twice.
    """
    for i, path in enumerate(paths):
        if path.exists() and any(path.samefile(p) for p in paths[:i] if p.exists()):
            raise JudgeError(f"{printable(str(path), 4096)}: is given twice")
    prompts = Prompts()
    return [survey(path, cells, prompts) for path in paths], prompts


def rates(verdicts: NDArray[np.integer], weights: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Return the shares of A, B and tie, shape (3,); zeros if all weights are 0."""
    each = np.broadcast_to(np.asarray(weights, np.float64), verdicts.shape)
    counts = np.bincount(verdicts, each, 3).astype(np.float64)
    total = float(counts.sum())
    return counts / total if total else counts


def copy_sets(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the first row with the same texts, in the same order or with A and B exchanged; (rows,)."""
    _, first, inverse = np.unique(rows["key"], return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def contradicting(sets: NDArray[np.integer], agreed: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which rows belong to a set with more than one verdict, shape (rows,); `sets` holds their sets' numbers."""
    lowest, highest = np.full(int(sets.max()) + 1, 127), np.full(int(sets.max()) + 1, -128)
    np.minimum.at(lowest, sets, agreed)
    np.maximum.at(highest, sets, agreed)
    return np.asarray((lowest != highest)[sets], np.bool_)


def group_counts(rows: NDArray[Any]) -> Counter[int]:
    """Return how many rows each group has."""
    return Counter(rows["group"].tolist())


def source_overlaps(tables: Sequence[Survey], prompts: Prompts) -> Iterator[tuple[str, str, Overlap]]:
    """Yield pairs of the largest sources, and which prompts the later one of a pair shares with the earlier one."""
    rows = np.concatenate([table.rows for table in tables])
    names = np.array([name for table in tables for name in table.sources], dtype=object)
    sizes = Counter(names)
    largest = {name for name, _ in sizes.most_common(_MOST_SOURCES)}
    groups = {name: group_counts(rows[names == name]) for name in sizes if name in largest}
    for left, right in combinations(groups, 2):
        yield left, right, overlap(prompts, groups[left], groups[right])
