"""`judge compare`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson, LabelledTable
from judge.cli.words import aligned
from judge.errors import counted, printable
from judge.evaluation.compare import ChangedRow, CompareResult, Difference
from judge.evaluation.compare import compare as measure
from judge.evaluation.judged_rows import left_out_text
from judge.evaluation.members import read_members
from judge.evaluation.settings import CompareSettings
from judge.stats.metrics import MEASURES
from judge.stats.resample import CONFIDENCE
from judge.stats.words import interval, p_text
from judge.tables.table import Table

_PROMPT_CHARACTERS = 60
_LEAST_MOVED = 0.005  # less is 0.00 in print


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of one judge, A: .parquet, .csv, or a submission.")],
    second: Annotated[Path, typer.Argument(help="Predictions of another, B, for the same table.")],
    table: LabelledTable,
    settings: Annotated[CompareSettings, Flags()],
    as_json: AsJson = False,
) -> None:
    """Say whether one judge is better than another on the same labelled rows, or whether nothing can be said."""
    result = measure(read_members([first, second]), Table.open(table, on_bad_row="placeholder"), settings)
    for line in [json_text(result)] if as_json else text_lines(result):
        typer.echo(line)


def json_text(result: CompareResult) -> str:
    """Return a comparison as a JSON object of several lines; an interval that cannot be computed is null."""
    content = asdict(result)
    content["settings"] = {**result.settings.model_dump(), "level": CONFIDENCE}
    return json.dumps(content, indent=1, allow_nan=False)


def text_lines(result: CompareResult) -> Iterator[str]:
    """Yield a comparison as aligned lines of plain text."""
    left_out = left_out_text(result.unlabelled, result.unpredicted, result.dropped, "a judge")
    yield f"judge A         {result.names[0]}"
    yield f"judge B         {result.names[1]}"
    yield (
        f"table           {result.table}, {counted(result.rows, 'row')} in "
        f"{counted(result.groups, 'prompt group')}{left_out}"
    )
    yield ""
    yield f"{'':12}  {'A':>8}  {'B':>8}  {'B minus A':>9}  {CONFIDENCE:.0%} interval"
    for metric, shown in MEASURES.items():
        yield _line(shown.name, shown.form, result.differences[metric])
    yield ""
    yield from (difference.conclusion for difference in result.differences.values())
    verdicts = result.verdicts
    yield (
        f"{verdicts.changed:,} of {counted(result.rows, 'row')} got another verdict from judge B than from judge A: "
        f"{verdicts.to_right:,} became right, {verdicts.to_wrong:,} wrong"
    )
    changed = [row for row in result.most_changed if row.moved >= _LEAST_MOVED]
    if changed:
        yield ""
        yield "rows that changed most (probabilities of A, B and tie)"
        head = ("id", "moved", "by judge A", "by judge B", "human", "prompt")
        yield from aligned([head, *(_cells(row) for row in changed)], (2, 5, 16, 16, 5))
    if result.warnings:
        yield ""
    for warning in result.warnings:
        yield f"warning: {warning}"


def _line(title: str, form: str, difference: Difference) -> str:
    values = f"{difference.a.value:8{form}}  {difference.b.value:8{form}}"
    change = f"{difference.difference.value:+z9{form}}"
    ends = interval(difference.difference, f"+z{form}", none="none (one prompt group)")
    return f"{title:12}  {values}  {change}  {ends}, {p_text(difference.p_value)}"


def _cells(row: ChangedRow) -> tuple[str, ...]:
    a, b = (" ".join(f"{p:.2f}" for p in values) for values in (row.a, row.b))
    return printable(row.id, 24), f"{row.moved:5.2f}", a, b, row.human, printable(row.prompt, _PROMPT_CHARACTERS)
