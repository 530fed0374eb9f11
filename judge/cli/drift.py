"""`judge drift`."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from judge.cli.commands import Flags
from judge.cli.options import Base, CellsOption, Restart
from judge.errors import JudgeError, RunInterrupted, printable
from judge.files import whole_file
from judge.models.bundle import ModelFolder, is_adapter, open_model
from judge.runs.terminal import Terminal
from judge.scoring.settings import ScoreSettings
from judge.stats.resample import Estimate
from judge.tables.comparison import Cells
from judge.tables.table import Table
from judge.version import __version__
from quantize.drift import FILE, choose_rows, measure_drift
from quantize.drift_figures import Drift, Limits, StageFigures

DEFAULT_ROWS = 1000


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
    found = run_drift(stages, data, settings, limits, base=base, rows=rows, seed=seed, cells=cells, restart=restart)
    for line in drift_lines(found):
        typer.echo(line)
    if not found.passed:
        raise typer.Exit(1)


def run_drift(
    folders: Sequence[Path],
    data: Path,
    settings: ScoreSettings,
    limits: Limits,
    *,
    base: Path | None = None,
    rows: int = DEFAULT_ROWS,
    seed: int = 0,
    cells: Cells = "auto",
    restart: bool = False,
) -> Drift:
    """Measure the drift over stages and keep the result with the last one, if that is a judge.

    Raises:
        JudgeError: a mistake in the input.
        RunInterrupted: the user pressed Ctrl-C; the same command goes on.
    """
    if len(folders) < 2:
        raise JudgeError("drift compares stages: give at least two folders, such as the bundle and the 4-bit model")
    if rows < 1 or seed < 0 or min(limits.log_loss, limits.flips) < 0:
        raise JudgeError("--rows must be at least 1, and --seed and the limits 0 or more")
    stages = [_open_stage(folder, base) for folder in folders]
    table = Table.open(data, cells, "placeholder")
    work = _work_folder(stages[-1])
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        with Terminal() as terminal:
            chosen = choose_rows(stages, table, rows, seed, work)
            found = measure_drift(stages, chosen, settings, limits, work, terminal)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping the engines takes some seconds
        raise RunInterrupted(f"stopped; what is finished is kept in {work}: give the same command to go on") from None
    except JudgeError:
        if not any(work.glob("stage-*")):  # a mistake in the table: nothing is left behind
            shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    _keep(stages[-1], found, table, terminal)
    return found


def _open_stage(folder: Path, base: Path | None) -> ModelFolder:
    """Open a stage; `--base` is for those that are adapters."""
    return open_model(folder, base if is_adapter(folder) else None)


def _work_folder(last: ModelFolder) -> Path:
    return last.folder.with_name(f"{last.folder.name}.drift.parts")


def _keep(last: ModelFolder, drift: Drift, table: Table, terminal: Terminal) -> None:
    """Write the figures into the last stage's folder; a folder that cannot be written to is no error."""
    if last.judge is None:
        return
    record = {
        "version": __version__,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "table_digest": table.digest(),
        **drift.record(),
    }
    path = last.folder / FILE
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        terminal.warn(f"{path}: cannot be written ({error.strerror}); the figures are not kept")


def default_table(model: ModelFolder, data: Sequence[Path] | None) -> Path:
    """Return the table to measure the drift of a newly quantised model on, where none is named.

    That is the table that the judge was evaluated on while training, or the one that trained it: its held-out rows
    are told from the others by their fingerprints.

    Raises:
        JudgeError: there is no such table, or there are several.
    """
    evaluated_on = model.judge.setting("eval_data") if model.judge else None
    trained_on = model.judge.setting("data", ()) if model.judge else ()
    paths = [evaluated_on] if evaluated_on else [*(data or trained_on)]
    found = [Path(str(path)) for path in paths]
    if len(found) == 1 and found[0].is_file():
        return found[0]
    reason = "there are several tables" if len(found) > 1 else "no table is known" if not found else "it is gone"
    named = f" ({printable(', '.join(map(str, found)), 200)})" if found else ""
    raise JudgeError(
        f"which rows to measure the drift on? {reason}{named}; give a labelled table with --drift-data, or --no-drift"
    )


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
