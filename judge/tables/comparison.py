"""The comparison: a prompt and two responses, each a conversation of one or more turns.

A table's cell holds plain text (one turn) or a JSON list with one string a turn, as in the Arena tables. Only
`json.loads` reads lists: `replace("null", …)` would also edit the word inside a user's text, and `ast.literal_eval`
breaks emoji into lone surrogates.
"""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from judge.errors import printable

Cells = Literal["auto", "json", "plain"]
Turns = tuple[str | None, ...]
RowId = int | float | str
Target = tuple[float, float, float]  # probabilities of A, B and tie

TEXT_COLUMNS = ("prompt", "response_a", "response_b")
LABEL_COLUMNS = ("winner_model_a", "winner_model_b", "winner_tie")
SOFT_COLUMNS = ("p_a", "p_b", "p_tie")
WINNER_NAMES = {"model_a": 0, "model_b": 1, "tie": 2, "tie (bothbad)": 2}
NO_LABEL = -1
VERDICTS = ("A", "B", "tie")  # what the labels 0, 1 and 2 are called in print

# A JSON list of texts starts like this. Python's own notation (['…'], [None]) matches too, so that a table that was
# saved with str(list) is refused with a reason instead of being scored with its brackets.
_LOOKS_LIKE_LIST = re.compile(r"""\s*\[\s*(?:["'\]]|null\b|None\b)""")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Flag(enum.IntFlag):
    """What is unusual about a row; predictions hold the names of its flags, joined by commas."""

    NULL_TURN = 1
    EMPTY_LIST = 2
    RAGGED = 4
    SURROGATE = 8
    BAD_CELL = 16
    IDENTICAL = 32
    EMPTY_TEXT = 64
    NOT_SCORED = 128
    TRAINED_ON = 256  # this very row, in either order, trained the judge
    TRAINED_PROMPT = 512  # another row with the same prompt trained the judge
    # A run with a deadline had no time …
    SWAP_LEFT_OUT = 1024  # … for the exchanged order that the swap policy asked for
    SMALLER_BUDGET = 2048  # … for the prompt as the budget allows it: it was cut more
    PRIOR = 4096  # … for the row at all: it got the class priors

    def names(self) -> str:
        """Return the names of the flags in lower case, joined by commas; an empty text without flags."""
        return ",".join(str(f.name).lower() for f in Flag if f in self)


# The engine read no number for a row with one of these flags.
UNREAD = Flag.NOT_SCORED | Flag.PRIOR


class BadCellError(ValueError):
    """A cell is neither text nor a list of texts; the message says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of a table.

    Attributes:
        prompt, response_a, response_b: one text a turn; None for a turn that the table records as null. The prompt
            builder shows a placeholder for it.
        label: 0 (A preferred), 1 (B), 2 (tie) or -1 (the table has none).
        target: the soft label; read only where labels are required.
        weight: how much the row counts in training; read only where labels are required.
        source: where the row comes from; empty if the table does not say.
        models: the names of the models that wrote A and B; empty if the table does not say.
        language: the language's code; empty if the table does not say.
    """

    id: RowId
    prompt: Turns
    response_a: Turns
    response_b: Turns
    label: int = NO_LABEL
    flags: Flag = field(default=Flag(0))
    target: Target | None = None
    weight: float = 1.0
    source: str = ""
    models: tuple[str, str] = ("", "")
    language: str = ""

    @property
    def turn_count(self) -> int:
        """The number of turns of the longest of the three conversations, at least 1."""
        return max(len(self.prompt), len(self.response_a), len(self.response_b), 1)

    def swapped(self) -> Comparison:
        """Return the comparison with A and B exchanged, also in the label, the target and the models."""
        label = {0: 1, 1: 0}.get(self.label, self.label)
        target = None if self.target is None else (self.target[1], self.target[0], self.target[2])
        return replace(
            self,
            response_a=self.response_b,
            response_b=self.response_a,
            label=label,
            target=target,
            models=self.models[::-1],
        )


