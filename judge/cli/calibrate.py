"""What `judge calibrate` does around the fitting: the bundle, prompts without content, storing, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from judge.api import Judge
from judge.calibration.calibrate import NO_MODEL, CalibrateResult, CalibrateSettings, calibrate
from judge.errors import JudgeError, counted, printable
from judge.files import whole_file
from judge.models.bundle import ModelFolder, file_digest, open_model
from judge.models.calibration import ORDERS, Calibration, Three
from judge.models.judge_file import FILE, JudgeFile, read_judge_file, with_calibration
from judge.predictions.file import StoredPredictions, read_predictions
from judge.prompting.verdict import NAMES, probabilities
from judge.runs.folder import read_run_record
from judge.stats.resample import CONFIDENCE, Estimate
from judge.stats.words import interval
from judge.tables.table import Table

# What stands for content where there is none, as in the paper (T. Z. Zhao et al., Calibrate Before Use, 2021).
WITHOUT_CONTENT = ("N/A", "", "[MASK]")
# Settings of a run that prompts without content are read with, as its record and as `Judge` names them.
_AS_RECORDED = {
    "max_tokens": "max_tokens",
    "policy": "truncation",
    "shares": "shares",
    "readout": "readout",
    "dtype": "dtype",
    "weights": "weights",
}


def calibrate_output(
    predictions: Path,
    table: Path,
    settings: CalibrateSettings,
    *,
    bundle: Path | None = None,
    base: Path | None = None,
    as_json: bool = False,
) -> Iterator[str]:
    """Fit a calibration, store it in the bundle where one is given and the calibration helps, and yield what to print.

    Args:
        predictions: what `judge score` wrote, or a submission; beside it may lie the run's record (`.run.json`).
        table: the table that was scored, with labels.
        bundle: the judge that wrote the predictions.
        base: the base model of its adapter, where it is not in the folder that the adapter names.

    Raises:
        JudgeError: see `calibrate`; or the bundle is no judge, not the one that wrote the predictions,
            or cannot be written to. Nothing is stored then.
    """
    stored = read_predictions(predictions)
    model, record = _open_bundle(bundle, base, stored, predictions) if bundle is not None else (None, {})
    must = settings.method == "contextual"
    if model is not None and settings.method in ("auto", "contextual") and not as_json:
        yield f"{printable(model.folder.name)} is also asked to judge prompts without content"

    def content_free() -> Three | str:
        return NO_MODEL if model is None else _without_content(model, base, record, must)

    result = calibrate(stored, Table.open(table, on_bad_row="placeholder"), settings, content_free)
    calibration = result.calibration(file_digest(predictions), record.get("prompt"))
    if model is not None and not record:
        result.warnings.append(
            f"there is no {predictions.name}.run.json, so it is not known whether {printable(model.folder.name)} wrote "
            "these predictions"
        )
    if model is not None and result.accepted:
        store_calibration(model.folder, calibration)
    yield from [json_text(result, calibration)] if as_json else text_lines(result)
    if not as_json:
        yield from _outcome(result, model)


def remove_calibration(bundle: Path) -> Iterator[str]:
    """Take the calibration out of a bundle and yield the line to print.

    Raises:
        JudgeError: the folder is no judge, or cannot be written to.
    """
    content = _content_of(bundle)
    if content.calibration is None:
        yield f"{bundle} has no calibration"
        return
    store_calibration(bundle, None)
    yield f"removed the calibration from {bundle} ({content.calibration.in_words()})"


def store_calibration(folder: Path, calibration: Calibration | None) -> None:
    """Put a calibration into a bundle's `judge.json`, or take it out (None); the rest of the file stays as it is.

    Raises:
        JudgeError: the file cannot be read or written.
    """
    path = folder / FILE
    try:
        text = with_calibration(path.read_text(encoding="utf-8"), calibration)
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JudgeError(f"{path}: the calibration cannot be stored ({printable(str(error), 160)})") from None


def _content_of(bundle: Path) -> JudgeFile:
    """Return what `judge.json` says; the base model of an adapter need not be there.

    Raises:
        JudgeError: the folder is no judge.
    """
    content = read_judge_file(bundle)
    if content is None:
        what = "holds no judge.json, so it is a model that judge did not train" if bundle.is_dir() else "no such folder"
        raise JudgeError(f"{bundle}: {what}; a calibration is kept in the judge.json of a bundle")
    return content


def _open_bundle(
    bundle: Path, base: Path | None, stored: StoredPredictions, predictions: Path
) -> tuple[ModelFolder, dict[str, Any]]:
    """Open the bundle that the calibration is to be stored in, and the record of the run that read the predictions.

    Returns:
        The bundle, and the record; it is empty where there is none.

    Raises:
        JudgeError: what is fitted to these predictions cannot be applied to what the bundle reads.
    """
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
    """Return the judge's mean probabilities of first, second and tie for comparisons without content, or why not.

    Raises:
        JudgeError: it cannot read them, and they must be had.
    """
    content = model.judge
    if record and content is not None and record.get("template") != content.template_digest:
        return "the predictions were made with another template than the judge was trained with"
    recorded: dict[str, Any] = record.get("settings", {})
    settings = {name: recorded[key] for key, name in _AS_RECORDED.items() if key in recorded}
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
        base: the base model of an adapter, where it is not in the folder that the adapter names.
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
    first, second, tie = (float(value) for value in p)
    return first, second, tie


def json_text(result: CalibrateResult, calibration: Calibration) -> str:
    """Return the result as a JSON object of several lines; `calibration` is what a bundle would keep, or null."""
    content: dict[str, Any] = asdict(result)
    content["settings"] = {**result.settings.model_dump(), "level": CONFIDENCE}
    for method, found in result.methods.items():
        own = found.calibration
        content["methods"][method]["calibration"] = {
            **own.model_dump(include={"scale", "bias"}),
            "in_words": own.in_words(),
        }
    content["calibration"] = calibration.model_dump(mode="json") if result.accepted else None
    return json.dumps(content, indent=1, allow_nan=False)


def text_lines(result: CalibrateResult) -> Iterator[str]:
    """Yield the figures as aligned lines of plain text."""
    rows = result.rows
    left_out = [
        f"{n:,} {what}"
        for n, what in (
            (rows.unlabelled, "without a label"),
            (rows.unpredicted, "without a prediction"),
            (rows.dropped, "that trained this judge"),
            (rows.not_scored, "that could not be scored"),
        )
        if n
    ]
    yield _line("predictions", f"{result.predictions}, {ORDERS[result.orders]}")
    yield _line(
        "table",
        f"{result.table}, {rows.used:,} labelled rows in {counted(result.groups, 'prompt group')}"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
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


def _outcome(result: CalibrateResult, model: ModelFolder | None) -> Iterator[str]:
    """Yield what was found and what has become of it."""
    yield ""
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
