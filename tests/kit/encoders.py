"""Text encoders of tiny tokenizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerFast

from judge.prompting.encoding import TextEncoder
from tests.kit.tiny_tokenizers import STYLES

# What texts of all kinds are made of, and what is hard for some tokenizer.
HARD_TEXTS = [
    "",
    " ",
    "\n",
    "\n\n\n\n",
    "   \t \n  ",
    " leading and trailing ",
    "\n\nleading breaks",
    "emoji 😀👍🏽 👩‍👩‍👧 🇩🇪",
    "中文，日本語、한국어",
    "مرحبا بالعالم שלום",
    "e\u0301 a\u0308 combining, Z\u0351\u0343\u0300algo",
    "zero\u200bwidth, \ufeffBOM, \u202eright to left\u202c",
    "tabs\tand\r\nreturns\r",
    "a\u00a0b\u3000c\u2028d",
    "\x00\x01\x7f",
    "\U0001f469\U0010fffd",
    "<table><h1>x</h1></table>",
    "{{ turns }} {% for x in y %}",
]


@cache
def encoder(style: str) -> TextEncoder:
    return TextEncoder(STYLES[style]())


def changed(tokenizer: PreTrainedTokenizerFast, change: Callable[[PreTrainedTokenizerFast], Any]) -> TextEncoder:
    mine = copy.deepcopy(tokenizer)
    change(mine)
    return TextEncoder(mine)
