"""What `judge score` does around the scoring: files, resuming, submission, and what the user sees."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge.bundle import open_model
from judge.comparison import Cells
from judge.errors import JudgeError, RunInterrupted
from judge.predictions import check_output, predictions_table, read_probabilities, summary, write_predictions
from judge.progress import TerminalEvents
from judge.run_folder import Manifest, RunFolder, differences
from judge.score import Scorer, write_run_record
from judge.score_settings import ScoreSettings
from judge.submission import Form, read_form, write_submission
from judge.table import OnBadRow, Table

# A median verdict mass below this means that the model was hardly taught to answer with a verdict.
LOW_MASS = 0.5


@dataclass(frozen=True)
class SubmissionOptions:
    """Where to write a submission (None: nowhere), the contest's sample of it, the smallest probability."""

    path: Path | None = None
    sample: Path | None = None
    floor: float = 1e-4


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
) -> None:
    """Score a table file into a predictions file, and a submission if wanted.

    Raises:
        JudgeError: any mistake in the input or the settings; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    form = _check_submission_options(submission)
    check_output(output)
    table = Table.open(table_path, cells, on_bad_row)
    folder = open_model(model)
    events = TerminalEvents()
    parts = output.with_name(output.name + ".parts")
    record = output.with_name(output.name + ".run.json")
    with Scorer(folder, settings, parts) as scorer:
        if output.exists() and not restart and _is_complete(output, record, scorer.manifest(table)):
            events.note(f"{output} is complete already; pass --restart to score again")
            _submit_existing(output, submission, form, events)
            return
        existed = parts.exists()
        run = RunFolder(parts)
        try:
            scorer.pool.start()  # the engine loads the model while its files are hashed
            manifest = scorer.manifest(table)
            if run.begin(manifest, restart):
                events.note(f"going on with the unfinished run in {parts}")
            events.begin()
            predictions = scorer.score(table, run, events)
            events.end()
            ids = predictions.prepared.ids()
            if submission.path is not None:
                write_submission(submission.path, ids, predictions.p, form, submission.floor)
            if record.exists():  # of an older run: it must not stand beside the new predictions
                record.unlink()
            write_predictions(output, predictions_table(predictions))
            figures = summary(predictions)
            write_run_record(record, manifest, figures)
        except KeyboardInterrupt:
            raise RunInterrupted(
                f"stopped; what is finished is kept in {parts}: give the same command again to go on"
            ) from None
        except JudgeError:
            if not existed and not (run.path / "prepared.json").exists():
                run.remove()  # a mistake in the table: nothing is left behind
            raise
        finally:
            events.end()
            run.close()
        run.remove()
    events.report(figures, scorer.pool.config, output, submission.path)
    if figures["median_verdict_mass"] is not None and figures["median_verdict_mass"] < LOW_MASS:
        events.warn(
            f"the model puts only {figures['median_verdict_mass']:.1%} of its probability on the three verdicts "
            "(median): it was probably not taught this template, and its probabilities mean little"
        )


def _check_submission_options(submission: SubmissionOptions) -> Form:
    if submission.path is None:
        if submission.sample is not None:
            raise JudgeError("--sample is only used with --submission")
        return Form()
    if submission.path.suffix != ".csv" or not submission.path.resolve().parent.is_dir():
        raise JudgeError(f"{submission.path}: a submission is a .csv file in a folder that exists")
    if not 0 <= submission.floor <= 1 / 3:
        raise JudgeError(f"--floor={submission.floor}: expected a probability between 0 and 1/3")
    return read_form(submission.sample) if submission.sample else Form()


def _is_complete(output: Path, record: Path, manifest: Manifest) -> bool:
    """Whether `output` is the finished result of exactly this run.

    Raises:
        JudgeError: it is something else, which is not overwritten without being asked.
    """
    if not record.exists():
        # Killed between writing the output and its record: the parts are still there and finish it.
        if output.with_name(output.name + ".parts").exists():
            return False
        raise JudgeError(f"{output} exists and is not a finished run of judge; pass --restart to overwrite it")
    old: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    changed = differences(old, manifest)
    if changed:
        raise JudgeError(
            f"{output} holds the result of another {', '.join(changed)}; choose another output, or pass "
            "--restart to overwrite it"
        )
    return True


def _submit_existing(output: Path, submission: SubmissionOptions, form: Form, events: TerminalEvents) -> None:
    if submission.path is None:
        return
    ids, p = read_probabilities(output)
    write_submission(submission.path, ids, p, form, submission.floor)
    events.note(f"wrote {submission.path} from it")
