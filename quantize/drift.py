"""Drift: what merging and quantising changed about the verdicts, measured on the scoring path.

Every stage (base, base with adapter, merged, 4-bit) scores the same rows with the judge's own template and budget. Rows
that trained the judge are left out. The first stage that is a judge is the reference, and the stages after it must be
close to it. A base model before it is shown for contrast.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from judge.errors import JudgeError, RunInterrupted, counted, printable
from judge.files import whole_file
from judge.models.bundle import ModelFolder, is_adapter, open_model
from judge.models.trained_rows import trained_rows_of
from judge.predictions.file import StoredPredictions, read_predictions
from judge.predictions.predictions import predictions_table, write_predictions
from judge.prompting.template import template_data
from judge.runs.folder import RunFolder
from judge.runs.progress import Progress
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells, Flag
from judge.tables.split import group_key
from judge.tables.table import Table
from judge.version import __version__
from quantize.drift_figures import Drift, Limits, Rows, compare, kind_of

FILE = "drift.json"
PREDICTIONS = "predictions.parquet"
DEFAULT_ROWS = 1000


def run_drift(
    folders: Sequence[Path],
    data: Path,
    settings: ScoreSettings,
    limits: Limits,
    progress: Progress,
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
    stages = [open_model(folder, base if is_adapter(folder) else None) for folder in folders]
    table = Table.open(data, cells, "placeholder")
    work = stages[-1].folder.with_name(f"{stages[-1].folder.name}.drift.parts")
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        chosen = choose_rows(stages, table, rows, seed, work)
        found = measure_drift(stages, chosen, settings, limits, work, progress)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping the engines takes some seconds
        raise RunInterrupted(f"stopped; what is finished is kept in {work}: give the same command to go on") from None
    except JudgeError:
        if not any(work.glob("stage-*")):  # a mistake in the table: nothing is left behind
            shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    _keep(stages[-1], found, table, progress)
    return found


def _keep(last: ModelFolder, drift: Drift, table: Table, progress: Progress) -> None:
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
        progress.warn(f"{path}: cannot be written ({error.strerror}); the figures are not kept")


def default_table(model: ModelFolder, data: Sequence[Path] | None) -> Path:
    """Return the table to measure the drift of a newly quantised model on, where none is named.

    That is the table that the judge was evaluated on while training, or the one that trained it: its held-out rows
    are recognised by their fingerprints.

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


def measure_drift(
    stages: Sequence[ModelFolder],
    rows: Rows,
    settings: ScoreSettings,
    limits: Limits,
    work: Path,
    progress: Progress,
) -> Drift:
    """Score the rows at every stage and compare.

    Args:
        stages: in the order in which they were made.
        rows: what to measure on (`choose_rows`).
        settings: of the scoring; template and budget are the reference's.
        work: folder for unfinished work; a call goes on with what an earlier one left there.

    Raises:
        JudgeError: a stage cannot be scored, or builds other prompts than the reference.
    """
    reference = reference_of(stages)
    # only some stages have a calibration, and it says nothing about the weights
    settings = _with_prompts_of(stages[reference], settings, work).model_copy(update={"calibration": "off"})
    read: list[StoredPredictions] = []
    fingerprint = ""
    for number, stage in enumerate(stages):
        progress.note(f"stage {number + 1} of {len(stages)}: {kind_of(stage)} {printable(stage.folder.name, 80)}")
        predictions, found = _read_stage(stage, rows.table, settings, work / f"stage-{number + 1}", progress)
        if fingerprint not in ("", found):
            raise JudgeError(
                f"{stage.folder}: builds other prompts than {stages[0].folder} (another tokenizer or chat template): "
                "they cannot be compared row by row"
            )
        fingerprint = found
        read.append(predictions)
    return compare(stages, read, rows, limits, reference)


def reference_of(stages: Sequence[ModelFolder]) -> int:
    """Return the place of the first stage that is a judge, or 0 if there is no judge among them."""
    return next((i for i, stage in enumerate(stages) if stage.judge is not None), 0)


def _with_prompts_of(reference: ModelFolder, settings: ScoreSettings, work: Path) -> ScoreSettings:
    """Return the settings with the template and budget of the reference: a bare base model has neither."""
    judge = reference.judge
    if judge is None:
        return settings
    import yaml

    template = work / "template.yaml"
    text = yaml.safe_dump(template_data(judge.stored_template()), allow_unicode=True, sort_keys=False)
    template.write_text(text, encoding="utf-8")
    prompts = {"max_tokens": judge.max_tokens, "truncation": judge.truncation, "shares": judge.shares}
    return settings.model_copy(update={"template": str(template), **prompts})


def _read_stage(
    model: ModelFolder, table: Table, settings: ScoreSettings, folder: Path, progress: Progress
) -> tuple[StoredPredictions, str]:
    """Return the predictions of a stage, and the fingerprint of its prompts."""
    if model.quantization is None:
        settings = settings.model_copy(update={"weights": "auto"})
    with RunFolder(folder) as run, Scorer(model, settings, folder) as scorer:
        manifest = scorer.manifest(table)
        # the stage, the rows or a setting may have changed since
        run.begin(manifest, restart=run.state(manifest)[0] == "foreign")
        done = folder / PREDICTIONS
        if not done.exists():
            write_predictions(done, predictions_table(scorer.score(table, run, progress)))
        return read_predictions(done), scorer.builder.fingerprint()


def choose_rows(stages: Sequence[ModelFolder], table: Table, most: int, seed: int, work: Path) -> Rows:
    """Return the rows to measure on: those that trained none of the stages, at most so many, drawn at random.

    The rows are copied into the work folder, as a table of the same format.

    Raises:
        JudgeError: the table cannot be read, or every row trained a stage.
    """
    from judge.tables.table_writing import copy_rows

    if table.path is None:
        raise ValueError("the table must be a file")
    trained = trained_rows_of(*stages)
    labels, groups, is_trained = [], [], []
    for chunk in table.chunks():
        for row in chunk:
            labels.append(row.label)
            groups.append(group_key(row))
            is_trained.append(trained is not None and bool(trained.flags(row) & Flag.TRAINED_ON))
    new = np.flatnonzero(~np.array(is_trained))
    if not len(new):
        raise JudgeError(
            f"{table.name}: every row trained this judge and would show less drift than new rows; give another --data"
        )
    notes = []
    if len(new) < len(labels):
        notes.append(f"{counted(len(labels) - len(new), 'row')} that trained the judge left out")
    if len(new) > most:
        notes.append(f"{most:,} of {len(new):,} rows, drawn at random (--rows)")
        new = np.sort(np.random.default_rng(seed).choice(new, most, replace=False))
    keep = np.zeros(len(labels), dtype=np.bool_)
    keep[new] = True
    copy = work / f"rows{table.path.suffix.lower()}"
    copy_rows(table.path, keep, copy)
    chosen = Table.open(copy, table.cells, table.on_bad_row)
    return Rows(table.name, chosen, np.array(labels)[keep], np.array(groups, dtype=np.uint64)[keep], tuple(notes))
