"""`judge mock-table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from judge.cli.options import CellsOption, NewTable
from judge.data.mock_table import DEMO_TABLE
from judge.data.mock_table import mock_table as make


def mock_table(
    output: NewTable,
    table: Annotated[
        Path | None,
        typer.Argument(help="Table whose rows are drawn. [default: the demo's 24 short comparisons]"),
    ] = None,
    rows: Annotated[int, typer.Option("-n", "--rows", help="How many rows to write.")] = 25_000,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also write the verdicts and the models' names of the drawn rows.")
    ] = False,
    awkward: Annotated[float, typer.Option(help="Share of the rows that are made awkward.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    cells: CellsOption = "auto",
) -> None:
    """Draw a table's rows again, to any number, with new ids and every kind of awkward row.

    The texts are those of the table, so keep what you make from a private table as private.
    """
    for line in make(table or DEMO_TABLE, rows, output, seed, labels, cells, awkward, overwrite):
        typer.echo(line)
    if table is None:
        typer.echo("no TABLE given: the rows are the demo's, much shorter than real ones; name your table to plan with")
