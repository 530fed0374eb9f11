from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from judge.tables.comparison import (
    BadCellError,
    Cells,
    Comparison,
    Flag,
    clean_text,
    parse_cell,
    parse_label,
    row_flags,
)

unhurried = settings(deadline=None)  # the cores are shared
PINEAPPLE = "\N{PINEAPPLE}"
LONE = "\ud83c"  # the first half of the pineapple's surrogate pair
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(["\ud83c", "\udf4d", "\udfff", "\ufeff", "\x1b"])))


def joined_and_replaced(text: str) -> str:
    """What `clean_text` should return, a character at a time."""
    result: list[str] = []
    i = 0
    while i < len(text):
        high, low = ord(text[i]), ord(text[i + 1]) if i + 1 < len(text) else 0
        if 0xD800 <= high < 0xDC00 and 0xDC00 <= low < 0xE000:
            result.append(chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)))
            i += 2
            continue
        result.append("\ufffd" if 0xD800 <= high < 0xE000 else text[i])
        i += 1
    return "".join(result)


# -- cells that are read -----------------------------------------------------------------------------------

READ: list[tuple[Any, Cells, tuple[str | None, ...], Flag]] = [
    # a JSON list with one string a turn
    ('["a"]', "auto", ("a",), Flag(0)),
    ('["a", "b"]', "auto", ("a", "b"), Flag(0)),
    (' \n["a"]\t', "auto", ("a",), Flag(0)),
    ('["a", null]', "auto", ("a", None), Flag.NULL_TURN),
    ("[null]", "auto", (None,), Flag.NULL_TURN),
    ("[ null , null ]", "auto", (None, None), Flag.NULL_TURN),
    ("[]", "auto", (), Flag.EMPTY_LIST),
    ('[""]', "auto", ("",), Flag.EMPTY_TEXT),
    ('["a", " \\n"]', "auto", ("a", " \n"), Flag.EMPTY_TEXT),
    # escapes and words that a replacement or an evaluation would touch
    (r'["https:\/\/x"]', "auto", ("https://x",), Flag(0)),
    (r'["\ud83c\udf4d"]', "auto", (PINEAPPLE,), Flag(0)),
    (f'["{PINEAPPLE}"]', "auto", (PINEAPPLE,), Flag(0)),
    (r'["\ud83c"]', "auto", ("\ufffd",), Flag.SURROGATE),
    (r'["\udf4d\ud83c"]', "auto", ("\ufffd\ufffd",), Flag.SURROGATE),
    ('["is int nullable? null, true"]', "auto", ("is int nullable? null, true",), Flag(0)),
    ('["null"]', "auto", ("null",), Flag(0)),
    ('["a\\u0000b\\u001b[31m"]', "auto", ("a\x00b\x1b[31m",), Flag(0)),
    ("[\"__import__('os').getcwd()\"]", "auto", ("__import__('os').getcwd()",), Flag(0)),
    # plain text, with things in it that begin like a list
    ("hi", "auto", ("hi",), Flag(0)),
    ("", "auto", ("",), Flag.EMPTY_TEXT),
    ("null", "auto", ("null",), Flag(0)),
    ("NA", "auto", ("NA",), Flag(0)),
    ("[INST] hi", "auto", ("[INST] hi",), Flag(0)),
    ("[1] see", "auto", ("[1] see",), Flag(0)),
    ("[1, 2]", "auto", ("[1, 2]",), Flag(0)),
    ("[link](url)", "auto", ("[link](url)",), Flag(0)),
    ("[nullable] int", "auto", ("[nullable] int",), Flag(0)),
    ("[[1, 2], [3, 4]]", "auto", ("[[1, 2], [3, 4]]",), Flag(0)),
    ('{"a": 1}', "auto", ('{"a": 1}',), Flag(0)),
    ('"quoted"', "auto", ('"quoted"',), Flag(0)),
    ('see ["a"]', "auto", ('see ["a"]',), Flag(0)),
    (LONE, "auto", ("\ufffd",), Flag.SURROGATE),
    # plain takes all as it stands
    ('["a"]', "plain", ('["a"]',), Flag(0)),
    ("['a'", "plain", ("['a'",), Flag(0)),
    ("[]", "plain", ("[]",), Flag(0)),
    (r"\ud83c\udf4d \/", "plain", (r"\ud83c\udf4d \/",), Flag(0)),
    # json wants lists only
    ('["a"]', "json", ("a",), Flag(0)),
    ("[]", "json", (), Flag.EMPTY_LIST),
    # missing values
    (None, "auto", (None,), Flag.NULL_TURN),
    (None, "json", (None,), Flag.NULL_TURN),
    (math.nan, "plain", (None,), Flag.NULL_TURN),
    # lists that are lists already
    (["a", None], "auto", ("a", None), Flag.NULL_TURN),
    (("a", "b"), "auto", ("a", "b"), Flag(0)),
    ([], "auto", (), Flag.EMPTY_LIST),
    (['["a"]'], "auto", ('["a"]',), Flag(0)),
    (["a"], "json", ("a",), Flag(0)),
    (["a"], "plain", ("a",), Flag(0)),
    ([LONE + "x"], "auto", ("\ufffdx",), Flag.SURROGATE),
    (np.array(["a", None], dtype=object), "auto", ("a", None), Flag.NULL_TURN),
    (np.array(["a", "b"]), "auto", ("a", "b"), Flag(0)),
]


