"""`judge check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from judge.cli.options import TableFile
from judge.errors import counted
from judge.predictions.submission import check_submission
from judge.tables.table import read_ids


def check(
    submission: Annotated[Path, typer.Argument(help="The submission file (CSV).")],
    table: TableFile,
) -> None:
    """Say what is wrong with a submission; exit status 1 if anything is."""
    findings = check_submission(submission, read_ids(table))
    for note in findings.notes:
        typer.echo(f"note: {note}")
    for problem in findings.problems:
        typer.echo(f"problem: {problem}")
    if findings.problems:
        typer.echo(f"{submission}: not valid ({counted(len(findings.problems), 'problem')})")
        raise typer.Exit(1)
    typer.echo(f"{submission}: valid, {counted(findings.rows, 'row')}")
