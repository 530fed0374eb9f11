"""The rows on which a prompt template shows its mistakes: longest, shortest, many turns, null, not Latin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from judge.tables.comparison import Comparison, Flag, Turns, parse_cell, row_flags

_MISSING = Flag.NULL_TURN | Flag.EMPTY_LIST | Flag.EMPTY_TEXT | Flag.RAGGED | Flag.BAD_CELL
# A letter of another script than Latin. (Latin letters end at U+024F, except for a block of rare ones.)
_NOT_LATIN = re.compile("[^\\W\\d_\u0000-\u024f\u1e00-\u1eff]")


@dataclass(frozen=True)
class AwkwardRow:
    """A row and what is awkward about it, such as `longest` or `shortest, null`."""

    what: str
    row: Comparison


# From a quality to how much of it a row has; 0 or less if the row does not have it.
_QUALITIES: dict[str, Callable[[Comparison], float]] = {
    "longest": lambda row: _size(row),
    "shortest": lambda row: 1 / (1 + _size(row)),
    "many turns": lambda row: row.turn_count - 1,
    "null": lambda row: (row.flags & _MISSING).bit_count(),
    "not Latin": lambda row: _not_latin(row),
}


def awkward_rows(rows: Iterable[Comparison]) -> list[AwkwardRow]:
    """Return for each quality the first row that has most of it; a row with several of them is returned once.

    Length is counted in bytes of UTF-8, which are nearer to tokens than characters are.
    """
    best: dict[str, tuple[float, Comparison]] = {}
    for row in rows:
        for what, quality in _QUALITIES.items():
            score = quality(row)
            if score > (best[what][0] if what in best else 0):
                best[what] = (score, row)
    chosen = {what: best[what][1] for what in _QUALITIES if what in best}
    different = {id(row): row for row in chosen.values()}.values()
    return [AwkwardRow(", ".join(what for what in chosen if chosen[what] is row), row) for row in different]


def _texts(row: Comparison) -> list[str]:
    return [turn for turns in (row.prompt, row.response_a, row.response_b) for turn in turns if turn]


def _size(row: Comparison) -> int:
    return sum(len(text) if text.isascii() else len(text.encode()) for text in _texts(row))


def _not_latin(row: Comparison) -> float:
    """Return the number of letters of other scripts, weighted by their share of all characters."""
    texts = _texts(row)
    letters = sum(len(_NOT_LATIN.findall(text)) for text in texts if not text.isascii())
    return letters**2 / max(sum(map(len, texts)), 1)


def _row(number: int, prompt: Turns, a: Turns, b: Turns) -> Comparison:
    flags = parse_cell(prompt)[1] | parse_cell(a)[1] | parse_cell(b)[1] | row_flags(prompt, a, b)
    return Comparison(f"made-up-{number}", prompt, a, b, flags=flags)


_LONG = "Put the egg into boiling water, wait for ten minutes, and cool it under the tap before you peel it.\n\n"

# Rows for a check without a table.
MADE_UP: tuple[Comparison, ...] = (
    _row(1, ("How do I boil an egg?",), (_LONG * 12,), ("1. Boil water.\n2. Add the egg.\n3. Wait.\n" * 8,)),
    _row(2, ("Hi",), ("Hello",), ("Hey",)),
    _row(
        3,
        ("Tell me a joke.", "Another one, about cats.", "Explain it."),
        ("What is brown and sticky? A stick.", "A cat walks into a bar. It was set too low.", "Bars are high."),
        ("Knock, knock.", "No.", "```python\nprint('cat')\n```"),
    ),
    _row(4, (None, "And now?"), ("", None), ("I cannot see a question.",)),
    _row(
        5,
        ("用中文解释什么是递归。😀",),
        ("递归就是函数调用它自己。",),
        ("Рекурсия: функция вызывает себя. العودية। पुनरावृत्ति।",),
    ),
)
