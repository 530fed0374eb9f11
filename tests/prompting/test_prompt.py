"""The one builder of prompts, for every style of tokenizer and every shipped template."""

from __future__ import annotations

import dataclasses
import unicodedata
from functools import cache

import jinja2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from judge.prompting.budget import POLICIES, Policy
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import Template, load_template
from judge.prompting.template_folders import builtin_names
from judge.tables.comparison import Comparison, Turns
from tests.kit.prompt_builders import (
    COMBINATIONS,
    PLENTY,
    ROWS,
    TEMPLATES,
    TEXT,
    builder,
    decode,
    each_combination,
    encoder,
    least_budget,
    row,
)
from tests.kit.tiny_tokenizers import STYLES, control_tokens

BYTE_LEVEL = ["llama3", "qwen"]


def count_controls(style: str, prompt: Prompt) -> int:
    controls = [*encoder(style).control_ids, *STYLES[style]().all_special_ids]
    return int(np.isin(prompt.ids, controls).sum())


def test_every_shipped_template_is_tested() -> None:
    assert builtin_names() == TEMPLATES


@each_combination
@pytest.mark.parametrize("policy", POLICIES)
def test_no_prompt_is_over_budget_and_all_end_with_the_whole_cue(style: str, name: str, policy: Policy) -> None:
    least = least_budget(style, name)
    cue = encoder(style).trusted_text(_last_fixed_text(builder(style, name), 1))
    for max_tokens in (least, least + 51, PLENTY):
        for prompt in builder(style, name, max_tokens, policy).build(ROWS):
            assert len(prompt.ids) <= max_tokens
            assert prompt.ids.dtype == np.int32
            assert list(prompt.ids[-len(cue) :]) == cue


@each_combination
def test_a_verdict_is_one_token_after_prompts_of_any_length_whole_or_cut(style: str, name: str) -> None:
    template = load_template(name)
    for max_tokens in (least_budget(style, name), PLENTY):
        mine = builder(style, name, max_tokens)
        assert mine.verdict_ids == builder(style, name).verdict_ids
        assert len(set(mine.verdict_ids)) == 3
        for turns in (1, 2, 7):
            prompt = mine.build([row(("p",) * turns, ("a",) * turns, ("b",) * turns)])[0]
            ending = _last_fixed_text(mine, turns)
            base = encoder(style).trusted_text(ending)
            assert list(prompt.ids[-len(base) :]) == base
            for verdict, verdict_id in zip(template.verdicts, mine.verdict_ids, strict=True):
                assert encoder(style).trusted_text(ending + verdict) == [*base, verdict_id]


def _last_fixed_text(builder: PromptBuilder, turns: int) -> str:
    """Return what stands behind the last text of a prompt."""
    frame = builder.encoder.chat_frame(builder.template.system) if builder.template.chat else None
    last = builder.template.layout(turns)[-1]
    inside = last if isinstance(last, str) else ""
    return inside + (frame[1] if frame else "\n\n") + builder.template.cue


@each_combination
@pytest.mark.parametrize("policy", ["middle", "oldest-turns"])
def test_exchanging_a_and_b_exchanges_the_cuts_and_keeps_the_length(style: str, name: str, policy: Policy) -> None:
    least = least_budget(style, name)
    for max_tokens in (least, least + 97):
        mine = builder(style, name, max_tokens, policy)
        swapped = mine.build([r.swapped() for r in ROWS])
        for one, other, (first, second) in zip(mine.build(ROWS), swapped, mine.build_both_orders(ROWS), strict=True):
            assert len(one.ids) == len(other.ids)
            assert one.swapped_counts().tokens == other.tokens
            assert one.swapped_counts().cut == other.cut
            assert one.cut_turns == other.cut_turns
            for built, same in ((first, one), (second, other)):
                assert np.array_equal(built.ids, same.ids)
                assert (built.tokens, built.cut, built.cut_turns) == (same.tokens, same.cut, same.cut_turns)


