"""The rows that a report's browser shows, and how they lie in its file.

One small index holds all rows, with what the list, its filters and its order need. Compressed chunks hold the texts and
probabilities; the browser opens a chunk when the user opens one of its rows.
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from judge.evaluation.slices import LENGTH_EDGES
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, as_three, probabilities
from judge.tables.comparison import VERDICTS, Comparison, Flag, Turns
from judge.tables.language import language_of
from judge.tables.table import Table

Three = tuple[float, float, float]  # probabilities of A, B and tie

CHUNK_ROWS = 200
CHUNK_CHARACTERS = 1_000_000  # a chunk ends here too: opening one row decodes its whole chunk
PREVIEW_CHARACTERS = 80
# A verdict of this probability or more counts as confident: with three verdicts, that is far from undecided.
CONFIDENT = 0.7
UNDECIDED = 3  # no verdict is more probable than the others
FLAG_WORDS = {
    Flag.NULL_TURN: "null turn",
    Flag.EMPTY_LIST: "empty list of turns",
    Flag.RAGGED: "unequal numbers of turns",
    Flag.SURROGATE: "broken characters replaced",
    Flag.BAD_CELL: "unreadable cell, placeholder scored",
    Flag.IDENTICAL: "A and B identical",
    Flag.EMPTY_TEXT: "empty text",
    Flag.NOT_SCORED: "not scored",
    Flag.TRAINED_ON: "trained on this row",
    Flag.TRAINED_PROMPT: "trained on this prompt",
    Flag.SWAP_LEFT_OUT: "exchanged order left out for the deadline",
    Flag.SMALLER_BUDGET: "read with fewer tokens for the deadline",
    Flag.PRIOR: "class priors: no time before the deadline",
}

_COLUMNS = (
    "id", "preview", "label", "verdict", "p_a", "p_b", "p_tie", "loss", "flips", "cut", "flags", "turns", "characters",
    "language", "source",
)  # fmt: skip
_SCALE = 10_000  # probabilities and losses are integers of this in the index
_LEVEL = 6  # of zlib: 9 takes twice as long for 1 % less


@dataclass(frozen=True, kw_only=True)
class ReportRow(Comparison):
    """A row of the table with its prediction; its id is text, and its flags are the table's and the predictions'.

    Attributes:
        p: probabilities of A, B and tie.
        first: the same with A shown first, None where it is not known.
        second: the same with B shown first, mapped back to the table's A and B; None where not read.
        cut: whether the prompt was cut to fit the budget.
        verdict_mass: None where it is not known.
    """

    id: str
    p: Three
    first: Three | None
    second: Three | None
    cut: bool
    verdict_mass: float | None

    @property
    def characters(self) -> tuple[int, ...]:
        """Characters of the prompt, of A and of B over all turns."""
        texts = (self.prompt, self.response_a, self.response_b)
        return tuple(sum(len(turn or "") for turn in turns) for turns in texts)

    @property
    def verdict(self) -> int:
        """The most probable verdict, 0, 1 or 2; `UNDECIDED` where two or three are equally probable."""
        return _verdict(self.p)

    @property
    def flips(self) -> bool | None:
        """Whether the two orders have different verdicts; None where only one was read."""
        if self.first is None or self.second is None:
            return None
        return _verdict(self.first) != _verdict(self.second)

    @property
    def loss(self) -> float | None:
        """The log loss in nats, counted as `judge.stats.metrics.log_losses` does; None without a label."""
        if self.label < 0:
            return None
        p = self.p[self.label] / sum(self.p)
        return -math.log(min(max(p, sys.float_info.epsilon), 1.0)) + 0.0


def rows_of(stored: StoredPredictions, table: Table, languages: Mapping[str, str] | None = None) -> Iterator[ReportRow]:
    """Yield every row of a table that has a prediction, labelled or not, in the table's order.

    Args:
        stored: the predictions.
        table: read once, in a stream.
        languages: by the row's id as text; the language of other rows is guessed, which takes time.
    """
    known = languages or {}
    places = {row_id: i for i, row_id in enumerate(stored.ids)}
    orders = [None if logprobs is None else probabilities(logprobs) for logprobs in (stored.first, stored.second)]
    for row in (row for chunk in table.chunks() for row in chunk if str(row.id) in places):
        place, language = places[str(row.id)], known.get(str(row.id))
        first, second = (_three(order, place) for order in orders)
        mass = math.nan if stored.verdict_mass is None else float(stored.verdict_mass[place])
        values = {
            **{one.name: getattr(row, one.name) for one in fields(row)},
            "id": str(row.id),
            "flags": row.flags if stored.flags is None else row.flags | Flag(int(stored.flags[place])),
            "language": language_of(row) if language is None else language,
        }
        yield ReportRow(
            **values,
            p=_three(stored.p, place) or (1 / 3, 1 / 3, 1 / 3),
            first=first,
            second=second,
            cut=stored.cut is not None and bool(stored.cut[place]),
            verdict_mass=None if math.isnan(mass) else mass,
        )


def _three(values: Float | None, place: int) -> Three | None:
    return None if values is None or not np.isfinite(values[place]).all() else as_three(values[place])


def _verdict(p: Three) -> int:
    return p.index(max(p)) if p.count(max(p)) == 1 else UNDECIDED


@dataclass
class Packing:
    """Packs rows into blocks of text for the page, a chunk at a time; `index` is complete after the last chunk.

    Whatever the rows hold, a block has no character that means something in HTML.
    """

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    starts: list[int] = field(default_factory=list)

    def chunks(self, rows: Iterable[ReportRow]) -> Iterator[str]:
        """Yield the chunks in base64, each a zlib-compressed JSON list of rows."""
        waiting: list[dict[str, Any]] = []
        characters = 0
        for number, row in enumerate(rows):
            if not waiting:
                self.starts.append(number)
            for name, value in zip(_COLUMNS, _index_entry(row), strict=True):
                self.columns[name].append(value)
            waiting.append(
                {
                    "prompt": row.prompt,
                    "a": row.response_a,
                    "b": row.response_b,
                    "p": row.p,
                    "first": row.first,
                    "second": row.second,
                    "mass": row.verdict_mass,
                    "characters": row.characters,
                    "models": row.models,
                }
            )
            characters += sum(row.characters)
            if len(waiting) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield _packed(waiting)
                waiting, characters = [], 0
        if waiting:
            yield _packed(waiting)

    def index(self) -> str:
        """Return the index of the rows read so far as JSON: columns, most of them as codes into `names`."""
        names = {name: sorted(set(self.columns[name])) for name in ("language", "source")}
        codes = {name: {value: i for i, value in enumerate(values)} for name, values in names.items()}
        columns = self.columns | {name: [codes[name][v] for v in self.columns[name]] for name in names}
        return _inert(
            {
                "rows": len(self.columns["id"]),
                "starts": self.starts,
                "scale": _SCALE,
                "confident": CONFIDENT,
                "edges": LENGTH_EDGES,
                "verdicts": VERDICTS,
                "flag_words": {str(int(flag)): words for flag, words in FLAG_WORDS.items()},
                "names": names,
                "columns": columns,
            }
        )


def _index_entry(row: ReportRow) -> tuple[Any, ...]:
    loss = row.loss
    return (
        row.id,
        preview(row.prompt),
        row.label,
        row.verdict,
        *(round(value * _SCALE) for value in row.p),
        None if loss is None else round(loss * _SCALE),
        -1 if row.flips is None else int(row.flips),
        int(row.cut),
        int(row.flags),
        row.turn_count,
        sum(row.characters),
        row.language,
        row.source,
    )


def preview(prompt: Turns) -> str:
    """Return the beginning of the first turn that is not blank, in one line."""
    text = next((turn for turn in prompt if turn and turn.strip()), "")
    line = " ".join(text[: 4 * PREVIEW_CHARACTERS].split())
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 1].rstrip() + "…"


def _packed(rows: list[dict[str, Any]]) -> str:
    data = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # no cell holds a lone surrogate, which UTF-8 does not have; the name of a model might
    return base64.b64encode(zlib.compress(data.encode("utf-8", "replace"), _LEVEL)).decode("ascii")


def _inert(value: Any) -> str:
    """Return JSON that cannot end a script element or open a comment: special characters are escaped."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
