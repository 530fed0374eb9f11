"""Groups, keys and splits: what belongs together stays together, and splits are balanced and repeatable."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.tables.comparison import Comparison
from judge.tables.split import (
    first_prompt,
    folds,
    group_key,
    hold_out,
    in_order,
    normalise,
    parse_fold,
    responses_key,
    row_key,
    stratum,
)

Turn = st.none() | st.text(max_size=8)
Turns = st.lists(Turn, max_size=3).map(tuple)
ROWS = st.builds(
    Comparison,
    st.integers(0, 9),
    Turns,
    Turns,
    Turns,
    st.sampled_from([0, 1, 2]),
)


def compared(prompt: Any, a: Any = "a", b: Any = "b", **more: Any) -> Comparison:
    prompt, a, b = ((x,) if isinstance(x, str) or x is None else tuple(x) for x in (prompt, a, b))
    return Comparison(1, prompt, a, b, **more)


# -- texts and keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  What\n\tis  it? ", "what is it?"),
        ("STRASSE", "straße"),
        ("ﬁne", "FINE"),  # a ligature
        ("\u00e9", "e\u0301"),  # composed and decomposed
        ("Ａ１", "a1"),  # full-width forms
        ("a\u00a0\u2003b", "a b"),
        ("ΣΑΣ", "σας"),
    ],
)
def test_texts_that_look_alike_are_the_same(text: str, same: str) -> None:
    assert normalise(text) == normalise(same)


def test_texts_that_say_something_else_stay_apart() -> None:
    texts = ["2 + 2", "2 - 2", "is it?", "is it", "naïve", "naive", "你好", "您好"]
    assert len({normalise(t) for t in texts}) == len(texts)


@given(st.text())
def test_a_normalised_text_is_its_own_normal_form_and_has_single_spaces(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == " ".join(once.split())
    assert normalise(text.upper().upper()) == normalise(text.upper())


def test_the_normal_form_of_every_letter_is_its_own() -> None:
    unstable = [c for c in map(chr, range(0x20000)) if normalise(normalise(c)) != normalise(c)]
    assert unstable == []


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_says_what_the_long_way_says(text: str) -> None:
    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@given(ROWS)
def test_a_swapped_copy_has_the_same_keys(row: Comparison) -> None:
    other = row.swapped()
    assert group_key(other) == group_key(row)
    assert row_key(other) == row_key(row)
    assert responses_key(other) == responses_key(row)
    assert (in_order(other) == in_order(row)) == (responses_of(row)[0] == responses_of(row)[1])


def responses_of(row: Comparison) -> list[list[str | None]]:
    return [[None if t is None else normalise(t) for t in turns] for turns in (row.response_a, row.response_b)]


@given(ROWS, ROWS)
def test_rows_have_one_key_exactly_if_they_compare_the_same(one: Comparison, two: Comparison) -> None:
    def content(row: Comparison) -> tuple[Any, Any]:
        prompt = [None if t is None else normalise(t) for t in row.prompt]
        return prompt, sorted(map(repr, responses_of(row)))

    assert (row_key(one) == row_key(two)) == (content(one) == content(two))


def test_rows_are_a_group_if_their_first_prompts_are_the_same() -> None:
    first = group_key(compared("What is it?"))
    assert group_key(compared(["what  IS it?", "And now?"], "x", "y")) == first
    assert group_key(compared([None, " ", "What is it?"])) == first
    assert group_key(compared("What was it?")) != first
    # bundles keep such keys, so they must not change
    assert first == int(hashlib.sha256(b'["prompt", "what is it?"]').hexdigest()[:16], 16)


def test_rows_without_a_prompt_are_groups_of_their_own() -> None:
    empty = [compared(p, a) for p in (None, "", " \n", [], [None, ""]) for a in ("x", "y")]
    assert [first_prompt(row) for row in empty] == [""] * 10
    # two that are the same but for white space, which is not compared: "" and " \n"
    assert len({group_key(row) for row in empty}) == 8


def test_null_is_not_the_same_as_empty_or_the_word() -> None:
    assert len({row_key(compared("p", a)) for a in (None, "", "null", [None, None], [])}) == 5


def test_keys_are_unsigned_64_bit_numbers() -> None:
    keys = [key(compared(str(i))) for i in range(200) for key in (group_key, row_key, responses_key)]
    assert all(0 <= key < 2**64 for key in keys)
    assert max(keys) > 2**63
    assert np.array(keys, np.uint64).tolist() == keys


@pytest.mark.parametrize(
    ("label", "target", "expected"),
    [(1, None, 1), (1, (0.9, 0.1, 0.0), 1), (-1, (0.2, 0.3, 0.5), 2), (-1, (0.5, 0.5, 0.0), 0), (-1, None, -1)],
)
def test_a_split_balances_the_hard_verdict_or_the_likeliest(label: int, target: Any, expected: int) -> None:
    assert stratum(compared("p", label=label, target=target)) == expected


# -- folds -------------------------------------------------------------------------------------------------


def test_a_fold_is_read() -> None:
    assert parse_fold("2/5") == (2, 5)
    assert parse_fold(" 1/2 ") == (1, 2)
    assert parse_fold("10/10") == (10, 10)


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "0/5", "6/5", "1/1", "-1/5", "1.5/5", "a/b", "1/5/5", "²/5", "99999/99999"]
)
def test_what_is_no_fold_is_refused(text: str) -> None:
    with pytest.raises(JudgeError) as caught:
        parse_fold(text)
    assert str(caught.value) == f"fold {text!r}: expected NUMBER/COUNT such as 2/5, counted from 1, at least 2 folds"


# -- splits ------------------------------------------------------------------------------------------------


Keys = NDArray[np.uint64]
Labels = NDArray[np.int64]


def arena(rows: int, seed: int = 0) -> tuple[Keys, Labels]:
    """Groups as in the Arena table: most of one row, some of two or three, a few of up to a hundred."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 2, 3, 5, 20, 100], size=rows, p=[0.93, 0.045, 0.015, 0.008, 0.0015, 0.0005])
    keys = rng.integers(0, 2**64, rows, dtype=np.uint64)
    return np.repeat(keys, sizes)[:rows], rng.choice(3, rows, p=[0.349, 0.342, 0.309])


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Keys, Labels]:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 9), st.integers(-1, 2)), min_size=1, max_size=60)
    )
    return np.array([g for g, _ in rows], np.uint64), np.array([y for _, y in rows], np.int64)


