"""Calibrating the judge in a bundle: what its predictions were read with, prompts without content, storing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from judge.api import Judge
from judge.calibration.calibrate import NO_MODEL, CalibrateResult, CalibrateSettings, calibrate
from judge.errors import JudgeError, printable
from judge.models.bundle import ModelFolder, file_digest, open_model
from judge.models.calibration import Calibration, Three
from judge.models.judge_file import JudgeFile, read_judge_file, store_calibration
from judge.predictions.file import StoredPredictions, read_predictions
from judge.prompting.verdict import NAMES, as_three, probabilities
from judge.runs.folder import read_run_record
from judge.tables.table import Table

# What stands for content where there is none, as in the paper (T. Z. Zhao et al., Calibrate Before Use, 2021).
WITHOUT_CONTENT = ("N/A", "", "[MASK]")
# Settings of a run that prompts without content are read with, as its record names them.
_RECORDED = ("max_tokens", "policy", "shares", "readout", "dtype", "weights")


@dataclass(frozen=True)
class Calibrated:
    """A calibration that was fitted, and the bundle that keeps it if it helps.

    Attributes:
        result: the figures, and whether the calibration is accepted.
        calibration: as a bundle stores it.
        model: the bundle as it was before; None where none was given.
    """

    result: CalibrateResult
    calibration: Calibration
    model: ModelFolder | None


def calibrate_files(
    predictions: Path,
    table: Path,
    settings: CalibrateSettings,
    bundle: Path | None = None,
    base: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Calibrated:
    """Fit a calibration, and store it in the bundle where one is given and the calibration helps.

    Args:
        predictions: what `judge score` wrote, or a submission; beside it may lie the run's record (`.run.json`).
        table: the table that was scored, with labels.
        bundle: the judge that wrote the predictions.
        base: the base model of its adapter, where it is not in the folder that the adapter names.
        note: shows one line to the user.

    Raises:
        JudgeError: see `calibrate`; or the bundle is no judge, not the one that wrote the predictions,
            or cannot be written to. Nothing is stored then.
    """
    stored = read_predictions(predictions)
    model, record = _open_bundle(bundle, base, stored, predictions) if bundle is not None else (None, {})
    if model is not None and settings.method in ("auto", "contextual"):
        note(f"{printable(model.folder.name)} is also asked to judge prompts without content")

    result = calibrate(
        stored,
        Table.open(table, on_bad_row="placeholder"),
        settings,
        lambda: NO_MODEL if model is None else _without_content(model, base, record, settings.method == "contextual"),
    )
    if model is not None and not record:
        result.warnings.append(
            f"there is no {predictions.name}.run.json, so it is not known whether {printable(model.folder.name)} wrote "
            "these predictions"
        )
    calibration = result.calibration(file_digest(predictions), record.get("prompt"))
    if model is not None and result.accepted:
        store_calibration(model.folder, calibration)
    return Calibrated(result, calibration, model)


def remove_calibration(bundle: Path) -> Calibration | None:
    """Take the calibration out of a bundle and return it; None where the bundle has none.

    Raises:
        JudgeError: the folder is no judge, or cannot be written to.
    """
    calibration = _content_of(bundle).calibration
    if calibration is not None:
        store_calibration(bundle, None)
    return calibration


def _content_of(bundle: Path) -> JudgeFile:
    """Return what `judge.json` says; the base model of an adapter need not be there."""
    content = read_judge_file(bundle)
    if content is None:
        what = "holds no judge.json, so it is a model that judge did not train" if bundle.is_dir() else "no such folder"
        raise JudgeError(f"{bundle}: {what}; a calibration is kept in the judge.json of a bundle")
    return content


def _open_bundle(
    bundle: Path, base: Path | None, stored: StoredPredictions, predictions: Path
) -> tuple[ModelFolder, dict[str, Any]]:
    """Open the bundle to store the calibration in, and the record of the run that read the predictions, if any."""
    model = open_model(bundle, base)
    _content_of(bundle)
    if stored.first is None:
        raise JudgeError(
            f"{stored.name}: has no log-probabilities (logprob_a, logprob_b, logprob_tie), to which a bundle's "
            "calibration is applied; give the predictions that judge score wrote, or leave out --bundle"
        )
    path = predictions.with_name(predictions.name + ".run.json")
    record = read_run_record(path) if path.exists() else {}
    if record and record["model"] != model.digest():
        raise JudgeError(
            f"{stored.name}: was written by another model than {bundle} (the hash in its .run.json differs); give the "
            "bundle that wrote it, or score with this one"
        )
    return model, record


def _without_content(model: ModelFolder, base: Path | None, record: dict[str, Any], must: bool) -> Three | str:
    """Return the judge's mean probabilities of first, second and tie for comparisons without content, or why not."""
    content = model.judge
    if record and content is not None and record.get("template") != content.template_digest:
        return "the predictions were made with another template than the judge was trained with"
    recorded: dict[str, Any] = record.get("settings", {})
    settings = {key: recorded[key] for key in _RECORDED if key in recorded}
    if "policy" in settings:
        settings["truncation"] = settings.pop("policy")
    if content is not None and record.get("prompt") == content.prompt_fingerprint:
        settings = {name: settings[name] for name in settings.keys() & {"readout", "dtype", "weights"}}
    try:
        return read_without_content(model.folder, base, settings)
    except JudgeError as error:
        if must:
            raise
        return f"the model cannot be run here ({error})"


def read_without_content(folder: Path, base: Path | None, settings: dict[str, Any]) -> Three:
    """Return a judge's mean probabilities of the first response, the second and tie where nothing has content.

    Args:
        folder: the bundle; its own template is used.
        settings: of the scoring.

    Raises:
        JudgeError: the model cannot be used with these settings.
    """
    import pandas as pd

    texts = dict.fromkeys(("prompt", "response_a", "response_b"), WITHOUT_CONTENT)
    frame = pd.DataFrame({"id": range(1, len(WITHOUT_CONTENT) + 1), **texts})
    with Judge(folder, base=base, calibration="off", **settings) as judge:
        scored = judge.score(frame, cells="plain")
    p = probabilities(scored[[f"logprob_{name}" for name in NAMES]].to_numpy(np.float64)).mean(axis=0)
    if np.isnan(p).any():
        raise JudgeError(f"{folder}: gives no probabilities for prompts without content")
    return as_three(p)
