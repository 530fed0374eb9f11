"""Rows with a label, joined by id with what was predicted for them: what every evaluation starts from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from judge.comparison import Flag
from judge.errors import JudgeError, counted, printable
from judge.predictions_file import StoredPredictions
from judge.split import group_key
from judge.table import Table
from judge.verdict import Float


@dataclass(frozen=True)
class JudgedRows:
    """Rows with a label, joined with their predictions, in the order of their ids as text.

    Attributes:
        ids: shape (rows,), text.
        p: probabilities of A, B and tie, shape (rows, 3).
        labels: 0, 1 or 2, shape (rows,).
        groups: `judge.split.group_key`, uint64, shape (rows,).
        flags: the predictions' `Flag`s, shape (rows,); 0 where the file has none.
        mass: verdict mass, shape (rows,); NaN where it is not known.
    """

    ids: NDArray[np.object_]
    p: Float
    labels: NDArray[np.int64]
    groups: NDArray[np.uint64]
    flags: NDArray[np.uint32]
    mass: Float

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """Return which rows have a flag, shape (rows,)."""
        chosen: NDArray[np.bool_] = (self.flags & np.uint32(flag)) != 0
        return chosen

    def where(self, chosen: NDArray[np.bool_]) -> JudgedRows:
        """Return the chosen rows."""
        return JudgedRows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def join(stored: StoredPredictions, table: Table) -> JudgedRows:
    """Return the labelled rows of a table with their predictions, joined by id.

    Raises:
        JudgeError: a row without a prediction, a prediction without a row, or no labelled row.
    """
    known: set[str] = set()
    labelled: list[tuple[str, int, int]] = []  # id, label, group
    for chunk in table.chunks():
        for row in chunk:
            known.add(str(row.id))
            if row.label >= 0:
                labelled.append((str(row.id), row.label, group_key(row)))
    places = {row_id: i for i, row_id in enumerate(stored.ids)}
    _check_same_ids(known, places, stored.name, table.name)
    if not labelled:
        raise JudgeError(
            f"{table.name}: no row has a label; give the columns winner_model_a, winner_model_b and winner_tie "
            "(one of them 1), or winner (model_a, model_b or tie)"
        )
    labelled.sort()  # figures must not depend on the order of either file, not even in the last digit
    order = np.array([places[row_id] for row_id, _, _ in labelled])
    return JudgedRows(
        ids=np.array([row_id for row_id, _, _ in labelled], dtype=object),
        p=stored.p[order],
        labels=np.array([label for _, label, _ in labelled]),
        groups=np.array([key for _, _, key in labelled], dtype=np.uint64),
        flags=np.zeros(len(order), dtype=np.uint32) if stored.flags is None else stored.flags[order],
        mass=np.full(len(order), np.nan) if stored.verdict_mass is None else stored.verdict_mass[order],
    )


def _check_same_ids(known: set[str], predicted: dict[str, int], name: str, table: str) -> None:
    problems = []
    for missing, what in (
        (known - predicted.keys(), f"{name}: has no prediction for {{}} of {table}"),
        (predicted.keys() - known, f"{name}: has predictions for {{}} that {table} does not have"),
    ):
        if missing:
            example = printable(min(missing), 40)
            problems.append(what.format(counted(len(missing), "row")) + f" (for example id {example})")
    if problems:
        raise JudgeError("; ".join(problems) + "; give the predictions and the table that belong together")
