"""One row of a table with what was predicted for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judge.errors import JudgeError, printable, suggestion
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, probabilities
from judge.tables.comparison import Comparison, Flag
from judge.tables.table import Table


@dataclass(frozen=True)
class ShownRow:
    """One row and what was predicted for it.

    Attributes:
        p: probabilities of A, B and tie, shape (3,).
        first: the same with A shown first; None where not known.
        second: with B shown first, mapped back to the table's A and B; None where not read.
        flags: of the table and the predictions.
        cut: whether the prompt lost something to the budget; None where not known.
    """

    row: Comparison
    p: Float
    first: Float | None
    second: Float | None
    flags: Flag
    cut: bool | None


def find_row(stored: StoredPredictions, table: Table, row_id: str) -> ShownRow:
    """Return a row of a table with its predictions; the table is read as far as needed.

    Raises:
        JudgeError: there is no row of this id in either.
    """
    row = next((row for chunk in table.chunks() for row in chunk if str(row.id) == row_id), None)
    if row is None:
        known = [str(i) for i in table.ids().to_pylist()]
        hint = suggestion(row_id, filter(str.isprintable, known)) or f"; the first one is '{printable(known[0])}'"
        raise JudgeError(f"{table.name}: no row has the id '{printable(row_id)}'{hint}")
    if row_id not in stored.ids:
        raise JudgeError(
            f"{stored.name}: has no prediction for id {printable(row_id)}; give the predictions of this table"
        )
    i = stored.ids.index(row_id)
    return ShownRow(
        row=row,
        p=stored.p[i] / stored.p[i].sum(),
        first=_order(stored.first, i),
        second=_order(stored.second, i),
        flags=row.flags | Flag(0 if stored.flags is None else int(stored.flags[i])),
        cut=None if stored.cut is None else bool(stored.cut[i]),
    )


def _order(logprobs: Float | None, i: int) -> Float | None:
    if logprobs is None or not np.isfinite(logprobs[i]).any():
        return None
    return np.asarray(probabilities(logprobs[i : i + 1])[0])
