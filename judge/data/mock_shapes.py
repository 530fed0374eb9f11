"""The shape of a table's rows, without their texts: lengths, languages and turns, to make up rows like them.

Shapes come from a table, a row's together, so that lengths that go together stay together; or, without one, from the
published figures of the contest's table.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from judge.data.mock_words import symbol_percent, written_in
from judge.tables.comparison import TEXT_COLUMNS, Cells, Comparison, Turns
from judge.tables.language import language_of, script_of
from judge.tables.table import Table
from judge.tables.table_files import check_file, file_columns

Form = Literal["json", "list", "plain"]

# Shapes that are kept of a table; of a longer one they are a random sample.
_MOST_SHAPES = 50_000
# How far a length is moved at random, as the standard deviation of its logarithm: for the row, and for each turn.
_JITTER_ROW, _JITTER_TURN = 0.03, 0.03


@dataclass(frozen=True, slots=True)
class TurnShape:
    """A text's length in characters, the language to write it in, and its share of digits and punctuation."""

    characters: int
    language: str
    symbols: int


@dataclass(frozen=True, slots=True)
class RowShape:
    """The turns of prompt, A and B; None is a null turn. `same`: both responses are the same text."""

    prompt: tuple[TurnShape | None, ...]
    response_a: tuple[TurnShape | None, ...]
    response_b: tuple[TurnShape | None, ...]
    language: str
    same: bool


@dataclass(frozen=True)
class TableShape:
    """What made-up rows are drawn from.

    Attributes:
        rows: shapes of rows; empty: the contest's figures.
        form: how a cell holds its turns: a JSON list in text, a list column, or plain text of one turn.
        verdicts: how many rows have which verdict (0 A, 1 B, 2 tie).
        columns: the columns of `judge.tables.table` that the table has, in the order of its file.
    """

    rows: tuple[RowShape, ...] = ()
    form: Form = "json"
    verdicts: tuple[int, int, int] = (1, 1, 1)
    columns: tuple[str, ...] = ()
    longest: int = 0

    def draw(self, pick: random.Random) -> RowShape:
        """Return the shape of a new row: a row's of the table with its lengths moved a little, or a made-up one."""
        return _moved(pick.choice(self.rows), pick) if self.rows else contest_shape(pick)


def read_shape(path: Path, cells: Cells, seed: int) -> TableShape:
    """Read the shape of a table in one pass; at most `_MOST_SHAPES` rows of it are kept, drawn at random.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`); cells that cannot be read count as null.
    """
    table = Table.open(path, cells, on_bad_row="placeholder")
    pick = random.Random(f"shapes {seed}")  # noqa: S311 - repeatable
    kept: list[RowShape] = []
    seen, longest, verdicts = 0, 0, Counter[int]()
    for chunk in table.chunks():
        for row in chunk:
            seen += 1
            verdicts[row.label] += 1
            longest = max(longest, _characters(row))
            place = seen - 1 if len(kept) < _MOST_SHAPES else pick.randrange(seen)
            if place >= _MOST_SHAPES:
                continue
            shape = shape_of(row)
            if place == len(kept):
                kept.append(shape)
            else:
                kept[place] = shape
    labels = (verdicts[0], verdicts[1], verdicts[2]) if sum(verdicts[k] for k in (0, 1, 2)) else (1, 1, 1)
    form, columns = _form(path, cells)
    return TableShape(tuple(kept), form, labels, columns, longest)


def shape_of(row: Comparison) -> RowShape:
    """Return the shape of one row."""
    language = language_of(row)
    prompt, a, b = (_turns(t, language) for t in (row.prompt, row.response_a, row.response_b))
    return RowShape(prompt, a, b, language, row.response_a == row.response_b)


def _turns(turns: Turns, language: str) -> tuple[TurnShape | None, ...]:
    return tuple(
        None if t is None else TurnShape(len(t), written_in(language, script_of(t)), symbol_percent(t)) for t in turns
    )


def _characters(row: Comparison) -> int:
    return sum(len(t) for turns in (row.prompt, row.response_a, row.response_b) for t in turns if t)


