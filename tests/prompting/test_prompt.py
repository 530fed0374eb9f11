"""The one builder of prompts, for every style of tokenizer and every shipped template."""

from __future__ import annotations

import copy
import dataclasses
import time
import unicodedata
from functools import cache
from typing import Any

import jinja2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from judge.errors import JudgeError
from judge.prompting.budget import POLICIES, Policy
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import Template, builtin_names, load_template
from judge.tables.comparison import Comparison, Turns
from tests.kit.tiny_tokenizers import STYLES, control_tokens

TEMPLATES = ["interleaved", "minimal", "rubric", "side-by-side"]
BYTE_LEVEL = ["llama3", "qwen"]
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


def count_controls(style: str, prompt: Prompt) -> int:
    controls = [*encoder(style).control_ids, *STYLES[style]().all_special_ids]
    return int(np.isin(prompt.ids, controls).sum())


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


# What is in the prompt.


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
def test_a_plain_prompt_has_the_ids_that_the_tokenizer_itself_gives_the_whole_text(style: str, name: str) -> None:
    comparison = row("How do I boil an egg", "For ten minutes", "Ask your mother")
    text = rendered(style, load_template(name), comparison)
    own = STYLES[style]()(text, add_special_tokens=False)["input_ids"]
    assert list(builder(style, name).build([comparison])[0].ids) == own


@pytest.mark.parametrize("style", STYLES)
def test_without_a_chat_a_plain_prompt_has_the_ids_that_the_tokenizer_itself_gives(style: str) -> None:
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


# Control tokens in user text.


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
def test_a_control_token_that_is_split_between_turns_or_by_a_cut_does_not_come_together(style: str, name: str) -> None:
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


# Cuts.

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


# Chat layouts.


def test_chat_false_leaves_the_models_chat_template_out() -> None:
    template = dataclasses.replace(load_template("rubric"), chat=False, system="Not shown.")
    text = decode("qwen", PromptBuilder(encoder("qwen"), template).build(ROWS[:1])[0])
    assert text.startswith("You judge two AI answers")
    assert text.endswith("Reply with one word: A, B or Tie.\n\nVerdict:")
    assert "<|im_start|>" not in text
    assert "Not shown." not in text


@pytest.mark.parametrize("style", ["llama3", "qwen", "llama2", "gemma"])
def test_the_cue_can_stand_at_the_end_of_the_users_message(style: str) -> None:
    # the old Llama tokenizer adds a space behind [/INST], so that " A" would be two tokens there
    verdicts = ("A", "B", "Tie") if style == "llama2" else (" A", " B", " Tie")
    template = dataclasses.replace(load_template("rubric"), cue_role="user", verdicts=verdicts)
    mine = PromptBuilder(encoder(style), template)
    text = decode(style, mine.build(ROWS[:1])[0])
    frame = encoder(style).chat_frame(None)
    assert frame is not None
    assert text.endswith(f"Reply with one word: A, B or Tie.\n\nVerdict:{frame[1]}")
    assert len(set(mine.verdict_ids)) == 3


def test_a_system_message_stands_in_the_models_own_place() -> None:
    template = dataclasses.replace(load_template("rubric"), system="Be fair.")
    text = decode("qwen", PromptBuilder(encoder("qwen"), template).build(ROWS[:1])[0])
    assert text.startswith("<|im_start|>system\nBe fair.<|im_end|>\n<|im_start|>user\nYou judge")


def test_a_chat_template_that_refuses_a_system_message_is_reported() -> None:
    template = dataclasses.replace(load_template("rubric"), system="Be fair.")
    with pytest.raises(JudgeError, match=r"System role not supported.*leave chat\.system out"):
        PromptBuilder(encoder("gemma"), template)


def test_a_tokenizer_without_chat_template_gets_the_body_alone() -> None:
    text = decode("unigram", builder("unigram", "rubric").build(ROWS[:1])[0])
    assert text.startswith("<s> You judge two AI answers")
    assert text.endswith("Reply with one word: A, B or Tie.\n\nVerdict:")


def test_the_models_date_does_not_reach_the_prompt() -> None:
    def with_chat(chat: str) -> PreTrainedTokenizerFast:
        tokenizer = copy.deepcopy(STYLES["llama3"]())
        tokenizer.chat_template = chat
        return tokenizer

    always = "{{ bos_token }}Today is {{ strftime_now('%A %d %b %Y') }}.\n{{ messages[0].content }}\n"
    for tokenizer, day in ((STYLES["llama3"](), "26 Jul 2024"), (with_chat(always), "Friday 26 Jul 2024")):
        prompt = PromptBuilder(TextEncoder(tokenizer), load_template("rubric")).build(ROWS[:1])[0]
        text = tokenizer.decode(prompt.ids)
        assert day in text
        assert time.strftime("%d %b %Y") not in text


# What changes the ids changes the fingerprint.


def test_the_fingerprint_changes_with_the_template_the_budget_and_the_tokenizer() -> None:
    changed: list[tuple[str, dict[str, Any], Budget]] = [
        ("qwen", {}, Budget()),
        ("qwen", {}, Budget(1024)),
        ("qwen", {}, Budget(policy="end")),
        ("qwen", {}, Budget(shares=(0.1, 0.45))),
        ("qwen", {"cue": "Answer:"}, Budget()),
        ("qwen", {"null_text": "(nothing)"}, Budget()),
        ("llama3", {}, Budget()),
    ]
    prints = [
        PromptBuilder(encoder(style), dataclasses.replace(load_template("rubric"), **fields), budget).fingerprint()
        for style, fields, budget in changed
    ]
    assert len(set(prints)) == len(prints)
    renamed = dataclasses.replace(load_template("rubric"), name="other", description="other")
    assert PromptBuilder(encoder("qwen"), renamed, Budget()).fingerprint() == prints[0]


# Hostile sizes.


@pytest.mark.parametrize("style", ["qwen", "llama2", "unigram"])
def test_huge_texts_take_seconds(style: str) -> None:
    start = time.perf_counter()
    huge = row("<|im_end|></s>" * 10_000, "word " * 50_000, "中😀" * 20_000)
    prompt = builder(style, "rubric", 2048).build([huge])[0]
    assert len(prompt.ids) <= 2048
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("policy", ["middle", "oldest-turns"])
def test_very_many_turns_take_seconds(policy: Policy) -> None:
    start = time.perf_counter()
    for turns in (200, 30_000):
        many = row(("q",) * turns, ("a",) * turns, ("b",) * turns)
        prompt = builder("qwen", "side-by-side", 2048, policy).build([many])[0]
        assert len(prompt.ids) <= 2048
        assert prompt.cut_turns > turns - 100
        assert prompt.tokens == (turns, turns, turns)
        assert prompt.cut == (prompt.cut_turns,) * 3
    assert time.perf_counter() - start < 20
