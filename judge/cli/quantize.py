"""`judge quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.drift import drift_lines
from judge.files import check_new_folder
from judge.models.bundle import open_model
from judge.runs.terminal import Terminal, duration
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import VERDICTS, Cells
from quantize.awq import back_end, check_model, quantize_model
from quantize.calibration_prompts import calibration_prompts
from quantize.drift import default_table, run_drift
from quantize.drift_figures import Limits
from quantize.layers import SizeReport
from quantize.settings import QuantizeSettings


def quantize(
    model: Annotated[Path, typer.Argument(help="Merged judge, or any 16-bit model folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the 4-bit model.")],
    settings: Annotated[QuantizeSettings, Flags()],
    limits: Annotated[Limits, Flags()],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled table to calibrate on; may be given more than once. [default: what trained it]"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template. [default: the bundle's, otherwise side-by-side]")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--drift/--no-drift", help="Measure what it changed, as judge drift.")
    ] = True,
    drift_data: Annotated[
        Path | None,
        typer.Option(help="Table to measure on. [default: the rows of the training table that were held out]"),
    ] = None,
) -> None:
    """Write a 4-bit AWQ copy of a judge, calibrated on its own prompts, and measure the drift.

    Exit status 1 if the drift is too much; the 4-bit model is kept all the same. Interrupted work starts over.
    """
    options = DriftOptions(limits, drift_data) if measure else None
    if not run_quantize(model, output, data, settings, template=template, drift=options):
        raise typer.Exit(1)


@dataclass(frozen=True)
class DriftOptions:
    """How to measure the drift at the end: the limits, and the table, by default what was held out in training."""

    limits: Limits
    data: Path | None = None


def run_quantize(
    model: Path,
    output: Path,
    data: Sequence[Path] | None,
    settings: QuantizeSettings,
    *,
    template: str | None = None,
    cells: Cells | None = None,
    drift: DriftOptions | None = None,
) -> bool:
    """Quantise a model folder, print what came of it, and measure the drift if wanted.

    Args:
        data: labelled tables to calibrate on; None for those that trained the judge.
        template: another prompt template than the bundle's.
        drift: how to measure the drift; None for not at all.

    Returns:
        Whether the drift is within the limits; true where it was not measured.

    Raises:
        JudgeError: anything a user can mend.
        RunInterrupted: Ctrl-C; nothing is kept.
    """
    terminal = Terminal()
    folder = open_model(model)
    check_model(folder)
    check_new_folder(output)
    back_end(settings.backend)  # a missing library is said before a table is read
    drift_table = (drift.data or default_table(folder, data)) if drift else None
    terminal.begin()
    try:
        calibration = calibration_prompts(
            folder, data, settings.samples, settings.sample_tokens, settings.seed, template, cells
        )
        for text in calibration.warnings:
            terminal.warn(text)
        report, figures = quantize_model(
            folder, output, calibration.ids, settings, terminal, record=calibration.figures
        )
    finally:
        terminal.end()
    terminal.print_lines(report_lines(report, figures))
    terminal.print_lines([f"wrote {output}"])
    if drift is None or drift_table is None:
        return True
    scoring = ScoreSettings(device=settings.device, template=template)
    with Terminal() as terminal:
        found = run_drift([model, output], drift_table, scoring, drift.limits, terminal)
    terminal.print_lines(drift_lines(found))
    return found.passed


def report_lines(report: SizeReport, figures: dict[str, Any]) -> list[str]:
    """Return the lines that are printed when a model is quantised."""
    calibration = figures["calibration"]
    counts = ", ".join(f"{n} {name}" for n, name in zip(calibration["verdicts"], VERDICTS, strict=True))
    lines = [
        ("back end", f"{figures['backend']} ({figures['layout']}), groups of {figures['group_size']}"),
        ("calibration", f"{calibration['samples']} prompts, {calibration['tokens']:,} tokens ({counts})"),
        *report.lines(),
        ("time", duration(figures["seconds"])),
    ]
    return [f"{name:14}{text}" for name, text in lines]