@each_combination
def test_a_row_alone_has_the_same_prompt_as_in_a_batch(style: str, name: str) -> None:
    mine = builder(style, name, least_budget(style, name) + 60)
    for alone, together in zip([mine.build([r])[0] for r in ROWS], mine.build(ROWS), strict=True):
        assert np.array_equal(alone.ids, together.ids)
    assert mine.build([]) == []


def test_a_new_builder_gives_the_same_ids() -> None:
    for style, name in COMBINATIONS:
        fresh = PromptBuilder(TextEncoder(STYLES[style]()), load_template(name), Budget(PLENTY))
        for one, other in zip(fresh.build(ROWS[::-1])[::-1], builder(style, name).build(ROWS), strict=True):
            assert np.array_equal(one.ids, other.ids)


@cache
def compiled(body: str) -> jinja2.Template:
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(body)  # noqa: S701


def rendered(style: str, template: Template, comparison: Comparison) -> str:
    """Lay a comparison out with plain Jinja and the tokenizer's own chat template, without any of judge's code."""

    def shown(turns: Turns, i: int) -> str:
        if i >= len(turns):
            return f"\ue002{template.missing_text}\ue003"
        turn = turns[i]
        return f"\ue002{template.null_text if turn is None else turn}\ue003"

    turns = [
        {
            "number": i + 1,
            "prompt": shown(comparison.prompt, i),
            "response_a": shown(comparison.response_a, i),
            "response_b": shown(comparison.response_b, i),
        }
        for i in range(comparison.turn_count)
    ]
    body = compiled(template.body).render(turns=turns).strip()
    tokenizer = STYLES[style]()
    if template.chat and tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": body}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
    else:
        text = f"{tokenizer.bos_token or ''}{body}\n\n"
    return f"{text}{template.cue}".replace("\ue002", "").replace("\ue003", "")


@pytest.mark.parametrize(("style", "name"), COMBINATIONS)
@settings(max_examples=15)
@given(st.lists(TEXT, min_size=1, max_size=3), st.lists(TEXT, max_size=3), TEXT)
@example(["emoji 👩‍👩‍👧 🇩🇪"], ["中文", "مرحبا", "e\u0301 \u202e"], " \n\t odd  white\u00a0space \r\n ")
@example(["{{ turns }}"], ["{% raw %}", "\ue0000:prompt\ue001"], "\ue000judge\ue001")
@example(["<|im_end|>", "[INST]"], ["</s>", "<start_of_turn>user\n"], "<think>")
def test_an_uncut_prompt_decodes_to_exactly_the_rendered_text(
    style: str, name: str, prompts: list[str], first: list[str], second: str
) -> None:
    comparison = row(tuple(prompts), tuple(first), second)
    prompt = builder(style, name).build([comparison])[0]
    expected = rendered(style, load_template(name), comparison)
    if style == "qwen":
        expected = unicodedata.normalize("NFC", expected)
    assert _without_added_spaces(style, decode(style, prompt)) == _without_added_spaces(style, expected)
    assert prompt.cut == (0, 0, 0)


def _without_added_spaces(style: str, text: str) -> str:
    """SentencePiece puts a space before a text's first word and after each control token: not ours to judge."""
    if style not in ("llama2", "unigram"):
        return text
    for control in ("<s>", "[INST]", "[/INST]"):
        while f"{control} " in text:
            text = text.replace(f"{control} ", control)
    return text


@pytest.mark.parametrize("style", [style for style in STYLES if STYLES[style]().chat_template])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "minimal"])
def test_a_plain_prompt_has_the_tokenizers_own_ids_of_the_whole_text(style: str, name: str) -> None:
    comparison = row("How do I boil an egg", "For ten minutes", "Ask your mother")
    text = rendered(style, load_template(name), comparison)
    own = STYLES[style]()(text, add_special_tokens=False)["input_ids"]
    assert list(builder(style, name).build([comparison])[0].ids) == own


@pytest.mark.parametrize("style", STYLES)
def test_without_a_chat_a_plain_prompt_has_the_tokenizers_own_ids(style: str) -> None:
    tokenizer = STYLES[style]()
    comparison = row("How do I boil an egg", "For ten minutes", "Ask your mother")
    text = rendered(style, load_template("minimal"), comparison).removeprefix(tokenizer.bos_token or "")
    own = tokenizer(text)["input_ids"]
    if style == "unigram":  # which also ends a text
        assert own.pop() == tokenizer.eos_token_id
    assert list(builder(style, "minimal").build([comparison])[0].ids) == own


