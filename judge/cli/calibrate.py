"""`judge calibrate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.calibration.bundle import Calibrated, calibrate_files, remove_calibration
from judge.calibration.calibrate import CalibrateResult, CalibrateSettings
from judge.cli.commands import Flags
from judge.cli.options import AsJson, Base
from judge.errors import JudgeError, counted
from judge.evaluation.judged_rows import left_out_text
from judge.models.calibration import ORDERS
from judge.models.judge_file import FILE
from judge.stats.resample import CONFIDENCE, Estimate
from judge.stats.words import interval


def calibrate(
    settings: Annotated[CalibrateSettings, Flags()],
    predictions: Annotated[
        Path | None,
        typer.Argument(help="Held-out predictions that judge score wrote: .parquet, .csv, or a submission."),
    ] = None,
    table: Annotated[
        Path | None, typer.Argument(help="The labelled table of the same ids: .csv, .parquet or .jsonl.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The judge that wrote them: a calibration that helps is stored in it.")
    ] = None,
    base: Base = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the calibration out of --bundle; nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit a correction of a judge's probabilities on held-out predictions; keep it only if it is shown to help.

    judge score applies what is stored in the bundle.
    """
    if remove:
        if bundle is None or predictions is not None:
            raise JudgeError("--remove goes with --bundle FOLDER and nothing else")
        removed = remove_calibration(bundle)
        gone = f"removed the calibration from {bundle} ({removed.in_words()})" if removed else None
        typer.echo(gone or f"{bundle} has no calibration")
    elif predictions is None or table is None:
        raise JudgeError("give the predictions and their labelled table: judge calibrate PREDICTIONS TABLE")
    else:
        found = calibrate_files(predictions, table, settings, bundle, base, _nothing if as_json else typer.echo)
        for line in [json_text(found)] if as_json else text_lines(found):
            typer.echo(line)


def _nothing(_: str) -> None:
    """Show nothing: a JSON object stands alone on standard output."""


def json_text(found: Calibrated) -> str:
    """Return the result as a JSON object of several lines; its `calibration` is what a bundle would keep, or null."""
    result = found.result
    content: dict[str, Any] = asdict(result)
    content["settings"] = {**result.settings.model_dump(), "level": CONFIDENCE}
    for method, tried in result.methods.items():
        own = tried.calibration
        content["methods"][method]["calibration"] = {
            **own.model_dump(include={"scale", "bias"}),
            "in_words": own.in_words(),
        }
    content["calibration"] = found.calibration.model_dump(mode="json") if result.accepted else None
    return json.dumps(content, indent=1, allow_nan=False)


def text_lines(found: Calibrated) -> Iterator[str]:
    """Yield the figures as aligned lines of plain text, and what has become of the calibration."""
    yield from _figure_lines(found.result)
    yield ""
    yield from _outcome(found)


def _figure_lines(result: CalibrateResult) -> Iterator[str]:
    rows = result.rows
    left_out = left_out_text(rows.unlabelled, rows.unpredicted, rows.dropped, "this judge", rows.not_scored)
    yield _line("predictions", f"{result.predictions}, {ORDERS[result.orders]}")
    yield _line(
        "table",
        f"{result.table}, {rows.used:,} labelled rows in {counted(result.groups, 'prompt group')}{left_out}",
    )
    yield ""
    yield f"out of fold ({result.settings.folds} folds of prompts)"
    yield _line("", f" log loss  lower by  {f'{CONFIDENCE:.0%} interval':<20}  ECE")
    yield _line("as read", f"{result.log_loss.value:9.4f}  {'':8}  {'':20}{result.ece:7.4f}")
    yield _line("class rates", f"{result.class_rates_log_loss:9.4f}")
    for method, found in result.methods.items():
        yield _line(method, _figures(found.figures.log_loss, found.figures.gain, found.figures.ece))
    if len(result.methods) > 1:
        after = result.after
        yield _line("best, nested", _figures(after.log_loss, after.gain, after.ece))
    for name, reason in result.left_out.items():
        yield _line(name, f"left out: {reason}")
    if result.warnings:
        yield ""
    for warning in result.warnings:
        yield f"warning: {warning}"


def _outcome(found: Calibrated) -> Iterator[str]:
    """Yield what was found and what has become of it."""
    result, model = found.result, found.model
    words = f"{result.chosen}: {result.methods[result.chosen].calibration.in_words()}"
    old = model.judge.calibration if model is not None and model.judge is not None else None
    if not result.accepted:
        yield f"no gain: the interval of {_the_gain(result)} does not lie above zero; nothing is stored"
        yield f"(the best was {words})" if len(result.methods) > 1 else f"({words})"
        if model is not None and old is not None:
            yield f"{model.folder} keeps the calibration that it has ({old.in_words()}); --remove takes it out"
        return
    yield words
    loss, ece = result.log_loss.value, result.ece
    after = result.after
    yield f"log loss {loss:.4f} -> {after.log_loss.value:.4f}, ECE {ece:.4f} -> {after.ece:.4f}, both out of fold"
    if model is None:
        yield "not stored: with --bundle FOLDER, judge score applies it from then on"
    else:
        replaced = ", in place of the one that was there" if old is not None else ""
        yield f"stored in {model.folder / FILE}{replaced}; judge score applies it from now on"


def _the_gain(result: CalibrateResult) -> str:
    return "the best method's gain, its choice included," if len(result.methods) > 1 else "its gain"


def _figures(loss: Estimate, gain: Estimate, ece: float) -> str:
    return f"{loss.value:9.4f}  {gain.value:+8.4f}  {interval(gain, '+.4f'):<20}{ece:7.4f}"


def _line(name: str, text: str) -> str:
    return f"{name:18}{text}"
