"""The language of a comparison: what the table says, or a guess from its first prompt."""

from __future__ import annotations

from functools import lru_cache

from judge.comparison import Comparison

TOO_SHORT = "too short"
_LEAST_BYTES = 20  # to tell a language by: 20 Latin characters, 7 Chinese ones
_CHARACTERS = 200  # time grows with the length: 70 us a text on a slow core


def language_of(row: Comparison) -> str:
    """Return the row's language: that of the table's column if it has one, else `guessed_language`."""
    return row.language or guessed_language(row)


def guessed_language(row: Comparison) -> str:
    """Return the code of the language that the first prompt seems to be in (py3langid), such as `en`.

    It is a guess, the worse the shorter the text; texts under 20 bytes of UTF-8 are `too short`.
    """
    text = next((turn for turn in row.prompt if turn and turn.strip()), "")[:_CHARACTERS]
    return _guess(text) if len(text.strip().encode()) >= _LEAST_BYTES else TOO_SHORT


@lru_cache(maxsize=4096)  # rows that share a prompt are often close together
def _guess(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0])
