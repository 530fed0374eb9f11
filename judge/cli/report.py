"""`judge report`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import CellsOption, LabelledTable, PredictionsFile
from judge.errors import JudgeError, counted, printable
from judge.evaluation.evaluate import evaluate_joined
from judge.evaluation.judged_rows import JudgedRows, join
from judge.evaluation.settings import EvaluateSettings
from judge.predictions.file import read_predictions
from judge.report.page import write_page
from judge.report.row_data import ReportRow, rows_of
from judge.report.run_sections import run_sections
from judge.report.sections import evaluation_sections
from judge.runs.terminal import Terminal
from judge.stats.resample import check_resampling
from judge.tables.comparison import Cells, Flag
from judge.tables.table import Table


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
    """Write the report and yield the lines to print.

    Args:
        predictions: what `judge score` wrote, or a submission.
        table: the labelled rows.
        output: the report, .html; one that is there is replaced.
        settings: of the evaluation.
        model: the judge's folder, for drift, loss curve and settings.
        cells: how the table's cells are read.
        most_rows: how many rows the browser holds at most, evenly from the table; all if None.

    Raises:
        JudgeError: see `read_predictions`, `Table`, `judge.evaluation.evaluate.evaluate` and
            `judge.report.run_sections.run_sections`; or the output is none, or is an input.
    """
    _check_output(output, (predictions, table))
    if most_rows is not None and most_rows < 1:
        raise JudgeError(f"--rows={most_rows}: expected 1 or more")
    check_resampling(settings.resamples, settings.seed)
    stored = read_predictions(predictions)

    def opened() -> Table:
        return Table.open(table, cells, on_bad_row="placeholder")

    with Terminal() as terminal:
        labelled = opened()
        joined = join(stored, labelled, terminal, partial=settings.partial)
        evaluation = evaluate_joined(joined, stored, labelled, settings)
    about_run, warnings = run_sections(predictions, model)
    sections = [*evaluation_sections(evaluation, _new_rows(joined), warnings), *about_run]
    total = len(stored.ids)
    shown = min(total, most_rows or total)
    languages = dict(zip(joined.ids.tolist(), joined.facts.language.tolist(), strict=True))
    rows = _evenly(rows_of(stored, opened(), languages), total, shown)
    write_page(output, f"{evaluation.predictions} on {evaluation.table}", sections, rows)
    size = output.stat().st_size
    held = counted(total, "row") if shown == total else f"{shown:,} of {counted(total, 'row')}"
    yield from (f"warning: {warning}" for warning in (*evaluation.warnings, *warnings))
    yield f"wrote {printable(str(output), 4096)} ({_bytes(size)}, {held})"


def _new_rows(joined: JudgedRows) -> JudgedRows:
    """Return the rows that did not train the judge, where there are any: those that the evaluation's biases are of."""
    trained = joined.has(Flag.TRAINED_ON)
    return joined if trained.all() else joined.where(~trained)


def _evenly(rows: Iterator[ReportRow], total: int, shown: int) -> Iterator[ReportRow]:
    return (row for i, row in enumerate(rows) if (i + 1) * shown // total > i * shown // total)


def _check_output(output: Path, inputs: Sequence[Path]) -> None:
    name = printable(str(output), 200)
    if output.suffix.lower() not in (".html", ".htm"):
        raise JudgeError(f"{name}: expected a name that ends in .html")
    if output.is_dir():
        raise JudgeError(f"{name}: is a folder; give the name of a file")
    if not output.parent.is_dir():
        raise JudgeError(f"{name}: its folder does not exist")
    if not os.access(output.resolve().parent, os.W_OK, effective_ids=True):
        raise JudgeError(f"{name}: cannot be written, its folder may not be written to")
    if any(output.exists() and path.exists() and output.samefile(path) for path in inputs):
        raise JudgeError(f"{name}: is an input; give the report another name")


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
