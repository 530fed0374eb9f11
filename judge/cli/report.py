"""`judge report`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import CellsOption, LabelledTable, PredictionsFile
from judge.errors import counted, printable
from judge.evaluation.settings import EvaluateSettings
from judge.report.evaluation_page import write_evaluation_page
from judge.runs.terminal import Terminal
from judge.tables.comparison import Cells


def report(
    predictions: PredictionsFile,
    table: LabelledTable,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write: .html.")],
    settings: Annotated[EvaluateSettings, Flags()],
    model: Annotated[
        Path | None, typer.Option(help="The judge's folder: adds its loss curve, drift and settings to the page.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Most rows in the browser, evenly from the table. [default: all]")
    ] = None,
    cells: CellsOption = "auto",
) -> None:
    """Write an evaluation as one HTML page: charts, biases, slices, and a browser of all rows.

    The page needs no network. It holds the texts of the table.
    """
    for line in run_report(predictions, table, output, settings, model=model, cells=cells, most_rows=rows):
        typer.echo(line)


def run_report(
    predictions: Path,
    table: Path,
    output: Path,
    settings: EvaluateSettings,
    *,
    model: Path | None = None,
    cells: Cells = "auto",
    most_rows: int | None = None,
) -> Iterator[str]:
    """Write the page and yield the lines to print; see `judge.report.evaluation_page.write_evaluation_page`."""
    with Terminal() as terminal:
        page = write_evaluation_page(
            predictions, table, output, settings, terminal, model=model, cells=cells, most_rows=most_rows
        )
    yield from (f"warning: {warning}" for warning in page.warnings)
    total = counted(page.rows, "row")
    held = total if page.shown == page.rows else f"{page.shown:,} of {total}"
    yield f"wrote {printable(str(output), 4096)} ({_bytes(output.stat().st_size)}, {held})"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
