"""Worker programs for tests: real engines that are slow or break as a test wants it, and one that is stuck."""

from __future__ import annotations

import sys
from pathlib import Path


def worker(name: str, *arguments: object) -> tuple[str, ...]:
    """Return the command of a program in this folder; the pool adds the socket and its own process id."""
    return (sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments))