@each_combination
def test_there_is_exactly_one_bos_where_the_tokenizer_has_one(style: str, name: str) -> None:
    tokenizer = STYLES[style]()
    with_system = dataclasses.replace(load_template(name), system="Be fair.")
    builders = [builder(style, name)]
    if style != "gemma":  # whose chat template takes no system message
        builders.append(PromptBuilder(encoder(style), with_system, Budget(PLENTY)))
    for mine in builders:
        for prompt in mine.build(ROWS):
            if tokenizer.bos_token is None:
                assert prompt.ids[0] not in tokenizer.convert_tokens_to_ids(["<|endoftext|>"])
            else:
                assert prompt.ids[0] == tokenizer.bos_token_id
                assert list(prompt.ids).count(tokenizer.bos_token_id) == 1


def test_bos_stands_before_a_system_text_where_there_is_no_chat_template() -> None:
    template = dataclasses.replace(load_template("rubric"), system="Be fair.")
    prompt = PromptBuilder(encoder("unigram"), template).build(ROWS[:1])[0]
    assert decode("unigram", prompt).startswith("<s> Be fair.\n\nYou judge two AI answers")


def test_null_and_missing_turns_are_visible() -> None:
    comparison = row((None, "second"), ("one", None), ("one",))
    for style, name in COMBINATIONS:
        text = decode(style, builder(style, name).build([comparison])[0])
        copies = 2 if name == "side-by-side" else 1
        assert text.count("(null)") == copies + 1
        assert text.count("(no turn)") == 1


def test_a_text_that_looks_like_a_placeholder_is_left_as_it_is() -> None:
    text = decode("qwen", builder("qwen", "minimal").build([row("null", "None", "[...]")])[0])
    assert "Prompt:\nnull\n" in text
    assert "Response A:\nNone\n" in text
    assert "Response B:\n[...]\n" in text


WORDS = st.text(st.sampled_from("ab eT.\n<|>/[]s😀中é"), max_size=12)
FAMOUS = ["<|im_end|>", "<|endoftext|>", "[INST]", "[/INST]", "<s>", "</s>", "<start_of_turn>", "<think>", "<|eot_id|>"]


@pytest.mark.parametrize(("style", "name"), COMBINATIONS)
@settings(max_examples=25)
@given(st.data(), WORDS, WORDS, st.integers(1, 3))
def test_no_text_adds_a_control_token(
    style: str, name: str, data: st.DataObject, left: str, right: str, times: int
) -> None:
    control = data.draw(st.sampled_from(control_tokens(style) + FAMOUS))
    text = f"{left}{control * times}{right}"
    harmless = builder(style, name).build([row("x", "x", "x")])[0]
    for comparison in (row(text, "x", "x"), row("x", text, "x"), row("x", text, text)):
        prompt = builder(style, name).build([comparison])[0]
        assert count_controls(style, prompt) == count_controls(style, harmless)
        # their text stays visible, as text
        assert unicodedata.normalize("NFC", text) in unicodedata.normalize("NFC", decode(style, prompt))


@each_combination
def test_a_control_token_split_by_turns_or_a_cut_does_not_come_together(style: str, name: str) -> None:
    least = least_budget(style, name)
    for control in control_tokens(style) + FAMOUS:
        middle = len(control) // 2
        halves = (control[:middle], control[middle:])
        harmless = builder(style, name).build([row(("x", "x"), ("x", "x"), ("x", "x"))])
        split = builder(style, name).build([row(halves, halves, halves)])
        assert count_controls(style, split[0]) == count_controls(style, harmless[0])
    for policy in POLICIES:
        text = "".join(control_tokens(style) + FAMOUS) * 5
        cut = builder(style, name, least + 20, policy).build([row(text, text, text), row("x", "x", "x")])
        assert count_controls(style, cut[0]) == count_controls(style, cut[1])
        assert cut[0].cut > (0, 0, 0)
