"""The language of a comparison: what the table says, or a guess from its first prompt."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from judge.tables.comparison import Comparison

TOO_SHORT = "too short"
_LEAST_BYTES = 20  # a shorter text does not show its language: 20 Latin characters, 7 Chinese ones
_SAMPLE = 2000  # so many characters of a text decide its script
_CHARACTERS = 200  # so many characters decide the language: 70 us a text on a slow core

# The first code point of each block, and its script; scripts that do not matter here count as `other`.
_BLOCKS: tuple[tuple[int, str], ...] = (
    (0x0041, "latin"),
    (0x0300, "other"),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "other"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0700, "other"),
    (0x0900, "devanagari"),
    (0x0980, "other"),
    (0x0E00, "thai"),
    (0x0E80, "other"),
    (0x1100, "hangul"),
    (0x1200, "other"),
    (0x1E00, "latin"),
    (0x1F00, "greek"),
    (0x2000, "other"),
    (0x3040, "kana"),
    (0x3100, "other"),
    (0x3400, "han"),
    (0xA000, "other"),
    (0xAC00, "hangul"),
    (0xD800, "other"),
)
_STARTS = [start for start, _ in _BLOCKS]


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
    counts: dict[str, int] = {}
    for character in text[:_SAMPLE]:
        if character.isalpha():
            script = _BLOCKS[max(bisect_right(_STARTS, ord(character)) - 1, 0)][1]
            counts[script] = counts.get(script, 0) + 1
    if counts.get("kana", 0) > 0.1 * counts.get("han", 0):  # Japanese is written in both
        counts["kana"] = counts.get("kana", 0) + counts.pop("han", 0)
    return max(counts, key=lambda name: (counts[name], name), default="latin")
