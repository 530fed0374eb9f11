"""`judge show`.

All texts are hostile: they are shown through `visible` and as `rich.text.Text`, never as markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table as Grid
from rich.text import Text

from judge.cli.options import PredictionsFile, TableFile
from judge.errors import JudgeError, counted
from judge.evaluation.row_facts import facts_of, gathered
from judge.evaluation.shown_row import ShownRow, find_row
from judge.predictions.file import read_predictions
from judge.prompting.verdict import Float
from judge.stats.metrics import log_losses
from judge.tables.comparison import VERDICTS, Turns
from judge.tables.table import Table

# A and B stand side by side from this many columns on.
SIDE_BY_SIDE = 80
_BAR = 16  # columns of a probability of 1, where there is room
_BESIDE_BAR = 13  # of the verdict's name, its probability and the blanks between them
_NARROWEST = 20
JOINERS = "\u200c\u200d"


CONTEXT = {"ignore_unknown_options": True}  # an id may begin with a minus


def show(
    predictions: PredictionsFile,
    table: TableFile,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The row's id in the table.")],
    width: Annotated[int | None, typer.Option(help="Columns to use. [default: the terminal's]")] = None,
) -> None:
    """Print one comparison: the conversation with A and B side by side, people's verdict and the judge's."""
    run_show(predictions, table, row_id, width)


def run_show(
    predictions: Path, table: Path, row_id: str, width: int | None = None, console: Console | None = None
) -> None:
    """Print one comparison.

    Args:
        predictions: file of `judge score`, or a submission.
        table: its table; labels may be missing.
        row_id: as the table has it.
        width: columns to use. [default: the terminal's]
        console: where to print; standard output if None.

    Raises:
        JudgeError: a file cannot be read, or one of them has no row of this id.
    """
    if width is not None and width < _NARROWEST:
        raise JudgeError(f"--width={width}: expected {_NARROWEST} or more")
    console = console or Console(highlight=False, markup=False, emoji=False, width=width)
    shown = find_row(read_predictions(predictions), Table.open(table, on_bad_row="placeholder"), row_id)
    for part in rendered(shown, console.width, console.options.ascii_only):
        console.print(part)


def visible(text: str, ascii_only: bool = False) -> str:
    """Return text with every character that does not show shown as a Python escape; line breaks and spaces stay.

    Control and escape characters, direction marks and other format characters, private and unassigned characters and
    lone surrogates become escapes; a joiner between two letters is part of their spelling (Persian, Hindi) and stays.
    `\\r\\n` counts as a line break; `ascii_only` is for terminals that know no more.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(
        "".join(
            c if c in JOINERS and not ascii_only and _spells(line, i) else _visible(c, ascii_only)
            for i, c in enumerate(line)
        )
        for line in lines
    )


def _spells(line: str, i: int) -> bool:
    """Return whether letters or marks of a script that is not Latin stand on both sides of a place."""
    sides = (line[i - 1 : i], line[i + 1 : i + 2])
    return all(c and not c.isascii() and unicodedata.category(c)[0] in "LM" for c in sides)


def _visible(character: str, ascii_only: bool) -> str:
    shows = character.isprintable() or unicodedata.category(character) == "Zs"
    if shows and (not ascii_only or character.isascii()):
        return character
    return character.encode("unicode_escape").decode("ascii")


def rendered(shown: ShownRow, width: int, ascii_only: bool = False) -> Iterator[RenderableType]:
    """Yield what is printed of a row, for a terminal of `width` columns."""
    yield from _header(shown, ascii_only)
    row, line = shown.row, "-" if ascii_only else "─"
    for turn in range(row.turn_count):
        title = f"turn {turn + 1} of {row.turn_count}" if row.turn_count > 1 else "prompt"
        yield Rule(Text(title, style="bold"), characters=line, align="left")
        yield _turn(row.prompt, turn, ascii_only)
        a, b = (_turn(turns, turn, ascii_only) for turns in (row.response_a, row.response_b))
        yield Text()
        if width >= SIDE_BY_SIDE:
            grid = Grid(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False)
            grid.add_column(Text("A", style="bold cyan"), ratio=1, overflow="fold")
            grid.add_column(Text("B", style="bold magenta"), ratio=1, overflow="fold")
            grid.add_row(a, b)
            yield grid
        else:
            yield Text("A", style="bold cyan")
            yield a
            yield Text("\nB", style="bold magenta")
            yield b
    yield Rule(Text("verdicts", style="bold"), characters=line, align="left")
    yield from _verdicts(shown, width, ascii_only)


def _header(shown: ShownRow, ascii_only: bool) -> Iterator[Text]:
    row = shown.row
    facts = gathered([facts_of(row)])

    def line(name: str, value: str) -> Text:
        # one line a fact: what the table says of a row may hold line breaks too
        return Text(f"{name:10}", style="bold", overflow="fold").append(
            visible(value, ascii_only).replace("\n", "\\n"), style="not bold"
        )

    yield line("id", str(row.id))
    if any(row.models):
        yield line("models", " against ".join(f"{s} {m or '?'}" for s, m in zip("AB", row.models, strict=True)))
    yield line("language", str(facts.language[0]) or "not known")
    if row.source:
        yield line("source", row.source)
    prompt, a, b = (int(n) for n in facts.characters[0])
    yield line("length", f"prompt {counted(prompt, 'character')}, A {a:,}, B {b:,}" + (", cut" if shown.cut else ""))
    names = [str(flag.name).lower().replace("_", " ") for flag in shown.flags]
    declined = [side for side, refusal in zip("AB", facts.refusal[0], strict=True) if refusal]
    names += [f"{' and '.join(declined)} declines" if len(declined) == 1 else "A and B decline"] if declined else []
    if names:
        yield line("flags", ", ".join(names))


def _turn(turns: Turns, turn: int, ascii_only: bool) -> Text:
    text = turns[turn] if turn < len(turns) else "(no such turn)"
    if text is None:
        text = "(null)"
    elif turn < len(turns) and text.strip():
        return Text(visible(text, ascii_only), overflow="fold")
    elif turn < len(turns):
        text = "(empty)" if not text else f"(only white space, {counted(len(text), 'character')})"
    return Text(text, style="dim italic")


def verdict_name(p: Float) -> str:
    """Return the most probable verdict, or all of those that are equally probable: `A`, `A or tie`."""
    return " or ".join(name for name, value in zip(VERDICTS, p, strict=True) if value == p.max())


def _verdicts(shown: ShownRow, width: int, ascii_only: bool) -> Iterator[RenderableType]:
    label, p = shown.row.label, shown.p
    said = verdict_name(p)
    if label < 0:
        yield Text("human     no verdict in the table")
        yield Text(f"judge     {said}")
    else:
        loss = float(log_losses(p[np.newaxis], np.array([label]))[0])
        right = "right" if said == VERDICTS[label] else "wrong" if VERDICTS[label] not in said.split(" or ") else "open"
        yield Text(f"human     {VERDICTS[label]}")
        yield Text(f"judge     {said}, {right}; log loss {loss:.4f} nats (saying nothing: {np.log(3):.4f})")
    if shown.second is not None and shown.first is not None:
        one, two = verdict_name(shown.first), verdict_name(shown.second)
        yield Text("orders    " + (f"both say {one}" if one == two else f"A first says {one}, B first says {two}"))
    yield Text()
    columns = [("judge", p)]
    if shown.second is not None:
        columns += [(name, q) for name, q in (("A first", shown.first), ("B first", shown.second)) if q is not None]
    if width >= SIDE_BY_SIDE:
        yield _bars(columns, ascii_only)
    else:
        for column in columns:
            yield _bars([column], ascii_only, min(_BAR, width - _BESIDE_BAR))


def _bars(columns: list[tuple[str, Float]], ascii_only: bool, longest: int = _BAR) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("", no_wrap=True)
    for name, _ in columns:
        grid.add_column(Text(name, style="bold"), no_wrap=True)
    full, rest = ("#", ".") if ascii_only else ("█", "░")
    for k, verdict in enumerate(VERDICTS):
        cells = []
        for _, p in columns:
            filled = round(longest * float(p[k]))
            cells.append(Text(f"{p[k]:.3f} ").append(full * filled, "blue").append(rest * (longest - filled), "dim"))
        grid.add_row(Text(verdict), *cells)
    return grid
