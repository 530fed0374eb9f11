"""Scoring a table file into a predictions file, and into a submission if wanted: files, resuming, what is refused."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge.deadline import Deadline
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError, RunInterrupted
from judge.models.bundle import ModelFolder, open_model
from judge.predictions.file import read_predictions
from judge.predictions.predictions import check_output, predictions_table, summary, what_is_missing, write_predictions
from judge.predictions.submission import Form, SubmissionOptions, check_form, quick_submission, write_submission
from judge.runs.folder import RunFolder
from judge.runs.progress import Progress
from judge.scoring.recalibrate import recalibrate
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow, Table, read_ids


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored, with what, and where the results go.

    Attributes:
        model: folder of the model, or judge bundle.
        table: the table file, or a folder of Parquet files.
        output: the predictions file, or a folder; its record is `OUTPUT.run.json`, unfinished work `OUTPUT.parts`.
        cells: how texts are read (see `judge.tables.comparison.parse_cell`).
        on_bad_row: `error`, or `placeholder` to score and flag rows whose cells cannot be read.
        restart: start over, dropping what is there.
        base: the base model of an adapter, where it is not in the folder that the adapter names.
        deadline: what cannot be read by then is given up and flagged (docs/deadline.md).
    """

    model: Path
    table: Path
    output: Path
    settings: ScoreSettings
    submission: SubmissionOptions = field(default_factory=SubmissionOptions)
    cells: Cells = "auto"
    on_bad_row: OnBadRow = "error"
    restart: bool = False
    base: Path | None = None
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True)
class Scored:
    """What a scoring did.

    Attributes:
        figures: of the run (see `judge.predictions.predictions.summary`); None if the output was complete already,
            or only a quick submission was written.
        config: of the engines that read.
        was_taught_mass: see `judge.scoring.scorer.Scorer`.
        quick_rows: rows of the quick submission, if that was written.
    """

    figures: dict[str, Any] | None = None
    config: EngineConfig | None = None
    was_taught_mass: bool = True
    quick_rows: int | None = None


def score_table(request: ScoreRequest, progress: Progress) -> Scored:
    """Score a table file into a predictions file, and a submission if wanted.

    The same request goes on with a run that was interrupted.

    Raises:
        JudgeError: any mistake in the input or the settings; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    form, table, model = _checked(request)
    output, submission = request.output, request.submission
    if submission.quick_below and (rows := quick_submission(table, submission, form)) is not None:
        return Scored(quick_rows=rows)
    parts = output.with_name(f"{output.name}.parts")
    with RunFolder(parts, output) as run, Scorer(model, request.settings, parts) as scorer:
        for warning in (scorer.warning, scorer.calibration_warning):
            if warning:
                progress.warn(warning)
        if not request.restart and (record := run.finished()) is not None:
            _take_finished(request, scorer, table, run, record, form, progress)
            return Scored()
        try:
            predictions = scorer.score(table, run, progress, request.deadline, request.restart)
            write_predictions(output, predictions_table(predictions))
            if submission.path is not None:
                write_submission(
                    submission.path, predictions.prepared.ids().to_pylist(), predictions.p, form, submission.floor
                )
            figures = summary(predictions)
            if run.finish(figures, request.restart):
                progress.note(f"what was read is kept in {parts}: the same command goes on with it")
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping the engines takes some seconds
            again = "the same command without --restart" if request.restart else "the same command again"
            raise RunInterrupted(f"stopped; what is finished is kept in {parts}: give {again} to go on") from None
        except JudgeError:
            if run.is_new and not (parts / "prepared.json").exists():
                run.remove()  # a mistake in the table: nothing is left behind
            raise
        return Scored(figures, scorer.pool.config, scorer.was_taught_mass)


def _checked(request: ScoreRequest) -> tuple[Form, Table, ModelFolder]:
    """Check what can be checked before anything heavy starts; return the submission's form, the table, the model."""
    output, submission = request.output, request.submission
    _refuse_same_files(
        table=request.table,
        output=output,
        record=output.with_name(f"{output.name}.run.json"),
        submission=submission.path,
        sample=submission.sample,
    )
    form = submission.form()
    check_output(output)
    table = Table.open(request.table, request.cells, request.on_bad_row)
    model = open_model(request.model, request.base, weights_needed=request.settings.server is None)
    if form.ids is not None:
        check_form(form, read_ids(request.table))
    return form, table, model


def _refuse_same_files(**paths: Path | None) -> None:
    """Refuse to read from and write to one file, or to write two things to it."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), name)
        if other != name and {name, other} != {"table", "sample"}:  # which are only read
            raise JudgeError(f"{path}: is both the {other} and the {name}; give each a file of its own")


def _take_finished(
    request: ScoreRequest,
    scorer: Scorer,
    table: Table,
    run: RunFolder,
    record: dict[str, Any],
    form: Form,
    progress: Progress,
) -> None:
    """Give a finished output the wanted calibration, and write the submission from it.

    Raises:
        JudgeError: the output is the result of another run, which is not overwritten without being asked.
    """
    manifest, output, submission = scorer.manifest(table), request.output, request.submission
    state, why = run.state(manifest)
    if state == "foreign":
        raise JudgeError(why)
    if record["settings"].get("calibration") == manifest["settings"]["calibration"]:
        missing = what_is_missing(record["result"]) or " already"
        progress.note(f"{output} is complete{missing}; pass --restart to score again")
    else:
        assert run.record is not None
        progress.note(recalibrate(output, run.record, record, manifest, scorer.calibration, table))
    if (run.path / "manifest.json").exists():  # the run was killed while its folder was being removed
        run.remove()
    if submission.path is not None:
        stored = read_predictions(output)
        write_submission(submission.path, stored.ids, stored.p, form, submission.floor)
        progress.note(f"wrote {submission.path} from it")
