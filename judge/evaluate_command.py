"""What `judge evaluate` prints: a table for people, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from judge.errors import counted
from judge.evaluate import EvaluateSettings, Evaluation, Figures, Part, evaluate
from judge.predictions_file import read_predictions
from judge.resample import LEVEL, Estimate
from judge.table import Table

_KINDS = {"predictions": "predictions", "submission": "a submission (winner_model_a, ...)"}
_TITLES: dict[Part, str] = {
    "all": "all rows, those that trained this judge included",
    "trained": "rows that trained this judge",
    "untrained": "other rows",
}


def evaluation_output(
    predictions: Path, table: Path, settings: EvaluateSettings, as_json: bool = False
) -> Iterator[str]:
    """Evaluate a file of predictions on a table file and yield the lines to print.

    Raises:
        JudgeError: see `judge.predictions_file.read_predictions`, `judge.table.Table` and `judge.evaluate.evaluate`.
    """
    stored = read_predictions(predictions)
    result = evaluate(stored, Table.open(table, on_bad_row="placeholder"), settings)
    yield from [json_text(result)] if as_json else text_lines(result)


def json_text(evaluation: Evaluation) -> str:
    """Return an evaluation as a JSON object of several lines; a figure that there is none of is null."""
    content: dict[str, Any] = asdict(evaluation)
    content["settings"]["level"] = LEVEL
    return json.dumps(content, indent=1, allow_nan=False)


def text_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield an evaluation as aligned lines of plain text."""
    rows = evaluation.rows
    yield _line("predictions", f"{evaluation.predictions}, {_KINDS[evaluation.kind]}")
    left_out = [f"{rows.unlabelled:,} without a label"] if rows.unlabelled else []
    left_out += [f"{rows.dropped:,} that trained this judge"] if rows.dropped else []
    yield _line(
        "table",
        f"{evaluation.table}, {counted(rows.table, 'row')}"
        + (f"; left out: {', '.join(left_out)}" if left_out else ", all with a label"),
    )
    for part, figures in evaluation.figures.items():
        if rows.trained_on:
            yield ""
            yield f"== {_TITLES[part]} =="
        yield from _figure_lines(figures)
    if evaluation.warnings:
        yield ""
    for warning in evaluation.warnings:
        yield f"warning: {warning}"


def _figure_lines(figures: Figures) -> Iterator[str]:
    yield _line("rows", f"{figures.rows:,} in {counted(figures.groups, 'prompt group')}")
    yield ""
    yield _line("", f"{'':9}  {LEVEL:.0%} interval")
    yield _line("log loss", _estimate(figures.log_loss, ".4f"))
    yield _line("  class rates", f"{figures.class_rates_log_loss:9.4f}")
    yield _line("  difference", _estimate(figures.over_class_rates, "+.4f"))
    yield _line("  uniform", f"{figures.uniform_log_loss:9.4f}")
    yield _line("accuracy", _estimate(figures.accuracy, ".1%"))
    yield _line("  class rates", f"{figures.class_rates_accuracy:9.1%}")
    yield _line("  uniform", f"{figures.uniform_accuracy:9.1%}")
    if figures.median_verdict_mass is not None:
        yield _line("verdict mass", f"{figures.median_verdict_mass:9.4f}  median")
    yield ""
    yield _line("", "".join(f"{name:>9}" for name in ("A", "B", "tie")))
    yield _line("mean p", "".join(f"{p:9.3f}" for p in figures.mean_p))
    yield _line("label rates", "".join(f"{p:9.3f}" for p in figures.label_rates))


def _line(name: str, text: str) -> str:
    return f"{name:16}{text}"


def _estimate(estimate: Estimate, form: str) -> str:
    value = f"{estimate.value:{form}}".rjust(9)
    if estimate.low is None or estimate.high is None:
        return f"{value}  none (one prompt group)"
    return f"{value}  {estimate.low:{form}} to {estimate.high:{form}}"