@pytest.mark.parametrize(("cell", "cells", "turns", "flags"), READ)
def test_a_cell_is_read_into_turns_and_flags(
    cell: Any, cells: Cells, turns: tuple[str | None, ...], flags: Flag
) -> None:
    assert parse_cell(cell, cells) == (turns, flags)


REFUSED: list[tuple[Any, Cells, str]] = [
    ('["a", "b"', "auto", "is not a valid JSON list (Expecting ',' delimiter at character 9)"),
    ("['a', 'b']", "auto", "is not a valid JSON list (Expecting value at character 1)"),
    ("[None]", "auto", "is not a valid JSON list (Expecting value at character 1)"),
    ('["a"] trailing', "auto", "is not a valid JSON list (Extra data at character 6)"),
    ('["a",]', "auto", "is not a valid JSON list (Expecting value at character 5)"),
    ('["a\nb"]', "auto", "is not a valid JSON list (Invalid control character at at character 3)"),
    (r'["\x41"]', "auto", "is not a valid JSON list (Invalid \\escape at character 2)"),
    (f'["a", {"9" * 5000}]', "auto", "is not a valid JSON list (it holds a number of thousands of digits)"),
    ('["a", ' + "[" * 100_000, "auto", "is not a valid JSON list (nested too deeply)"),
    ('["a", ["b"]]', "auto", "holds a list as turn 2, expected text or null"),
    ('["a", {"b": 1}]', "auto", "holds an object as turn 2, expected text or null"),
    ('["a", NaN]', "auto", "holds a number as turn 2, expected text or null"),
    ("[null, true]", "auto", "holds true or false as turn 2, expected text or null"),
    ("[1, 2]", "json", "holds a number as turn 1, expected text or null"),
    ("[" * 100_000, "json", "is not a valid JSON list (nested too deeply)"),
    ("plain text", "json", "is not a valid JSON list (Expecting value at character 0)"),
    ("[INST] hi", "json", "is not a valid JSON list (Expecting value at character 1)"),
    ("", "json", "is not a valid JSON list (Expecting value at character 0)"),
    ("null", "json", "is a NoneType, expected a JSON list of texts"),
    ('{"a": 1}', "json", "is an object, expected a JSON list of texts"),
    ('"a"', "json", "is a str, expected a JSON list of texts"),
    (7, "auto", "is a number, expected text or a list of texts"),
    (7.5, "plain", "is a number, expected text or a list of texts"),
    (True, "auto", "is true or false, expected text or a list of texts"),
    ({"role": "user"}, "auto", "is an object, expected text or a list of texts"),
    (b"bytes", "auto", "is a bytes, expected text or a list of texts"),
    ([["a"]], "auto", "holds a list as turn 1, expected text or null"),
    ([{"role": "user"}], "plain", "holds an object as turn 1, expected text or null"),
    (np.array([["a"]]), "auto", "holds a list as turn 1, expected text or null"),
    (["a", math.nan], "auto", "holds a number as turn 2, expected text or null"),
]


@pytest.mark.parametrize(("cell", "cells", "reason"), REFUSED)
def test_a_cell_that_is_neither_text_nor_a_list_of_texts_is_refused(cell: Any, cells: Cells, reason: str) -> None:
    with pytest.raises(BadCellError) as caught:
        parse_cell(cell, cells)
    # json.JSONDecodeError words a bad escape with or without the escape itself, by version of Python
    assert str(caught.value).replace("\\escape: '\\\\x'", "\\escape") == reason


@unhurried
@given(st.lists(st.none() | TEXTS, min_size=1), st.booleans())
@example([LONE, "\udf4d"], True)
def test_a_json_list_gives_back_the_texts_it_was_made_from(turns: list[str | None], escape: bool) -> None:
    cells: list[Cells] = ["auto", "json"]
    for mode in cells:
        found, flags = parse_cell(json.dumps(turns, ensure_ascii=escape), mode)
        assert found == tuple(t if t is None else joined_and_replaced(t) for t in turns)
        assert (Flag.NULL_TURN in flags) == (None in turns)
        assert Flag.BAD_CELL not in flags


@unhurried
@given(TEXTS)
def test_plain_mode_takes_every_text_as_one_turn(text: str) -> None:
    assert parse_cell(text, "plain")[0] == (joined_and_replaced(text),)


@unhurried
@given(TEXTS)
@example(PINEAPPLE)
@example("\ud83c\udf4d")
@example("\ufeff\ud83cA")
@example("\udf4d\ud83c\ud83c\udf4d")
def test_cleaned_text_joins_pairs_replaces_lone_halves_and_can_be_stored(text: str) -> None:
    cleaned, found = clean_text(text)
    assert cleaned == joined_and_replaced(text)
    assert found == any("\ud800" <= c <= "\udfff" for c in text)
    cleaned.encode("utf-8")


