"""The rows of an experiment: labelled, new to every judge, the same for all arms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted
from judge.evaluation.row_facts import Fact, Facts, facts_of, gathered
from judge.models.trained_rows import TrainedRows
from judge.tables.comparison import Comparison, Flag, RowId
from judge.tables.split import group_key, shuffled
from judge.tables.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

# An interval over prompt groups needs two groups.
FEWEST_GROUPS = 2
_Row = tuple[RowId, int, int, Fact]  # id, label, prompt group, facts


@dataclass
class DrawnTable(Table):
    """A table of which only the drawn rows are read."""

    drawn: frozenset[RowId] = field(default_factory=frozenset)

    def chunks(self) -> Iterator[list[Comparison]]:
        """Yield the drawn comparisons in the table's order (see `Table.chunks`)."""
        for chunk in super().chunks():
            rows = [row for row in chunk if row.id in self.drawn]
            if rows:
                yield rows

    def ids(self) -> pa.Array:
        """Return the ids of the drawn rows as text, in order."""
        import pyarrow as pa

        return pa.array([str(row_id) for row_id in self._rows if row_id in self.drawn], pa.string())


@dataclass(frozen=True)
class ExperimentRows:
    """The rows that every arm judges, in the order of their ids as text.

    Attributes:
        table: gives these rows only, in its own order.
        order: the place of each row in the table's order of these rows, shape (rows,).
        ids, labels, groups, facts: as in `judge.evaluation.judged_rows.JudgedRows`.
        labelled: number of labelled rows in the table.
        trained_on: number of labelled rows that trained a judge; they are left out.
        notes: what was left out, for the user.
    """

    table: DrawnTable
    order: NDArray[np.int64]
    ids: NDArray[np.object_]
    labels: NDArray[np.int64]
    groups: NDArray[np.uint64]
    facts: Facts
    labelled: int
    trained_on: int
    notes: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def draw_rows(table: Table, trained: TrainedRows | None, wanted: int | None, seed: int) -> ExperimentRows:
    """Choose the rows of an experiment.

    Args:
        table: read once, in a stream.
        trained: what trained any of the judges; these rows are left out for all arms.
        wanted: about how many rows to draw, by whole prompt groups; None takes all. With the same seed, a larger number
            holds the rows of a smaller one.
        seed: of the draw.

    Raises:
        JudgeError: the table cannot be read, has no labels, or no row is left.
    """
    rows: list[_Row] = []
    labelled = shared = 0
    for row in (row for chunk in table.chunks() for row in chunk if row.label >= 0):
        labelled += 1
        flags = trained.flags(row) if trained is not None else Flag(0)
        if Flag.TRAINED_ON not in flags:
            shared += Flag.TRAINED_PROMPT in flags
            rows.append((row.id, row.label, group_key(row), facts_of(row)))
    new = len(rows)
    if not labelled:
        raise JudgeError(
            f"{table.name}: no row has a label; give the columns winner_model_a, winner_model_b and winner_tie "
            "(one of them 1), or winner (model_a, model_b or tie)"
        )
    if not rows:
        raise JudgeError(
            f"{table.name}: all {counted(labelled, 'labelled row')} trained a judge of this experiment; compare the "
            "arms on rows that none of them has seen"
        )
    notes = _notes(table, labelled, new, shared)
    if wanted is not None and wanted < len(rows):
        rows = _drawn(rows, wanted, seed)
        notes.append(f"{len(rows):,} of {new:,} rows are drawn, by whole prompts (seed {seed})")
    if len({group for _, _, group, _ in rows}) < FEWEST_GROUPS:
        raise JudgeError(
            f"{table.name}: the rows of this experiment all have the same prompt; nothing can be said about others "
            "(give more rows)"
        )
    order = sorted(range(len(rows)), key=lambda i: str(rows[i][0]))
    ids, labels, groups, facts = zip(*(rows[i] for i in order), strict=True)
    values = {f.name: getattr(table, f.name) for f in fields(Table) if f.init}
    return ExperimentRows(
        table=DrawnTable(**values, drawn=frozenset(ids)),
        order=np.array(order, dtype=np.int64),
        ids=np.array([str(row_id) for row_id in ids], dtype=object),
        labels=np.array(labels, dtype=np.int64),
        groups=np.array(groups, dtype=np.uint64),
        facts=gathered(facts),
        labelled=labelled,
        trained_on=labelled - new,
        notes=notes,
    )


def _notes(table: Table, labelled: int, left: int, shared: int) -> list[str]:
    notes = []
    if table.counts["rows"] > labelled:
        notes.append(f"{counted(table.counts['rows'] - labelled, 'row')} without a label are left out")
    if labelled > left:
        notes.append(f"{counted(labelled - left, 'row')} that trained a judge are left out for all arms")
    if shared:
        notes.append(
            f"{counted(shared, 'row')} share a prompt with rows that trained a judge, which may have an "
            "advantage on them"
        )
    return notes


def _drawn(rows: list[_Row], wanted: int, seed: int) -> list[_Row]:
    """Return the rows of the first prompt groups in a random order: at most `wanted` rows, and one group at least."""
    groups, counts = np.unique(np.array([group for _, _, group, _ in rows], dtype=np.uint64), return_counts=True)
    order = np.argsort(shuffled(groups, seed), kind="stable")
    taken = max(int(np.searchsorted(np.cumsum(counts[order]), wanted, side="right")), 1)
    chosen = set(groups[order[:taken]].tolist())
    return [row for row in rows if row[2] in chosen]
