"""`judge drift`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import Base, CellsOption, Restart
from judge.errors import printable
from judge.runs.terminal import Terminal
from judge.scoring.settings import ScoreSettings
from judge.stats.resample import Estimate
from quantize.drift import DEFAULT_ROWS, run_drift
from quantize.drift_figures import Drift, Limits, StageFigures


def drift(
    stages: Annotated[
        list[Path], typer.Argument(help="Folders, in the order in which they were made: base, bundle, merged, 4-bit.")
    ],
    data: Annotated[Path, typer.Option(help="Table of comparisons, best labelled; rows that trained are left out.")],
    limits: Annotated[Limits, Flags()],
    settings: Annotated[ScoreSettings, Flags("readout dtype device weights")],
    rows: Annotated[int, typer.Option(help="Most rows to measure on, drawn at random.")] = DEFAULT_ROWS,
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 0,
    base: Base = None,
    cells: CellsOption = "auto",
    restart: Restart = False,
) -> None:
    """Say what merging and quantising changed about the verdicts; exit status 1 if it is too much.

    The first stage that is a judge is the reference. The figures are kept in the last stage's folder (drift.json).
    """
    with Terminal() as terminal:
        found = run_drift(
            stages, data, settings, limits, terminal, base=base, rows=rows, seed=seed, cells=cells, restart=restart
        )
    for line in drift_lines(found):
        typer.echo(line)
    if not found.passed:
        raise typer.Exit(1)


def drift_lines(drift: Drift) -> Iterator[str]:
    """Yield the figures as an aligned table, and what they come to."""
    prompts = f"{drift.groups:,} prompts, {drift.labelled_rows:,} of the rows labelled"
    yield f"{drift.rows:,} rows of {drift.table}, {prompts}; reference: {drift.stages[drift.reference].name}"
    width = max(len(_title(stage)) for stage in drift.stages)
    yield (
        f"{'stage':<{width}}  log loss  {'change (95 % over prompts)':<28}{'mean KL':>9}{'max |Δp|':>10}"
        f"{'flips':>8}{'mass':>8}"
    )
    for number, stage in enumerate(drift.stages):
        yield f"{_title(stage):<{width}}  {_row(stage, number == drift.reference)}"
    for note in drift.notes:
        yield f"note: {note}"
    for stage in drift.stages[drift.reference + 1 :]:
        if stage.failed:
            yield f"FAIL {stage.name}: {', '.join(stage.failed)}"
    if drift.passed:
        limits = f"log loss +{drift.limits.log_loss:g}, flips {drift.limits.flips:.1%}"
        yield f"PASS: no stage after the reference is beyond the limits ({limits})"


def _title(stage: StageFigures) -> str:
    return f"{stage.kind} {printable(stage.name, 40)}"


def _row(stage: StageFigures, is_reference: bool) -> str:
    loss = f"{stage.log_loss.value:8.4f}" if stage.log_loss else f"{'-':>8}"
    mass = f"{stage.median_verdict_mass:8.4f}" if stage.median_verdict_mass is not None else f"{'-':>8}"
    if is_reference:
        return f"{loss}  {'(reference)':<28}{'-':>9}{'-':>10}{'-':>8}{mass}"
    change = _change(stage.log_loss_change)
    return f"{loss}  {change:<28}{stage.mean_kl:9.5f}{stage.largest_change:10.4f}{stage.flips:8.1%}{mass}"


def _change(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (None if x is None else f"{round(x, 4) + 0.0:+.4f}" for x in vars(estimate).values())
    return f"{value} ({low} to {high})" if low is not None else f"{value}"
