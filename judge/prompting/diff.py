"""What differs between two prompt templates: their texts word by word, and what they cost in tokens."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from judge.prompting.builder import PromptBuilder
from judge.prompting.template import Template
from judge.tables.comparison import Comparison

Op = Literal["same", "removed", "added"]
Pieces = tuple[tuple[Op, str], ...]

# A tag of Jinja, a line break, other white space, a word, or any other character by itself.
_WORDS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\n|[^\S\n]+|\w+|[^\w\s]", re.DOTALL)
# Two passages that share a smaller part of their words are shown as one removed and one added.
_ALIKE = 0.5


@dataclass(frozen=True)
class FieldDifference:
    """One field of two templates.

    Attributes:
        field: `body`, `cue`, `verdicts`, `chat`, `system`, `cue_role`, `cut_mark`, `null_text` or `missing_text`.
        pieces: the text in order. The pieces that are `same` or `removed` make up the first template's text, those that
            are `same` or `added` the second's. Neighbours differ in their op, and no text is empty.
    """

    field: str
    pieces: Pieces

    @property
    def differs(self) -> bool:
        """Whether the field is not the same in both."""
        return any(op != "same" for op, _ in self.pieces)


def template_differences(a: Template, b: Template) -> list[FieldDifference]:
    """Compare every field that reaches the model, also the equal ones, the body first.

    The body is compared as it is in the file, with its Jinja tags; verdicts as Python writes them, because their
    spaces matter.
    """
    of_a, of_b = _fields(a), _fields(b)
    return [FieldDifference(field, word_diff(text, of_b[field])) for field, text in of_a.items()]


def _fields(template: Template) -> dict[str, str]:
    return {
        "body": template.body,
        "cue": template.cue,
        "verdicts": ", ".join(map(repr, template.verdicts)),
        "chat": "the model's own chat template" if template.chat else "none",
        "system": template.system or "",
        "cue_role": template.cue_role if template.chat else "",
        "cut_mark": template.cut_mark,
        "null_text": template.null_text,
        "missing_text": template.missing_text,
    }


def word_diff(a: str, b: str) -> Pieces:
    """Compare two texts line by line, and lines that are alike word by word; see `FieldDifference.pieces`."""
    lines_a, lines_b = a.splitlines(keepends=True), b.splitlines(keepends=True)
    pieces: list[tuple[Op, str]] = []
    for op, i, j, k, n in difflib.SequenceMatcher(None, lines_a, lines_b, autojunk=False).get_opcodes():
        text_a, text_b = "".join(lines_a[i:j]), "".join(lines_b[k:n])
        pieces += [("same", text_a)] if op == "equal" else _changed(text_a, text_b)
    return _joined(pieces)


def _changed(a: str, b: str) -> list[tuple[Op, str]]:
    """Compare two passages word by word; if they share too few words, the first is removed and the second added."""
    words_a, words_b = _WORDS.findall(a), _WORDS.findall(b)
    matcher = difflib.SequenceMatcher(None, words_a, words_b, autojunk=False)
    shared = sum(bool(w.strip()) for m in matcher.get_matching_blocks() for w in words_a[m.a : m.a + m.size])
    total = max(sum(bool(w.strip()) for w in words) for words in (words_a, words_b))
    if shared < _ALIKE * total:
        return [("removed", a), ("added", b)]
    pieces: list[tuple[Op, str]] = []
    for op, i, j, k, n in matcher.get_opcodes():
        text_a, text_b = "".join(words_a[i:j]), "".join(words_b[k:n])
        # a space between two changed words belongs to the change
        if op == "equal" and text_a.strip():
            pieces.append(("same", text_a))
        else:
            pieces += [("removed", text_a), ("added", text_b)]
    return pieces


def _joined(pieces: Sequence[tuple[Op, str]]) -> Pieces:
    """Join the changes between two equal passages to at most one removed and one added text."""
    settled: list[tuple[Op, str]] = []
    for same, run in groupby(pieces, key=lambda piece: piece[0] == "same"):
        texts = list(run)
        removed, added = ("".join(text for op, text in texts if op == side) for side in ("removed", "added"))
        settled += texts if same else _without_equal_edges(removed, added)
    return tuple((op, "".join(text for _, text in run)) for op, run in groupby(settled, key=itemgetter(0)))


def _without_equal_edges(removed: str, added: str) -> Iterator[tuple[Op, str]]:
    """Yield a change without the white space that both of its sides start or end with."""
    start = _shared_space(removed, added)
    end = _shared_space(removed[start:][::-1], added[start:][::-1])
    parts: list[tuple[Op, str]] = [
        ("same", removed[:start]),
        ("removed", removed[start : len(removed) - end]),
        ("added", added[start : len(added) - end]),
        ("same", removed[len(removed) - end :]),
    ]
    return ((op, text) for op, text in parts if text)


def _shared_space(a: str, b: str) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1] and pair[0].isspace(), zip(a, b, strict=False))))


def marked(pieces: Pieces) -> str:
    """Return a comparison as text, with `[-removed-]` and `{+added+}`; no mark spans two lines.

    A line break that is itself removed or added is shown as `\\n`.
    """
    shown = []
    for op, text in pieces:
        if op == "same":
            shown.append(text)
            continue
        start, end = ("[-", "-]") if op == "removed" else ("{+", "+}")
        for line in text.splitlines(keepends=True):
            broken = "\n" * line.endswith("\n")
            shown.append(start + line.replace("\n", r"\n") + end + broken)
    return "".join(shown)


def sample_rows(rows: Iterable[Comparison], count: int, seed: int = 0) -> list[Comparison]:
    """Draw at most `count` rows at random, in the table's order (reservoir sampling, Vitter 1985)."""
    drawn: list[tuple[int, Comparison]] = []
    chance = random.Random(seed)  # noqa: S311 (a repeatable sample)
    for number, row in enumerate(rows):
        if number < count:
            drawn.append((number, row))
        elif (place := chance.randrange(number + 1)) < count:
            drawn[place] = (number, row)
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]


def token_costs(builder: PromptBuilder, rows: Sequence[Comparison]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the tokens of each row's prompt, and whether the prompt lost tokens to the budget, shapes (rows,)."""
    prompts = builder.build(rows)
    lengths = np.array([len(prompt.ids) for prompt in prompts], dtype=np.int64)
    cut = np.array([prompt.cut_turns > 0 or any(prompt.cut) for prompt in prompts])
    return lengths, cut
