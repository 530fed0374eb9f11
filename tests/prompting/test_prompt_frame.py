"""What stands around the texts of a prompt: chat templates, cue, date, fingerprint."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from judge.errors import JudgeError
from judge.prompting.budget import Policy
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import load_template
from tests.kit.prompt_builders import (
    ROWS,
    builder,
    decode,
    encoder,
    row,
)
from tests.kit.tiny_tokenizers import STYLES


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


def test_the_fingerprint_changes_with_template_budget_and_tokenizer() -> None:
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


@pytest.mark.parametrize("style", ["qwen", "llama2", "unigram"])
def test_huge_texts_take_seconds(style: str) -> None:
    start = time.process_time()
    huge = row("<|im_end|></s>" * 10_000, "word " * 50_000, "中😀" * 20_000)
    prompt = builder(style, "rubric", 2048).build([huge])[0]
    assert len(prompt.ids) <= 2048
    assert time.process_time() - start < 20


@pytest.mark.parametrize("policy", ["middle", "oldest-turns"])
def test_very_many_turns_take_seconds(policy: Policy) -> None:
    start = time.process_time()
    for turns in (200, 30_000):
        many = row(("q",) * turns, ("a",) * turns, ("b",) * turns)
        prompt = builder("qwen", "side-by-side", 2048, policy).build([many])[0]
        assert len(prompt.ids) <= 2048
        assert prompt.cut_turns > turns - 100
        assert prompt.tokens == (turns, turns, turns)
        assert prompt.cut == (prompt.cut_turns,) * 3
    assert time.process_time() - start < 20
