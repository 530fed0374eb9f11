"""A valid submission at once, for a table so small that it can only be a contest's sample of the hidden one.

A notebook of a code contest runs twice: on a few visible rows when it is saved, and on the hidden table. Loading a
model for the visible rows only spends quota. They get a third for each verdict.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from judge.errors import JudgeError
from judge.predictions.submission import Form, write_submission
from judge.tables.table import Table


def check_quick_below(below: int, submission: Path | None) -> None:
    """Check the settings of a quick submission.

    Raises:
        JudgeError: fewer than no rows, or no place to write to.
    """
    if below < 0:
        raise JudgeError(f"--quick-below={below}: expected a number of rows, 0 for never")
    if below and submission is None:
        raise JudgeError("--quick-below writes a submission and nothing else; pass --submission too")


def quick_submission(table: Table, below: int, path: Path, form: Form) -> int | None:
    """Write a uniform submission if the table has fewer than `below` rows.

    No more of a larger table is read than its first chunk.

    Args:
        table: read here; it can be read again.
        below: number of rows; 0 for never.
        path: the submission to write, whole or not at all.
        form: its columns, and the order of its ids.

    Returns:
        The table's rows when the submission was written; None when the table is to be scored.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`), or the form's ids are not its own.
    """
    rows = 0
    if below == 0:
        return None
    for chunk in table.chunks():
        rows += len(chunk)
        if rows >= below:
            return None
    # a floor changes nothing in the uniform distribution
    write_submission(path, table.ids(), np.full((rows, 3), 1 / 3), form)
    return rows
