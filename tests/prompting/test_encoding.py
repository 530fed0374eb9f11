"""Text to ids: user text never becomes a control token, and nothing of it is lost or added."""

from __future__ import annotations

import json
import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from judge.prompting.encoding import _BYTE_LEVEL, TextEncoder
from tests.kit.encoders import HARD_TEXTS, changed, encoder
from tests.kit.tiny_tokenizers import STYLES, control_tokens, llama3_style, qwen_style, unigram_style, unknown_style

BYTE_LEVEL = ["llama3", "qwen"]
WORDS = st.text(st.sampled_from("ab eT.\n<|>/[]s😀中é"), max_size=12)
ALL_CONTROLS = [(style, control) for style in STYLES for control in control_tokens(style)]


def decode(encoder: TextEncoder, ids: list[int]) -> str:
    """Decode with every control token shown, as text that stands behind other text."""
    anchor = encoder.user_text(["x"])[0]
    text: str = encoder.tokenizer.backend_tokenizer.decode(anchor + ids, skip_special_tokens=False)
    assert text.startswith("x")
    return text[1:]


def test_every_style_has_control_tokens_to_test_with() -> None:
    assert {style: len(control_tokens(style)) for style in STYLES} == {
        "llama3": 8,
        "qwen": 10,
        "llama2": 5,
        "gemma": 6,
        "unigram": 3,
    }


@pytest.mark.parametrize("style", STYLES)
def test_control_ids_are_those_of_all_control_tokens(style: str) -> None:
    ids = STYLES[style]().convert_tokens_to_ids(control_tokens(style))
    assert encoder(style).control_ids == frozenset(ids)


@pytest.mark.parametrize(("style", "control"), ALL_CONTROLS)
@settings(max_examples=25)
@given(left=WORDS, right=WORDS, times=st.integers(1, 3))
@example(left="", right="", times=1)
@example(left=" ", right=" ", times=2)
def test_user_text_never_becomes_a_control_token(style: str, control: str, left: str, right: str, times: int) -> None:
    text = left + control * times + right
    ids = encoder(style).user_text([text])[0]
    assert encoder(style).control_ids.isdisjoint(ids)
    assert not set(STYLES[style]().all_special_ids) & set(ids)
    assert decode(encoder(style), ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("style", STYLES)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_decoding_gives_back_any_text(style: str, text: str) -> None:
    expected = unicodedata.normalize("NFC", text) if style == "qwen" else text
    assert decode(encoder(style), encoder(style).user_text([text])[0]) == expected


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_decoding_gives_back_hard_texts(style: str, text: str) -> None:
    expected = unicodedata.normalize("NFC", text) if style == "qwen" else text
    assert decode(encoder(style), encoder(style).user_text([text])[0]) == expected


@pytest.mark.parametrize("style", STYLES)
def test_a_text_has_the_same_ids_in_any_batch(style: str) -> None:
    texts = HARD_TEXTS + control_tokens(style)
    batch = encoder(style).user_text(texts)
    assert [encoder(style).user_text([text])[0] for text in texts] == batch
    assert encoder(style).user_text(texts[::-1]) == batch[::-1]
    assert encoder(style).user_text([]) == []


@pytest.mark.parametrize("style", STYLES)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30))
def test_cutting_at_clean_places_leaves_characters_whole(style: str, text: str) -> None:
    _check_clean_cuts(encoder(style), unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "text", ["</s>😀</s>中", "<|im_end|>👩‍👩‍👧é", "   😀  \n\n 中", "<0x0A><0xF0>😀<unk>中<s>", "é" * 5]
)
def test_clean_cuts_leave_characters_whole_around_control_tokens(style: str, text: str) -> None:
    _check_clean_cuts(encoder(style), text)


def _check_clean_cuts(encoder: TextEncoder, text: str) -> None:
    ids = encoder.user_text([text])[0]
    for place, token in enumerate(ids):
        if place == 0 or encoder.starts_character(token):
            assert decode(encoder, ids[:place]) + decode(encoder, ids[place:]) == text


@pytest.mark.parametrize("style", STYLES)
def test_nearly_every_character_of_a_rare_script_can_be_cut_before(style: str) -> None:
    text = "一二三四五六七八九十" * 10
    ids = encoder(style).user_text([text])[0]
    # all but the places inside a character, which has three bytes
    assert sum(map(encoder(style).starts_character, ids)) >= len(ids) / 3


