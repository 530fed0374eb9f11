"""Rows with a label, joined by id with their predictions: what every evaluation starts from."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.evaluation.row_facts import Fact, Facts, facts_of, gathered
from judge.evaluation.settings import RefuseOrDrop
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, probabilities
from judge.runs.progress import Progress
from judge.tables.comparison import Flag
from judge.tables.split import group_key
from judge.tables.table import Table

DROP = "pass --trained-rows=drop to leave them out"


@dataclass(frozen=True)
class JudgedRows:
    """Rows with a label, joined with their predictions, in the order of their ids as text.

    Attributes:
        ids: shape (rows,), text.
        p: probabilities of A, B and tie, shape (rows, 3).
        labels: 0, 1 or 2, shape (rows,).
        groups: `judge.tables.split.group_key`, uint64, shape (rows,).
        flags: the predictions' `Flag`s, shape (rows,); 0 where the file has no flags.
        verdict_mass: shape (rows,); NaN where it is not known.
        first: probabilities with A shown first, shape (rows, 3); NaN where they are not known.
        second: probabilities with B shown first, mapped back to the table's A and B; NaN where not read.
        cut: whether the prompt lost something to the budget, shape (rows,); False where it is not known.
        facts: what the table says of the rows.
    """

    ids: NDArray[np.object_]
    p: Float
    labels: NDArray[np.int64]
    groups: NDArray[np.uint64]
    flags: NDArray[np.uint32]
    verdict_mass: Float
    first: Float
    second: Float
    cut: NDArray[np.bool_]
    facts: Facts

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """Return which rows have a flag, shape (rows,)."""
        return np.asarray((self.flags & np.uint32(flag)) != 0)

    def where(self, chosen: NDArray[np.bool_]) -> JudgedRows:
        """Return the chosen rows."""
        return JudgedRows(*(values[chosen] for values in vars(self).values()))


def join(
    stored: StoredPredictions,
    table: Table,
    progress: Progress | None = None,
    *,
    partial: bool = False,
) -> JudgedRows:
    """Return the labelled rows of a table with their predictions, joined by id.

    Args:
        table: read once, in a stream.
        partial: leave out rows without a prediction, such as those that trained the judge.

    Raises:
        JudgeError: a row without a prediction (unless `partial`), a prediction without a row, or no labelled row.
    """
    known: set[str] = set()
    places = {row_id: i for i, row_id in enumerate(stored.ids)}
    labelled: list[tuple[str, int, int, Fact]] = []  # id, label, group
    for chunk in table.chunks():
        for row in chunk:
            known.add(str(row.id))
            if row.label >= 0 and str(row.id) in places:
                labelled.append((str(row.id), row.label, group_key(row), facts_of(row)))
        if progress is not None:
            done, rows = len(known), len(stored.ids)
            what = "computing the figures" if done >= rows else "reading the table"
            progress.step(what, done, rows, f"{done:,} of {rows:,} rows")
    _check_same_ids(known, places, stored.name, table.name, partial)
    if not labelled:
        raise JudgeError(
            f"{table.name}: no row has a label; give the columns winner_model_a, winner_model_b and winner_tie "
            "(one of them 1), or winner (model_a, model_b or tie)"
        )
    # sorted, so that figures do not depend on the order of either file, not even in the last digit
    labelled.sort(key=lambda row: row[0])
    ids, labels, groups, facts = zip(*labelled, strict=True)
    order = np.array([places[row_id] for row_id in ids])
    return JudgedRows(
        ids=np.array(ids, dtype=object),
        p=stored.p[order],
        labels=np.array(labels),
        groups=np.array(groups, dtype=np.uint64),
        flags=np.zeros(len(order), dtype=np.uint32) if stored.flags is None else stored.flags[order],
        verdict_mass=np.full(len(order), np.nan) if stored.verdict_mass is None else stored.verdict_mass[order],
        first=_order(stored.first, order),
        second=_order(stored.second, order),
        cut=np.zeros(len(order), dtype=np.bool_) if stored.cut is None else stored.cut[order],
        facts=gathered(facts),
    )


def without_trained(
    rows: JudgedRows, names: Sequence[str], choice: RefuseOrDrop, why: str, ways: str = DROP
) -> JudgedRows:
    """Return the rows that trained none of the judges.

    Args:
        names: of the prediction files whose judges these rows may have trained.
        choice: refuse such rows, or drop them.
        why, ways: what is wrong with figures on them, and what to do about it, for the error.

    Raises:
        JudgeError: there are such rows and they are refused, or no other row is left.
    """
    trained = rows.has(Flag.TRAINED_ON)
    source = ", ".join(names)
    if trained.any() and choice == "refuse":
        raise JudgeError(
            f"{source}: {trained.sum():,} of {counted(len(rows), 'labelled row')} trained "
            f"{'one of these judges' if len(names) > 1 else 'this judge'} (for example id "
            f"{printable(rows.ids[trained][0], 40)}), {why}; {ways}"
        )
    if trained.all():
        judge = "a judge" if len(names) > 1 else "this judge"
        raise JudgeError(f"{source}: every labelled row trained {judge}, so --trained-rows=drop leaves none")
    return rows.where(~trained)


def left_out_text(unlabelled: int, unpredicted: int, dropped: int, trained: str, not_scored: int = 0) -> str:
    """Say which rows of a table are left out: `; left out: 3 without a label`; empty if none is.

    Args:
        trained: who was trained with the dropped rows, such as `this judge`.
    """
    counts = (
        (unlabelled, "without a label"),
        (unpredicted, "without a prediction"),
        (dropped, f"that trained {trained}"),
        (not_scored, "that could not be scored"),
    )
    kinds = ", ".join(f"{count:,} {kind}" for count, kind in counts if count)
    return f"; left out: {kinds}" if kinds else ""


def few_groups_text(groups: int) -> str:
    """Return the warning about fewer than `FEW_GROUPS` prompt groups."""
    what = "there is no interval" if groups < 2 else "the intervals are too narrow"
    return f"only {counted(groups, 'prompt group')}: {what}"


def only_in_one(first: Set[str], second: Set[str], first_only: str, second_only: str) -> list[str]:
    """Return what is wrong if two sets of ids differ: how many are in one of them alone, and one of these."""
    return [
        what.format(counted(len(ids), "row")) + f" (for example id {printable(min(ids), 40)})"
        for ids, what in ((first - second, first_only), (second - first, second_only))
        if ids
    ]


def _order(logprobs: Float | None, rows: NDArray[np.integer]) -> Float:
    return np.full((len(rows), 3), np.nan) if logprobs is None else probabilities(logprobs[rows])


def _check_same_ids(known: set[str], predicted: dict[str, int], name: str, table: str, partial: bool) -> None:
    apart = known.isdisjoint(predicted)
    expected = known & predicted.keys() if partial and not apart else known
    problems = only_in_one(
        expected,
        predicted.keys(),
        f"{name}: has no prediction for {{}} of {table}",
        f"{name}: has predictions for {{}} that {table} does not have",
    )
    if problems and apart:  # perhaps one file has its ids as decimal numbers (1.0), and the other has not
        for left, right, decimal, whole in ((predicted, known, name, table), (known, predicted, table, name)):
            if any(row_id.removesuffix(".0") in right for row_id in left):
                found = f"{decimal}: its ids are decimal numbers (1.0), those of {whole} are not (1)"
                raise JudgeError(f"{found}; write both in one type")
    if problems:
        advice = "; give the predictions and the table that belong together"
        if len(problems) == 1 and not apart and expected - predicted.keys():
            advice += ", or pass --partial to leave out the rows without a prediction"
        raise JudgeError("; ".join(problems) + advice)
