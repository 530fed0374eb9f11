"""`judge score`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.options import Base, CellsOption, Model, OnBadRowOption, Restart, TableFile
from judge.deadline import Deadline, leave_abandoned, parse_deadline, process_began
from judge.engine.protocol import EngineConfig
from judge.errors import counted
from judge.predictions.predictions import what_is_missing
from judge.predictions.submission import SubmissionOptions
from judge.runs.terminal import Terminal, duration
from judge.scoring.score import ScoreRequest, score_table
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow

# A median verdict mass below this means that the model was hardly taught to answer with a verdict.
LOW_MASS = 0.5
# What is worth a word about a table's texts (see `judge.tables.table.Table.counts`).
_ODD = ("null_turn", "empty_text", "empty_list", "ragged", "identical", "surrogate", "bad_cell", "multi_turn")


def score(
    model: Model,
    table: TableFile,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Predictions: .parquet or .csv; without a suffix, a folder of Parquet files."
        ),
    ],
    settings: Annotated[ScoreSettings, Flags("swap calibration template max_tokens truncation shares *")],
    submission: Annotated[SubmissionOptions, Flags()],
    base: Base = None,
    cells: CellsOption = "auto",
    on_bad_row: OnBadRowOption = "error",
    deadline: Annotated[
        str | None,
        typer.Option(
            help="End by then, complete: 8h30m from the start, or a clock time such as 2026-11-22T07:30. What there is "
            "no time for is given up in a stated order and flagged."
        ),
    ] = None,
    restart: Restart = False,
) -> None:
    """Score a table of comparisons: the probabilities that A, B or neither is preferred.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    run_score(
        model,
        table,
        output,
        settings,
        submission,
        cells=cells,
        on_bad_row=on_bad_row,
        restart=restart,
        base=base,
        deadline=parse_deadline(deadline, process_began()) if deadline is not None else None,
    )


def run_score(
    model: Path,
    table: Path,
    output: Path,
    settings: ScoreSettings,
    submission: SubmissionOptions,
    *,
    cells: Cells,
    on_bad_row: OnBadRow,
    restart: bool,
    base: Path | None = None,
    deadline: Deadline | None = None,
) -> None:
    """Score a table file, with a bar or lines of progress, and print the figures.

    Raises:
        JudgeError: any mistake in the input or the settings; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    request = ScoreRequest(
        model, table, output, settings, submission, cells, on_bad_row, restart, base, deadline or Deadline()
    )
    with Terminal() as terminal:
        scored = score_table(request, terminal)
    if scored.quick_rows is not None:
        rows = counted(scored.quick_rows, "row")
        terminal.print_lines([f"wrote {submission.path}: a third for each verdict of {rows}, without a model"])
    elif scored.figures is not None and scored.config is not None:
        spent = duration(scored.figures["seconds"])
        lines = [*figure_lines(scored.figures, scored.config, spent), f"wrote {output}"]
        terminal.print_lines([*lines[:-1], lines[-1] + (f" and {submission.path}" if submission.path else "")])
        mass = scored.figures["median_verdict_mass"]
        if mass is not None and mass < LOW_MASS and scored.was_taught_mass:
            terminal.warn(
                f"the model puts only {mass:.1%} of its probability on the three verdicts "
                "(median): it was probably not taught this template, and its probabilities mean little"
            )
    leave_abandoned()


def figure_lines(figures: dict[str, Any], config: EngineConfig, spent: str) -> Iterator[str]:
    """Yield the figures of a finished run, a label and a value a line.

    Args:
        spent: the time of the reading, in words.
    """
    counts = figures["table"]
    unusual = ", ".join(f"{counts[kind]:,} {kind.replace('_', ' ')}" for kind in _ODD if counts.get(kind))
    yield _line("rows", f"{figures['rows']:,}" + (f" ({unusual})" if unusual else ""))
    cut = f", {figures['cut_rows']:,} rows cut" if figures["cut_rows"] else ", none cut"
    yield _line("prompt", f"{figures['mean_prompt_tokens']:,.0f} tokens on average{cut}")
    if figures["swapped_rows"]:
        yield _line("both orders", f"{figures['swapped_rows']:,} rows")
    a, b, tie = figures["mean_p"]
    yield _line("mean p", f"A {a:.3f}   B {b:.3f}   tie {tie:.3f}")
    if figures["median_verdict_mass"] is not None:
        yield _line("verdict mass", f"{figures['median_verdict_mass']:.4f} (median)")
    if figures.get("labelled_rows"):
        loss, uniform = f"{figures['log_loss']:.4f}", f"{figures['uniform_log_loss']:.4f}"
        labelled = f"{figures['labelled_rows']:,} labelled rows (saying nothing: {uniform})"
        yield _line("log loss", f"{loss} on {labelled}, accuracy {figures['accuracy']:.1%}")
    if figures["trained_on_rows"]:
        yield _line("trained on", f"{figures['trained_on_rows']:,} rows; they do not count in the log loss")
    if figures["not_scored_rows"]:
        yield _line("not scored", f"{figures['not_scored_rows']:,} rows (they got 1/3 each and a flag)")
    if "given_up" in figures:
        missing = what_is_missing(figures).removeprefix(", but ") or "nothing was given up"
        yield _line("deadline", f"{figures['given_up']['deadline']}: {missing}")
    if figures["seconds"] > 0:
        speed = f"{figures['tokens'] / figures['seconds']:,.0f} tokens/s, {spent}"
        yield _line("speed", f"{speed} ({config.readout}, {config.dtype}, {config.device})")


def _line(label: str, text: str) -> str:
    return f"{label:14}{text}"
