"""Mock tables hold the given table's rows under new ids, and every kind of awkward row."""
# ruff: noqa: S311 (repeatable random rows)

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.data import mock_table as mock_module
from judge.data.mock_awkward import KINDS, kinds_for, place_awkward
from judge.data.mock_table import DEMO_TABLE, mock_table
from judge.errors import JudgeError
from judge.tables.comparison import Comparison, Flag
from judge.tables.table import Table
from tests.kit.table_writers import WRITERS, Row

SUFFIXES = pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
Content = tuple[Any, ...]


def source_rows(rows: int) -> list[Row]:
    """Return rows of one to three turns in several languages, with verdicts, models and a column of the user's."""
    words = ("Hello there,", "Привет,", "你好，", '=1+1, "quoted"', "two\nlines")
    return [
        {
            "id": 1000 + i,
            **{
                name: json.dumps([f"{words[(i + k) % 5]} {name} {i}"] * (1 + i % 3), ensure_ascii=False)
                for k, name in enumerate(("prompt", "response_a", "response_b"))
            },
            "model_a": f"m{i % 4}",
            "model_b": "n",
            "winner": ("model_a", "model_b", "tie", "model_a")[i % 4],
            "secret": "hush",
        }
        for i in range(rows)
    ]


def source_table(path: Path, rows: int = 120) -> Path:
    WRITERS[path.suffix](path, source_rows(rows))
    return path


def rows_of(path: Path) -> list[Comparison]:
    return [row for chunk in Table.open(path).chunks() for row in chunk]


def counts_of(path: Path) -> Counter[str]:
    table = Table.open(path)
    for _ in table.chunks():
        pass
    return table.counts


def content(row: Comparison) -> Content:
    return (row.prompt, row.response_a, row.response_b)


@SUFFIXES
def test_every_row_is_one_of_the_tables_under_a_new_id(tmp_path: Path, suffix: str) -> None:
    source = source_table(tmp_path / "source.csv")
    lines = mock_table(source, 400, tmp_path / f"mock.{suffix}", awkward=0, labels=True)
    assert lines == [f"{tmp_path / f'mock.{suffix}'}: 400 rows, drawn from 120 rows of source.csv"]
    found, known = rows_of(tmp_path / f"mock.{suffix}"), rows_of(source)
    assert [int(row.id) for row in found] == list(range(1, 401))
    facts = {(content(row), row.label, row.models) for row in known}
    drawn = Counter((content(row), row.label, row.models) for row in found)
    assert set(drawn) <= facts
    # 400 draws from 120 rows leave out 4 of them on average, and draw hardly one more than 12 times
    assert len(drawn) > 100
    assert max(drawn.values()) < 14


@SUFFIXES
def test_every_kind_of_awkward_row_is_there_and_readable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mock.{suffix}"
    lines = mock_table(DEMO_TABLE, 200, path, seed=3, awkward=0.2)
    counts = counts_of(path)
    flags = (Flag.NULL_TURN, Flag.EMPTY_LIST, Flag.EMPTY_TEXT, Flag.RAGGED, Flag.SURROGATE, Flag.IDENTICAL)
    assert all(counts[str(flag.name).lower()] >= 1 for flag in flags)
    assert counts["bad_cell"] == 0
    for kind in KINDS:
        assert kind.name in lines[1]
    everything = rows_of(path)
    assert [int(row.id) for row in everything] == list(range(1, 201))
    texts = [["\n".join(t or "" for t in turns) for turns in content(row)] for row in everything]
    text = "\n".join(text for row in texts for text in row)
    for one_of in ("<|im_ <|eot_id|> [/INST] <|endoftext|> <end_of_turn>", "\u202e \u200f \u2067 \u061c"):
        assert any(needle in text for needle in one_of.split(" ")), one_of
    assert any(ord(character) >= 0x1D400 for character in text)  # an emoji, or a mathematical letter
    assert any(needle in text for needle in ("<script>", "</td>", "\x1b[31m", "{{ turns }}", "%s"))
    assert any(t and t[0] in "=+-@" for row in everything for t in row.prompt)
    assert max(sum(map(len, row)) for row in texts) >= 60_000
    assert max(row.turn_count for row in everything) == 36


def test_awkward_rows_are_spread_over_all_kinds_and_are_at_most_half() -> None:
    kinds = kinds_for("json")
    assert len(kinds) == len(KINDS)
    for rows in (1, 2, 7, 30, 40, 5000):
        for share in (0.0, 0.01, 0.5):
            found = Counter(kind.name for kind in place_awkward(Random(rows), rows, share, kinds).values())
            assert found.total() <= rows // 2
            if share and rows >= 2 * len(kinds):
                assert set(found) == {kind.name for kind in kinds}
                limited = {kind.name for kind in kinds if kind.most is not None}
                others = [found[kind.name] for kind in kinds if kind.name not in limited]
                assert max(others) - min(others) <= 1
                assert all(found[name] <= 20 for name in limited)


