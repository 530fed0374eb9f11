"""How far a command travels through the code: files entered, places, functions, moves from one file to another.

    python tools/trip.py COMMAND ARGUMENT…
    python tools/trip.py score MODEL one.csv -o p.parquet --readout transformers
    python tools/trip.py --steps train --config config.yaml -o judge

Only functions of `judge` and `quantize` count, in the main process and its first thread. A place is a folder, or a file
beside the folders of `judge`. A move is a call that enters another file than the call before it. `--steps` prints every
move. The figures go to standard error; compare them before and after a change with a table of one row.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(f"{ROOT / name}{os.sep}" for name in ("judge", "quantize"))
# What Python calls by itself where the code has an expression.
EXPRESSIONS = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>", "<lambda>")


class Trip:
    """Watches calls (see `sys.setprofile`).

    Attributes:
        calls: how often each function was entered, by file and name.
        steps: the functions entered between two moves, with their file.
    """

    def __init__(self) -> None:
        self.calls, self.steps = Counter[tuple[str, str]](), list[tuple[str, Counter[str]]]()

    def watch(self, frame: FrameType, event: str, _: Any) -> None:
        """Take a call."""
        code = frame.f_code
        is_ours = code.co_filename.startswith(PACKAGES) and code.co_flags & 1  # 1: a function, no class or module
        if event != "call" or not is_ours or code.co_name in EXPRESSIONS:
            return
        name = os.path.relpath(code.co_filename, ROOT)
        self.calls[name, code.co_qualname] += 1
        if not self.steps or self.steps[-1][0] != name:
            self.steps.append((name, Counter()))
        self.steps[-1][1][code.co_qualname] += 1

    def figures(self) -> str:
        """Return the figures in one line."""
        files = {name for name, _ in self.calls}
        places = {name if name.count(os.sep) == 1 else str(Path(name).parent) for name in files}
        return (
            f"{len(files)} files in {len(places)} places, {len(self.calls)} functions, "
            f"{len(self.steps)} moves between files"
        )


def main() -> None:
    """Run a command of judge and print how far it travels."""
    shows_steps = sys.argv[1:2] == ["--steps"]
    sys.argv = ["judge", *sys.argv[1 + shows_steps :]]
    sys.path.insert(0, str(ROOT))
    command = import_module("judge.cli.main").main
    trip = Trip()
    sys.setprofile(trip.watch)
    try:
        command()
    finally:
        sys.setprofile(None)
        for number, (name, functions) in enumerate(trip.steps if shows_steps else [], start=1):
            print(f"{number:4} {name}: {', '.join(functions)}", file=sys.stderr)
        print(trip.figures(), file=sys.stderr)


if __name__ == "__main__":
    main()
