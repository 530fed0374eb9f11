"""Small real tokenizers, one for each style that language models use, trained on the spot.

Each has a few hundred to about a thousand tokens, " A", " B" and " Tie" among them, and behaves at its edges as
its big sister does: where BOS comes from, what a prefix space does, which added tokens are special, and what
its chat template says. No network. They are cached, so do not change them: take a `copy.deepcopy`.
"""
# ruff: noqa: S106 (a token is no password)

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SENTENCES = [
    "A person sent the same messages to two bots. Compare the two conversations and say which one is better.",
    "Two assistants, A and B, answered the same user. Decide which one the user would prefer, or call it a tie.",
    "The verdict: A\nThe verdict: B\nThe verdict: Tie\nVerdict: A Verdict: B Verdict: Tie",
    "You judge two AI answers the way an impartial user would. Reply with one word: A, B or Tie.",
    "========== CONVERSATION WITH BOT A ==========\n\n### User:\n\n### Bot A:\n\n### Bot B:\n\n### Best response:",
    "Prompt:\nHow do I boil an egg?\n\nResponse A:\nFor ten minutes.\n\nResponse B:\nAsk your mother.\n\n",
    "Better response: A Better response: B Better response: Tie. Preferred assistant: A, B, Tie.",
    "<message 1>\nWrite a function.\n</message 1>\n\n<answer A>\ndef f(x):\n    return x + 1\n</answer A>",
    "It is the first answer that the user likes, not the second; 1, 2, 3 and 4 are numbers, 2024 is a year.",
    "Größe, café, naïve: ein paar Wörter. 你好，世界。 مرحبا بالعالم. Привет, мир. 😀😀 👍",
]
_CORPUS = _SENTENCES * 4 + [" A", " B", " Tie", " C", "A B Tie", " first second tie"] * 20

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPLIT = _LLAMA3_SPLIT.replace("{1,3}", "")

# After Llama 3.2: it writes BOS itself, and prints today's date unless it is given one.
_LLAMA3_CHAT = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# After Qwen3: ChatML, with tool calls and a thought that `enable_thinking` leaves empty.
_QWEN_CHAT = """{%- if tools %}
    {{- 'For each call return a json object within <tool_call></tool_call> tags' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

_LLAMA2_CHAT = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)

# After Gemma 3, over several lines: its source holds the added token "\n\n" as mere layout.
_GEMMA_CHAT = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('System role not supported') }}
{%- endif -%}

{%- for message in messages -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n'
       + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor -%}

{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

_BYTES = [f"<0x{i:02X}>" for i in range(256)]


def _special(*contents: str) -> list[AddedToken]:
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def _plain(*contents: str) -> list[AddedToken]:
    return [AddedToken(content, special=False, normalized=False) for content in contents]


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _byte_level(split: str, ignore_merges: bool) -> Tokenizer:
    """A byte-level BPE as in GPT-4, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _sentencepiece_bpe(controls: list[str], pieces: list[str]) -> Tokenizer:
    """A SentencePiece-like BPE: spaces are "▁", what the vocabulary lacks becomes bytes, controls come first."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁[^▁\n]*|[^▁\n]+"), "isolated")
    # The alphabet is ASCII, so that everything else shows what the byte fallback does.
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    trained.train_from_iterator([line.encode("ascii", "ignore").decode() for line in _CORPUS], trainer)
    model = _model_of(trained)
    names = dict.fromkeys([*controls, *_BYTES, *pieces, *map(chr, range(33, 127)), *model["vocab"]])
    vocab = {name: i for i, name in enumerate(names)}
    merges = [(a, b) for a, b in model["merges"]]
    return Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))


@cache
def llama3_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE; BOS comes from the post-processor and, in a chat, from the chat template."""
    tokenizer = _byte_level(_LLAMA3_SPLIT, ignore_merges=True)
    tokenizer.add_special_tokens(
        _special(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        )
    )
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|eot_id|>", chat_template=_LLAMA3_CHAT
    )


@cache
def qwen_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE over NFC text, no BOS, ChatML; some control tokens are added but not called special."""
    tokenizer = _byte_level(_QWEN_SPLIT, ignore_merges=False)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens(
        _plain(
            "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_suffix|>", "<|repo_name|>", "<think>", "</think>"
        )
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=_QWEN_CHAT
    )


@cache
def llama2_style() -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback, a space put before every text, and `<s>`, `</s>` in the vocabulary.

    `[INST]` and `[/INST]` are control tokens, as in Mistral's third version.
    """
    controls = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = _sentencepiece_bpe(controls, [])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(_special(*controls))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        chat_template=_LLAMA2_CHAT,
    )


@cache
def gemma_style() -> PreTrainedTokenizerFast:
    """SentencePiece BPE without a space before the text; line breaks and HTML tags are ordinary added tokens."""
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = _sentencepiece_bpe(controls, ["\n", *ORDINARY])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_special(*controls))
    tokenizer.add_tokens(_plain(*ORDINARY))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=_GEMMA_CHAT,
    )


def _unigram(byte_fallback: bool) -> PreTrainedTokenizerFast:
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        unk_token="<unk>",
        special_tokens=["<unk>"],
        initial_alphabet=[*map(chr, range(33, 127))],
        show_progress=False,
    )
    # Line breaks are pieces of their own here; in training they would be swallowed as white space.
    lines = [part for line in _CORPUS for part in line.encode("ascii", "ignore").decode().split("\n")]
    trained.train_from_iterator(lines, trainer)
    # SentencePiece lists control tokens and bytes among the pieces, with score 0, better than any real piece.
    pieces: dict[str, float] = dict.fromkeys(["<unk>", "<s>", "</s>", *(_BYTES if byte_fallback else [])], 0.0)
    pieces |= {piece: score for piece, score in _model_of(trained)["vocab"] if piece not in pieces}
    pieces |= dict.fromkeys(["▁A", "▁B", "▁Tie", "\n"], -4.0)
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), 0, byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), *parts] if byte_fallback else parts)
    tokenizer.add_special_tokens(_special("<unk>", "<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def unigram_style() -> PreTrainedTokenizerFast:
    """Unigram SentencePiece with byte fallback whose pieces include `</s>`; BOS and EOS are put around a text.

    It has no chat template.
    """
    return _unigram(byte_fallback=True)


@cache
def unknown_style() -> PreTrainedTokenizerFast:
    """The same without byte fallback: characters that it does not know become `<unk>`, whole runs of them one."""
    return _unigram(byte_fallback=False)


STYLES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama3": llama3_style,
    "qwen": qwen_style,
    "llama2": llama2_style,
    "gemma": gemma_style,
    "unigram": unigram_style,
}

# Added tokens that are ordinary text, as line breaks and HTML tags are in Gemma's vocabulary.
ORDINARY = ("<table>", "</table>", "<h1>", "<strong>", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁")


def control_tokens(style: str) -> list[str]:
    """Return every special and added token of a style but those that are ordinary text."""
    added = [str(token) for token in STYLES[style]().added_tokens_decoder.values()]
    return [content for content in added if content not in ORDINARY]
