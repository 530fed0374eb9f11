"""Columns of the terminal's output: aligned whatever stands in them, and no sign on what rounds to 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len

from judge.cli.evaluate import percent, text_lines
from judge.cli.words import aligned
from judge.evaluation.evaluate import evaluate
from judge.evaluation.settings import EvaluateSettings
from judge.predictions.file import StoredPredictions
from judge.stats.resample import Estimate
from judge.tables.table import Table


def evaluated(winners: list[str], p: list[list[float]], **columns: Any) -> list[str]:
    frame = pd.DataFrame(
        {
            "id": range(len(p)),
            "prompt": [f"Question {i}?" for i in range(len(p))],
            "response_a": [f"first {i}" for i in range(len(p))],
            "response_b": [f"a longer second {i}" for i in range(len(p))],
            "winner": winners,
        }
    ).assign(**columns)
    stored = StoredPredictions("p.csv", "predictions", [str(i) for i in frame["id"]], np.array(p), None, None)
    result = evaluate(stored, Table("t.csv", frame=frame), EvaluateSettings(resamples=100))
    return list(text_lines(result))


def test_columns_are_as_wide_as_their_widest_cell_but_for_the_last() -> None:
    rows = [("a", "b", "a last cell of any length"), ("日本", "x"), ("abcdef", "cc", "d")]
    lines = list(aligned(rows, (3, 1, 1)))
    assert lines == ["a       b   a last cell of any length", "日本    x", "abcdef  cc  d"]
    assert {cell_len(line[: line.rindex(cell)]) for line, (_, cell, *_) in zip(lines, rows, strict=True)} == {8}


def test_a_reason_for_no_figure_pushes_no_column_into_the_next() -> None:
    lines = evaluated(["model_a"] * 4, [[0.8, 0.1, 0.1]] * 4)
    start = next(i for i, line in enumerate(lines) if line.startswith("verdict  "))
    head, *rows = lines[start : start + 4]
    for title in ("precision", "recall", "AUC"):
        place = head.index(title)
        assert [row[place - 2 : place] for row in rows] == ["  "] * 3
        assert all(row[place] != " " for row in rows)


def test_a_share_that_nothing_is_known_of_makes_no_sentence() -> None:
    lines = evaluated(["tie"] * 4, [[0.2, 0.3, 0.5]] * 4)
    assert "decided rows    none: every verdict is tie" in lines


def test_unmeasured_figures_are_told_apart_though_names_hold_commas() -> None:
    lines = [line for line in evaluated(["model_a", "tie"] * 2, [[0.2, 0.3, 0.5]] * 4) if line.startswith("not meas")]
    assert any("; MT-Bench agreement, setup S1; MT-Bench agreement, setup S2; " in line for line in lines)


def test_names_of_slices_in_wide_characters_are_aligned() -> None:
    rng = np.random.default_rng(0)
    winners = ["model_a", "model_b", "tie"] * 8
    lines = evaluated(winners, rng.dirichlet([2, 2, 2], 24).tolist(), source=["来源一", "b"] * 12)
    start = lines.index("== slices ==") + 1
    end = cell_len(lines[start][: lines[start].index("rows") + 4])
    found = [line for line in lines[start + 1 :] if line.startswith(("source     b ", "           来源一 "))]
    assert len(found) == 2
    assert {cell_len(line[: line.index("12  ") + 2]) for line in found} == {end}


def test_what_rounds_to_zero_has_no_minus_sign() -> None:
    assert percent(Estimate(-1e-9, -1e-9, 1e-9), "+z.1%") == "+0.0% (+0.0% to +0.0%)"
    lines = "\n".join(evaluated(["model_a", "model_b", "tie"] * 8, [[1 / 3] * 3] * 24))
    assert "-0.0%" not in lines
    assert "-0.0000" not in lines
