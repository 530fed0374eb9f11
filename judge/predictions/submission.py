"""Submissions: writing a file for a contest, and saying what is wrong with anybody's.

Two forms are known: three probabilities a row (LMSYS: `id, winner_model_a, winner_model_b, winner_tie`) and
one verdict a row (WSDM: `id, winner`, with `model_a` or `model_b`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass

from judge.errors import JudgeError, counted, printable
from judge.files import whole_file
from judge.prompting.verdict import DEFAULT_FLOOR, floored
from judge.tables.comparison import LABEL_COLUMNS, RowId
from judge.tables.table import Table
from judge.tables.table_files import csv_rows

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY_COLUMNS = ("id", *LABEL_COLUMNS)
WINNER_COLUMNS = ("id", "winner")
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Form:
    """What a submission looks like: its columns, and its ids in order (None: the table's)."""

    columns: tuple[str, ...] = PROBABILITY_COLUMNS
    ids: tuple[str, ...] | None = None


def read_form(sample: Path) -> Form:
    """Read the form of a contest's sample submission.

    Raises:
        JudgeError: it cannot be read, or is of no known form.
    """
    frame = _read_csv(sample)
    columns = tuple(frame.columns)
    if sorted(columns) not in (sorted(PROBABILITY_COLUMNS), sorted(WINNER_COLUMNS)):
        raise JudgeError(
            f"{printable(str(sample), 4096)}: unknown kind of submission, columns {printable(', '.join(columns))}; "
            f"known are {', '.join(PROBABILITY_COLUMNS)} and {', '.join(WINNER_COLUMNS)}"
        )
    return Form(columns, tuple(frame["id"]))


@settings_dataclass(frozen=True)
class SubmissionOptions:
    """Where a submission is written, if anywhere, and how."""

    path: Path | None = Field(
        default=None,
        description="Also write a contest submission (CSV).",
        json_schema_extra={"flag": "--submission"},
    )
    sample: Path | None = Field(
        default=None, description="The contest's sample submission: its columns, order and ids are used."
    )
    floor: float = Field(default=DEFAULT_FLOOR, description="Smallest probability in the submission.")
    quick_below: int = Field(
        default=0,
        description="Write a uniform submission at once, without a model, for a table of fewer rows than this.",
    )

    def form(self) -> Form:
        """Check the options before a run, and return the form of the submission.

        Raises:
            JudgeError: options that do not go together, no folder to write to, or a sample of no known form.
        """
        if self.quick_below < 0:
            raise JudgeError(f"--quick-below={self.quick_below}: expected a number of rows, 0 for never")
        if self.path is None:
            if self.quick_below:
                raise JudgeError("--quick-below writes a submission and nothing else; pass --submission too")
            if self.sample is not None:
                raise JudgeError("--sample is only used with --submission")
            return Form()
        if self.path.suffix != ".csv" or not self.path.resolve().parent.is_dir():
            raise JudgeError(f"{self.path}: a submission is a .csv file in a folder that exists")
        if not 0 <= self.floor <= 1 / 3:
            raise JudgeError(f"--floor={self.floor}: expected a probability between 0 and 1/3")
        return read_form(self.sample) if self.sample else Form()


def quick_submission(table: Table, options: SubmissionOptions, form: Form) -> int | None:
    """Write a third for each verdict if the table is so small that it can only be a contest's sample of the hidden one.

    A notebook of a code contest runs twice: on a few visible rows when it is saved, and on the hidden table. Loading a
    model for the visible rows only spends quota. No more of a larger table is read than its first chunk.

    Args:
        table: is read here, and can be read again.

    Returns:
        The table's rows when the submission was written; None when the table is to be scored.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`), or the form's ids are not its own.
    """
    rows = 0
    if options.path is None or not options.quick_below:
        return None
    for chunk in table.chunks():
        rows += len(chunk)
        if rows >= options.quick_below:
            return None
    # a floor changes nothing in the uniform distribution
    write_submission(options.path, table.ids().to_pylist(), np.full((rows, 3), 1 / 3), form)
    return rows


def write_submission(
    path: Path, ids: Sequence[RowId], p: NDArray[np.floating], form: Form | None = None, floor: float = DEFAULT_FLOOR
) -> None:
    """Write a submission, whole or not at all.

    Args:
        ids: the table's ids, in the order of `p`.
        p: probabilities of A, B and tie, shape (rows, 3).
        floor: smallest probability written; one wrong zero would cost 36 nats.

    Raises:
        JudgeError: the sample's ids are not the table's.
    """
    import pandas as pd

    form = form or Form()
    own = [str(i) for i in ids]
    order = _order(own, form.ids)
    frame = pd.DataFrame({"id": [own[i] for i in order]}, dtype=object)
    if "winner" in form.columns:
        better_b = p[order, 1] > p[order, 0]
        frame["winner"] = np.where(better_b, "model_b", "model_a")
    else:
        for column, values in zip(LABEL_COLUMNS, floored(p[order], floor).T, strict=True):
            frame[column] = values
    with whole_file(path) as temporary:
        frame[list(form.columns)].to_csv(temporary, index=False)


def check_form(form: Form, ids: Sequence[RowId]) -> None:
    """Check before a run that a submission of this form can be written for a table with these ids.

    Raises:
        JudgeError: the sample's ids are not the table's.
    """
    _order([str(i) for i in ids], form.ids)


def _order(own: list[str], wanted: Sequence[str] | None) -> list[int]:
    if wanted is None:
        return list(range(len(own)))
    position = {row_id: i for i, row_id in enumerate(own)}
    missing = [w for w in wanted if w not in position]
    if missing or len(wanted) != len(own) or len(set(wanted)) != len(wanted):
        which = f", for example {printable(missing[0])} is not in the table" if missing else ""
        if len(set(wanted)) != len(wanted):
            which += ", some of the sample's more than once"
        raise JudgeError(
            f"the sample submission has {len(wanted)} ids and the table {len(own)}{which}; "
            "give the sample that belongs to this table"
        )
    return [position[w] for w in wanted]


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    name = printable(str(path), 4096)
    try:
        rows = list(csv_rows(path, name))
    except OSError as error:
        raise JudgeError(f"{name}: cannot be read ({error.strerror or error})") from None
    if not rows:
        raise JudgeError(f"{name}: the file is empty")
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object)


