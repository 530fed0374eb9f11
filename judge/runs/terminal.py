"""What a person sees during a long run: a progress bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY = 30.0  # seconds between the lines of a log
_SECONDS_UNTIL_SPEED = 2.0  # before, a speed says nothing


def duration(seconds: float) -> str:
    """Return seconds as `1 h 02 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Terminal:
    """Standard error with a bar or lines of progress, and standard output for the figures at the end.

    The bar is there between `begin` and `end`, or in a `with` block.

    Attributes:
        first_task: what the bar says before anything else is shown.
    """

    first_task = "checking"

    def __enter__(self) -> Terminal:
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def __init__(self, clock: Callable[[], float] = time.monotonic, quiet: bool = False) -> None:
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self._out = Console(highlight=False, markup=False, emoji=False, quiet=quiet)
        self._clock = clock
        self._bar: Progress | None = None
        self._task: Any = None
        self._step: tuple[str, float, float] | None = None  # its name, when it began, what was done then
        self._last_line = clock()

    def note(self, text: str) -> None:
        """Print one line."""
        self._err.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line that stands out."""
        self._err.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def begin(self) -> None:
        """Start the bar (on a terminal only)."""
        if self._err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                console=self._err,
                transient=True,
            )
            self._task = self._bar.add_task(self.first_task, total=None, text="")
            self._bar.start()

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def print_lines(self, lines: Iterable[str]) -> None:
        """Print lines on standard output."""
        for line in lines:
            self._out.print(line, soft_wrap=True)

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        """Show how far a step is, its speed if wanted, and the time left where that can be told.

        Speed and time left come behind the text, or before its first semicolon.
        """
        now = self._clock()
        if self._step is None or self._step[0] != what:
            self._step = (what, now, done or 0.0)
        seconds, fresh = now - self._step[1], (done or 0.0) - self._step[2]
        if done is not None and total is not None and seconds > _SECONDS_UNTIL_SPEED and fresh > 0 and done < total:
            speed = fresh / seconds
            head, mark, tail = text.partition(";")
            head += (f", {speed:,.0f} {rate}" if rate else "") + f", {duration((total - done) / speed)} left"
            text = head + mark + tail
        self._show(what, done, total, text.removeprefix(", "))

    def _show(self, what: str, done: float | None, total: float | None, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done or 0, total=total, text=text)
        elif self._clock() - self._last_line >= _LINE_EVERY:
            self._last_line = self._clock()
            self._err.print(f"{what}: {text}" if text else what, soft_wrap=True)