@unhurried
@given(TEXTS)
def test_auto_mode_never_fails_on_text_that_does_not_begin_with_a_bracket(text: str) -> None:
    assert parse_cell("x" + text)[0] == ("x" + joined_and_replaced(text),)


@unhurried
@given(st.text("[]\"'nul,\\ {}19x\n") | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused_for_a_reason_and_nothing_else(text: str) -> None:
    cells: list[Cells] = ["auto", "json", "plain"]
    for mode in cells:
        try:
            turns, _ = parse_cell(text, mode)
        except BadCellError as error:
            assert str(error).isprintable()  # noqa: PT017 - most inputs are read, so `raises` does not fit
        else:
            assert all(t is None or isinstance(t, str) for t in turns)


# -- flags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "a", "b", "flags"),
    [
        (("p",), ("a",), ("b",), Flag(0)),
        (("p", "q"), ("a", "c"), ("b",), Flag.RAGGED),
        (("p",), ("a", None), ("b", None), Flag.RAGGED),
        (("p",), (), ("b",), Flag.RAGGED),
        (("p",), ("a",), ("a",), Flag.IDENTICAL),
        (("p",), (), (), Flag.RAGGED | Flag.IDENTICAL),
        ((), (), (), Flag.IDENTICAL),
        (("p",), ("a",), ("a", "a"), Flag.RAGGED),
    ],
)
def test_ragged_and_identical_rows_are_flagged(prompt: Any, a: Any, b: Any, flags: Flag) -> None:
    assert row_flags(prompt, a, b) == flags


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        (Flag(0), ""),
        (Flag.RAGGED, "ragged"),
        (Flag.NULL_TURN | Flag.BAD_CELL, "null_turn,bad_cell"),
        (
            ~Flag(0),
            "null_turn,empty_list,ragged,surrogate,bad_cell,identical,empty_text,not_scored,trained_on,trained_prompt,"
            "swap_left_out,smaller_budget,prior",
        ),
    ],
)
def test_flags_are_written_as_names(flag: Flag, names: str) -> None:
    assert flag.names() == names


# -- the comparison ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "a", "b", "turns"),
    [((), (), (), 1), (("p",), (), (), 1), (("p",), ("a", "b"), ("c",), 2), ((), (), ("a", None, None), 3)],
)
def test_the_longest_of_the_three_counts_the_turns(prompt: Any, a: Any, b: Any, turns: int) -> None:
    assert Comparison(1, prompt, a, b).turn_count == turns


@pytest.mark.parametrize(("label", "swapped"), [(0, 1), (1, 0), (2, 2), (-1, -1)])
def test_swapping_exchanges_responses_and_label_and_twice_is_the_same(label: int, swapped: int) -> None:
    row = Comparison("x", ("p",), ("a",), ("b", None), label, Flag.RAGGED)
    other = row.swapped()
    assert other == Comparison("x", ("p",), ("b", None), ("a",), swapped, Flag.RAGGED)
    assert other.swapped() == row


# -- labels ------------------------------------------------------------------------------------------------


def hot(a: Any, b: Any, tie: Any) -> dict[str, Any]:
    return {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (hot(1, 0, 0), 0),
        (hot(0, 1, 0), 1),
        (hot(0, 0, 1), 2),
        (hot(0.0, 1.0, 0.0), 1),
        (hot(False, False, True), 2),
        (hot("1", "0", "0"), 0),
        (hot("0.0", "1.0", "0.0"), 1),
        (hot("False", "False", "True"), 2),
        (hot(" TRUE ", "false", "false"), 0),
        (hot(np.int8(0), np.int8(1), np.int8(0)), 1),
        (hot(np.bool_(True), np.bool_(False), np.bool_(False)), 0),
        (hot(0, 0, 0), -1),
        (hot(1, 1, 0), -1),
        (hot(None, None, None), -1),
        (hot("", "", ""), -1),
        (hot(math.nan, math.nan, math.nan), -1),
        (hot(0.5, 0.5, 0), -1),
        (hot("yes", "no", "no"), -1),
        ({"winner": "model_a"}, 0),
        ({"winner": "model_b"}, 1),
        ({"winner": "tie"}, 2),
        ({"winner": "tie (bothbad)"}, 2),
        ({"winner": " Model_B "}, 1),
        ({"winner": "gpt-4"}, -1),
        ({"winner": None}, -1),
        ({"winner": 0}, -1),
        ({"winner_model_a": 1, "winner_model_b": 0}, -1),
        ({**hot(None, None, None), "winner": "model_b"}, 1),
        ({**hot(1, 0, 0), "winner": "model_b"}, 0),
        ({}, -1),
    ],
)
def test_a_label_is_read_from_one_hot_columns_or_a_winner_else_minus_one(values: dict[str, Any], label: int) -> None:
    assert parse_label(values) == label
