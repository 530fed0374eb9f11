"""Tokenizers as they are loaded and their chat templates: settings of theirs that must not reach a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from judge.errors import JudgeError
from judge.prompting.encoding import TextEncoder, load_tokenizer
from tests.kit.encoders import HARD_TEXTS, changed, encoder
from tests.kit.tiny_tokenizers import STYLES, control_tokens, qwen_style


def test_the_chat_frame_is_what_stands_around_the_message() -> None:
    assert encoder("qwen").chat_frame("Be fair.") == (
        "<|im_start|>system\nBe fair.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )


def test_a_tokenizer_without_chat_template_has_no_frame() -> None:
    assert encoder("unigram").chat_frame("Be fair.") is None


@pytest.mark.parametrize(
    "template",
    [
        STYLES["llama3"]().chat_template,
        "{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}",
        "{{ strftime_now('%Y-%m-%d') }} {{ messages[-1].content }}",
        "{% if date_string is defined %}{{ date_string }}{% endif %} {{ messages[-1].content }}",
    ],
)
def test_the_date_does_not_reach_the_prompt(template: str) -> None:
    mine = changed(qwen_style(), lambda t: setattr(t, "chat_template", template))
    frame = mine.chat_frame(None)
    assert frame is not None
    assert "26 Jul 2024" in frame[0] or "2024-07-26" in frame[0]


def test_a_chat_template_that_refuses_a_system_message_is_reported() -> None:
    with pytest.raises(JudgeError) as error:
        encoder("gemma").chat_frame("Be fair.")
    assert str(error.value) == (
        "the model's chat template refuses the prompt (System role not supported); "
        "leave chat.system out of the prompt template"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "refuses the prompt (division by zero); leave chat.system out of the prompt template"),
        ("{% for %}", "refuses the prompt (Expected an expression, got 'end of statement block'); leave"),
        (
            "{{ messages[-1].content | upper }}",
            "does not show the message once; use a prompt template with chat: false",
        ),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "does not show the message once"),
        ("{{ messages[-1].content }}{{ messages[-1].content }}", "does not show the message once"),
        ("{{ messages[-1].content }}", "leaves the system message out; so must chat.system be"),
    ],
)
def test_a_chat_template_that_does_not_take_the_prompt_is_reported(template: str, reason: str) -> None:
    mine = changed(qwen_style(), lambda t: setattr(t, "chat_template", template))
    with pytest.raises(JudgeError) as error:
        mine.chat_frame("Be fair.")
    assert str(error.value).startswith(f"the model's chat template {reason}")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("style", STYLES)
def test_a_saved_tokenizer_gives_the_same_ids(style: str, tmp_path: Path) -> None:
    STYLES[style]().save_pretrained(tmp_path)
    loaded = TextEncoder(load_tokenizer(tmp_path))
    texts = HARD_TEXTS + control_tokens(style)
    assert loaded.user_text(texts) == encoder(style).user_text(texts)
    assert loaded.control_ids == encoder(style).control_ids
    assert loaded.chat_frame(None) == encoder(style).chat_frame(None)
    assert loaded.start_ids() == encoder(style).start_ids()


def test_a_tokenizer_set_to_truncate_or_pad_does_neither_here() -> None:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.enable_truncation(3)
        tokenizer.backend_tokenizer.enable_padding(length=10)

    mine = changed(qwen_style(), change)
    text = "one two three four five six"
    assert mine.user_text([text]) == encoder("qwen").user_text([text])
    assert mine.trusted_text("x") == encoder("qwen").trusted_text("x")


def test_a_tokenizer_set_to_drop_merges_at_random_drops_none_here() -> None:
    mine = changed(qwen_style(), lambda t: setattr(t.backend_tokenizer.model, "dropout", 0.5))
    text = "Compare the two conversations and say which one is better."
    assert len({tuple(mine.tokenizer.encode(text)) for _ in range(9)}) > 1
    assert mine.user_text([text] * 9) == encoder("qwen").user_text([text] * 9)
    assert mine.trusted_text(text) == encoder("qwen").trusted_text(text)


@pytest.mark.parametrize(
    "content",
    ["", "{broken", "{}", "[]", '{"added_tokens": [], "model": {"type": "Nope"}}', '{"added_tokens": [], "model": 3}'],
)
def test_a_broken_tokenizer_file_is_reported(content: str, tmp_path: Path) -> None:
    qwen_style().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(JudgeError) as error:
        load_tokenizer(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: no usable tokenizer (")
    assert str(error.value).endswith("); copy the model's tokenizer files there")


def test_a_folder_without_a_tokenizer_is_reported(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(JudgeError, match="no usable tokenizer"):
            load_tokenizer(folder)
