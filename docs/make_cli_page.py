"""Writes docs/cli.md from the program's own help texts.

python docs/make_cli_page.py
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from judge.cli.main import COMMANDS, app, subcommands

HEAD = "# Commands\n\nWritten by `python docs/make_cli_page.py`; a test compares it with the program.\n"


def help_of(name: str) -> str:
    """Return the help of a command (empty: of the program) as an 80-column terminal shows it."""
    shown = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}), contextlib.redirect_stdout(shown):
        app(args=[*name.split(), "--help"], prog_name="judge", standalone_mode=False)
    return shown.getvalue().strip()


def page() -> str:
    """Return the page: the help of every command, in groups and in the order of the work."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    yield HEAD
    yield f"```\n{help_of('')}\n```\n"
    for title, commands in COMMANDS.items():
        yield f"## {title}\n"
        for command in commands:
            for name in (command, *(f"{command} {sub}" for sub in subcommands(command))):
                yield f"### `judge {name}`\n\n```\n{help_of(name)}\n```\n"


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page(), encoding="utf-8")
