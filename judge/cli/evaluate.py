"""What `judge evaluate` prints: a table for people, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from judge.cli.evaluate_text import text_lines
from judge.evaluation.evaluate import Evaluation, evaluate
from judge.evaluation.settings import EvaluateSettings
from judge.predictions.file import read_predictions
from judge.runs.terminal import ReadingTerminal
from judge.stats.resample import CONFIDENCE
from judge.tables.table import Table


def evaluation_output(
    predictions: Path, table: Path, settings: EvaluateSettings, as_json: bool = False, brief: bool = False
) -> Iterator[str]:
    """Evaluate a file of predictions on a table file and yield the lines to print.

    Raises:
        JudgeError: see `read_predictions`, `Table` and `judge.evaluation.evaluate.evaluate`.
    """
    stored = read_predictions(predictions)
    with ReadingTerminal(len(stored.ids)) as terminal:
        result = evaluate(stored, Table.open(table, on_bad_row="placeholder"), settings, terminal.read)
    yield from [json_text(result)] if as_json else text_lines(result, brief)


def json_text(evaluation: Evaluation) -> str:
    """Return an evaluation as a JSON object of several lines.

    A figure that there is none of is null, or an object with its `reason`.
    """
    content: dict[str, Any] = asdict(evaluation)
    content["settings"] = {**evaluation.settings.model_dump(), "level": CONFIDENCE}
    return json.dumps(content, indent=1, allow_nan=False)
