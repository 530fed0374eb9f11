"""What a person sees during a long run: a progress bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from judge.deadline import Deadline
from judge.engine.protocol import EngineConfig
from judge.errors import counted

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

    Attributes:
        first_task: what the bar says before anything else is shown.
    """

    first_task = "checking"

    def __init__(self, clock: Callable[[], float] = time.monotonic, quiet: bool = False) -> None:
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self._out = Console(highlight=False, markup=False, emoji=False, quiet=quiet)
        self._clock = clock
        self._bar: Progress | None = None
        self._task: Any = None
        self._first: tuple[float, int] | None = None
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
        """Show how far a step is, its speed if wanted, and the time left where that can be told."""
        now = self._clock()
        if self._step is None or self._step[0] != what:
            self._step = (what, now, done or 0.0)
        seconds, fresh = now - self._step[1], (done or 0.0) - self._step[2]
        if done is not None and total is not None and seconds > _SECONDS_UNTIL_SPEED and fresh > 0 and done < total:
            speed = fresh / seconds
            text += (f", {speed:,.0f} {rate}" if rate else "") + f", {duration((total - done) / speed)} left"
        self._show(what, done, total, text.removeprefix(", "))

    def _show(self, what: str, done: float | None, total: float | None, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done or 0, total=total, text=text)
        elif self._clock() - self._last_line >= _LINE_EVERY:
            self._last_line = self._clock()
            self._err.print(f"{what}: {text}" if text else what, soft_wrap=True)


class ReadingTerminal(Terminal):
    """Shows how far the reading of a table is whose number of rows is known."""

    first_task = "reading the table"

    def __init__(self, rows: int, clock: Callable[[], float] = time.monotonic, quiet: bool = False) -> None:
        super().__init__(clock, quiet)
        self._rows = rows

    def __enter__(self) -> ReadingTerminal:
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def read(self, rows: int) -> None:
        """Show that so many rows have been read, and how long the rest takes."""
        now = self._clock()
        if self._first is None:
            self._first = (now, rows)
        text = f"{rows:,} of {self._rows:,} rows"
        seconds, done = now - self._first[0], rows - self._first[1]
        if seconds > 1 and done > 0 and rows < self._rows:
            text += f", {duration((self._rows - rows) * seconds / done)} left"
        self._show("computing the figures" if rows >= self._rows else self.first_task, rows, self._rows, text)


class ScoringTerminal(Terminal):
    """Shows the events of scoring a table, and its figures."""

    first_task = "hashing the model"

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, quiet: bool = False, deadline: Deadline | None = None
    ) -> None:
        super().__init__(clock, quiet)
        self._deadline = deadline

    def prepared(self, rows: int) -> None:
        """Show how many rows have been read and tokenised."""
        self._show("reading the table", None, None, f"{rows:,} rows")

    def loading(self) -> None:
        """Show that the engine still loads the model."""
        self._show("loading the model", None, None, "")

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """Show how far the scoring is, how fast it goes and how long it still takes."""
        now = self._clock()
        if self._first is None:
            self._first = (now, tokens)
        text = f"{prompts:,} of {all_prompts:,} prompts"
        seconds, done = now - self._first[0], tokens - self._first[1]
        if seconds > 2 and done > 0:
            speed = done / seconds
            text += f", {speed:,.0f} tokens/s, {duration((all_tokens - tokens) / speed)} left"
        if self._deadline is not None:
            text += f"; {duration(max(self._deadline.at - now, 0))} to the deadline"
        self._show("scoring", tokens, all_tokens, text)

    def report(self, figures: dict[str, Any], config: EngineConfig, output: Path, submission: Path | None) -> None:
        """Print the figures of a finished run."""
        self.print_lines(f"{name:14}{value}" for name, value in _lines(figures, config))
        self.print_lines([f"wrote {output}" + (f" and {submission}" if submission else "")])


def _lines(figures: dict[str, Any], config: EngineConfig) -> list[tuple[str, str]]:
    counts, rows = figures["table"], figures["rows"]
    odd = (
        "null_turn",
        "empty_text",
        "empty_list",
        "ragged",
        "identical",
        "surrogate",
        "bad_cell",
        "multi_turn",
    )
    unusual = [f"{counts[k]:,} {k.replace('_', ' ')}" for k in odd if counts.get(k)]
    lines = [("rows", f"{rows:,}" + (f" ({', '.join(unusual)})" if unusual else ""))]
    cut = f", {figures['cut_rows']:,} rows cut" if figures["cut_rows"] else ", none cut"
    lines.append(("prompt", f"{figures['mean_prompt_tokens']:,.0f} tokens on average{cut}"))
    if figures["swapped_rows"]:
        lines.append(("both orders", f"{figures['swapped_rows']:,} rows"))
    a, b, tie = figures["mean_p"]
    lines.append(("mean p", f"A {a:.3f}   B {b:.3f}   tie {tie:.3f}"))
    if figures["median_verdict_mass"] is not None:
        lines.append(("verdict mass", f"{figures['median_verdict_mass']:.4f} (median)"))
    if figures.get("labelled_rows"):
        lines.append(
            (
                "log loss",
                f"{figures['log_loss']:.4f} on {figures['labelled_rows']:,} labelled rows "
                f"(saying nothing: {figures['uniform_log_loss']:.4f}), accuracy {figures['accuracy']:.1%}",
            )
        )
    if figures["trained_on_rows"]:
        lines.append(("trained on", f"{figures['trained_on_rows']:,} rows; they do not count in the log loss"))
    if figures["not_scored_rows"]:
        lines.append(("not scored", f"{figures['not_scored_rows']:,} rows (they got 1/3 each and a flag)"))
    if "given_up" in figures:
        missing = what_is_missing(figures).removeprefix(", but ")
        lines.append(("deadline", f"{figures['given_up']['deadline']}: {missing or 'nothing was given up'}"))
    if figures["seconds"] > 0:
        speed = f"{figures['tokens'] / figures['seconds']:,.0f} tokens/s"
        where = f"{config.readout}, {config.dtype}, {config.device}"
        lines.append(("speed", f"{speed}, {duration(figures['seconds'])} ({where})"))
    return lines


def what_is_missing(figures: dict[str, Any]) -> str:
    """Return what a finished run gave up for its deadline, as `, but …`; nothing if nothing.

    Args:
        figures: of the run (`judge.predictions.predictions.summary`).
    """
    given_up = figures.get("given_up")
    if not isinstance(given_up, dict):
        return ""
    found = []
    if rows := given_up["swap_left_out_rows"]:
        found.append(f"{rows:,} rows lack the exchanged order")
    if rows := given_up["smaller_budget_rows"]:
        found.append(f"{rows:,} rows were cut to fewer tokens ({given_up['smallest_budget']:,} at least)")
    if rows := given_up["prior_rows"]:
        a, b, tie = given_up["prior"]
        found.append(f"{counted(rows, 'row')} got the class priors (A {a:.3f}   B {b:.3f}   tie {tie:.3f})")
    return f", but {'; '.join(found)}" if found else ""
