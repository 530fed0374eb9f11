"""Text of users in messages: printed as one safe line, whatever it holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.errors import printable, suggestion
from judge.tables.comparison import where

unhurried = settings(deadline=None)  # the cores are shared
LONE = "\ud83c"  # half a surrogate pair
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(["\ud83c", "\udf4d", "\udfff", "\ufeff", "\x1b"])))
HOSTILE = ["\x1b[31mred", "two\nlines", "\rover", "\u202eabc", "\u2066x", "a\x00b", "\x9b31m", LONE, "\u2028"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain é 🍍", "plain é 🍍"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud83c", "\\ud83c"),
        (17, "17"),
        (["a\n"], "['a\\n']"),
        ("x" * 90, "x" * 80 + "…"),
        ("x" * 80, "x" * 80),
    ],
)
def test_text_is_printed_as_one_safe_line(value: object, shown: str) -> None:
    assert printable(value) == shown


@unhurried
@given(TEXTS, st.integers(1, 40))
def test_printed_text_has_no_control_characters_and_is_short(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= 10 * limit + 1  # the longest escape is \U0010ffff


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_reaches_neither_a_place_nor_a_suggestion_raw(text: str) -> None:
    assert where("t.csv", 3, text, text).isprintable()
    assert suggestion("prompt", [f"prompt{text[:3]}"]).isprintable()


def test_a_place_names_file_row_id_and_column() -> None:
    assert where("t.csv", 3, 17, "prompt") == "t.csv: row 3 (id 17), column 'prompt'"
    assert where("t.csv", 3, None) == "t.csv: row 3"
    assert where("t.csv", 1, 0) == "t.csv: row 1 (id 0)"


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("prompt", ["promt", "id"], " (did you mean 'promt'?)"),
        ("id", [" id"], " (did you mean ' id'?)"),
        ("prompt", ["xyz"], ""),
        ("prompt", [], ""),
    ],
)
def test_a_close_word_is_suggested(word: str, known: list[str], text: str) -> None:
    assert suggestion(word, known) == text
