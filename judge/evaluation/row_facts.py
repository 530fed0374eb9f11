"""What is known of a labelled row besides its verdict: lengths, turns, language, who wrote the responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.refusals import declines
from judge.tables.comparison import Comparison, Flag, Turns
from judge.tables.language import language_of

Fact = tuple[int, tuple[int, int, int], str, str, tuple[str, str], tuple[bool, bool], tuple[bool, bool], bool]


@dataclass(frozen=True)
class Facts:
    """Facts of some rows.

    Attributes:
        turns: number of turns of the longest of the three conversations, shape (rows,).
        characters: of the prompt, of A and of B over all turns, shape (rows, 3).
        language: `judge.tables.language.language_of`, shape (rows,).
        source: where a row comes from, empty where the table does not say, shape (rows,).
        models: who wrote A and B, empty where the table does not say, shape (rows, 2).
        empty: whether A and B say nothing in any turn, shape (rows, 2).
        refusal: `judge.evaluation.refusals.declines` of A and B, shape (rows, 2).
        identical: whether A and B are the same, shape (rows,).
    """

    turns: NDArray[np.int64]
    characters: NDArray[np.int64]
    language: NDArray[np.object_]
    source: NDArray[np.object_]
    models: NDArray[np.object_]
    empty: NDArray[np.bool_]
    refusal: NDArray[np.bool_]
    identical: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Facts:
        """Return the facts of the chosen rows."""
        return Facts(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def facts_of(row: Comparison) -> Fact:
    """Return the facts of one row, in the order of the fields of `Facts`."""
    responses = (row.response_a, row.response_b)
    return (
        row.turn_count,
        (_characters(row.prompt), _characters(row.response_a), _characters(row.response_b)),
        language_of(row),
        row.source,
        row.models,
        (_says_nothing(row.response_a), _says_nothing(row.response_b)),
        (declines(responses[0]), declines(responses[1])),
        Flag.IDENTICAL in row.flags,
    )


def gathered(facts: Sequence[Fact]) -> Facts:
    """Return the facts of rows, at least one, as arrays."""
    turns, characters, language, source, models, empty, refusal, identical = zip(*facts, strict=True)
    return Facts(
        turns=np.array(turns, dtype=np.int64),
        characters=np.array(characters, dtype=np.int64),
        language=np.array(language, dtype=object),
        source=np.array(source, dtype=object),
        models=np.array(models, dtype=object),
        empty=np.array(empty),
        refusal=np.array(refusal),
        identical=np.array(identical),
    )


def _characters(turns: Turns) -> int:
    return sum(len(turn or "") for turn in turns)


def _says_nothing(turns: Turns) -> bool:
    return not any(turn and turn.strip() for turn in turns)
