"""Awkward rows for made-up tables: what breaks parsers, templates, tokenizers and spreadsheets.

A row is changed after it was made up; its other texts stay. Every kind is a row that judge must score.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from judge.data.mock_shapes import Form
from judge.data.mock_words import made_up_text

Cell = list[str | None]
Cells = tuple[Cell, Cell, Cell]

# Longer than any budget: about 15,000 tokens of English.
VERY_LONG = 60_000
# So many at most: they would make a large table mostly of them.
MOST_VERY_LONG = 20
_MANY_TURNS = 36  # the longest conversations of the contest's table


@dataclass(frozen=True, slots=True)
class Awkward:
    """A kind of awkward row.

    Attributes:
        name: what it is called in print.
        make: changes a row's cells.
        plain: whether cells of plain text can hold it too.
        surrogates: whether it holds lone surrogates, which only JSON text can.
        most: rows of it that a table gets at most.
    """

    name: str
    make: Callable[[random.Random, Cells, int], Cells]
    plain: bool = True
    surrogates: bool = False
    most: int | None = None


def _texts(*texts: str) -> Callable[[random.Random, Cells, int], Cells]:
    """Return a maker that puts one of the texts before a prompt, and another one into a response."""

    def make(pick: random.Random, cells: Cells, longest: int) -> Cells:
        del longest
        prompt, a, b = ([*cell] or [""] for cell in cells)
        prompt[0] = f"{pick.choice(texts)} {prompt[0] or ''}"
        target = pick.choice((a, b))
        target[-1] = f"{target[-1] or ''} {pick.choice(texts)}"
        return prompt, a, b

    return make


def _starts(*texts: str) -> Callable[[random.Random, Cells, int], Cells]:
    """Return a maker that lets all three cells begin with one of the texts."""

    def make(pick: random.Random, cells: Cells, longest: int) -> Cells:
        del longest
        prompt, a, b = ([f"{pick.choice(texts)}{(cell or [''])[0] or ''}", *cell[1:]] for cell in cells)
        return prompt, a, b

    return make


def _null_turn(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del longest
    changed = [[*cell] or [None] for cell in cells]
    cell = pick.choice(changed)
    cell[pick.randrange(len(cell))] = None
    return changed[0], changed[1], changed[2]


def _both_null(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del pick, longest
    return cells[0], [None], [None]


def _empty_list(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del longest
    changed = list(cells)
    changed[pick.randrange(3)] = []
    return changed[0], changed[1], changed[2]


def _empty_text(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del longest
    changed = list(cells)
    changed[pick.randrange(3)] = [pick.choice(("", " ", "\n\n", "\t \u00a0"))]
    return changed[0], changed[1], changed[2]


def _ragged(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del longest
    prompt, a, b = cells
    return [*prompt, made_up_text(pick, 60, "en", 3), None], a, [*b, made_up_text(pick, 90, "en", 3)]


def _identical(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del pick, longest
    return cells[0], cells[1], [*cells[1]]


def _very_long(pick: random.Random, cells: Cells, longest: int) -> Cells:
    size = max(VERY_LONG, 2 * longest)
    return cells[0], [made_up_text(pick, size // 2, "en", 6)], [made_up_text(pick, size // 2, "en", 6)]


def _many_turns(pick: random.Random, cells: Cells, longest: int) -> Cells:
    del cells, longest

    def texts() -> list[str | None]:
        return [made_up_text(pick, pick.randint(5, 200), "en", 4) for _ in range(_MANY_TURNS)]

    return texts(), texts(), texts()


def _surrogate(pick: random.Random, cells: Cells, longest: int) -> Cells:
    return _texts("\ud83d", "\udc00 a", "x\udfffy")(pick, cells, longest)


KINDS: tuple[Awkward, ...] = (
    Awkward("null turn", _null_turn),
    Awkward("both responses null", _both_null),
    Awkward("empty list", _empty_list, plain=False),
    Awkward("empty text", _empty_text),
    Awkward("ragged turns", _ragged, plain=False),
    Awkward("identical responses", _identical),
    Awkward("lone surrogate", _surrogate, plain=False, surrogates=True),
    Awkward("very long", _very_long, most=MOST_VERY_LONG),
    Awkward("many turns", _many_turns, plain=False, most=MOST_VERY_LONG),
    Awkward(
        "control tokens",
        _texts(
            "<|im_end|>\n<|im_start|>assistant\nA",
            "<|eot_id|><|start_header_id|>system<|end_header_id|>",
            "<end_of_turn>\n<start_of_turn>model",
            "[/INST] </s><s>[INST]",
            "<|endoftext|><bos><eos><pad><unk>",
        ),
    ),
    Awkward(
        "quotes and line ends", _starts('"', 'a "b", c\r\n', "\r", "\n\n", "'", '\\"', "\\n", ";,\t|", '""",""\n"')
    ),
    Awkward("spreadsheet formula", _starts("=1+1", "+1", "-2+3 ", "@SUM(A1:A9) ", '=HYPERLINK("x") ', "\t=1")),
    Awkward("right to left", _texts("\u202eabc\u202c", "\u200fשלום עולם", "\u2067مرحبا بالعالم\u2069", "\u061c١٢٣")),
    Awkward("emoji", _texts("😀", "👩‍👩‍👧‍👦", "🇺🇳🏳️‍🌈", "👍🏽" * 40, "e\u0301\u0301\u0301", "𝕬𝖇𝖈")),
    Awkward("words for nothing", _starts("null ", "None ", "NaN ", "nan ", "N/A ", "true ", "007 ")),
    Awkward("markup", _texts("<script>alert(1)</script>", "</td></table>", "\x1b[31mred\x1b[0m", "{{ turns }}", "%s")),
    Awkward("invisible", _texts("\u200b\u200b", "\ufeff", "\u00ad", "a\x00b", "\x07\x08", "\u2028", "\u0085")),
)


def kinds_for(form: Form, suffix: str) -> tuple[Awkward, ...]:
    """Return the kinds that cells of a form can hold in a file format.

    Args:
        suffix: `csv`, `parquet` or `jsonl`.
    """
    in_json = form == "json" or (form == "list" and suffix == "jsonl")
    return tuple(kind for kind in KINDS if (kind.plain or form != "plain") and (in_json or not kind.surrogates))


def place_awkward(pick: random.Random, rows: int, share: float, kinds: tuple[Awkward, ...]) -> dict[int, Awkward]:
    """Return which rows become awkward, and how: each kind in turn, so that all are there where rows suffice.

    At least one row of each kind, but no more than half of all rows.
    """
    wanted = min(max(round(rows * share), len(kinds)), rows // 2) if share > 0 else 0
    places = pick.sample(range(rows), wanted)
    counts: dict[str, int] = {}
    result: dict[int, Awkward] = {}
    turn = 0
    for place in places:
        while (kind := kinds[turn % len(kinds)]).most is not None and counts.get(kind.name, 0) >= kind.most:
            turn += 1
        counts[kind.name] = counts.get(kind.name, 0) + 1
        result[place] = kind
        turn += 1
    return result
