"""`judge data describe` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.kit.data_commands import LONG, Judge, Row, row, write

# -- describe ----------------------------------------------------------------------------------------------


FRENCH = "Pouvez-vous traduire cette longue phrase en anglais, s'il vous plaît ?"


def test_the_figures_of_a_table_are_what_is_in_it(judge: Judge, tmp_path: Path, tiny_model: Path) -> None:
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    rows: list[Row] = [
        {
            "id": 1,
            "prompt": [LONG, "And now a longer one"],
            "response_a": ["a" * 10, None],
            "response_b": ["b" * 20, "c"],
        },
        {"id": 2, "prompt": [FRENCH], "response_a": ["a"], "response_b": ["bb"]},
        {"id": 3, "prompt": ["Hi"], "response_a": ["same"], "response_b": ["same"]},
        {"id": 4, "prompt": [None], "response_a": ["a"], "response_b": ["b"]},
    ]
    for r, winner in zip(rows, ["model_b", "model_a", "tie", None], strict=True):
        r["winner"] = winner
    write(tmp_path / "t.jsonl", rows)
    status, lines = judge("describe", "t.jsonl", "--model", str(tiny_model), "--json")
    assert status == 0
    found = json.loads("\n".join(lines))
    assert (found["rows"], found["prompts"], found["labelled"]) == (4, 4, 3)
    assert found["verdicts"] == {"A": 1, "B": 1, "tie": 1}
    assert found["longer_response_wins"] == 0.5  # of the two decided rows
    assert found["turns"] == {"1": 3, "2": 1}
    assert found["flags"] == {"identical": 1, "null_turn": 2}
    assert found["languages"] == {"too short": 2, "en": 1, "fr": 1}
    lengths = np.array([[len(LONG) + 20, 10, 21], [len(FRENCH), 1, 2], [2, 4, 4], [0, 1, 1]])
    encoder = TextEncoder(load_tokenizer(tiny_model))

    def tokens(turns: list[str | None]) -> int:
        return sum(len(ids) for ids in encoder.user_text([t or "" for t in turns]))

    in_tokens = np.array([[tokens(r[c]) for c in ("prompt", "response_a", "response_b")] for r in rows])
    for unit, table in (("characters", lengths), ("tokens", in_tokens)):
        whole = np.column_stack([table, table.sum(axis=1)])
        for part, column in zip(("prompt", "response_a", "response_b", "comparison"), whole.T, strict=True):
            assert found[unit][part]["mean"] == column.mean()
            assert found[unit][part]["max"] == column.max()
            assert found[unit][part]["p50"] == np.median(column)
            assert found[unit][part]["p95"] == pytest.approx(np.quantile(column, 0.95))
    assert found["tokens_over"] == {"1024": 0.0, "2048": 0.0, "4096": 0.0}


def test_the_share_of_long_comparisons_is_counted_in_tokens(judge: Judge, tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(i, "x y z " * n) for i, n in enumerate([1, 3000, 3000, 30_000])]
    write(tmp_path / "t.csv", rows)
    over = json.loads("\n".join(judge("describe", "t.csv", "--model", str(tiny_model), "--json")[1]))["tokens_over"]
    assert over == {"1024": 0.75, "2048": 0.75, "4096": 0.75}


def test_cells_that_cannot_be_read_are_counted(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [row(1, "['python']"), row(2, "fine")])
    assert json.loads("\n".join(judge("describe", "t.csv", "--json")[1]))["flags"] == {"bad_cell": 1}


def test_a_language_is_guessed_where_there_is_enough_to_guess_from(judge: Judge, tmp_path: Path) -> None:
    prompts = [LONG, FRENCH, "日本で一番高い山は何ですか。", "Bonjour le monde", " ", "你好"]
    write(tmp_path / "t.csv", [row(i, prompt) for i, prompt in enumerate(prompts)])
    found = json.loads("\n".join(judge("describe", "t.csv", "--json")[1]))
    assert found["languages"] == {"too short": 3, "en": 1, "fr": 1, "ja": 1}


def test_figures_are_lines_also_of_a_table_without_verdicts(judge: Judge, tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k != "winner"} for r in [row(1, LONG), row(2, "Hi")]]
    write(tmp_path / "t.csv", rows)
    assert judge("describe", "t.csv") == (
        0,
        [
            "t.csv: 2 rows, 2 prompts",
            "turns       1 100.0%",
            "flags       none",
            "languages   en 50.0%, too short 50.0%",
            "characters       mean      p50      p90      p95      p99      max",
            "  prompt           36       36       63       67       69       70",
            "  response_a        1        1        1        1        1        1",
            "  response_b        1        1        1        1        1        1",
            "  comparison       38       38       65       69       71       72",
        ],
    )
