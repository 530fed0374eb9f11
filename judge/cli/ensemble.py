"""`judge ensemble`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson
from judge.errors import counted
from judge.evaluation.ensemble import Ensemble, EnsembleFigures, Score, parse_weights
from judge.evaluation.ensemble_files import blend_files, content_of
from judge.evaluation.judged_rows import left_out_text
from judge.evaluation.settings import EnsembleSettings
from judge.predictions.submission import SubmissionOptions
from judge.stats.resample import CONFIDENCE
from judge.stats.words import interval


def ensemble(
    members: Annotated[list[Path], typer.Argument(help="What judge score wrote for one table, two files or more.")],
    settings: Annotated[EnsembleSettings, Flags("trained_rows partial resamples seed folds")],
    submission: Annotated[SubmissionOptions, Flags("path sample floor")],
    table: Annotated[
        Path | None, typer.Option(help="Labelled table: the weights are fitted and the blend is measured on it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Blended predictions: .parquet or .csv.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="One for each file, summing to 1, such as 0.6,0.4. [default: fitted; equal without a table]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Blend predictions of several judges, and say whether that is better than the best of them alone."""
    if weights is not None:
        settings = settings.model_copy(update={"weights": parse_weights(weights)})
    for line in run_ensemble(members, table, output, settings, submission, as_json):
        typer.echo(line)


def run_ensemble(
    members: Sequence[Path],
    table: Path | None,
    output: Path | None,
    settings: EnsembleSettings,
    submission: SubmissionOptions | None = None,
    as_json: bool = False,
) -> Iterator[str]:
    """Blend files of predictions and yield the lines to print; see `judge.evaluation.ensemble_files.blend_files`."""
    submission = submission or SubmissionOptions()
    found = blend_files(members, table, output, settings, submission)
    if as_json:
        yield json.dumps(content_of(found, settings), indent=1, allow_nan=False)
        return
    yield from text_lines(found)
    written = [str(path) for path in (output, submission.path) if path is not None]
    if written:
        yield f"wrote {' and '.join(written)}"


def text_lines(found: Ensemble) -> Iterator[str]:
    """Yield what an ensemble is and what was measured as aligned lines of plain text."""
    if found.measured is None:
        width = max(map(len, found.names))
        for name, weight in zip(found.names, found.weights, strict=True):
            yield f"{name:{width}}  weight {weight:.4f}"
        yield f"{counted(len(found.p), 'row')}; nothing was measured: give --table with labels"
        return
    yield from _measured_lines(found, found.measured)


def _measured_lines(found: Ensemble, measured: EnsembleFigures) -> Iterator[str]:
    left_out = left_out_text(measured.unlabelled, measured.unpredicted, measured.dropped, "a member")
    yield f"{measured.table}, {counted(measured.rows, 'row')} in {counted(measured.groups, 'prompt group')}{left_out}"
    yield ""
    blend = "blend, out of fold" if measured.folds else "blend"
    rows = [
        *zip(found.names, (f"{w:.4f}" for w in found.weights), measured.members, strict=True),
        ("equal weights", "", measured.equal),
        (blend, "", measured.blend),
    ]
    width = max(len(name) for name, _, _ in rows)
    title = f"{CONFIDENCE:.0%} interval"
    yield f"{'':{width}}  weight  log loss  {title:16}  accuracy  {title}"
    for name, weight, score in rows:
        yield f"{name:{width}}  {weight:6}{_score(score)}"
    yield ""
    if measured.folds:
        yield f"weights of the {measured.folds} folds: " + ", ".join(
            f"{name} {column.min():.2f} to {column.max():.2f}"
            for name, column in zip(found.names, np.array(measured.fold_weights).T, strict=True)
        )
    yield measured.conclusion
    for warning in measured.warnings:
        yield f"warning: {warning}"


def _score(score: Score) -> str:
    loss, right = score.log_loss, score.accuracy
    return f"  {loss.value:8.4f}  {interval(loss, '.4f'):16}  {right.value:8.1%}  {interval(right, '.1%')}"
