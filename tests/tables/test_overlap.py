"""Near-duplicates: the similarity, what is found, and what two sets of rows have in common."""

from __future__ import annotations

import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.tables.comparison import Comparison
from judge.tables.overlap import (
    BAND_HASHES,
    BANDS,
    HASHES,
    Prompts,
    jaccard,
    near_duplicates,
    overlap,
    shingles,
    signatures,
)

WORDS = (
    *("river", "stone", "cloud", "paper", "green", "seven", "write", "poem", "about", "short", "explain", "code"),
    *("python", "list", "king", "queen", "year", "city", "how", "many", "legs", "does", "spider", "have", "what"),
    *("capital", "country", "translate", "french", "summary", "bread", "water", "fire", "light", "music"),
)


def grams(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(max(len(text) - 4, 1))} if text else set()


def similarity(a: str, b: str) -> Fraction:
    both = grams(a) | grams(b)
    return Fraction(len(grams(a) & grams(b)), len(both)) if both else Fraction(0)


def sentences(count: int, seed: int, words: int = 12) -> list[str]:
    """Sentences, many of them variants of others: a word exchanged, added or left out."""
    rng = np.random.default_rng(seed)
    found = [" ".join(rng.choice(WORDS, words))]
    while len(found) < count:
        text = found[int(rng.integers(len(found)))].split()
        if rng.random() < 0.5:
            text = list(rng.choice(WORDS, words))
        for _ in range(int(rng.integers(1, 3))):
            text[int(rng.integers(len(text)))] = str(rng.choice(["", *WORDS]))
        found.append(" ".join(" ".join(text).split()))
    return list(dict.fromkeys(found))


TEXT = st.text(st.sampled_from("ab é你\U0001f600\ud800"), max_size=12)


@given(TEXT, TEXT)
def test_the_similarity_is_that_of_the_sets_of_5_grams(a: str, b: str) -> None:
    assert jaccard(shingles(a), shingles(b)) == pytest.approx(float(similarity(a, b)), abs=1e-15)


def test_different_grams_have_different_hashes() -> None:
    texts = {"".join(p) for p in np.random.default_rng(0).choice(list("abcdefgh \U0001f600"), (50_000, 5))}
    texts |= {t[:n] for t in texts for n in range(1, 5)}
    assert len({int(shingles(t)[0]) for t in texts}) == len(texts)


def test_hashes_agree_as_often_as_texts_are_similar() -> None:
    texts = sentences(400, 0, words=25)
    made = signatures(texts)
    assert made.shape == (len(texts), HASHES)
    pairs = [(i, j) for i in range(0, 399, 3) for j in range(i + 1, min(i + 40, len(texts)))]
    exact = np.array([float(similarity(texts[i], texts[j])) for i, j in pairs])
    estimate = np.array([(made[i] == made[j]).mean() for i, j in pairs])
    error = (estimate - exact) / np.sqrt(np.maximum(exact * (1 - exact), 0.01) / HASHES)
    assert (estimate - exact).mean() == pytest.approx(0, abs=0.02)
    assert error.std() == pytest.approx(1, abs=0.2)
    assert np.abs(error).max() < 6


def test_what_is_found_is_what_comparing_every_pair_finds() -> None:
    left = sentences(240, 1)
    right = [
        *left[:40],
        *(f"{t[:20]}{t[19:]}{str(10007 * n)[: n % 16]}" for n, t in enumerate(left)),
        *sentences(120, 2),
    ]
    sets = [grams(text) for text in left]
    best = [max(Fraction(len(ours & grams(b)), len(ours | grams(b))) for ours in sets) for b in right]
    expected = {j: s for j, s in enumerate(best) if s >= Fraction(4, 5)}
    assert len(right) / 3 < len(expected) < len(right)
    assert sum(0.8 <= s < 0.9 for s in best) > 50
    assert sum(0.65 <= s < 0.8 for s in best) > 20
    found = near_duplicates(left, right)
    assert [j for _, j, _ in found] == sorted(expected)
    for i, j, s in found:
        assert s == pytest.approx(float(similarity(left[i], right[j])), abs=1e-15)
        assert s == pytest.approx(float(expected[j]), abs=1e-15)


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6))
@settings(max_examples=50)
def test_nothing_is_found_that_is_not_similar_and_equal_texts_always_are(left: list[str], right: list[str]) -> None:
    found = near_duplicates(left, right)
    numbers = [j for _, j, _ in found]
    assert numbers == sorted(set(numbers))
    assert all(similarity(left[i], right[j]) >= Fraction(4, 5) for i, j, _ in found)
    assert {j for j, text in enumerate(right) if text and text in left} <= set(numbers)
    assert "" not in [right[j] for j in numbers]


def test_the_chance_to_miss_a_pair_is_what_the_module_says() -> None:
    assert BANDS * BAND_HASHES == HASHES
    assert pytest.approx(0.99995, abs=5e-6) == 1 - (1 - 0.8**BAND_HASHES) ** BANDS
    assert pytest.approx(126, abs=1) == 1 / (1 - (1 - 0.2**BAND_HASHES) ** BANDS)


def test_thousands_of_prompts_from_one_pattern_do_not_take_forever() -> None:
    rng = np.random.default_rng(0)
    pattern = " ".join(rng.choice(WORDS, 60))
    texts = [f"{pattern} {number}" for number in rng.integers(0, 10**6, 3000)]
    start = time.process_time()
    found = near_duplicates(texts[:1500], texts[1500:])
    assert time.process_time() - start < 20
    assert len(found) == 1500


def row(prompt: str) -> Comparison:
    return Comparison(1, (prompt,), ("a",), ("b",), 0)


LONG = "please write a short poem about the river and the cloud above the city"


def common(left: list[str], right: list[str]) -> tuple[Prompts, Counter[int], Counter[int]]:
    prompts = Prompts()
    return prompts, Counter(prompts.add(row(t)) for t in left), Counter(prompts.add(row(t)) for t in right)


def test_what_two_sets_of_rows_have_in_common_is_counted() -> None:
    left = [LONG, LONG, "What is it?", ""]
    right = [LONG + "!", LONG + "!", LONG.upper(), "WHAT is  it?", "Something else", "Another thing", "\u200b", "é"]
    found = overlap(*common(left, right))
    assert (found.same_prompts, found.near_prompts, found.rows, found.of_rows) == (2, 1, 4, 8)
    assert [(a, b) for a, b, _ in found.examples] == [(LONG, LONG + "!")]
    assert found.lines("train", "heldout")[0] == (
        "heldout against train: 2 same prompts, 1 near-duplicate prompt; 4 of 8 rows (50.0%)"
    )


def test_sets_that_share_nothing_and_empty_sets_are_reported_as_such() -> None:
    assert overlap(*common([LONG], ["Something else"])).rows == 0
    assert overlap(*common([], [LONG])).lines("a", "b") == [
        "b against a: 0 same prompts, 0 near-duplicate prompts; 0 of 1 row (0.0%)"
    ]
    assert overlap(*common([LONG], [])).of_rows == 0


def test_prompts_in_a_report_cannot_act_on_a_terminal() -> None:
    hostile = LONG + " \x1b[31m"
    found = overlap(*common([hostile], [hostile + "!"]))
    assert found.near_prompts == 1
    assert all(line.isprintable() for line in found.lines("a", "b"))


def test_prompts_can_be_added_after_a_comparison() -> None:
    prompts, left, right = common([LONG], ["Something else"])
    assert overlap(prompts, left, right).near_prompts == 0
    later = Counter([prompts.add(row(LONG + "!"))])
    assert overlap(prompts, left, later).near_prompts == 1
