"""`judge score`."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass

from judge.cli.commands import Flags
from judge.cli.options import Base, CellsOption, Model, OnBadRowOption, Restart, TableFile
from judge.deadline import Deadline, DeadlinePassed, leave_abandoned, parse_deadline, process_began, within
from judge.errors import JudgeError, RunInterrupted, counted
from judge.models.bundle import ModelFolder, open_model
from judge.predictions.predictions import (
    Predictions,
    check_output,
    predictions_table,
    read_probabilities,
    summary,
    write_predictions,
)
from judge.predictions.submission import Form, check_form, read_form, write_submission
from judge.runs.folder import Manifest, RunFolder, differences, read_run_record, write_run_record
from judge.runs.terminal import ScoringTerminal, what_is_missing
from judge.scoring.quick_submission import check_quick_below, quick_submission
from judge.scoring.recalibrate import recalibrate, without_calibration
from judge.scoring.scorer import NOT_HASHED, Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow, Table, read_ids

# A median verdict mass below this means that the model was hardly taught to answer with a verdict.
LOW_MASS = 0.5


@settings_dataclass(frozen=True)
class SubmissionOptions:
    """Where a submission is written, if anywhere, and how."""

    path: Path | None = Field(
        default=None,
        description="Also write a contest submission (CSV).",
        json_schema_extra={"flag": "--submission"},
    )
    sample: Path | None = Field(
        default=None, description="The contest's sample submission: its columns, order and ids are used."
    )
    floor: float = Field(default=1e-4, description="Smallest probability in the submission.")
    quick_below: int = Field(
        default=0,
        description="Write a uniform submission at once, without a model, for a table of fewer rows than this.",
    )


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
    table_path: Path,
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
    """Score a table file into a predictions file, and a submission if wanted.

    Args:
        deadline: what cannot be read by then is given up and flagged (docs/deadline.md).

    Raises:
        JudgeError: any mistake in the input or the settings; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    form = check_submission_options(submission)
    check_output(output)
    table = Table.open(table_path, cells, on_bad_row)
    record = output.with_name(output.name + ".run.json")
    _refuse_same_files(
        table=table_path, output=output, record=record, submission=submission.path, sample=submission.sample
    )
    folder = open_model(model, base, weights_needed=settings.server is None)
    if form.ids is not None:
        check_form(form, read_ids(table_path))
    if _submitted_without_a_model(table, submission, form):
        return
    events = ScoringTerminal(deadline=deadline)
    parts = output.with_name(output.name + ".parts")
    with Scorer(folder, settings, parts) as scorer:
        _warn_of_settings(scorer, events)
        if output.exists() and not restart and _is_done(scorer, table, output, record, parts, events):
            _submit_existing(output, submission, form, events)
            return
        existed = parts.exists()
        run = RunFolder(parts)
        try:
            wanted = _Output(output, record, submission, form)
            figures = _score_and_write(scorer, table, run, wanted, events, restart, deadline)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping the engines takes some seconds
            again = "the same command without --restart" if restart else "the same command again"
            raise RunInterrupted(f"stopped; what is finished is kept in {parts}: give {again} to go on") from None
        except JudgeError:
            if not existed and not (parts / "prepared.json").exists():
                run.remove()  # a mistake in the table: nothing is left behind
            raise
        finally:
            events.end()
            run.close()
        if _goes_on(figures["hashed"], figures, parts) and (figures["hashed"] or not restart):
            events.note(f"what was read is kept in {parts}: the same command goes on with it")
        else:
            run.remove()
    events.report(figures, scorer.pool.config, output, submission.path)
    _warn_of_mass(figures, folder, events)
    leave_abandoned()


def _warn_of_settings(scorer: Scorer, events: ScoringTerminal) -> None:
    for warning in (scorer.warning, scorer.calibration_warning):
        if warning:
            events.warn(warning)


def _warn_of_mass(figures: dict[str, Any], folder: ModelFolder, events: ScoringTerminal) -> None:
    mass = figures["median_verdict_mass"]
    if mass is not None and mass < LOW_MASS and not _was_taught_without_mass(folder):
        events.warn(
            f"the model puts only {mass:.1%} of its probability on the three verdicts "
            "(median): it was probably not taught this template, and its probabilities mean little"
        )


def _was_taught_without_mass(model: ModelFolder) -> bool:
    """Whether the judge was trained on the three logits alone, which says nothing about all other tokens."""
    return model.judge is not None and model.judge.setting("loss") == "verdicts"


@dataclass(frozen=True)
class _Output:
    """The files that a run writes."""

    path: Path
    record: Path
    submission: SubmissionOptions
    form: Form


def _score_and_write(
    scorer: Scorer,
    table: Table,
    run: RunFolder,
    output: _Output,
    events: ScoringTerminal,
    restart: bool,
    deadline: Deadline | None,
) -> dict[str, Any]:
    """Score in the run's folder, write output, submission and record, and return the run's figures."""
    manifest, predictions = _score(scorer, table, run, output.record, events, restart, deadline)
    events.end()
    write_predictions(output.path, predictions_table(predictions))
    submission = output.submission
    if submission.path is not None:
        write_submission(submission.path, predictions.prepared.ids(), predictions.p, output.form, submission.floor)
    figures = summary(predictions)
    write_run_record(output.record, manifest, figures)
    figures["hashed"] = manifest["model"] != NOT_HASHED
    return figures


