"""`judge train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.quiet import quiet_libraries
from judge.errors import JudgeError
from judge.training.settings import TrainSettings, parse_train_settings, read_config


def train(
    given: Annotated[dict[str, Any], Flags(model=TrainSettings)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the judge bundle.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of the settings that are flags.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this output's unfinished run: same data, same settings.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Drop this output's unfinished run.")] = False,
) -> None:
    """Train a judge on labelled comparisons, and write it as a judge bundle.

    It trains an adapter (LoRA, QLoRA) or all weights. Settings come from --config; flags override it. On several
    GPUs: accelerate launch -m judge train, with the same options.
    """
    if output is None:
        raise JudgeError("no output: give the bundle's folder with -o")
    values = {**(read_config(config) if config else {}), **given}
    source = str(config) if config and not given else "judge train"
    settings = parse_train_settings(values, source, set(given) if config and given else None)
    train_judge(settings, output, resume, restart)


def train_judge(settings: TrainSettings, output: Path, resume: bool = False, restart: bool = False) -> dict[str, Any]:
    """Train a judge, showing progress on the terminal; see `judge.training.train.train`."""
    quiet_libraries()
    from judge.report.model_sections import write_loss_curve
    from judge.runs.terminal import Terminal
    from judge.training.heldout import learnt_nothing, table_lines
    from judge.training.train import train as train_bundle

    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    terminal = Terminal(quiet=not first)
    terminal.begin()
    try:
        figures = train_bundle(settings, output, resume, restart, terminal)
    finally:
        terminal.end()
    if first:
        write_loss_curve(output)
    terminal.print_lines([*table_lines(figures), f"wrote {output}"])
    if learnt_nothing(figures):
        terminal.warn(
            "the judge is not better than the class rates alone: it has learnt nothing yet (more data, more steps or "
            "another learning rate)"
        )
    return figures
