"""Cut prompts: counts, marks, whole characters, budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.prompting.budget import POLICIES, Policy
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.template import load_template
from tests.kit.prompt_builders import (
    LONG,
    TEXT,
    builder,
    decode,
    each_combination,
    encoder,
    least_budget,
    row,
)
from tests.kit.tiny_tokenizers import STYLES

# One character and one token each, which no template has.
P, A, B = "~", "^", "`"


def count(style: str, prompt: Prompt, character: str) -> int:
    (token,) = encoder(style).user_text([character])[0]
    return list(prompt.ids).count(token)


@each_combination
@pytest.mark.parametrize("policy", POLICIES)
def test_counts_of_tokens_cuts_and_turns_are_right(style: str, name: str, policy: Policy) -> None:
    copies = 2 if name == "side-by-side" else 1
    comparison = row((P * 100, P * 30), (A * 200, A * 200), (B * 50, B * 500))
    for extra in (0, 1, 2, 41, 333, 5000):
        prompt = builder(style, name, least_budget(style, name) + extra, policy).build([comparison])[0]
        assert prompt.tokens == (130, 400, 550)
        kept = [count(style, prompt, P) / copies, count(style, prompt, A), count(style, prompt, B)]
        assert [tokens - cut for tokens, cut in zip(prompt.tokens, prompt.cut, strict=True)] == kept
        assert all(n >= 8 for n in kept)
        assert prompt.cut_turns in (0, 1)
        assert ("[...]" in decode(style, prompt)) == (prompt.cut != (0, 0, 0))


@each_combination
def test_dropped_turns_are_counted_and_marked(style: str, name: str) -> None:
    copies = 2 if name == "side-by-side" else 1
    comparison = row((P, P, P), (A * 2, A * 300, A * 4), (B * 2, B * 300, B * 4))
    whole_last = least_budget(style, name) + 20
    prompt = builder(style, name, whole_last, "oldest-turns").build([comparison])[0]
    assert prompt.cut_turns == 2
    assert prompt.cut == (2, 302, 302)
    shown = decode(style, prompt)
    assert shown.count("[...]" + P) == copies
    assert shown.count("[...]") == copies
    same = builder(style, name).build([row("[...]" + P, A * 4, B * 4)])[0]
    assert decode(style, same) == shown


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("policy", "first", "last"),
    [("middle", True, True), ("start", False, True), ("end", True, False), ("oldest-turns", True, True)],
)
def test_a_visible_mark_stands_where_text_was_cut(style: str, policy: Policy, first: bool, last: bool) -> None:
    text = "first" + " ~" * 2000 + " last"
    mine = builder(style, "minimal", least_budget(style, "minimal") + 60, policy)
    prompt = mine.build([row("short", text, "short")])[0]
    assert prompt.cut[0] == prompt.cut[2] == 0
    answer = decode(style, prompt).split("Response A:\n")[1].split("\n\nResponse B:")[0]
    before, after = answer.split("[...]")
    assert (before.startswith("first"), before == "") == (first, not first)
    assert (after.endswith("last"), after == "") == (last, not last)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "text",
    [
        "😀中é" * 60,
        "👩‍👩‍👧🇩🇪" * 20,
        "一二三四五六七八九十" * 12,
        "مرحبا بالعالم" * 12,
        "</s>😀<|im_end|>中" * 12,
        "\U0010fffd\U0001f469" * 30,
    ],
)
def test_a_cut_never_splits_a_character(style: str, policy: Policy, text: str) -> None:
    least = least_budget(style, "minimal")
    for max_tokens in range(least, least + 8):
        mine = builder(style, "minimal", max_tokens, policy)
        prompt = mine.build([row(text, text, "x" + text)])[0]
        assert min(prompt.cut) > 0
        assert "\ufffd" not in decode(style, prompt)
        # and no part is lost to whole characters
        assert all(tokens - cut >= 3 for tokens, cut in zip(prompt.tokens, prompt.cut, strict=True))


@pytest.mark.parametrize("style", STYLES)
@given(TEXT, st.integers(0, 30), st.sampled_from(POLICIES))
def test_a_cut_of_any_text_leaves_its_characters_whole(style: str, text: str, extra: int, policy: Policy) -> None:
    mine = builder(style, "minimal", least_budget(style, "minimal") + extra, policy)
    prompt = mine.build([row(text * 5, "x", text * 9)])[0]
    assert "\ufffd" not in decode(style, prompt)
    assert len(prompt.ids) <= mine.budget.max_tokens


@each_combination
def test_a_budget_too_small_is_refused_with_the_least_that_works(style: str, name: str) -> None:
    least = least_budget(style, name)
    with pytest.raises(JudgeError) as error:
        PromptBuilder(encoder(style), load_template(name), Budget(least - 1))
    assert str(error.value) == (
        f"a budget of {least - 1} tokens is too small for template {name}, "
        f"which needs at least {least} with this tokenizer"
    )
    # and it is tight
    longest = row((LONG, LONG), (LONG, LONG), (LONG, LONG))
    assert len(builder(style, name, least).build([longest])[0].ids) >= least - 2