def clean_text(text: str) -> tuple[str, bool]:
    """Replace lone surrogates by U+FFFD and join surrogate pairs; also return whether there was any surrogate."""
    if not _SURROGATE.search(text):
        return text, False
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), True


def description_of(value: Any) -> str:
    """Return what a cell says about its row, such as a model's name, as text; empty where it says nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return clean_text(value if isinstance(value, str) else str(value))[0].strip()


def parse_cell(value: Any, cells: Cells = "auto") -> tuple[Turns, Flag]:
    """Read one cell into turns.

    Args:
        value: text, a list of texts and None, or a missing value (None or NaN).
        cells: `auto` reads a JSON list where the text looks like one and plain text otherwise;
            `json` wants a JSON list in every cell; `plain` takes every text as it stands.

    Returns:
        The turns, and the flags for what is unusual about them.

    Raises:
        BadCellError: the cell looks like a list but cannot be read as one, or holds something other than text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return (None,), Flag.NULL_TURN
    if isinstance(value, str):
        if cells == "plain" or (cells == "auto" and not _LOOKS_LIKE_LIST.match(value)):
            return _clean_turns([value])
        return _clean_turns(_parse_list(value))
    if hasattr(value, "tolist"):  # a list column of Parquet arrives as a numpy array
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return _clean_turns(value)
    raise BadCellError(f"is {_kind(value)}, expected text or a list of texts")


def _parse_list(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadCellError(f"is not a valid JSON list ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise BadCellError("is not a valid JSON list (nested too deeply)") from None
    except ValueError:  # Python refuses to read a number of more than 4300 digits
        raise BadCellError("is not a valid JSON list (it holds a number of thousands of digits)") from None
    if not isinstance(value, list):
        raise BadCellError(f"is {_kind(value)}, expected a JSON list of texts")
    return value


def _clean_turns(values: list[Any] | tuple[Any, ...]) -> tuple[Turns, Flag]:
    flags = Flag(0) if values else Flag.EMPTY_LIST
    turns: list[str | None] = []
    for number, value in enumerate(values, start=1):
        if value is None:
            flags |= Flag.NULL_TURN
            turns.append(None)
        elif isinstance(value, str):
            text, had_surrogate = clean_text(value)
            flags |= Flag.SURROGATE if had_surrogate else Flag(0)
            flags |= Flag(0) if text.strip() else Flag.EMPTY_TEXT
            turns.append(text)
        else:
            raise BadCellError(f"holds {_kind(value)} as turn {number}, expected text or null")
    return tuple(turns), flags


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def row_flags(prompt: Turns, response_a: Turns, response_b: Turns) -> Flag:
    """Return the flags that only the three cells together show."""
    flags = Flag(0)
    if len({len(prompt), len(response_a), len(response_b)}) > 1:
        flags |= Flag.RAGGED
    if response_a == response_b:
        flags |= Flag.IDENTICAL
    return flags


def parse_label(values: dict[str, Any]) -> int:
    """Return the label of a row from its verdict columns: 0, 1, 2, or -1 without a clear single verdict.

    The columns are the one-hot ones of the LMSYS table (`winner_model_a`, …) or `winner` of the WSDM table.
    """
    if all(name in values for name in LABEL_COLUMNS):
        hot = [str(values[name]).strip().lower() in ("1", "1.0", "true") for name in LABEL_COLUMNS]
        if sum(hot) == 1:
            return hot.index(True)
    if "winner" in values:
        return WINNER_NAMES.get(str(values["winner"]).strip().lower(), NO_LABEL)
    return NO_LABEL


def where(source: str, row: int, row_id: Any, column: str | None = None) -> str:
    """Return where a problem is, as `file: row N (id X), column 'c'`, safe to print."""
    place = f"{source}: row {row}"
    if row_id is not None:
        place += f" (id {printable(row_id)})"
    return place + (f", column {column!r}" if column else "")