def _form(path: Path, cells: Cells) -> tuple[Form, tuple[str, ...]]:
    """Return how most cells of the first rows hold their turns, and the known columns of the table."""
    check_file(path)
    columns = next(file_columns(path, path.name))
    values = [v for name in TEXT_COLUMNS for v in columns[name] if v is not None]
    lists = sum(not isinstance(v, str) for v in values)
    texts = sum(isinstance(v, str) and v.lstrip().startswith("[") for v in values)
    if lists > len(values) / 2:
        return "list", tuple(columns)
    as_json = cells == "json" or (cells == "auto" and texts > len(values) / 2)
    return "json" if as_json else "plain", tuple(columns)


def _moved(shape: RowShape, pick: random.Random) -> RowShape:
    """Return a row's shape with each length moved by some per cent; what was empty or null stays so."""
    whole = pick.gauss(0, _JITTER_ROW)

    def move(turn: TurnShape | None) -> TurnShape | None:
        if turn is None or turn.characters == 0:
            return turn
        factor = math.exp(whole + pick.gauss(0, _JITTER_TURN))
        return TurnShape(max(round(turn.characters * factor), 1), turn.language, turn.symbols)

    prompt, a, b = (tuple(map(move, turns)) for turns in (shape.prompt, shape.response_a, shape.response_b))
    return RowShape(prompt, a, b, shape.language, shape.same)


# The contest's table (LMSYS, Kaggle 2024), counted in tokens: median 548 a row, mean 643, 95 % under 1,528, longest
# over 11,000; 86 % of one turn. Arena's paper (arXiv:2403.04132) gives its languages: 77 % English, 5 % Chinese, no
# other over 2 %. A log-normal whose halves have widths of their own has that median, mean and 95 % point; one row in
# 500 comes from a second, long one, which reaches what the longest have. Prompts take an eighth of the tokens.
_MEDIAN, _BELOW, _ABOVE = 548.0, 0.92, 0.615
_LONG_SHARE, _LONG_MEDIAN, _LONG_WIDTH = 0.002, 5000.0, 0.45
_MOST_TOKENS = 16_000
_PROMPT_SHARE, _PROMPT_WIDTH, _RESPONSE_WIDTH = 0.05, 1.2, 0.35
_ONE_TURN = 0.86
_LANGUAGES = {"en": 0.80, "zh": 0.05, "ru": 0.02, "de": 0.02, "es": 0.02, "fr": 0.02, "pt": 0.015, "ja": 0.015}
_LANGUAGES |= {"it": 0.01, "ko": 0.01, "vi": 0.005, "pl": 0.005, "uk": 0.003, "ar": 0.004, "he": 0.003}
# Characters a token in a tokenizer that knows the language: Latin letters 4.2, others fewer.
_CHARACTERS = {"zh": 1.5, "ja": 1.5, "ko": 1.5, "ru": 2.5, "uk": 2.5, "ar": 2.5, "he": 2.0}


def contest_shape(pick: random.Random) -> RowShape:
    """Return a row's shape drawn from the contest's figures."""
    z = pick.gauss(0, 1)
    tokens = _MEDIAN * math.exp(z * (_BELOW if z < 0 else _ABOVE))
    if pick.random() < _LONG_SHARE:
        tokens = _LONG_MEDIAN * math.exp(pick.gauss(0, _LONG_WIDTH))
    tokens = min(tokens, _MOST_TOKENS)
    language = pick.choices(list(_LANGUAGES), list(_LANGUAGES.values()))[0]
    turns = 1 if pick.random() < _ONE_TURN else 2 + min(int(pick.expovariate(0.8)), 20)
    shares = [_PROMPT_SHARE * math.exp(pick.gauss(0, _PROMPT_WIDTH))]
    shares += [0.44 * math.exp(pick.gauss(0, _RESPONSE_WIDTH)) for _ in range(2)]
    characters = tokens * _CHARACTERS.get(language, 4.2)
    sizes = [max(round(characters * share / sum(shares) / turns), 1) for share in shares]
    cells = [tuple(TurnShape(size, language, 4) for _ in range(turns)) for size in sizes]
    return RowShape(cells[0], cells[1], cells[2], language, False)