def _score(
    scorer: Scorer,
    table: Table,
    run: RunFolder,
    record: Path,
    events: ScoringTerminal,
    restart: bool,
    deadline: Deadline | None,
) -> tuple[Manifest, Predictions]:
    """Return the run's manifest and predictions; the engine loads the model while its files are hashed."""
    if deadline is None:
        scorer.start(events.note)
        manifest = scorer.manifest(table)
        _begin(run, manifest, record, events, restart)
        return manifest, scorer.score(table, run, events)
    bare = scorer.without_prompts(table, run)
    stop_at = scorer.stop_at(bare, deadline)
    try:
        within(stop_at, lambda: scorer.start(events.note, stop_at))
        manifest = within(stop_at, lambda: scorer.manifest(table))
    except DeadlinePassed:
        return scorer.manifest_without_hashes(), scorer.nothing_read(bare, events, deadline)
    _begin(run, manifest, record, events, restart)
    return manifest, scorer.score_in_time(table, bare, run, events, deadline)


def _begin(run: RunFolder, manifest: Manifest, record: Path, events: ScoringTerminal, restart: bool) -> None:
    if restart:  # from here on, the same command without --restart goes on with this run
        record.unlink(missing_ok=True)
    # what is read does not depend on the calibration: a run may go on with another one
    if run.begin(without_calibration(manifest), restart):
        events.note(f"going on with the unfinished run in {run.path}")
    events.begin()


def _submitted_without_a_model(table: Table, submission: SubmissionOptions, form: Form) -> bool:
    """Write the quick submission of a table that is small enough for it; say whether it was."""
    if submission.path is None or not submission.quick_below:
        return False
    rows = quick_submission(table, submission.quick_below, submission.path, form)
    if rows is None:
        return False
    print(f"wrote {submission.path}: a third for each verdict of {counted(rows, 'row')}, without a model")
    return True


def check_submission_options(submission: SubmissionOptions) -> Form:
    check_quick_below(submission.quick_below, submission.path)
    if submission.path is None:
        if submission.sample is not None:
            raise JudgeError("--sample is only used with --submission")
        return Form()
    if submission.path.suffix != ".csv" or not submission.path.resolve().parent.is_dir():
        raise JudgeError(f"{submission.path}: a submission is a .csv file in a folder that exists")
    if not 0 <= submission.floor <= 1 / 3:
        raise JudgeError(f"--floor={submission.floor}: expected a probability between 0 and 1/3")
    return read_form(submission.sample) if submission.sample else Form()


def _refuse_same_files(**paths: Path | None) -> None:
    """Refuse to read from and write to one file, or to write two things to it."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), name)
        if other != name:
            raise JudgeError(f"{path}: is both the {other} and the {name}; give each a file of its own")


def _is_done(scorer: Scorer, table: Table, output: Path, record: Path, parts: Path, events: ScoringTerminal) -> bool:
    """Whether `output` is the finished result of this run. With another calibration, it is given the wanted one.

    Raises:
        JudgeError: it is something else, which is not overwritten without being asked.
    """
    existed = parts.exists()
    if not record.exists():
        # Killed between writing the output and its record: the parts are still there and finish it.
        if existed:
            return False
        raise JudgeError(f"{output} exists and is not a finished run of judge; pass --restart to overwrite it")
    old = read_run_record(record)
    if _goes_on(old["model"] != NOT_HASHED, old["result"], parts):
        return False
    manifest = scorer.manifest(table)
    if old["model"] == NOT_HASHED:
        raise JudgeError(
            f"{output} is complete, but its deadline had passed before anything was read: all rows have the class "
            "priors; pass --restart to score again"
        )
    if changed := differences(without_calibration(old), without_calibration(manifest)):
        raise JudgeError(
            f"{output} holds the result of another {', '.join(changed)}; choose another output, or pass "
            "--restart to overwrite it"
        )
    if not differences(old, manifest):
        events.note(
            f"{output} is complete{what_is_missing(old['result']) or ' already'}; pass --restart to score again"
        )
        if (parts / "manifest.json").exists():  # killed while they were being removed
            RunFolder(parts).remove()
        return True
    run = RunFolder(parts)  # nobody else may work on this output meanwhile
    try:
        events.note(recalibrate(output, record, old, manifest, scorer.calibration, table))
    finally:
        run.close()
        if not existed or (parts / "manifest.json").exists():
            run.remove()
    return True


def _goes_on(hashed: bool, figures: dict[str, Any], parts: Path) -> bool:
    """Whether a complete output is not the end of its run, which can go on in `parts`.

    Its deadline had passed before the run could be taken up, or its engine failed for good before the deadline.
    """
    given_up = figures.get("given_up")
    failed = isinstance(given_up, dict) and "failed" in given_up
    return (failed or not hashed) and (parts / "manifest.json").exists()


def _submit_existing(output: Path, submission: SubmissionOptions, form: Form, events: ScoringTerminal) -> None:
    if submission.path is None:
        return
    ids, p = read_probabilities(output)
    write_submission(submission.path, ids, p, form, submission.floor)
    events.note(f"wrote {submission.path} from it")
