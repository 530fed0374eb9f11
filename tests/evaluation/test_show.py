"""`judge show`: what it prints, at which width, and that no text of a table reaches the terminal as it is."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from judge.cli.show import JOINERS, run_show, verdict_name, visible
from judge.errors import JudgeError

unhurried = settings(deadline=None, max_examples=200)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

HOSTILE = (
    "[bold red]not markup[/] :smile: \x1b[2J\x1b]0;title\x07 \x9b31m back\b\b\r over "
    "\u202eright to left\u202c \u2066isolate\u2069 zero\u200bwidth \ufeff \u2028 \ud83d end"
)


def write(
    folder: Path, rows: list[dict[str, Any]], predictions: dict[str, list[Any]] | None = None
) -> tuple[Path, Path]:
    """Files of predictions and of the table; the table is JSON Lines, which can hold any text."""
    table = folder / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    count = len(rows)
    values = {"p_a": [0.2] * count, "p_b": [0.5] * count, "p_tie": [0.3] * count, **(predictions or {})}
    pd.DataFrame({"id": [row["id"] for row in rows], **values}).to_parquet(folder / "p.parquet", index=False)
    return folder / "p.parquet", table


def row_of(**values: Any) -> dict[str, Any]:
    return {"id": "r1", "prompt": "Say hi.", "response_a": "Hi!", "response_b": "No.", **values}


def shown(files: tuple[Path, Path], row_id: str = "r1", width: int = 100, encoding: str = "utf-8") -> list[str]:
    """The lines that a terminal without colours gets, without spaces at their ends."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    run_show(*files, row_id, console=Console(file=file, width=width, highlight=False, markup=False, emoji=False))
    file.flush()
    return [line.rstrip() for line in buffer.getvalue().decode(encoding).splitlines()]


def test_a_comparison_is_shown_with_verdicts_and_probabilities(tmp_path: Path) -> None:
    facts = {"winner": "model_a", "language": "English", "model_a": "gpt-4", "model_b": "llama"}
    files = write(tmp_path, [row_of(**facts)], {"p_a": [0.25], "p_b": [0.5], "p_tie": [0.25], "flags": ["trained_on"]})
    assert shown(files, width=80) == [
        "id        r1",
        "models    A gpt-4 against B llama",
        "language  English",
        "length    prompt 7 characters, A 3, B 3",
        "flags     trained on",
        "prompt " + "─" * 73,
        "Say hi.",
        "",
        "A                                       B",
        "Hi!                                     No.",
        "verdicts " + "─" * 71,
        "human     A",
        "judge     B, wrong; log loss 1.3863 nats (saying nothing: 1.0986)",
        "",
        "     judge",
        "A    0.250 ████░░░░░░░░░░░░",
        "B    0.500 ████████░░░░░░░░",
        "tie  0.250 ████░░░░░░░░░░░░",
    ]


def test_a_narrow_terminal_gets_a_above_b(tmp_path: Path) -> None:
    files = write(tmp_path, [row_of(response_a="word " * 20)])
    lines = shown(files, width=40)
    assert max(map(len, lines)) <= 40
    assert lines[lines.index("A") + 1].startswith("word word")
    assert lines[lines.index("B") + 1] == "No."


def test_turns_are_shown_one_by_one_with_what_is_missing(tmp_path: Path) -> None:
    turns = {
        "prompt": json.dumps(["One?", "Two?", None]),
        "response_a": json.dumps(["first", "", "third"]),
        "response_b": json.dumps(["  \n"]),
    }
    lines = shown(write(tmp_path, [row_of(**turns)]))
    text = "\n".join(lines)
    for number in (1, 2, 3):
        assert f"turn {number} of 3 ─" in text
    assert "first                                             (only white space, 3 characters)" in lines
    assert "(empty)                                           (no such turn)" in lines
    assert "third                                             (no such turn)" in lines
    assert "(null)" in lines
    assert "flags     null turn, ragged, empty text" in lines


def test_both_orders_are_shown_where_they_were_read(tmp_path: Path) -> None:
    names = ("a", "b", "tie")
    first, second = np.log([0.6, 0.3, 0.1]), np.log([0.1, 0.7, 0.2])
    columns: dict[str, list[Any]] = {f"logprob_{n}": [v, v] for n, v in zip(names, first, strict=True)}
    columns |= {f"swap_logprob_{n}": [v, None] for n, v in zip(names, second, strict=True)}
    columns |= {"cut_prompt": [3, 0], "cut_a": [0, 0], "cut_b": [0, 0], "cut_turns": [0, 0]}
    files = write(tmp_path, [row_of(), row_of(id="r2")], columns)
    lines = shown(files)
    assert "orders    A first says A, B first says B" in lines
    assert lines[-4].split() == ["judge", "A", "first", "B", "first"]
    assert re.findall(r"\d\.\d{3}", lines[-3]) == ["0.200", "0.600", "0.100"]
    assert re.findall(r"\d\.\d{3}", lines[-2]) == ["0.500", "0.300", "0.700"]
    assert "length    prompt 7 characters, A 3, B 3, cut" in lines
    assert [line for line in shown(files, width=50) if line.startswith("tie")] == [
        "tie  0.300 █████░░░░░░░░░░░",
        "tie  0.100 ██░░░░░░░░░░░░░░",
        "tie  0.200 ███░░░░░░░░░░░░░",
    ]
    other = shown(files, "r2")
    assert not any(line.startswith("orders") for line in other)
    assert other[-4].split() == ["judge"]
    assert "length    prompt 7 characters, A 3, B 3" in other


