"""The report's sections about a judge's folder: drift between its stages, and its training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel, ValidationError

from judge.errors import JudgeError, counted, printable
from judge.files import whole_file
from judge.models.judge_file import JudgeFile, read_judge_file
from judge.report.figures import loss_chart, loss_figure, loss_picture
from judge.report.forest import ForestRow, forest
from judge.report.html import estimate, paragraph, table, tag
from judge.report.page import Section, section
from judge.report.svg import Chart, Point
from judge.stats.resample import CONFIDENCE, Estimate

DRIFT, METRICS, CURVE = "drift.json", "metrics.jsonl", "loss.svg"
_NAMES = {"class prior": "class rates", "before": "before training", "after": "after training"}


class _Stage(BaseModel):
    name: str
    kind: str
    log_loss: Estimate | None
    accuracy: float | None
    log_loss_change: Estimate | None = None
    mean_kl: float | None = None
    largest_change: float | None = None
    flips: float | None = None
    failed: list[str] = []


class _Drift(BaseModel):
    """What `judge drift` keeps with a model (`quantize.drift_figures.Drift.record`)."""

    passed: bool
    table: str
    rows: int
    groups: int
    reference: int
    limits: dict[str, float]
    stages: list[_Stage]
    notes: list[str] = []


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if there is no such file.

    Raises:
        JudgeError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise JudgeError(f"{printable(path.name, 255)}: cannot be read ({printable(str(error), 160)})") from None
    if not isinstance(content, dict):
        raise JudgeError(f"{printable(path.name, 255)}: expected a JSON object")
    return content


def drift_section(model: Path) -> Section | None:
    """Return the section, or None if nobody measured the drift.

    Raises:
        JudgeError: drift.json is not what `judge drift` writes.
    """
    content = json_object(model / DRIFT)
    if not content:
        return None
    try:
        drift = _Drift.model_validate(content)
        reference = drift.stages[drift.reference]
    except (ValidationError, IndexError):
        raise JudgeError(
            f"{printable(model.name, 80)}/{DRIFT}: is not what judge drift writes; measure it again"
        ) from None
    limit = drift.limits.get("log_loss")
    rows = [_stage(stage, stage is reference) for stage in drift.stages]
    # the axis leaves out the base model: if it knows nothing, the other stages would have no room
    near = [row for row, stage in zip(rows, drift.stages, strict=True) if stage.kind != "base"] or rows
    ends = [end for row in near if row.figure for end in row.figure.ends] + [0.0, limit or 0.0]
    room = (max(ends) - min(ends)) * 0.06 or 0.01
    words = (
        f"Each stage beside {printable(reference.name, 60)} on the same {counted(drift.rows, 'row')} of "
        f"{printable(drift.table, 60)} in {counted(drift.groups, 'prompt group')}."
    )
    call = tag("span", "within the limits" if drift.passed else "beyond the limits",
               css=f"call {'absent' if drift.passed else 'present'}")  # fmt: skip
    plot = forest(
        rows,
        ("Stage", "change of log loss, nats", f"change, {CONFIDENCE:.0%} interval"),
        reference=0.0,
        limit=limit,
        within=(min(ends) - room, max(ends) + room),
    )
    notes = [tag("li", printable(note, 300)) for note in drift.notes]
    return section(
        "drift",
        "Drift between stages",
        paragraph(call, " ", words, " The coloured line is the limit."),
        plot,
        _stage_table(drift.stages),
        tag("ul", *notes, css="note") if notes else None,
    )


def _stage(stage: _Stage, is_reference: bool) -> ForestRow:
    change = stage.log_loss_change
    name, kind = printable(stage.name, 60), printable(stage.kind, 20)
    if is_reference:
        return ForestRow(name, Estimate(0.0, None, None), "reference", kind)
    if change is None:
        return ForestRow(name, None, "not measured: no labels", kind, "muted")
    css = "muted" if stage.kind == "base" else "bad" if stage.failed else "good"
    return ForestRow(name, change, estimate(change, "+.4f"), kind, css)


def _stage_table(stages: Sequence[_Stage]) -> Markup:
    rows = [
        (
            printable(stage.name, 60),
            "" if stage.log_loss is None else estimate(stage.log_loss),
            _or_empty(stage.accuracy, ".1%"),
            _or_empty(stage.flips, ".1%"),
            _or_empty(stage.largest_change, ".3f"),
            _or_empty(stage.mean_kl, ".5f"),
            "; ".join(printable(reason, 80) for reason in stage.failed),
        )
        for stage in stages
    ]
    head = ("Stage", "Log loss", "Accuracy", "Verdicts changed", "Largest change of p", "Mean KL", "Beyond limits")
    return table(head, rows)


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def training_section(model: Path, judge: JudgeFile | None) -> Section | None:
    """Return the section with the loss curve and the held-out figures, or None if the folder has neither."""
    figures = judge.metrics if judge is not None else {}
    train, held_out = _curves(model / METRICS)
    if not figures and not train and not held_out:
        return None
    chart = words = None
    if len(train) + len(held_out) > 1:
        chart = loss_figure(_loss_chart(train, held_out, judge))
        words = paragraph(
            "Training loss is of what was optimised, on rows that are learnt from; held-out log loss is of the three "
            "verdicts, on rows that are not. The larger dot marks the weights that were kept.",
            css="note",
        )
    head = ("Held-out rows", "Log loss", "Accuracy", "Mean p(A)", "p(B)", "p(tie)")
    forms = {"log_loss": ".4f", "accuracy": ".1%", "p_a": ".3f", "p_b": ".3f", "p_tie": ".3f"}
    rows = [
        (
            _NAMES.get(name, printable(name, 40)),
            *(_or_empty(_number(values, key), form) for key, form in forms.items()),
        )
        for name, values in figures.items()
    ]
    beside = table(head, rows) if figures else None
    return Section("training", "Training", tag("div", chart, tag("div", beside, words), css="beside"))


def write_loss_curve(folder: Path) -> None:
    """Draw the losses of a judge's metrics file as `loss.svg` beside it."""
    train, held_out = _curves(folder / METRICS)
    picture = loss_picture(_loss_chart(train, held_out, read_judge_file(folder)))
    with whole_file(folder / CURVE) as temporary:
        temporary.write_text(picture, encoding="utf-8")


def _loss_chart(train: Sequence[Point], held_out: Sequence[Point], judge: JudgeFile | None) -> Chart:
    figures = judge.metrics if judge is not None else {}
    known = {name: _number(figures.get(name), "log_loss") for name in ("uniform", "class prior")}
    levels = [(_NAMES.get(name, name), value) for name, value in known.items() if value is not None]
    best = judge.training.get("best_step") if judge is not None else None
    return loss_chart(train, held_out, levels, best if isinstance(best, int) else None)


def _curves(path: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return steps and losses of a metrics file, of training and held-out rows, up to a line that was cut off."""
    train, held_out = [], {}
    if not path.exists():
        return [], []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        step, loss, log_loss = (_number(line, key) for key in ("step", "loss", "eval_log_loss"))
        if step is not None and loss is not None and loss > 0:
            train.append((step, loss))
        if step is not None and log_loss is not None and log_loss > 0:
            held_out[step] = log_loss
    return train, sorted(held_out.items())


def _number(values: object, key: str) -> float | None:
    value = values.get(key) if isinstance(values, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
