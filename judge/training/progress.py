"""What a person sees while a judge is trained: a bar with loss and time left, lines in a log, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from judge.progress import duration

_LINE_EVERY = 30.0  # seconds between the lines of a log


class TrainingTerminal:
    """Shows the events of a training run on standard error, and its figures on standard output."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, quiet: bool = False) -> None:
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self._out = Console(highlight=False, markup=False, emoji=False, quiet=quiet)
        self._clock = clock
        self._bar: Progress | None = None
        self._task: Any = None
        self._first: tuple[float, int] | None = None
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
            self._task = self._bar.add_task("checking", total=None, text="")
            self._bar.start()

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def reading(self, rows: int) -> None:
        """Show how many rows have been read and tokenised."""
        self._show("reading", None, None, f"{rows:,} rows")

    def step(self, step: int, steps: int, loss: float | None) -> None:
        """Show how far the training is, the loss, and the time left."""
        now = self._clock()
        if self._first is None:
            self._first = (now, step)
        text = f"step {step:,} of {steps:,}"
        if loss is not None:
            text += f", loss {loss:.3f}"
        seconds, done = now - self._first[0], step - self._first[1]
        if done > 0:
            text += f", {duration((steps - step) * seconds / done)} left"
        self._show("training", step, steps, text)

    def evaluated(self, step: int, figures: dict[str, Any]) -> None:
        """Print the held-out figures of a step."""
        when = "before training" if step == 0 else f"step {step:,}"
        self._err.print(
            f"{when}: held-out log loss {figures['log_loss']:.4f}, accuracy {figures['accuracy']:.1%}, "
            f"verdict mass {figures['verdict_mass']:.4f}",
            soft_wrap=True,
        )

    def print_lines(self, lines: list[str]) -> None:
        """Print lines on standard output."""
        for line in lines:
            self._out.print(line, soft_wrap=True)

    def _show(self, what: str, done: int | None, total: int | None, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done or 0, total=total, text=text)
        elif self._clock() - self._last_line >= _LINE_EVERY:
            self._last_line = self._clock()
            self._err.print(f"{what}: {text}", soft_wrap=True)
