"""Verdict tokens in the context of real tokenizers, and the arithmetic against closed forms."""

from __future__ import annotations

import ast
import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.prompting.builder import PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import Template, load_template
from judge.prompting.verdict import (
    DEFAULT_FLOOR,
    SWAPPED,
    Float,
    divergence,
    entropy,
    floored,
    mean_of_read,
    probabilities,
    verdict_mass,
)
from tests.kit.tiny_tokenizers import STYLES

LOGPROBS = st.lists(st.lists(st.floats(-60, 0), min_size=3, max_size=3), min_size=1, max_size=5)


def template(verdicts: tuple[str, str, str], cue: str = "Verdict:") -> Template:
    return dataclasses.replace(load_template("minimal"), verdicts=verdicts, cue=cue)


def refusal(style: str, verdicts: tuple[str, str, str], cue: str = "Verdict:") -> str:
    with pytest.raises(JudgeError) as error:
        PromptBuilder(TextEncoder(STYLES[style]()), template(verdicts, cue))
    return str(error.value)


@pytest.mark.parametrize("style", STYLES)
def test_verdicts_are_the_tokenizers_own_tokens(style: str) -> None:
    tokenizer = STYLES[style]()
    builder = PromptBuilder(TextEncoder(tokenizer), template((" A", " B", " Tie")))
    pieces = [
        piece.replace("Ġ", " ").replace("▁", " ") for piece in tokenizer.convert_ids_to_tokens(builder.verdict_ids)
    ]
    assert pieces == [" A", " B", " Tie"]


@pytest.mark.parametrize("style", STYLES)
def test_a_verdict_of_several_tokens_is_refused_with_the_tokenizers_pieces(style: str) -> None:
    tokenizer = STYLES[style]()
    text = refusal(style, (" A", " B", " Undecided"))
    pieces = tokenizer.convert_ids_to_tokens(TextEncoder(tokenizer).trusted_text("Verdict: Undecided"))
    shown = ast.literal_eval(re.findall(r"' Undecided' becomes (\[.*?'\])", text)[0])
    assert len(shown) > 1
    assert pieces[-len(shown) :] == shown
    assert text.startswith("each verdict must be one token of its own after the cue, but ' A' becomes ['")


@pytest.mark.parametrize("style", STYLES)
def test_the_suggested_verdicts_work(style: str) -> None:
    text = refusal(style, (" A", " B", " Undecided"))
    suggested = [ast.literal_eval(found) for found in re.findall(r"\('.*?'\)", text.split("verdicts that work: ")[1])]
    assert (" A", " B", " Tie") in suggested
    for verdicts in suggested:
        assert len(set(PromptBuilder(TextEncoder(STYLES[style]()), template(verdicts)).verdict_ids)) == 3


def test_verdicts_that_a_normaliser_makes_the_same_token_are_refused() -> None:
    text = refusal("qwen", ("\u00e9", "e\u0301", " A"))
    assert text.count("becomes ['Ã©']") == 2


def test_a_verdict_that_merges_with_the_cue_is_refused() -> None:
    text = refusal("qwen", ("==", " B", " Tie"), cue="Verdict: ==")
    assert "'==' becomes ['===='] (joined with the cue)" in text
    assert "verdicts that work: (' A', ' B', ' Tie')" in text


def test_probabilities_are_the_softmax() -> None:
    p = probabilities(np.log([[0.2, 0.3, 0.5], [0.02, 0.03, 0.05]]))
    np.testing.assert_allclose(p, [[0.2, 0.3, 0.5]] * 2, rtol=1e-14)
    assert p.dtype == np.float64


@given(LOGPROBS, st.floats(-1000, 1000))
def test_probabilities_sum_to_one_and_do_not_change_with_a_shift(rows: list[list[float]], shift: float) -> None:
    p = probabilities(np.array(rows))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(probabilities(np.array(rows) + shift), p, rtol=1e-9, atol=1e-12)


def test_probabilities_of_extreme_and_of_missing_log_probabilities() -> None:
    p = probabilities(np.array([[-1e4, -2e4, -np.inf], [np.nan, np.nan, np.nan], [1e4, 1e4, 1e4]]))
    np.testing.assert_array_equal(p[0], [1, 0, 0])
    assert np.isnan(p[1]).all()
    np.testing.assert_allclose(p[2], 1 / 3)


