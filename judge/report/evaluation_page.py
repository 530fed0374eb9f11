"""The page of an evaluation: the one HTML file with all figures and a browser of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from judge.errors import JudgeError, printable
from judge.evaluation.evaluate import evaluate_joined
from judge.evaluation.judged_rows import JudgedRows, join
from judge.evaluation.settings import EvaluateSettings
from judge.predictions.file import read_predictions
from judge.report.page import write_page
from judge.report.row_data import ReportRow, rows_of
from judge.report.run_sections import run_sections
from judge.report.sections import evaluation_sections
from judge.runs.progress import Progress
from judge.stats.resample import check_resampling
from judge.tables.comparison import Cells, Flag
from judge.tables.table import Table


@dataclass(frozen=True)
class WrittenPage:
    """What became of a page: how many rows there are and its browser holds, and what the reader should know."""

    rows: int
    shown: int
    warnings: list[str]


def write_evaluation_page(
    predictions: Path,
    table: Path,
    output: Path,
    settings: EvaluateSettings,
    progress: Progress,
    *,
    model: Path | None = None,
    cells: Cells = "auto",
    most_rows: int | None = None,
) -> WrittenPage:
    """Evaluate predictions and write the page, whole or not at all.

    Args:
        predictions: what `judge score` wrote, or a submission.
        table: the labelled rows.
        output: the page, .html; one that is there is replaced.
        settings: of the evaluation.
        progress: watches the reading.
        model: the judge's folder, for drift, loss curve and settings.
        cells: how the table's cells are read.
        most_rows: how many rows the browser holds at most, evenly from the table; all if None.

    Raises:
        JudgeError: see `read_predictions`, `Table`, `judge.evaluation.evaluate.evaluate` and
            `judge.report.run_sections.run_sections`; or the output is no file that can be written, or is an input.
    """
    _check_output(output, (predictions, table))
    if most_rows is not None and most_rows < 1:
        raise JudgeError(f"--rows={most_rows}: expected 1 or more")
    check_resampling(settings.resamples, settings.seed)
    stored = read_predictions(predictions)

    def opened() -> Table:
        return Table.open(table, cells, on_bad_row="placeholder")

    labelled = opened()
    joined = join(stored, labelled, progress, partial=settings.partial)
    evaluation = evaluate_joined(joined, stored, labelled, settings)
    about_run, warnings = run_sections(predictions, model)
    sections = [*evaluation_sections(evaluation, _new_rows(joined), warnings), *about_run]
    total = len(stored.ids)
    shown = min(total, most_rows or total)
    languages = dict(zip(joined.ids.tolist(), joined.facts.language.tolist(), strict=True))
    rows = _evenly(rows_of(stored, opened(), languages), total, shown)
    write_page(output, f"{evaluation.predictions} on {evaluation.table}", sections, rows)
    return WrittenPage(total, shown, [*evaluation.warnings, *warnings])


def _new_rows(joined: JudgedRows) -> JudgedRows:
    """Return the rows of which the evaluation tells biases: those that did not train the judge, if there are any."""
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