def kept_together(groups: Keys, part: NDArray[Any]) -> bool:
    return len(set(zip(groups.tolist(), part.tolist(), strict=True))) == len(np.unique(groups))


@given(grouped(), st.floats(0.01, 0.99), st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_hold_out_keeps_groups_together_whatever_the_order_of_the_rows(
    rows: tuple[Keys, Labels], share: float, seed: int, random: Any
) -> None:
    groups, labels = rows
    assume(len(np.unique(groups)) >= 2)
    held = hold_out(groups, labels, share, seed)
    assert held.dtype == np.bool_
    assert 0 < held.sum() < len(held)
    assert kept_together(groups, held)
    order = np.array(random.sample(range(len(groups)), len(groups)))
    np.testing.assert_array_equal(hold_out(groups[order], labels[order], share, seed), held[order])


@given(grouped(), st.integers(2, 6), st.integers(0, 99), st.randoms(use_true_random=False))
def test_folds_keep_groups_together_whatever_the_order_of_the_rows(
    rows: tuple[Keys, Labels], count: int, seed: int, random: Any
) -> None:
    groups, labels = rows
    assume(len(np.unique(groups)) >= count)
    part = folds(groups, labels, count, seed)
    assert sorted(set(part.tolist())) == list(range(count))  # none is empty
    assert kept_together(groups, part)
    order = np.array(random.sample(range(len(groups)), len(groups)))
    np.testing.assert_array_equal(folds(groups[order], labels[order], count, seed), part[order])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.15, 0.3, 0.5, 0.9])
def test_a_hold_out_has_the_share_that_was_asked_for_of_every_verdict(share: float) -> None:
    groups, labels = arena(3000)
    held = hold_out(groups, labels, share, 0)
    assert abs(held.sum() - share * 3000) <= 2
    for verdict in range(3):
        here = labels == verdict
        assert abs(held[here].sum() - share * here.sum()) <= 2


def test_large_groups_are_held_out_as_often_as_small_ones() -> None:
    groups, labels = arena(20_000)
    sizes = np.unique(groups, return_inverse=True, return_counts=True)
    of_row = sizes[2][sizes[1]]
    held = hold_out(groups, labels, 0.2, 3)
    for large in (of_row >= 20, of_row == 1):
        assert held[large].mean() == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_folds_are_at_least_as_even_as_those_of_scikit_learn(count: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    groups, labels = arena(1000)
    theirs = np.zeros(len(groups), np.int64)
    reference = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    for number, (_, chosen) in enumerate(reference.split(groups, labels, groups)):
        theirs[chosen] = number

    def unevenness(part: NDArray[np.int64]) -> float:
        counts = np.array([np.bincount(labels[part == i], minlength=3) for i in range(count)])
        return float(np.ptp(counts, axis=0).max())

    ours = folds(groups, labels, count, 0)
    assert unevenness(ours) <= unevenness(theirs)
    assert np.ptp(np.bincount(ours)) <= np.ptp(np.bincount(theirs))


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    groups, labels = np.arange(1000, dtype=np.uint64), np.arange(1000) % 3
    first = hold_out(groups, labels, 0.1, 0)
    np.testing.assert_array_equal(first, hold_out(groups, labels, 0.1, 0))
    both = [int((first & hold_out(groups, labels, 0.1, seed)).sum()) for seed in range(1, 21)]
    assert np.mean(both) == pytest.approx(10, abs=3)  # 0.1 × 0.1 of 1,000, as independent draws have it


def test_a_split_is_the_same_on_every_machine() -> None:
    groups = np.arange(12, dtype=np.uint64)
    labels = np.arange(12) % 3
    assert "".join(map(str, folds(groups, labels, 3, 7))) == "221012012100"
    assert Counter(folds(groups, labels, 3, 7).tolist()) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(JudgeError, match=f"hold-out share {share}: expected a number between 0 and 1, such as 0.1"):
        hold_out(np.arange(9, dtype=np.uint64), np.zeros(9, int), share, 0)


def test_too_few_groups_or_folds_are_refused() -> None:
    groups = np.array([1, 1, 2, 2], np.uint64)
    labels = np.array([0, 1, 2, 0])
    with pytest.raises(JudgeError, match="2 groups of rows with the same first prompt cannot be divided into 3 parts"):
        folds(groups, labels, 3, 0)
    with pytest.raises(JudgeError, match="1 group of rows with the same first prompt cannot be divided into 2 parts"):
        hold_out(groups[:2], labels[:2], 0.5, 0)
    with pytest.raises(JudgeError, match="1 folds: expected at least 2"):
        folds(groups, labels, 1, 0)


def test_a_table_as_large_as_the_contests_is_split_in_seconds() -> None:
    import time

    groups, labels = arena(57_477)
    start = time.process_time()
    folds(groups, labels, 10, 0)
    assert time.process_time() - start < 10