@dataclass(frozen=True)
class Findings:
    """What a check found: `problems` make a submission invalid, `notes` do not."""

    rows: int
    problems: list[str]
    notes: list[str]


def check_submission(path: Path, table_ids: Sequence[Any]) -> Findings:
    """Check a submission file against the ids of its table.

    Raises:
        JudgeError: the file cannot be read as CSV at all.
    """
    frame = _read_csv(path)
    columns = set(frame.columns)
    if len(columns) < len(frame.columns):
        twice = sorted({printable(c, 30) for c in frame.columns[frame.columns.duplicated()]})
        return Findings(len(frame), [f"columns that appear more than once: {', '.join(twice)}"], [])
    problems, notes = _check_ids(frame, [str(i) for i in table_ids])
    if "winner" in columns:
        known = frame["winner"].isin(["model_a", "model_b"]).to_numpy()
        problems += _problem(frame, ~known, "a winner that is not model_a or model_b")
    elif set(LABEL_COLUMNS) <= columns:
        more_problems, more_notes = _check_probabilities(frame)
        problems += more_problems
        notes += more_notes
    expected = WINNER_COLUMNS if "winner" in columns else PROBABILITY_COLUMNS
    missing = [c for c in expected if c not in columns]
    extra = [printable(c, 30) for c in frame.columns if c not in expected]
    if missing:
        problems.insert(0, f"no column {', '.join(missing)}")
    if extra:
        problems.insert(0, f"columns that do not belong there: {', '.join(extra)} (was an index saved?)")
    if not missing and not extra and tuple(frame.columns) != expected:
        notes.append(f"the columns are in another order than {', '.join(expected)}")
    return Findings(len(frame), problems, notes)


def _check_ids(frame: pd.DataFrame, table_ids: list[str]) -> tuple[list[str], list[str]]:
    if "id" not in frame.columns:
        return [], []
    problems = []
    ids = list(frame["id"])
    known, given = set(table_ids), set(ids)
    if len(given) < len(ids):
        twice = frame["id"][frame["id"].duplicated()].tolist()
        problems.append(f"{len(ids) - len(given)} repeated {_ids(twice)}")
    if missing := [i for i in table_ids if i not in given]:
        problems.append(f"{counted(len(missing), 'row')} of the table missing: {_ids(missing)}")
    if extra := [i for i in ids if i not in known]:
        problems.append(f"{counted(len(extra), 'row')} not in the table: {_ids(extra)}")
    in_order = problems or ids == table_ids
    return problems, [] if in_order else ["the rows are in another order than the table's"]


def _check_probabilities(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    import pandas as pd

    numbers = frame[list(LABEL_COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    finite = np.isfinite(numbers)
    outside = finite & ((numbers < 0) | (numbers > 1))
    sums = np.where(finite, numbers, 0).sum(axis=1)
    off = finite.all(axis=1) & ~outside.any(axis=1) & (np.abs(sums - 1) > SUM_TOLERANCE)
    problems = [
        *_problem(frame, ~finite.all(axis=1), "a value that is missing, NaN, infinite or no number"),
        *_problem(frame, outside.any(axis=1), "a probability outside 0 to 1"),
        *_problem(frame, off, "probabilities that do not sum to 1"),
    ]
    zeros = int((numbers == 0).any(axis=1).sum())
    notes = [f"{counted(zeros, 'row')} with a probability of 0, which costs 36 nats if wrong"] if zeros else []
    return problems, notes


def _problem(frame: pd.DataFrame, bad: NDArray[np.bool_], what: str) -> list[str]:
    rows = np.flatnonzero(bad)
    ids = [frame["id"].iat[i] if "id" in frame.columns else f"of row {i + 1}" for i in rows]
    return [f"{counted(len(rows), 'row')} with {what}: {_ids(ids)}"] if ids else []


def _ids(ids: Sequence[object]) -> str:
    shown = ", ".join(printable(str(i), 40) for i in ids[:5])
    return f"id {shown}" + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
