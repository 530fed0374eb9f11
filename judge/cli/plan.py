"""`judge plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson, CellsOption, Duration, OnBadRowOption, TableFile
from judge.cli.plan_text import json_object, text_lines
from judge.deadline import parse_duration
from judge.errors import JudgeError
from judge.planning.layout import Machine
from judge.planning.outcome import GOOD
from judge.planning.plan import Measure, PlanModel, find_machine, make_plan, open_plan_model
from judge.runs.terminal import ScoringTerminal
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow, Table

if TYPE_CHECKING:
    from judge.planning.lengths import PromptLengths
    from judge.planning.time_model import TimeModel


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
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure this machine first, with random weights: a minute or two.")
    ] = False,
    cells: CellsOption = "auto",
    on_bad_row: OnBadRowOption = "error",
    as_json: AsJson = False,
) -> None:
    """Say before a scoring what it takes: memory, what cannot work, hours with a range, and what to change.

    Nothing is loaded but the config and the tokenizer. Exit status 1 if it cannot work or may not fit the deadline.
    """
    options = PlanOptions(gpu, deadline, tokenizer, probe, as_json)
    if run_plan(model, table, settings, options, cells=cells, on_bad_row=on_bad_row, echo=typer.echo):
        raise typer.Exit(1)


class PlanTerminal(ScoringTerminal):
    """Shows how far the reading of the table is."""

    first_task = "reading the table"


@dataclass(frozen=True)
class PlanOptions:
    """What `judge plan` takes besides the settings of scoring.

    Attributes:
        gpu: cards to plan for, such as `2xT4` or `cpu`; None: this machine's own.
        deadline: a duration such as `9h`, or None.
        tokenizer: folder of the model's tokenizer, where the model's own has none.
        probe: measure this machine with random weights of the model's geometry.
        as_json: print one JSON object.
    """

    gpu: str | None = None
    deadline: str | None = None
    tokenizer: Path | None = None
    probe: bool = False
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
        0 if the whole range of hours is within the deadline, or there is none and it works; 1 if it cannot work, does
        not fit or may not fit.

    Raises:
        JudgeError: an unknown card, a bad deadline, a config that is none, a table of another schema.
    """
    deadline = parse_duration(options.deadline) if options.deadline is not None else None
    machine = find_machine(options.gpu)
    if options.probe and not _is_here(machine):
        raise JudgeError(f"--probe measures this machine, which is not {machine}; leave --gpu out, or run it there")
    opened, rows = open_plan_model(model, options.tokenizer), Table.open(table, cells, on_bad_row)
    terminal = PlanTerminal(quiet=options.as_json)
    measure = _prober(opened, machine, settings, terminal.note) if options.probe else None
    terminal.begin()
    try:
        plan = make_plan(opened, rows, machine, settings, deadline, terminal.prepared, measure)
    finally:
        terminal.end()
    lines = [json.dumps(json_object(plan), indent=1, allow_nan=False)] if options.as_json else text_lines(plan)
    for line in lines:
        echo(line)
    return 0 if plan.verdict in GOOD else 1


def _is_here(machine: Machine) -> bool:
    here = find_machine(None)
    return here.card.name == machine.card.name and here.count >= machine.count


def _prober(model: PlanModel, machine: Machine, settings: ScoreSettings, say: Callable[[str], None]) -> Measure:
    def measure(lengths: PromptLengths, engines: int, cards: int) -> TimeModel:
        from judge.planning.probe import probe

        return probe(
            model.folder.config,
            lengths.tokens,
            device="cpu" if machine.card.is_cpu else "cuda",
            dtype=settings.dtype,
            engines=engines,
            cards=cards,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            batch_tokens=settings.batch_tokens,
            say=say,
        )

    return measure
