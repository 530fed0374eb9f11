"""`judge experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.experiment_text import result_lines
from judge.cli.quiet import quiet_libraries
from judge.errors import JudgeError, printable
from judge.experiment.files import RECORD, RESULTS, write_results
from judge.experiment.run import run_experiment
from judge.experiment.settings import ArmSettings, ExperimentSettings, experiment_of, load_experiment
from judge.report.experiment_page import write_experiment_page
from judge.runs.terminal import Terminal

REPORT = "report.html"
_FILES = (".yaml", ".yml")


def experiment(
    arguments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT.yaml | MODEL... TABLE", help="A file, or models and a table.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for results, report and what was read.")],
    arms: Annotated[
        dict[str, Any],
        Flags("template max_tokens truncation swap calibration train train_rows", ArmSettings, several=True),
    ],
    others: Annotated[
        dict[str, Any],
        Flags(
            "train_seeds baseline metric margin rows level power seed resamples base cells readout dtype "
            "weights device workers",
            ExperimentSettings,
        ),
    ],
    cache: Annotated[
        Path | None, typer.Option(help="Folder of what was read, to share between experiments. [default: OUT/cache]")
    ] = None,
) -> None:
    """Compare prompt templates, budgets, models or trainings on the same rows, and say what is really different.

    Options that are given several times make arms: all their combinations. What was read is kept; the same command
    goes on where it stopped, and an arm or rows more cost only what is new.
    """
    run_experiment_command(experiment_settings(arguments, arms, others), output, cache)


def experiment_settings(
    arguments: Sequence[str], arms: Mapping[str, Sequence[Any]], others: Mapping[str, Any]
) -> ExperimentSettings:
    """Return the experiment that a command line asks for.

    Args:
        arguments: the path of an experiment file, or one or more models and the table behind them.
        arms: lists of which all combinations are arms (see `judge.experiment.settings.experiment_of`). Not with a file.
        others: other fields of the settings; those that are None are as in the file, or the defaults.

    Raises:
        JudgeError: neither, both, or see `judge.experiment.settings`.
    """
    given = {name: value for name, value in others.items() if value is not None}
    if len(arguments) == 1 and arguments[0].endswith(_FILES):
        if arms:
            flag = next(iter(arms)).replace("_", "-")
            raise JudgeError(f"--{flag} makes arms, and {printable(arguments[0], 200)} names them; use one of both")
        return load_experiment(arguments[0], given)
    if len(arguments) < 2 and "train" not in arms:
        raise JudgeError("give an experiment file (.yaml), or a model and a table of labelled comparisons")
    if not arguments:
        raise JudgeError("give a table of labelled comparisons")
    return experiment_of(arguments[:-1], arguments[-1], arms, **given)


def run_experiment_command(settings: ExperimentSettings, folder: Path, cache: Path | None = None) -> None:
    """Do an experiment, print what it found, and write its results, its report and its record into `folder`.

    Raises:
        JudgeError: a mistake in the settings, the models or the table; see `judge.experiment.run.run_experiment`.
        RunInterrupted: the user pressed Ctrl-C.
    """
    if any(arm.train for arm in settings.arms):
        quiet_libraries()
    with Terminal() as terminal:
        result = run_experiment(settings, folder, terminal, cache)
    write_results(folder, result)
    write_experiment_page(folder / REPORT, result)
    terminal.print_lines(result_lines(result))
    terminal.print_lines(["", f"wrote {RESULTS}, {REPORT} and {RECORD} in {printable(str(folder), 4096)}"])
