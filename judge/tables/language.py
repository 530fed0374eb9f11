"""The language of a comparison: what the table says, or a guess from its first prompt."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from judge.tables.comparison import Comparison

TOO_SHORT = "too short"
_LEAST_BYTES = 20  # a shorter text does not show its language: 20 Latin characters, 7 Chinese ones
_SAMPLE = 2000  # so many characters of a text decide its script
_CHARACTERS = 200  # so many characters decide the language: 70 us a text on a slow core

# From the first word of a letter's name in Unicode to its script; scripts that do not matter here count as `other`.
_NAMED = ("latin", "greek", "cyrillic", "hebrew", "arabic", "devanagari", "thai", "hangul")
_SCRIPTS = {name.upper(): name for name in _NAMED}
_SCRIPTS |= {"CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "KATAKANA-HIRAGANA": "kana"}


def language_of(row: Comparison) -> str:
    """Return the row's language: that of the table's column if it has one, else `guessed_language`."""
    return row.language or guessed_language(row)


def guessed_language(row: Comparison) -> str:
    """Return the code of the language that the first prompt seems to be in (py3langid), such as `en`.

    The shorter the text, the worse the guess. Texts under 20 bytes of UTF-8 are `too short`.
    """
    text = next((turn for turn in row.prompt if turn and turn.strip()), "")[:_CHARACTERS]
    return _guess(text) if len(text.strip().encode()) >= _LEAST_BYTES else TOO_SHORT


@lru_cache(maxsize=4096)  # rows that share a prompt are often close together
def _guess(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0])


def script_of(text: str) -> str:
    """Return the script of most letters of a text: `latin`, `han`, `cyrillic` and so on, or `other`."""
    if text.isascii():
        return "latin"
    counts: Counter[str] = Counter()
    for character in filter(str.isalpha, text[:_SAMPLE]):
        word = unicodedata.name(character, "").partition(" ")[0]
        counts[_SCRIPTS.get(word, "latin" if character < "\u0300" else "other")] += 1
    if counts["kana"] > 0.1 * counts["han"]:  # Japanese is written in both
        counts["kana"] += counts.pop("han", 0)
    return max(counts, key=lambda name: (counts[name], name), default="latin")