def test_rows_without_a_label_have_no_loss(tmp_path: Path) -> None:
    lines = shown(write(tmp_path, [row_of()]))
    assert "human     no verdict in the table" in lines
    assert "judge     B" in lines
    assert "log loss" not in "\n".join(lines)


@pytest.mark.parametrize("width", [100, 60])
@pytest.mark.parametrize("place", ["prompt", "response_a", "response_b", "model_a", "language", "id"])
def test_hostile_text_reaches_no_terminal(tmp_path: Path, place: str, width: int) -> None:
    text = HOSTILE.replace("\ud83d", "").replace("\r", "") if place == "id" else HOSTILE
    hostile = row_of(**{"model_a": "m", "model_b": "m", "language": "en", place: text})
    files = write(tmp_path, [hostile])
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, highlight=False, markup=False, emoji=False)
    run_show(*files, str(hostile["id"]), console=console)
    plain = COLOURS.sub("", file.getvalue())
    assert "\x1b" in file.getvalue()  # colours, which are ours
    assert all(c == "\n" or c.isprintable() for c in plain)
    together = "".join(plain.split())
    for piece in (
        "[boldred]notmarkup[/]:smile:",
        "\\x1b[2J\\x1b]0;title\\x07",
        "\\x9b31m",
        "\\u202erightto",
        "\\u2028",
    ):
        assert piece in together


def test_no_colours_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_show(*write(tmp_path, [row_of(winner="tie")]), "r1", width=90)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "prompt " + "─" * 83 in out


def test_a_terminal_that_knows_only_ascii_gets_only_ascii(tmp_path: Path) -> None:
    lines = shown(write(tmp_path, [row_of(prompt="Grüße 😀", language="français")]), encoding="ascii")
    assert "Gr\\xfc\\xdfe \\U0001f600" in lines
    assert "B    0.500 ########........" in lines
    assert "language  fran\\xe7ais" in lines


def test_the_default_console_reads_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_show(*write(tmp_path, [row_of(prompt="[red]x[/red] :smile: http://example.org 12")]), "r1")
    assert "[red]x[/red] :smile: http://example.org 12" in capsys.readouterr().out


@unhurried
@given(st.text(), st.booleans())
def test_visible_text_holds_nothing_that_does_not_show(text: str, ascii_only: bool) -> None:
    seen = visible(text, ascii_only)
    assert all(c == "\n" or c in JOINERS or c.isprintable() or unicodedata.category(c) == "Zs" for c in seen)
    assert seen.isascii() or not ascii_only
    assert seen.count("\n") == text.count("\n")
    assert visible(seen, ascii_only) == seen


def test_visible_keeps_what_people_write() -> None:
    for text in ("a\nb", "naïve 日本語\u3000文 العربية 😀", "1\u00a0000", ""):
        assert visible(text) == text
    assert visible("a\r\nb\rc\td") == "a\nb\\rc\\td"


def test_joiners_are_kept_where_they_spell_a_word_and_shown_elsewhere() -> None:
    for word in ("می\u200cخواهم", "क्\u200dष"):
        assert visible(word) == word
        assert visible(word, ascii_only=True).isascii()
    for text in ("\u200cمی", "می\u200c", "pay\u200dpal", "می\u200c\u200cخواهم", "\u202e\u200dم", "1\u200d2"):
        assert JOINERS[0] not in visible(text)
        assert JOINERS[1] not in visible(text)


def test_the_narrowest_terminal_cuts_neither_verdicts_nor_bars(tmp_path: Path) -> None:
    files = write(tmp_path, [row_of(winner="tie")], {"p_a": [0.0], "p_b": [1.0], "p_tie": [0.0]})
    assert shown(files, width=20)[-3:] == ["A    0.000 ░░░░░░░", "B    1.000 ███████", "tie  0.000 ░░░░░░░"]
    assert shown(files, width=20, encoding="ascii")[-2] == "B    1.000 #######"


def test_equally_probable_verdicts_are_all_named(tmp_path: Path) -> None:
    assert verdict_name(np.array([0.4, 0.2, 0.4])) == "A or tie"
    files = write(tmp_path, [row_of(winner="tie")], {"p_a": [0.2], "p_b": [0.4], "p_tie": [0.4]})
    assert "judge     B or tie, open; log loss 0.9163 nats (saying nothing: 1.0986)" in shown(files)


def test_an_unknown_id_is_one_line_with_what_is_close(tmp_path: Path) -> None:
    predictions, table = write(tmp_path, [row_of(id="question-12"), row_of(id="\x1b[1m")])
    for row_id, problem in (
        ("question-13", "t.jsonl: no row has the id 'question-13' (did you mean 'question-12'?)"),
        ("\x1b[2m", "t.jsonl: no row has the id '\\x1b[2m'; the first one is 'question-12'"),
        ("", "t.jsonl: no row has the id ''; the first one is 'question-12'"),
    ):
        with pytest.raises(JudgeError) as caught:
            run_show(predictions, table, row_id)
        assert str(caught.value) == problem
    pd.read_parquet(predictions)[1:].to_parquet(predictions, index=False)
    with pytest.raises(JudgeError) as caught:
        run_show(predictions, table, "question-12")
    assert str(caught.value) == ("p.parquet: has no prediction for id question-12; give the predictions of this table")
    with pytest.raises(JudgeError, match="--width=5: expected 20 or more"):
        run_show(predictions, table, "question-12", width=5)
