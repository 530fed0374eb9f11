"""The rows that a rehearsal reads: the longest, the awkward ones, other scripts, and a sample of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from judge.runs.prepared import Prepared
from judge.tables.comparison import Comparison, Flag
from judge.tables.language import script_of
from judge.tables.table import Table

Rows = NDArray[np.int64]

# Rows of each kind that are read; a kind is a flag or a script other than Latin.
EACH = 2
# What is unusual about a row's texts; how a row was labelled or trained on is not.
_KINDS = (
    Flag.NULL_TURN,
    Flag.EMPTY_LIST,
    Flag.EMPTY_TEXT,
    Flag.RAGGED,
    Flag.SURROGATE,
    Flag.BAD_CELL,
    Flag.IDENTICAL,
)
# Parts of the random sample that are timed one by one.
PARTS = 8


@dataclass
class WatchedTable(Table):
    """A table that notes, while it is read, the first rows of each script other than Latin.

    Attributes:
        scripts: row numbers from 0 of each script, at most `EACH`.
    """

    scripts: dict[str, list[int]] = field(default_factory=dict)

    def chunks(self) -> Iterator[list[Comparison]]:
        """See `Table.chunks`."""
        self.scripts, number = {}, 0
        for chunk in super().chunks():
            for row in chunk:
                for script in _scripts(row):
                    found = self.scripts.setdefault(script, [])
                    if len(found) < EACH:
                        found.append(number)
                number += 1
            yield chunk


def _scripts(row: Comparison) -> set[str]:
    texts = [t for turns in (row.prompt, row.response_a, row.response_b) for t in turns if t and not t.isascii()]
    return {script_of(text) for text in texts} - {"latin"}


@dataclass(frozen=True)
class Chosen:
    """What a rehearsal reads; row numbers from 0.

    Attributes:
        longest: as many of the longest rows as fill a batch of every engine.
        awkward: rows of each kind, by its name; a row may have several.
        sample: parts of a random sample, each of rows of like length, about as many tokens in each.
        whole: the sample is the whole table.
    """

    longest: Rows
    awkward: dict[str, list[int]]
    sample: list[Rows]
    whole: bool

    @property
    def awkward_rows(self) -> Rows:
        """The awkward rows, each once, in the table's order."""
        return np.array(sorted({row for rows in self.awkward.values() for row in rows}), dtype=np.int64)


def choose_rows(
    prepared: Prepared, scripts: dict[str, list[int]], sample: int, seed: int, batch_tokens: int, engines: int
) -> Chosen:
    """Choose the rows to read.

    Args:
        scripts: rows of other scripts (see `WatchedTable`).
        sample: rows of the random sample.
        seed: another one draws another sample.
        batch_tokens: most tokens in one step of an engine.
        engines: that read at the same time.
    """
    lengths, flags = prepared.lengths.astype(np.int64), prepared.rows["flags"]
    order = np.argsort(-lengths, kind="stable")
    filling = int(np.searchsorted(np.cumsum(lengths[order]), batch_tokens * engines)) + 1
    awkward = {}
    for flag in _KINDS:
        found = np.flatnonzero((flags & np.uint32(flag)) != 0)[:EACH]
        if len(found):
            awkward[str(flag.name).lower().replace("_", " ")] = found.tolist()
    awkward |= {f"{script} script": rows for script, rows in sorted(scripts.items())}
    count = min(sample, len(lengths))
    drawn = np.random.default_rng(seed).choice(len(lengths), count, replace=False)
    return Chosen(order[:filling], awkward, _parts(drawn, lengths, engines), count == len(lengths))


def _parts(drawn: Rows, lengths: NDArray[np.int64], engines: int) -> list[Rows]:
    """Cut rows, sorted by length, into parts of about as many tokens, none with fewer rows than engines."""
    rows = drawn[np.argsort(-lengths[drawn], kind="stable")]
    parts = max(min(PARTS, len(rows) // engines), 1)
    sums = np.cumsum(lengths[rows])
    ends = np.searchsorted(sums, sums[-1] * np.arange(1, parts) / parts, side="right")
    places = engines * np.arange(1, parts)
    ends = np.clip(np.maximum(ends, places), None, len(rows) - places[::-1])
    return [part for part in np.split(rows, np.maximum.accumulate(ends)) if len(part)]