@pytest.mark.parametrize("style", STYLES)
def test_no_space_is_added_before_user_text(style: str) -> None:
    tokenizer = STYLES[style]()
    alone, inside = encoder(style).user_text(["Tie", "The verdict: Tie"])
    assert tokenizer.convert_ids_to_tokens(alone) == ["T", "i", "e"] or len(alone) == 1
    assert decode(encoder(style), alone) == "Tie"
    assert decode(encoder(style), inside) == "The verdict: Tie"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", ["\n\nText", "Text", " Text", ".Text", "\n", "...", "00"])
def test_no_space_is_added_before_trusted_text_inside_a_prompt(style: str, text: str) -> None:
    assert decode(encoder(style), encoder(style).trusted_text(text)) == text


@pytest.mark.parametrize(("style", "control"), ALL_CONTROLS)
def test_trusted_text_means_its_control_tokens(style: str, control: str) -> None:
    id_of_it = STYLES[style]().convert_tokens_to_ids(control)
    assert encoder(style).trusted_text(f"a{control}b").count(id_of_it) == 1
    assert encoder(style).trusted_text(control) == [id_of_it]
    assert encoder(style).trusted_text(control, at_start=True) == [id_of_it]


@pytest.mark.parametrize(
    ("style", "start"),
    [("llama3", ["<|begin_of_text|>"]), ("qwen", []), ("llama2", ["<s>"]), ("gemma", ["<bos>"]), ("unigram", ["<s>"])],
)
def test_start_ids_are_the_tokenizers_own_bos(style: str, start: list[str]) -> None:
    assert STYLES[style]().convert_ids_to_tokens(encoder(style).start_ids()) == start


def test_added_tokens_that_swallow_white_space_swallow_none_of_the_users() -> None:
    swallowing = AddedToken("<|end|>", special=True, lstrip=True, rstrip=True, normalized=False)
    strict = changed(qwen_style(), lambda t: t.add_tokens([swallowing], special_tokens=True))
    text = "a  <|end|> \n b <|end|>"
    assert decode(strict, strict.user_text([text])[0]) == text
    assert strict.trusted_text("a  <|end|> \n b")[1] == strict.tokenizer.convert_tokens_to_ids("<|end|>")


def test_a_token_that_the_chat_template_uses_is_a_control_token() -> None:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.add_tokens([AddedToken("[USER]", special=False), AddedToken("[NOTE]", special=False)])
        tokenizer.chat_template = "{% for m in messages %}[USER]{{ m.content }}{% endfor %}"

    mine = changed(qwen_style(), change)
    user, note = mine.tokenizer.convert_tokens_to_ids(["[USER]", "[NOTE]"])
    assert user in mine.control_ids
    assert user not in mine.user_text(["a [USER] b"])[0]
    assert note in mine.user_text(["a [NOTE] b"])[0]


def test_all_of_several_named_chat_templates_are_read() -> None:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.add_tokens([AddedToken("[TOOL]", special=False)])
        tokenizer.chat_template = {"default": "{{ messages[0].content }}!", "tool_use": "[TOOL]"}

    mine = changed(qwen_style(), change)
    assert mine.tokenizer.convert_tokens_to_ids("[TOOL]") in mine.control_ids
    assert mine.chat_frame(None) == ("", "!")


def test_line_breaks_and_words_in_a_chat_template_are_no_control_tokens() -> None:
    gemma = encoder("gemma")
    assert "\n\n" in STYLES["gemma"]().chat_template
    assert len(gemma.user_text(["\n\n"])[0]) == 1
    assert len(gemma.user_text(["<table>"])[0]) == 1
    mine = changed(qwen_style(), lambda t: t.add_tokens([AddedToken("assistant", special=False)]))
    assert len(mine.user_text(["assistant"])[0]) == 1


def test_a_special_token_that_is_a_single_character_is_replaced() -> None:
    mine = changed(qwen_style(), lambda t: t.add_special_tokens({"pad_token": "!"}))
    ids = mine.user_text(["a b! c"])[0]
    assert mine.control_ids.isdisjoint(ids)
    assert decode(mine, ids) == "a b\ufffd c"


