"""Rows that trained the judge are refused, left out or shown apart."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from judge.cli.evaluate import json_text, text_lines
from judge.evaluation.settings import EvaluateSettings, TrainedRows
from judge.predictions.file import StoredPredictions
from judge.tables.comparison import Flag
from tests.kit.evaluated_tables import QUICK, error_of, evaluated, frame_of, stored_for

TRAINED = [int(Flag.TRAINED_ON | Flag.TRAINED_PROMPT)] * 12 + [int(Flag.TRAINED_PROMPT)] * 8 + [0] * 100


def trained_rows(choice: TrainedRows) -> tuple[pd.DataFrame, StoredPredictions, EvaluateSettings]:
    frame = frame_of(120)
    return frame, stored_for(frame, flags=TRAINED), QUICK.model_copy(update={"trained_rows": choice})


def test_rows_that_trained_the_judge_are_refused() -> None:
    assert error_of(*trained_rows("refuse")) == (
        "p.parquet: 12 of 120 labelled rows trained this judge (for example id row-0), so its figures would say "
        "little about new rows; pass --trained-rows=drop to leave them out, or --trained-rows=mark to evaluate all the "
        "same"
    )


def test_rows_that_trained_the_judge_can_be_left_out() -> None:
    frame, stored, options = trained_rows("drop")
    result = evaluated(frame, stored, options)
    rest = evaluated(frame[12:], replace(stored, ids=stored.ids[12:], p=stored.p[12:], flags=None, verdict_mass=None))
    assert list(result.figures) == ["all"]
    assert result.figures["all"].log_loss == rest.figures["all"].log_loss
    assert (result.rows.dropped, result.rows.evaluated, result.rows.trained_on) == (12, 108, 0)
    text = "\n".join(text_lines(result))
    assert "t.csv, 120 rows; left out: 12 that trained this judge" in text
    assert "warning: 8 rows with the prompt of another row that trained this judge: the figures may be too good" in text


def test_marked_rows_that_trained_the_judge_are_shown_apart() -> None:
    frame, stored, options = trained_rows("mark")
    result = evaluated(frame, stored, options)
    whole, trained, other = (result.figures[part] for part in ("all", "trained", "untrained"))
    assert (whole.rows, trained.rows, other.rows) == (120, 12, 108)
    assert (result.rows.trained_on, result.rows.trained_prompt) == (12, 8)
    mean = (12 * trained.log_loss.value + 108 * other.log_loss.value) / 120
    assert whole.log_loss.value == pytest.approx(mean, rel=1e-12)
    assert other == evaluated(*trained_rows("drop")).figures["all"]
    assert result.warnings[0] == (
        "TRAINED ROWS: 12 of 120 rows trained this judge; figures that include them say little about new rows"
    )
    lines = list(text_lines(result))
    assert [line for line in lines if line.startswith("==")] == [
        "== all rows, those that trained this judge included ==",
        "== rows that trained this judge ==",
        "== other rows ==",
        "== biases ==",
        "== agreement and consistency as published benchmarks count them ==",
    ]
    assert result.bias.rows == 108  # what follows the figures is of the rows that are new to the judge
    assert "warning: " + result.warnings[0] in lines
    content = json.loads(json_text(result))
    assert content["settings"]["trained_rows"] == "mark"
    assert content["rows"]["trained_on"] == 12
    assert content["warnings"][0].startswith("TRAINED ROWS: ")


def test_where_every_row_trained_the_judge_the_output_says_so() -> None:
    frame = frame_of(60)
    stored = stored_for(frame, flags=[int(Flag.TRAINED_ON)] * 60)
    assert error_of(frame, stored, QUICK.model_copy(update={"trained_rows": "drop"})) == (
        "p.parquet: every labelled row trained this judge, so --trained-rows=drop leaves none"
    )
    result = evaluated(frame, stored, QUICK.model_copy(update={"trained_rows": "mark"}))
    assert list(result.figures) == ["all"]
    assert result.warnings[0].startswith("TRAINED ROWS: 60 of 60 rows")
    assert "== all rows, those that trained this judge included ==" in text_lines(result)


def test_unlabelled_rows_that_trained_the_judge_do_no_harm() -> None:
    frame = frame_of(60)
    frame.loc[0, "winner"] = ""
    result = evaluated(frame, stored_for(frame, flags=[int(Flag.TRAINED_ON)] + [0] * 59))
    assert (result.rows.evaluated, result.rows.trained_on) == (59, 0)
