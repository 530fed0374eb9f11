"""`judge doctor`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from judge.cli.commands import Flags
from judge.cli.options import AsJson, Base
from judge.doctor.doctor import Examination, examine
from judge.doctor.finding import Finding
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
    if as_json:
        found = list(examine(wanted))
        print(json_text(found))
        return exit_status([finding for _, finding in found])
    console = Console(highlight=False, markup=False, emoji=False)
    group, findings = "", []
    for name, finding in examine(wanted):
        if name != group:
            console.print(name, style="bold", soft_wrap=True)
            group = name
        findings.append(finding)
        console.print(Text.assemble((f"  {finding.level:8}", _STYLES[finding.level]), finding.line), soft_wrap=True)
    console.print(verdict_line(findings), style=_STYLES["problem" if exit_status(findings) else "ok"], soft_wrap=True)
    return exit_status(findings)


def exit_status(findings: list[Finding]) -> int:
    """Return 1 if any finding is a problem."""
    return int(any(finding.level == "problem" for finding in findings))


def verdict_line(findings: list[Finding]) -> str:
    """Return the last line, such as `3 problems, 1 note` or `ready`."""
    levels = Counter(finding.level for finding in findings)
    notes = f", {counted(levels['note'], 'note')}" if levels["note"] else ""
    return (counted(levels["problem"], "problem") if levels["problem"] else "ready") + notes


def json_text(found: Sequence[tuple[str, Finding]]) -> str:
    """Return the findings as a JSON object of several lines."""
    findings = [finding for _, finding in found]
    content = {
        "ready": exit_status(findings) == 0,
        "problems": sum(finding.level == "problem" for finding in findings),
        "notes": sum(finding.level == "note" for finding in findings),
        "findings": [{"group": group, **asdict(finding)} for group, finding in found],
    }
    return json.dumps(content, indent=1)
