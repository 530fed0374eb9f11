"""`judge plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson, CellsOption, Duration, OnBadRowOption, TableFile
from judge.cli.plan_text import json_object, text_lines
from judge.deadline import parse_duration
from judge.planning.forecast import GOOD
from judge.planning.plan import find_machine, make_plan, open_plan_model, read_rehearsal
from judge.runs.terminal import Terminal
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow, Table


def plan(
    model: Annotated[Path, typer.Argument(help="Model folder, judge bundle, or a config.json alone.")],
    table: TableFile,
    settings: Annotated[
        ScoreSettings,
        Flags("template max_tokens truncation swap dtype weights parallel workers gpu_memory_utilization batch_tokens"),
    ],
    gpu: Annotated[
        str | None, typer.Option(help="Cards to plan for, such as T4, 2xT4 or cpu. [default: this machine's]")
    ] = None,
    deadline: Duration = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the model's tokenizer, where MODEL has none.")
    ] = None,
    rehearsal: Annotated[
        Path | None, typer.Option(help="What judge rehearse --json measured here, to take the speed from.")
    ] = None,
    cells: CellsOption = "auto",
    on_bad_row: OnBadRowOption = "error",
    as_json: AsJson = False,
) -> None:
    """Say before a scoring what it takes: memory, what cannot work, hours with a range, and what to change.

    Nothing is loaded but the config and the tokenizer. Exit status 1 if it cannot work or may not fit the deadline.
    """
    options = PlanOptions(gpu, deadline, tokenizer, rehearsal, as_json)
    if run_plan(model, table, settings, options, cells=cells, on_bad_row=on_bad_row, echo=typer.echo):
        raise typer.Exit(1)


@dataclass(frozen=True)
class PlanOptions:
    """What `judge plan` takes besides the settings of scoring.

    Attributes:
        gpu: cards to plan for, such as `2xT4` or `cpu`; None: this machine's own.
        deadline: a duration such as `9h`, or None.
        tokenizer: folder of the model's tokenizer, where the model's own has none.
        rehearsal: file that `judge rehearse --json` wrote, whose measured speed is used; or None.
        as_json: print one JSON object.
    """

    gpu: str | None = None
    deadline: str | None = None
    tokenizer: Path | None = None
    rehearsal: Path | None = None
    as_json: bool = False


def run_plan(
    model: Path,
    table: Path,
    settings: ScoreSettings,
    options: PlanOptions,
    *,
    cells: Cells,
    on_bad_row: OnBadRow,
    echo: Callable[[str], None] = print,
) -> int:
    """Plan the scoring of a table file, print the plan, and return the exit status.

    Args:
        echo: prints a line.

    Returns:
        0 if the scoring works and, where there is a deadline, the whole range of hours is within it; otherwise 1.

    Raises:
        JudgeError: an unknown card, a bad deadline, a file that is no model's config, a table of another schema, a
            rehearsal of something else.
    """
    deadline = parse_duration(options.deadline) if options.deadline is not None else None
    machine = find_machine(options.gpu)
    rehearsed = read_rehearsal(options.rehearsal) if options.rehearsal is not None else None
    opened, rows = open_plan_model(model, options.tokenizer), Table.open(table, cells, on_bad_row)
    terminal = Terminal(quiet=options.as_json)
    terminal.begin()
    try:
        plan = make_plan(opened, rows, machine, settings, deadline, terminal, rehearsed)
    finally:
        terminal.end()
    lines = [json.dumps(json_object(plan), indent=1, allow_nan=False)] if options.as_json else text_lines(plan)
    for line in lines:
        echo(line)
    return 0 if plan.forecast in GOOD else 1
