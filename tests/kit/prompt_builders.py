"""Prompt builders of tiny tokenizers, and rows for them."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.prompting.budget import Policy
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import load_template
from judge.tables.comparison import Comparison, Turns
from tests.kit.tiny_tokenizers import STYLES

TEMPLATES = ["interleaved", "minimal", "rubric", "side-by-side"]
COMBINATIONS = [(style, name) for style in STYLES for name in TEMPLATES]
PLENTY = 1_000_000
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\ufffd\ue002\ue003"), max_size=60)


each_combination = pytest.mark.parametrize(("style", "name"), COMBINATIONS)


@cache
def encoder(style: str) -> TextEncoder:
    return TextEncoder(STYLES[style]())


@cache
def least_budget(style: str, name: str) -> int:
    """Read the smallest budget out of the error for one that is too small."""
    with pytest.raises(JudgeError) as error:
        PromptBuilder(encoder(style), load_template(name), Budget(1))
    return int(str(error.value).split("needs at least ")[1].split()[0])


@cache
def builder(style: str, name: str, max_tokens: int = PLENTY, policy: Policy = "middle") -> PromptBuilder:
    return PromptBuilder(encoder(style), load_template(name), Budget(max_tokens, policy))


def row(prompt: Turns | str, a: Turns | str, b: Turns | str) -> Comparison:
    turns = [(part,) if isinstance(part, str) else part for part in (prompt, a, b)]
    return Comparison(1, turns[0], turns[1], turns[2])


def decode(style: str, prompt: Prompt) -> str:
    text: str = STYLES[style]().backend_tokenizer.decode(list(prompt.ids), skip_special_tokens=False)
    return text


LONG = "Every answer is too long. " * 40
ROWS = [
    row("How do I boil an egg?", "For ten minutes.", "Ask your mother."),
    row(("Hi", "And then?"), ("Hello", "Nothing."), ("Good day", "Everything.")),
    row(LONG, LONG * 3, "Short."),
    row("Short?", "中文 😀 " * 90, LONG),
    row((LONG, "b", LONG), ("x", LONG, LONG * 2), (LONG, LONG, "y")),
    row((None, "2"), ("1", None), ("", " ")),
    row(("1", "2", "3"), ("only one",), ()),
    row("", "", ""),
    row(("q " * 9,) * 9, ("a " * 30,) * 9, ("b " * 20,) * 9),
]