def test_the_same_seed_gives_the_same_file_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        mock_table(DEMO_TABLE, 60, tmp_path / f"{name}.csv", seed=seed, labels=True)
    files = {name: (tmp_path / f"{name}.csv").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_columns_and_form_are_those_of_the_table(tmp_path: Path) -> None:
    source = source_table(tmp_path / "source.csv")
    mock_table(source, 400, tmp_path / "mock.csv", labels=True)
    frame = pd.read_csv(tmp_path / "mock.csv")
    assert list(frame) == ["id", "prompt", "response_a", "response_b", "model_a", "model_b", "winner"]
    assert frame["winner"].value_counts(normalize=True)["model_a"] == pytest.approx(0.5, abs=0.08)
    assert "hush" not in (tmp_path / "mock.csv").read_text()
    mock_table(source, 20, tmp_path / "plain.csv")
    assert list(pd.read_csv(tmp_path / "plain.csv")) == ["id", "prompt", "response_a", "response_b"]
    mock_table(DEMO_TABLE, 40, tmp_path / "hot.csv", labels=True)
    assert list(pd.read_csv(tmp_path / "hot.csv"))[-3:] == ["winner_model_a", "winner_model_b", "winner_tie"]


@SUFFIXES
def test_plain_texts_stay_plain(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": "x", "prompt": "Say a word.", "response_a": "Here is a word for you.", "response_b": "No, never."}]
    pd.DataFrame(rows).to_csv(tmp_path / "one.csv", index=False)
    path = tmp_path / f"words.{suffix}"
    mock_table(tmp_path / "one.csv", 80, path)
    assert counts_of(path)["multi_turn"] == counts_of(path)["bad_cell"] == 0
    assert counts_of(path)["null_turn"] > 0
    assert all(len(row.prompt) == 1 for row in rows_of(path))
    assert "Say a word." in {row.prompt[0] for row in rows_of(path)}


def test_list_columns_stay_lists_where_the_format_has_them(tmp_path: Path) -> None:
    texts = [["One of them.", None], ["Another one."]]
    frame = pd.DataFrame({"id": [1, 2], "prompt": texts, "response_a": texts, "response_b": texts[::-1]})
    frame.to_parquet(tmp_path / "source.parquet", index=False)
    for suffix in ("parquet", "jsonl", "csv"):
        mock_table(tmp_path / "source.parquet", 60, tmp_path / f"mock.{suffix}")
        assert counts_of(tmp_path / f"mock.{suffix}")["null_turn"] > 20
    assert isinstance(pd.read_parquet(tmp_path / "mock.parquet")["prompt"][0], np.ndarray)
    assert isinstance(json.loads((tmp_path / "mock.jsonl").read_text().splitlines()[0])["prompt"], list)


def test_a_long_table_is_drawn_from_a_random_sample_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mock_module, "_MOST_KEPT", 10)
    source = source_table(tmp_path / "source.csv")
    (line,) = mock_table(source, 200, tmp_path / "mock.csv", awkward=0)
    assert "drawn from 120 rows" in line
    places = {content(row): i for i, row in enumerate(rows_of(source))}
    drawn = {places[content(row)] for row in rows_of(tmp_path / "mock.csv")}
    assert len(drawn) == 10
    assert max(drawn) > 60


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (300, 1200):
        tracemalloc.start()
        mock_table(DEMO_TABLE, rows, tmp_path / "mock.csv", awkward=0, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "mock.csv"
    path.write_text("precious")
    with pytest.raises(JudgeError, match="is there already; give another name, or pass --overwrite to replace it"):
        mock_table(DEMO_TABLE, 5, path)
    assert path.read_text() == "precious"
    mock_table(DEMO_TABLE, 5, path, overwrite=True)
    assert len(rows_of(path)) == 5


def test_what_cannot_be_done_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    broken, unlabelled = tmp_path / "broken.csv", tmp_path / "unlabelled.csv"
    broken.write_text("id,prompt\n1,x\n")
    unlabelled.write_text("id,prompt,response_a,response_b\n1,p,a,b\n")
    for table, rows, name, awkward, words in (
        (DEMO_TABLE, 0, "a.csv", 0.1, "--rows=0: expected 1 to 10,000,000"),
        (DEMO_TABLE, 10_000_001, "a.csv", 0.1, "expected 1 to 10,000,000"),
        (DEMO_TABLE, 5, "a.csv", 0.9, "between 0 and 0.5"),
        (DEMO_TABLE, 5, "a.txt", 0.1, "unknown suffix"),
        (broken, 5, "a.csv", 0.1, "no column"),
        (broken, 5, "broken.csv", 0.1, "never overwritten"),
        (unlabelled, 5, "a.csv", 0.1, "has no verdicts to draw; leave --labels out"),
    ):
        with pytest.raises(JudgeError, match=words):
            mock_table(table, rows, tmp_path / name, awkward=awkward, labels=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.csv", "unlabelled.csv"]


def judge_lines(folder: Path, *arguments: str) -> list[str]:
    """Run the command in a folder that has the demo's tables; return its lines."""
    (folder / "judge").mkdir(exist_ok=True)
    if not (folder / "judge" / "demo").exists():
        (folder / "judge" / "demo").symlink_to(DEMO_TABLE.parent)
    command: list[str | Path] = [Path(sys.executable).parent / "judge", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    page = (DEMO_TABLE.parents[2] / "docs" / "rehearse.md").read_text(encoding="utf-8")
    ((command, shown),) = re.findall(r"```console\n\$ judge (mock-table .*?)\n(.*?)```", page, re.DOTALL)
    assert judge_lines(tmp_path, *command.split()) == shown.splitlines()


def test_without_a_table_the_command_draws_the_demos_rows_and_says_so(tmp_path: Path) -> None:
    first, *_, last = judge_lines(tmp_path, "mock-table", "-n", "50", "-o", "mock.csv")
    assert first == "mock.csv: 50 rows, drawn from 24 rows of comparisons.csv"
    assert last.startswith("no TABLE given: the rows are the demo's, much shorter than real ones")
