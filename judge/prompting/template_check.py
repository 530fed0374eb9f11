"""Mistakes of a prompt template that show without a tokenizer: in its fixed texts, its cue and its verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from judge.errors import printable
from judge.prompting.template import PARTS, Part, Slot, Template, TemplateError, body_problems

# The check lays out conversations of these lengths, besides those of the rows.
TURN_COUNTS = (1, 2, 3, 5, 10)
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TemplateMistake:
    """A mistake in a template: what it is and what to do, in one line.

    Attributes:
        level: an `error` makes verdicts wrong or the template unusable; a `warning` may be meant.
    """

    level: Literal["error", "warning"]
    text: str


def static_findings(template: Template, turn_counts: Sequence[int] = ()) -> list[TemplateMistake]:
    """Return the mistakes that a template has with any model; if it cannot be laid out, only the reasons for that.

    Args:
        turn_counts: numbers of turns to lay out besides `TURN_COUNTS`.
    """
    try:
        problems = body_problems(template, sorted({*TURN_COUNTS, *turn_counts}))
    except TemplateError as error:
        problems = list(error.problems)
    if problems:
        return [TemplateMistake("error", problem) for problem in problems]
    return [*_cue_findings(template), *_label_findings(template), *_boundary_findings(template)]


def _cue_findings(template: Template) -> Iterator[TemplateMistake]:
    cue = template.cue
    if not cue:
        yield TemplateMistake("warning", "there is no cue: the verdict follows the body or the chat template; give one")
    elif fixed_text(template, 1).rstrip().endswith(cue):
        yield TemplateMistake(
            "warning", f"the body ends in the cue {cue!r}, which follows once more; take it out of the body"
        )
    if len({verdict[:1].isspace() for verdict in template.verdicts}) > 1:
        yield TemplateMistake("warning", "some verdicts start with a space and others do not; write all three alike")


def _label_findings(template: Template) -> Iterator[TemplateMistake]:
    for verdict in template.verdicts[:2]:
        if not _is_named(template, verdict):
            yield TemplateMistake(
                "warning",
                f"the verdict {verdict!r} is named nowhere in the prompt; label the responses as the verdicts",
            )
    labels = response_labels(template, 2)
    pairs = list(zip(labels["response_a"], labels["response_b"], strict=True))
    changes = [_changed_words(one, other) for one, other in pairs]
    a, b = (verdict.strip() for verdict in template.verdicts[:2])
    if {(b, a)} in changes:
        yield TemplateMistake(
            "error", f"A and B are exchanged: response A is introduced as {b!r}; exchange the two labels"
        )
    for (one, other), change in zip(pairs, changes, strict=True):
        if not _is_a_change_of_label(change):
            yield TemplateMistake(
                "warning",
                f"A and B are not treated alike: they are introduced by {printable(one)!r} and {printable(other)!r}; "
                "let these differ in the label only",
            )
            break
    if _changes_order(template):
        yield TemplateMistake("warning", "A comes first in some turns and B in others; keep one order")


def _boundary_findings(template: Template) -> Iterator[TemplateMistake]:
    pairs = list(pairwise(template.layout(2)))
    for part in PARTS:
        before = [text[-1:] for text, slot in pairs if isinstance(text, str) and slot in (Slot(0, part), Slot(1, part))]
        if " " in before or "\t" in before:
            yield TemplateMistake(
                "warning",
                f"a space stands right before {part}, where texts are joined as tokens: the model sees a space of its "
                "own; end that text in a line break or a punctuation mark",
            )


def fixed_text(template: Template, turn_count: int) -> str:
    """Return the body without the texts."""
    return "\n".join(piece for piece in template.layout(turn_count) if isinstance(piece, str))


def response_labels(template: Template, turn_count: int) -> dict[Part, list[str]]:
    """Return what introduces each response: the last line with words before it, in the order of turns."""
    of_parts: dict[Part, list[tuple[int, str]]] = {"response_a": [], "response_b": []}
    before = ""
    for piece in template.layout(turn_count):
        if isinstance(piece, str):
            before = piece
            continue
        if piece.part in of_parts:
            lines = [line.strip() for line in before.splitlines() if line.strip()]
            of_parts[piece.part].append((piece.turn, lines[-1] if lines else ""))
        before = ""
    return {part: [text for _, text in sorted(labels, key=lambda label: label[0])] for part, labels in of_parts.items()}


def _is_named(template: Template, verdict: str) -> bool:
    """Return whether the words of a verdict stand in the prompt; a letter alone must be in the same case."""
    prompt = f"{template.system or ''}\n{fixed_text(template, 1)}\n{template.cue}"
    words = set(_WORDS.findall(prompt))
    name = _WORDS.findall(verdict)
    return set(name) <= words or (len(verdict.strip()) > 1 and {w.lower() for w in name} <= {w.lower() for w in words})


def _changed_words(one: str, other: str) -> set[tuple[str, str]] | None:
    """Return the pairs of words in which two labels differ, or None if they differ in their number of words."""
    first, second = _WORDS.findall(one), _WORDS.findall(other)
    if len(first) != len(second):
        return None
    return {(a, b) for a, b in zip(first, second, strict=True) if a != b}


def _is_a_change_of_label(change: set[tuple[str, str]] | None) -> bool:
    """Return whether two lines differ in a label only: in one word, or in letters and numbers as in `1 (A)`."""
    short = {pair for pair in change or () if max(map(len, pair)) <= 2}
    return change is not None and len(change - short) + bool(short) <= 1


def _changes_order(template: Template) -> bool:
    """Return whether the first response of a turn is A's in some turns and B's in others."""
    first: dict[int, Part] = {}
    for piece in template.layout(4):
        if isinstance(piece, Slot) and piece.part != "prompt":
            first.setdefault(piece.turn, piece.part)
    return len(set(first.values())) > 1
