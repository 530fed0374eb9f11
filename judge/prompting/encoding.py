"""From text to token ids, in two separate ways: one for trusted text, one for the texts of users.

Trusted text (the model's chat template, a prompt template) may hold control tokens such as `<|im_end|>`. The text of a
user (a prompt or a response) may spell one; it is encoded so that it never becomes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError, printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# Some tokenizers add a space to the start of a text. We put one of these before the text, and take its ids away again.
# There are several, because one of them may merge with the text.
_ANCHORS = ("\n", ".", "0")
# The shape of tokens that steer a model although some tokenizers do not call them special (Qwen's `<|fim_prefix|>`).
_CONTROL_SHAPE = re.compile(r"<[|\uff5c].+[|\uff5c]>", re.DOTALL)
# The pieces of a byte fallback, and those of them that continue a character (the continuation bytes of UTF-8).
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_CONTINUATION = {f"<0x{i:02X}>" for i in range(0x80, 0xC0)}
# The same bytes as byte-level vocabularies (GPT-2's and later ones) spell them. A byte that is a printable character of
# Latin-1 stands for itself. The others stand as chr(256), chr(257), ..., in the order of GPT-2's table.
_SHIFTED = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_BYTE_LEVEL = {chr(256 + _SHIFTED.index(i)) if i in _SHIFTED else chr(i) for i in range(0x80, 0xC0)}
# A text that holds control tokens is taken apart into smaller pieces so many times, and then into single characters.
_MAX_ROUNDS = 4
# The day that chat templates print. Some print today's date (Llama 3.2 unless it gets one, SmolLM3 and gpt-oss always),
# but the same row must give the same ids on every day. Llama 3.1's own template falls back to this day.
_DAY = date(2024, 7, 26)
_CHAT_ARGUMENTS: dict[str, Any] = {
    "enable_thinking": False,
    "date_string": _DAY.strftime("%d %b %Y"),
    "strftime_now": _DAY.strftime,
}
_SENTINEL = "\ue000judge\ue001"


def load_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load a model folder's tokenizer from disk, without running code of that folder unless the caller allows it.

    Raises:
        JudgeError: there is no tokenizer, or it has no fast Rust implementation.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its warnings would print the folder's files, with control characters
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # besides OSError and ValueError, the Rust library raises plain Exception
        reason = printable(" ".join(str(error).split()), 200)
        raise JudgeError(f"{folder}: no usable tokenizer ({reason}); copy the model's tokenizer files there") from None
    finally:
        logging.set_verbosity(verbosity)
    if not getattr(tokenizer, "is_fast", False):
        raise JudgeError(f"{folder}: its tokenizer has no fast version (tokenizer.json), which judge needs")
    return tokenizer


class TextEncoder:
    """Encodes trusted and user text with one tokenizer.

    Attributes:
        control_ids: the ids that the text of a user can never become: every token that the tokenizer calls special,
            and every added token that the model's chat template uses (such as `<think>`) or that looks like `<|…|>`.
            The unknown token is not among them if it only stands for rare characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = tokenizer
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description["truncation"] = description["padding"] = None
        description["model"] |= {"dropout": None} if "dropout" in description["model"] else {}  # else ids are random
        self._trusted = Tokenizer.from_str(json.dumps(description))
        chat = tokenizer.chat_template or ""  # text, or several by name
        chat_text = chat if isinstance(chat, str) else "\n".join(chat.values())
        controls = set(tokenizer.all_special_ids)
        for token in description["added_tokens"]:
            content = token["content"]
            # A chat template may hold white space (Gemma's "\n\n") and plain words without meaning the added token.
            used = re.search(r"[^\w\s]", content) is not None and content in chat_text
            if token["special"] or token["id"] in controls or used or _CONTROL_SHAPE.fullmatch(content):
                # Marked special, so that `encode_special_tokens` makes the tokenizer read it as text.
                # Other added tokens (Gemma's runs of line breaks) are ordinary text and stay.
                token["special"] = True
                controls.add(token["id"])
        self._plain: Tokenizer = Tokenizer.from_str(json.dumps(description))
        self._plain.encode_special_tokens = True
        self._unknown = self._unknown_id(description["model"])
        self.control_ids: frozenset[int] = frozenset(controls - {self._unknown})
        self._spelled = self._spelled_pieces(description["model"])
        self._anchors = self._space_anchors()
        self._byte_level = '"ByteLevel"' in json.dumps([description["pre_tokenizer"], description["decoder"]])
        self._starts: dict[int, bool] = {}

    def _unknown_id(self, model: dict[str, Any]) -> int | None:
        """Return the token of a rare character, or None if that token has a second use (GPT-2's also ends a text)."""
        if model.get("byte_fallback"):
            return None
        if model["type"] == "Unigram":
            name = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        else:
            name = model.get("unk_token")
        jobs = [job for job, token in self.tokenizer.special_tokens_map.items() if token == name]
        return None if name is None or set(jobs) - {"unk_token"} else self._plain.token_to_id(name)

    def _spelled_pieces(self, model: dict[str, Any]) -> dict[int, str]:
        """Return the pieces of a Unigram vocabulary that a text must not become by spelling their names.

        SentencePiece itself never matches `<unk>` or `<0x0A>` in a text; the `tokenizers` library does.
        """
        if model["type"] != "Unigram":
            return {}
        pieces = enumerate(piece for piece, _ in model["vocab"])
        return {i: piece for i, piece in pieces if i == self._unknown or _BYTE_PIECE.fullmatch(piece)}

    def _space_anchors(self) -> list[tuple[str, list[int]]]:
        """Return the anchors to put before a text, each with its ids; an empty list if the tokenizer adds no space.

        Tokenizers in the style of SentencePiece put a space before the first word of every text.
        """
        alone = self._plain.encode("x", add_special_tokens=False).ids
        anchors = []
        for anchor in _ANCHORS:
            ids = self._plain.encode(anchor, add_special_tokens=False).ids
            inside = self._plain.encode(anchor + "x", add_special_tokens=False).ids
            # an unknown anchor would merge with unknown characters of the text into one token
            known = self._unknown not in ids and self.control_ids.isdisjoint(ids)
            if known and inside[: len(ids)] == ids and inside[len(ids) :] != alone:
                anchors.append((anchor, ids))
        return anchors

    def user_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts that stand inside a prompt; none of their ids is a control token."""
        anchor, anchor_ids = self._anchors[0] if self._anchors else ("", [])
        encodings = self._plain.encode_batch_fast([anchor + text for text in texts], add_special_tokens=False)
        skip = len(anchor_ids)
        encoded = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids: list[int] = encoding.ids
            usual = ids[:skip] == anchor_ids and self.control_ids.isdisjoint(ids)
            if usual and self._spelled:
                usual = not any(self._spelled[i] in text for i in self._spelled.keys() & set(ids))
            encoded.append(ids[skip:] if usual else self._encode_one(text))
        return encoded

    def _encode_one(self, text: str) -> list[int]:
        """Encode one text as it stands inside a prompt.

        Some vocabularies (SentencePiece) list `</s>` among their ordinary pieces, so even the plain encoder finds it in
        a text. Such a text is encoded in pieces: the characters under a control token one by one, and the text
        between them whole. A single character that is a control token is replaced by U+FFFD.
        """
        ids: list[int] = []
        encode_character = lru_cache(maxsize=None)(self._encode_character)
        pending = [(text, 0)]
        while pending:
            piece, rounds = pending.pop()
            if len(piece) == 1:
                ids += encode_character(piece)
                continue
            piece_ids, spans = self._inside(self._plain, piece)
            controls = self._control_spans(piece, piece_ids, spans)
            if not controls:
                ids += piece_ids
                continue
            if rounds < _MAX_ROUNDS:
                edges = sorted({0, len(piece), *(edge for a, b in controls for edge in range(a, b + 1))})
            else:  # single characters, so that this ends with any vocabulary
                edges = list(range(len(piece) + 1))
            pending += [(piece[a:b], rounds + 1) for a, b in reversed(list(pairwise(edges)))]
        return ids

    def _control_spans(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return which characters of a text became a control token, or a piece whose name they spell."""
        controls = []
        for i, (start, end) in zip(ids, spans, strict=True):
            name = self._spelled.get(i)
            # a run of unknown characters is one token, and its name may stand in the middle of the run
            spelled = name is not None and (i == self._unknown or end - start == len(name)) and name in text[start:end]
            if spelled or i in self.control_ids:
                controls.append((start, end))
        return controls

    def _encode_character(self, character: str) -> list[int]:
        """Encode one character, or U+FFFD in its place if it is a control token."""
        for shown in (character, "\ufffd"):
            ids = self._inside(self._plain, shown)[0]
            if self.control_ids.isdisjoint(ids):
                return ids
        return []

    def _inside(self, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode one text without a space added to its start, if an anchor does not merge with it.

        Returns:
            The ids, and the characters that each id covers.
        """
        for anchor, anchor_ids in self._anchors:
            encoding = tokenizer.encode(anchor + text, add_special_tokens=False)
            n, shift = len(anchor_ids), len(anchor)
            if encoding.ids[:n] == anchor_ids:
                return encoding.ids[n:], [(max(a - shift, 0), b - shift) for a, b in encoding.offsets[n:]]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def starts_character(self, token: int) -> bool:
        """Return whether a token starts with a whole character, so that a text can be cut before it.

        A vocabulary of bytes spreads a rare character over several tokens. The first of them starts with the first byte
        of the character, the others start with a continuation byte of UTF-8.
        """
        if token not in self._starts:
            piece = self._plain.id_to_token(token) or ""
            self._starts[token] = piece not in _CONTINUATION and not (self._byte_level and piece[:1] in _BYTE_LEVEL)
        return self._starts[token]

    def trusted_text(self, text: str, at_start: bool = False) -> list[int]:
        """Encode text that we or the model's makers wrote: a control token in it is meant as one.

        Args:
            at_start: whether the text begins the prompt; the tokenizer may then treat it as the start of a text.
        """
        if at_start:
            return list(self._trusted.encode(text, add_special_tokens=False).ids)
        return self._inside(self._trusted, text)[0]

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

        The text after the message ends with the start of the assistant's reply. Returns None if the model has no chat
        template.

        Raises:
            JudgeError: the chat template refuses these roles, changes the message, or leaves a message out.
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
        except Exception as error:  # a chat template is code: it can raise anything
            reason = printable(" ".join(str(error).split()), 160)
            hint = "; leave chat.system out of the prompt template" if system is not None else ""
            raise JudgeError(f"the model's chat template refuses the prompt ({reason}){hint}") from None
        if not isinstance(text, str) or text.count(_SENTINEL) != 1:
            raise JudgeError(
                "the model's chat template does not show the message once; use a prompt template with chat: false"
            )
        if system is not None and system.strip() not in text:
            raise JudgeError("the model's chat template leaves the system message out; so must chat.system be")
        before, after = text.split(_SENTINEL)
        return before, after