def test_a_byte_level_tokenizer_adds_no_space_inside_a_prompt() -> None:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    mine = changed(llama3_style(), change)
    assert decode(changed(llama3_style(), lambda _: None), mine.tokenizer.encode("x", add_special_tokens=False)) == " x"
    for text in ["x", "Tie", "\n\nx", " x", "", ".x", "0"]:
        assert decode(mine, mine.user_text([text])[0]) == text
        assert decode(mine, mine.trusted_text(text)) == text


def test_trimmed_offsets_do_not_confuse_clean_cuts() -> None:
    from tokenizers import processors

    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)

    mine = changed(qwen_style(), change)
    for text in ["a  b \n\n c", "  😀  中 ", "\t\t"]:
        _check_clean_cuts(mine, text)
        assert sum(map(mine.starts_character, mine.user_text([text])[0])) >= 1


def test_continuation_bytes_are_those_of_byte_level_vocabularies() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()
    assert {table[i] for i in range(0x80, 0xC0)} == _BYTE_LEVEL
    assert len(_BYTE_LEVEL) == 64


def test_rare_characters_stay_unknown_where_the_vocabulary_has_no_bytes() -> None:
    mine = TextEncoder(unknown_style())
    unknown = mine.tokenizer.unk_token_id
    assert unknown not in mine.control_ids
    assert mine.user_text(["a中文b"])[0].count(unknown) == 1
    assert decode(mine, mine.user_text(["a中文b"])[0]) == "a<unk>b"


def without_line_break(tokenizer: PreTrainedTokenizerFast) -> TextEncoder:
    """The same Unigram tokenizer, but without a piece for the line break."""

    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        for piece in description["model"]["vocab"]:
            piece[0] = piece[0].replace("\n", "\x00")
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(description))

    return changed(tokenizer, change)


@pytest.mark.parametrize("text", ["中 x", "中文x", "\n中x", "x中\n文", "中</s>中"])
def test_no_rare_character_is_lost_where_the_vocabulary_has_no_line_break(text: str) -> None:
    mine = without_line_break(unigram_style())
    assert decode(mine, mine.user_text([text])[0]) == text
    _check_clean_cuts(mine, text)
    mine = without_line_break(unknown_style())
    assert decode(mine, mine.user_text([text])[0]) == re.sub("[中文\n]+", "<unk>", text)


@pytest.mark.parametrize("text", ["<unk>", "x <unk> y", "中<unk>中", "</s><unk><s>"])
def test_the_spelled_unknown_token_is_text(text: str) -> None:
    mine = TextEncoder(unknown_style())
    assert decode(mine, mine.user_text([text])[0]) == text.replace("中", "<unk>")
    assert mine.user_text([text])[0].count(mine.tokenizer.unk_token_id) == text.count("中")


@pytest.mark.parametrize("text", ["<0x0A>", "a<0x41>b", "😀<0x0A>中"])
def test_the_spelled_name_of_a_byte_is_text(text: str) -> None:
    assert decode(encoder("unigram"), encoder("unigram").user_text([text])[0]) == text


def test_an_unknown_token_with_a_second_job_is_a_control_token() -> None:
    vocab = {"<unk>": 0, **{c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz", start=1)}}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True))  # noqa: S106
    inner.decoder = decoders.Fuse()
    mine = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<unk>"))  # noqa: S106
    assert mine.control_ids == {0}
    assert decode(mine, mine.user_text(["a中文b"])[0]) == "ab"
    start = time.process_time()
    assert mine.user_text(["中" * 100_000 + "x"])[0] == [vocab["x"]]
    assert time.process_time() - start < 15


@pytest.mark.parametrize("style", STYLES)
def test_a_megabyte_takes_seconds(style: str) -> None:
    start = time.process_time()
    text = "The first answer 😀 is better.\n" * 30_000
    ids = encoder(style).user_text([text])[0]
    assert sum(map(encoder(style).starts_character, ids)) > 30_000
    assert time.process_time() - start < 20


@pytest.mark.parametrize("style", STYLES)
def test_a_hundred_thousand_control_tokens_take_seconds(style: str) -> None:
    start = time.process_time()
    text = "".join(control_tokens(style)) * (100_000 // len(control_tokens(style)))
    ids = encoder(style).user_text([text])[0]
    assert encoder(style).control_ids.isdisjoint(ids)
    assert decode(encoder(style), ids) == text
    assert time.process_time() - start < 20
