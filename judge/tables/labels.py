"""Reads the verdict of a row strictly, as training needs it: a judge must not learn a verdict that nobody gave.

A row has a hard verdict (one of A, B, tie), a soft one (probabilities of the three), or both, such as a person's vote
and the probabilities of a stronger judge. Scoring reads labels leniently (`comparison.parse_label`), because it only
uses them to show a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from judge.errors import printable
from judge.tables.comparison import LABEL_COLUMNS, NO_LABEL, SOFT_COLUMNS, WINNER_NAMES, Target, clean_text

# The three probabilities of a table may sum to 1 with this error: rounding to three decimals can cause it.
SUM_TOLERANCE = 1e-3
_BITS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}


class LabelError(ValueError):
    """A label, a weight or a source that training cannot use; the message names the columns and what they hold."""


def check_label_columns(found: Iterable[str]) -> None:
    """Check that a table has columns to read verdicts from, each set of them whole.

    Raises:
        LabelError: the table has none of the three kinds of columns, or only a part of one kind.
    """
    columns = set(found)
    for names in (LABEL_COLUMNS, SOFT_COLUMNS):
        there = [c for c in names if c in columns]
        missing = [c for c in names if c not in columns]
        if there and missing:
            raise LabelError(f"there is a column {', '.join(there)} but no {', '.join(missing)}; give all three")
    if columns.isdisjoint((*LABEL_COLUMNS, "winner", *SOFT_COLUMNS)):
        raise LabelError(
            f"there are no verdicts to learn from; give the columns {', '.join(LABEL_COLUMNS)}, or winner, "
            f"or {', '.join(SOFT_COLUMNS)}"
        )


def read_label(values: Mapping[str, Any]) -> tuple[int, Target | None]:
    """Read the verdict of a row from its label columns.

    Args:
        values: what the row holds in the label columns that the table has (`winner_model_a`, `winner_model_b`,
            `winner_tie`; `winner`; `p_a`, `p_b`, `p_tie`).

    Returns:
        The hard label (0, 1, 2, or -1 for none), and the soft one (probabilities of A, B and tie that sum to 1, or
        None). At least one of them exists. They may disagree: a vote may differ from the most probable verdict.

    Raises:
        LabelError: there is no verdict, it is not clear, or two hard verdicts contradict each other.
    """
    check_label_columns(values)
    one_hot = _read_one_hot(values)
    winner = _read_winner(values)
    if one_hot is not None and winner is not None and one_hot != winner:
        raise LabelError(
            f"{LABEL_COLUMNS[one_hot]} is 1 but winner is {printable(values['winner'])!r}; keep the one that is true"
        )
    target = _read_target(values)
    label = winner if one_hot is None else one_hot
    if label is None and target is None:
        raise LabelError(f"has no verdict ({', '.join(values)}: empty); add one, or leave the row out")
    return NO_LABEL if label is None else label, target


def read_weight(value: Any) -> float:
    """Return how much a row counts; 1 where the cell is empty.

    Raises:
        LabelError: not a finite number of at least 0.
    """
    number = 1.0 if _is_empty(value) else _number(value)
    if not (math.isfinite(number) and number >= 0):
        raise LabelError(f"weight is {_shown(value)}, expected a number of 0 or more")
    return number


def read_source(value: Any) -> str:
    """Return the name of the row's source; empty where the cell is.

    Raises:
        LabelError: not text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise LabelError(f"source is {_shown(value)}, expected text")
    return clean_text(value)[0].strip()


def _read_one_hot(values: Mapping[str, Any]) -> int | None:
    found = [values.get(c) for c in LABEL_COLUMNS]
    if all(_is_empty(v) or v != v for v in found):  # NaN is how a pandas column of numbers says "empty"
        return None
    bits = [_BITS.get(str(v).strip().lower()) for v in found]
    if None in bits or bits.count(1) != 1:
        raise LabelError(f"{_listed(LABEL_COLUMNS, found)}; one must be 1 and the others 0")
    return bits.index(1)


def _read_winner(values: Mapping[str, Any]) -> int | None:
    value = values.get("winner")
    if _is_empty(value) or value != value:
        return None
    word = str(value).strip().lower()
    if word not in WINNER_NAMES:
        raise LabelError(f"winner is {_shown(value)}, expected one of {', '.join(WINNER_NAMES)}")
    return WINNER_NAMES[word]


def _read_target(values: Mapping[str, Any]) -> Target | None:
    found = [values.get(c) for c in SOFT_COLUMNS]
    if all(_is_empty(v) for v in found):
        return None
    a, b, tie = (_number(v) for v in found)
    total = a + b + tie
    if not (min(a, b, tie) >= 0 and abs(total - 1) <= SUM_TOLERANCE):  # also false for NaN
        numbers = all(math.isfinite(p) and p >= 0 for p in (a, b, tie))
        reason = f"they sum to {total:.6g}" if numbers else "each must be a number of 0 or more"
        raise LabelError(f"{_listed(SOFT_COLUMNS, found)}; {reason}, expected probabilities that sum to 1, or none")
    return a / total, b / total, tie / total


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float:
    """Return a cell as a number, or NaN if it is not a number."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return math.nan
    if not isinstance(value, (int, float, str, Decimal)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _shown(value: Any) -> str:
    return "empty" if _is_empty(value) else printable(repr(value) if isinstance(value, str) else str(value), 40)


def _listed(names: tuple[str, ...], values: list[Any]) -> str:
    return ", ".join(f"{name} is {_shown(value)}" for name, value in zip(names, values, strict=True))
