"""The commands of `judge data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from judge.cli.commands import command, group
from judge.cli.options import CellsOption, NewTable, TableFile
from judge.errors import JudgeError, counted

data = group("Check, split, clean, mix and describe tables for training.")

Tables = Annotated[list[Path], typer.Argument(metavar="TABLE", help="Tables: .csv, .parquet or .jsonl.")]
Seed = Annotated[int, typer.Option(help="Another seed chooses other prompts.")]


@command(data)
def validate(tables: Tables, cells: CellsOption = "auto") -> None:
    """Read tables as training does and say what is wrong; exit status 1 if anything is.

    A table that training cannot read at all ends with exit status 2.
    """
    from judge.data.tables import validate as run

    found = run(tables, cells)
    for line in found.facts:
        typer.echo(line)
    for note in found.notes:
        typer.echo(f"note: {note}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    typer.echo("valid" if not found.problems else f"not valid ({counted(len(found.problems), 'problem')})")
    if found.problems:
        raise typer.Exit(1)


@command(data)
def split(
    tables: Tables,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the parts.")],
    holdout: Annotated[
        float | None, typer.Option(help="Share of the rows to hold out: writes train and heldout. [default: 0.1]")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Number of folds, instead of --holdout: writes fold-1, fold-2 and so on.")
    ] = None,
    seed: Seed = 0,
    suffix: Annotated[
        Literal["csv", "parquet", "jsonl"] | None, typer.Option(help="Format of the parts. [default: the table's]")
    ] = None,
    cells: CellsOption = "auto",
) -> None:
    """Split tables; rows with the same first prompt stay together, verdicts are balanced."""
    from judge.data.tables import split_tables

    if holdout is not None and folds is not None:
        raise JudgeError("--holdout and --folds: give one of them")
    share = 0.1 if holdout is None else holdout
    for line in split_tables(tables, output, share, folds, seed, f".{suffix}" if suffix else None, cells):
        typer.echo(line)


@command(data)
def dedupe(
    table: TableFile,
    output: NewTable,
    near: Annotated[
        bool, typer.Option("--near", help="Also rows with the same responses and near-duplicate prompts.")
    ] = False,
    conflicts: Annotated[
        Literal["keep-first", "drop"], typer.Option(help="Copies with contradicting verdicts: keep the first, or none.")
    ] = "keep-first",
    cells: CellsOption = "auto",
) -> None:
    """Take out rows that compare the same as an earlier one, also with A and B exchanged."""
    from judge.data.tables import dedupe as run

    for line in run(table, output, near, conflicts, cells):
        typer.echo(line)


@command(data)
def mix(
    output: NewTable,
    source: Annotated[list[Path], typer.Option(help="A table; again for each further one. The first is the standard.")],
    weight: Annotated[list[float] | None, typer.Option(help="Of each source, in their order. [default: 1]")] = None,
    rows: Annotated[int | None, typer.Option(help="Draw so many rows, in proportion to the weights.")] = None,
    seed: Seed = 0,
    cells: CellsOption = "auto",
) -> None:
    """Make one table for training out of several, and compare their verdicts with the first one's."""
    from judge.data.mix import mix as run

    for line in run(source, weight or [], output, rows, seed, cells):
        typer.echo(line)


@command(data)
def describe(
    table: TableFile,
    model: Annotated[Path | None, typer.Option(help="Folder of a model: count its tokens too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    cells: CellsOption = "auto",
) -> None:
    """Say what is in a table: turns, verdicts, languages, lengths."""
    from json import dumps

    from judge.data.describe import describe as run
    from judge.data.describe import describe_lines

    figures = run(table, model, cells)
    typer.echo(dumps(figures, indent=1, ensure_ascii=False) if json else "\n".join(describe_lines(table.name, figures)))