def test_functions_take_no_rows() -> None:
    none = np.empty((0, 3), dtype=np.float32)
    assert probabilities(none).shape == mean_of_read(none, none).shape == floored(none).shape == (0, 3)
    assert entropy(none).shape == divergence(none, none).shape == verdict_mass(none).shape == (0,)


def test_verdict_mass_is_the_sum_of_the_three_probabilities() -> None:
    np.testing.assert_allclose(verdict_mass(np.log([[0.1, 0.2, 0.3], [0.5, 0.25, 0.25]])), [0.6, 1.0], rtol=1e-12)


def test_orders_are_averaged_as_probabilities_without_a_missing_order() -> None:
    first = np.log([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    second = np.array([np.log([0.4, 0.1, 0.5]), [np.nan] * 3])
    mean = mean_of_read(probabilities(first), probabilities(second))
    np.testing.assert_allclose(mean, [[0.3, 0.2, 0.5], [0.6, 0.3, 0.1]], rtol=1e-12)


@given(LOGPROBS)
def test_averaging_exchanged_orders_treats_a_and_b_alike(rows: list[list[float]]) -> None:
    first, second = np.array(rows), np.array(rows)[::-1]
    mean = mean_of_read(probabilities(first), probabilities(second)[:, SWAPPED])
    exchanged = mean_of_read(probabilities(second), probabilities(first)[:, SWAPPED])
    np.testing.assert_allclose(exchanged[:, SWAPPED], mean, rtol=1e-12)


def test_entropy_against_closed_forms() -> None:
    p = np.array([[1 / 3] * 3, [1, 0, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25]])
    np.testing.assert_allclose(entropy(p), [math.log(3), 0, math.log(2), 1.5 * math.log(2)], atol=1e-15)
    assert not np.signbit(entropy(p)).any()


def test_divergence_against_closed_forms() -> None:
    p = np.array([[1 / 3] * 3, [1, 0, 0], [0.5, 0.5, 0]])
    q = np.array([[1 / 3] * 3, [0.25, 0.25, 0.5], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(divergence(p, q), [0, math.log(4), math.log(2)], atol=1e-15)


def test_rows_without_a_result_have_no_entropy_and_no_divergence() -> None:
    nothing, something = np.full((1, 3), np.nan), np.full((1, 3), 1 / 3)
    assert np.isnan(entropy(nothing)).all()
    assert np.isnan(divergence(nothing, something)).all()
    assert np.isnan(divergence(something, nothing)).all()


@given(LOGPROBS, LOGPROBS)
def test_divergence_is_not_negative_and_entropy_is_at_most_that_of_three(
    first: list[list[float]], second: list[list[float]]
) -> None:
    p, q = probabilities(np.array(first[:1])), probabilities(np.array(second[:1]))
    assert divergence(p, q)[0] >= -1e-12
    assert -1e-12 <= entropy(p)[0] <= math.log(3) + 1e-12


@given(LOGPROBS, st.floats(0, 1 / 3))
def test_a_floor_keeps_the_sum_the_order_and_the_least(rows: list[list[float]], floor: float) -> None:
    p = probabilities(np.array(rows))
    mixed = floored(p, floor)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-12)
    assert (mixed >= floor * (1 - 1e-12)).all()
    assert _never_reversed(p, mixed)


def _never_reversed(p: Float, mixed: Float) -> bool:
    before, after = p[:, :, None] - p[:, None, :], mixed[:, :, None] - mixed[:, None, :]
    return bool((before * after >= -1e-15).all())


def test_a_confident_mistake_costs_at_most_the_log_of_the_floor() -> None:
    assert -math.log(floored(np.array([[1.0, 0.0, 0.0]]))[0, 1]) == pytest.approx(math.log(1e4))
    assert DEFAULT_FLOOR == 1e-4


@pytest.mark.parametrize("floor", [-0.1, 0.34, math.nan])
def test_an_impossible_floor_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1/3"):
        floored(np.array([[1.0, 0.0, 0.0]]), floor)
