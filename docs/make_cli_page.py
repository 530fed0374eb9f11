"""Writes docs/cli.md from the program's own help texts.

python docs/make_cli_page.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = (
    "",
    "data",
    "data validate",
    "data split",
    "data dedupe",
    "data mix",
    "data describe",
    "train",
    "plan",
    "rehearse",
    "mock-table",
    "doctor",
    "score",
    "experiment",
    "evaluate",
    "report",
    "show",
    "compare",
    "calibrate",
    "ensemble",
    "merge",
    "quantize",
    "drift",
    "check",
    "prompt",
    "prompt list",
    "prompt show",
    "prompt check",
    "prompt diff",
    "demo-model",
)


def page() -> str:
    """Return the page: the help of every command, as an 100-column terminal shows it."""
    judge = str(Path(sys.executable).parent / "judge")
    parts = ["# Commands\n\nWritten by `python docs/make_cli_page.py`; a test compares it with the program.\n"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    for name in COMMANDS:
        command = [judge, *name.split(), "--help"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
        parts.append(f"## `judge {name}`\n\n```\n{done.stdout.strip()}\n```\n")
    return "\n".join(parts).replace("## `judge `", "## `judge`")


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page(), encoding="utf-8")
