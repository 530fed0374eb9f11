"""`judge doctor`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from judge.cli.commands import Flags
from judge.cli.options import AsJson, Base
from judge.doctor.doctor import Examination, examine
from judge.errors import counted
from judge.models.prompting import PromptSettings

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    prompt: Annotated[PromptSettings, Flags("template max_tokens")],
    model: Annotated[
        Path | None, typer.Argument(help="Model folder, judge bundle or adapter. [default: look at the machine alone]")
    ] = None,
    base: Base = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder that results go to. [default: this one]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes longer than seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the machine, the packages, the model and whether all works offline; every problem says what to do.

    Exit status 1 if there is a problem.
    """
    if run_doctor(Examination(model, base, prompt.template, prompt.max_tokens, output, quick), as_json):
        raise typer.Exit(1)


def run_doctor(wanted: Examination, as_json: bool = False) -> int:
    """Examine and print; return the exit status: 1 if anything is wrong, 0 otherwise."""
    console = Console(highlight=False, markup=False, emoji=False, quiet=as_json)
    found: list[dict[str, str]] = []
    for group, finding in examine(wanted):
        if not found or found[-1]["group"] != group:
            console.print(group, style="bold", soft_wrap=True)
        found.append({"group": group, **asdict(finding)})
        console.print(Text.assemble((f"  {finding.level:8}", _STYLES[finding.level]), finding.line), soft_wrap=True)
    levels = Counter(finding["level"] for finding in found)
    problems, notes = levels["problem"], levels["note"]
    if as_json:
        print(json.dumps({"ready": not problems, "problems": problems, "notes": notes, "findings": found}, indent=1))
    verdict = counted(problems, "problem") if problems else "ready"
    more = f", {counted(notes, 'note')}" if notes else ""
    console.print(verdict + more, style=_STYLES["problem" if problems else "ok"], soft_wrap=True)
    return int(problems > 0)
