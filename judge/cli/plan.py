"""`judge plan`."""

from __future__ import annotations

import json
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
from judge.tables.table import Table


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
    seconds = parse_duration(deadline) if deadline is not None else None
    machine = find_machine(gpu)
    rehearsed = read_rehearsal(rehearsal) if rehearsal is not None else None
    opened, rows = open_plan_model(model, tokenizer), Table.open(table, cells, on_bad_row)
    with Terminal(quiet=as_json) as terminal:
        planned = make_plan(opened, rows, machine, settings, seconds, terminal, rehearsed)
    for line in [json.dumps(json_object(planned), indent=1, allow_nan=False)] if as_json else text_lines(planned):
        typer.echo(line)
    if planned.forecast not in GOOD:
        raise typer.Exit(1)
