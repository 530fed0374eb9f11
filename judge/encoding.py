"""Text to token ids, in two ways that are never mixed up: trusted text and user text.

Trusted text (the model's chat template, a prompt template) may hold control tokens such as `<|im_end|>`.
User text (prompts, responses) may spell them, and is encoded so that it never becomes one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError, printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# Put before a piece of text whose tokenizer would otherwise add a space to the start of it.
_ANCHOR = "\n"
# Fixed, because some chat templates (Llama 3.2) print today's date: the same row must give the same ids
# on every day. The value is the one Llama 3.1's own template falls back to.
_CHAT_ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
_SENTINEL = "\ue000judge\ue001"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load a model folder's tokenizer, from disk only and without running any code of the folder's.

    Raises:
        JudgeError: no tokenizer there, or one without the fast Rust implementation.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise JudgeError(f"{folder}: no usable tokenizer ({reason}); copy the model's tokenizer files there") from None
    if not getattr(tokenizer, "is_fast", False):
        raise JudgeError(f"{folder}: its tokenizer has no fast version (tokenizer.json), which judge needs")
    return tokenizer


class TextEncoder:
    """Encodes trusted and user text with one tokenizer.

    Attributes:
        control_ids: the ids that user text can never become: every token that the tokenizer calls
            special, and every added token that the model's chat template uses (such as `<think>`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = tokenizer
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description["truncation"] = description["padding"] = None
        self._trusted = Tokenizer.from_str(json.dumps(description))
        chat_template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
        controls = set(tokenizer.all_special_ids)
        for token in description["added_tokens"]:
            if token["special"] or token["content"] in chat_template:
                # Marked special, so that `encode_special_tokens` makes the tokenizer read it as text.
                # Other added tokens (Gemma's runs of line breaks) are ordinary text and stay.
                token["special"] = True
                controls.add(token["id"])
        self.control_ids: frozenset[int] = frozenset(controls)
        self._plain: Tokenizer = Tokenizer.from_str(json.dumps(description))
        self._plain.encode_special_tokens = True
        self._anchor_ids = self._plain.encode(_ANCHOR, add_special_tokens=False).ids
        self._needs_anchor = self._adds_space_at_start()

    def _adds_space_at_start(self) -> bool:
        """SentencePiece-style tokenizers put a space before the first word of whatever they are given."""
        alone = self._plain.encode("x", add_special_tokens=False).ids
        inside = self._plain.encode(_ANCHOR + "x", add_special_tokens=False).ids
        return inside[: len(self._anchor_ids)] == self._anchor_ids and inside[len(self._anchor_ids) :] != alone

    def user_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts that stand inside a prompt; none of their ids is a control token."""
        given = [_ANCHOR + text for text in texts] if self._needs_anchor else list(texts)
        encoded = [e.ids for e in self._plain.encode_batch_fast(given, add_special_tokens=False)]
        skip = len(self._anchor_ids)
        for i, ids in enumerate(encoded):
            if self._needs_anchor:
                merged = ids[:skip] != self._anchor_ids
                encoded[i] = self._encode_one(texts[i])[0] if merged else ids[skip:]
            if not self.control_ids.isdisjoint(encoded[i]):
                encoded[i] = self._without_controls(texts[i])
        return encoded

    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode one text as it stands inside a prompt; ids, and the characters that each covers."""
        skip = len(self._anchor_ids)
        if self._needs_anchor:
            encoding = self._plain.encode(_ANCHOR + text, add_special_tokens=False)
            # the anchor can merge with a text that begins with a line break: then it is left out
            if encoding.ids[:skip] == self._anchor_ids:
                n = len(_ANCHOR)
                return encoding.ids[skip:], [(s - n, e - n) for s, e in encoding.offsets[skip:]]
        encoding = self._plain.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _without_controls(self, text: str) -> list[int]:
        """Encode a text that the vocabulary itself turns into control tokens, in pieces that do not.

        Some vocabularies (SentencePiece) list `</s>` among their ordinary pieces, so that even the plain
        reading finds it. The text is split after the first character of each such piece.
        """
        pieces = [text]
        result: list[list[int]] = []
        while pieces:
            piece = pieces.pop()
            ids, offsets = self._encode_one(piece)
            found = [span for i, span in zip(ids, offsets, strict=True) if i in self.control_ids]
            cuts = {start + 1 for start, end in found if end - start > 1}
            if not found:
                result.append(ids)
            elif not cuts:  # a single character that is a control token by itself
                replaced = "".join(c if self._harmless(c) else "\ufffd" for c in piece)
                result.append([i for i in self._encode_one(replaced)[0] if i not in self.control_ids])
            else:
                edges = [0, *sorted(cuts), len(piece)]
                pieces += [piece[a:b] for a, b in pairwise(edges) if a < b]
        return [i for ids in reversed(result) for i in ids]

    def _harmless(self, character: str) -> bool:
        return self.control_ids.isdisjoint(self._encode_one(character)[0])

    def clean_cuts(self, text: str, ids: Sequence[int]) -> list[bool]:
        """Return for each position 0..len(ids) whether cutting there leaves every character whole.

        Byte-level vocabularies spread a rare character over several tokens. When the offsets cannot be
        had for exactly these ids, every position counts as clean.
        """
        again, offsets = self._encode_one(text)
        if again != list(ids) or not ids:
            return [True] * (len(ids) + 1)
        return [True, *(before[1] <= after[0] for before, after in pairwise(offsets)), True]

    def trusted_text(self, text: str, at_start: bool = False) -> list[int]:
        """Encode text of ours or of the model's, in which control tokens are meant.

        Args:
            at_start: the text begins the prompt, so a tokenizer may treat it as the start of a text.
        """
        if at_start or not self._needs_anchor:
            return list(self._trusted.encode(text, add_special_tokens=False).ids)
        ids = self._trusted.encode(_ANCHOR + text, add_special_tokens=False).ids
        n = len(self._anchor_ids)
        if ids[:n] == self._anchor_ids:
            return list(ids[n:])
        return list(self._trusted.encode(text, add_special_tokens=False).ids)

    def start_ids(self) -> list[int]:
        """Return what the tokenizer itself puts before a text (usually nothing, or one BOS)."""
        plain = self.tokenizer("x", add_special_tokens=False)["input_ids"]
        full: list[int] = self.tokenizer("x")["input_ids"]
        for n in range(len(full) - len(plain) + 1):
            if full[n : n + len(plain)] == plain:
                return full[:n]
        return []

    def chat_frame(self, system: str | None) -> tuple[str, str] | None:
        """Return the model's chat template around one user message: what stands before and after it.

        What stands after ends with the start of the assistant's reply. None if the model has no chat
        template.

        Raises:
            JudgeError: the template refuses these roles or changes the message.
        """
        if not self.tokenizer.chat_template:
            return None
        messages: list[dict[str, Any]] = [{"role": "user", "content": _SENTINEL}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **_CHAT_ARGUMENTS
            )
        except Exception as error:  # a chat template is code of the model's: it can raise anything
            reason = printable(" ".join(str(error).split()), 160)
            hint = "; leave chat.system out of the prompt template" if system is not None else ""
            raise JudgeError(f"the model's chat template refuses the prompt ({reason}){hint}") from None
        if not isinstance(text, str) or text.count(_SENTINEL) != 1:
            raise JudgeError(
                "the model's chat template does not show the message once; use a prompt template with chat: false"
            )
        before, after = text.split(_SENTINEL)
        return before, after
