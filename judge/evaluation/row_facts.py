"""What is known of a labelled row besides its verdict: lengths, turns, language, who wrote the responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        refusal: `declines` of A and B, shape (rows, 2).
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

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Facts:
        """Return the facts of the chosen rows."""
        return Facts(*(values[chosen] for values in vars(self).values()))


def facts_of(row: Comparison) -> Fact:
    """Return the facts of one row, in the order of the fields of `Facts`."""
    a, b = row.response_a, row.response_b
    return (
        row.turn_count,
        (_characters(row.prompt), _characters(a), _characters(b)),
        language_of(row),
        row.source,
        row.models,
        (_says_nothing(a), _says_nothing(b)),
        (declines(a), declines(b)),
        Flag.IDENTICAL in row.flags,
    )


def gathered(facts: Sequence[Fact]) -> Facts:
    """Return the facts of rows, at least one, as arrays."""
    kinds = (np.int64, np.int64, object, object, object, np.bool_, np.bool_, np.bool_)
    return Facts(*(np.array(column, dtype=kind) for column, kind in zip(zip(*facts, strict=True), kinds, strict=True)))


def _characters(turns: Turns) -> int:
    return sum(len(turn or "") for turn in turns)


def _says_nothing(turns: Turns) -> bool:
    return not any(turn and turn.strip() for turn in turns)


# How much of a turn is looked at: "As an AI language model trained by ..., I can't" is a long opening.
READ = 240

_START = r"""[\s"'“‘*_>#-]*(?:(?:hello|hi|well|oh|no|hmm)[,.!] )?"""
_AI = r"(?:a\.?i\.?|artificial intelligence|(?:large )?language model|llm|chatbot)\b"
_PREAMBLE = "|".join(
    [
        r"(?:(?:i am|i'm) (?:really |very |so |truly |terribly |deeply )?)?sorry\b",
        r"(?:my )?apologies\b",
        r"i (?:sincerely )?apologi[sz]e\b",
        r"i regret\b",
        r"unfortunately\b",
        r"(?:i am|i'm) afraid\b",
        rf"(?:as|being|(?:i am|i'm)(?: just| only)?) an? {_AI}",
    ]
)
_NOT = r"(?:cannot|can not|can't|cant|could not|couldn't|won't|will not|(?:am|'m) (?:not able|unable) to)"
_BETWEEN = r"(?: (?:really|directly|actually|ethically|legally|in good conscience|be able to|be|to|and will not))*"
# What is refused: without it "I can't recommend this book enough" and "I won't lie" would count.
_WHAT = (
    "assist|help|comply|fulfil+|answer|respond|engage|participate|discuss|create|generate|write|produce|provide"
    "|offer|give|share|support|do (?:that|this|so)|continue|complete|proceed|access|browse|open|view|perform"
    "|accommodate|satisfy|meet|condone|encourage|promote|endorse|facilitate|role-?play|pretend|predict|express"
    r"|observe|translate|make|talk|able|recommend(?! .{0,60}\benough\b)|agree with(?! you)"
)
_LACKED = "feel comfortable|have (?:the ability|the capabilit(?:y|ies)|access|real-?time)"
_ENGLISH = [
    # the refusal itself, in the first sentence or in the one after an apology
    rf"(?:(?:{_PREAMBLE})[^.!?\n]{{0,120}}?[.!?]? ?)?(?:\b(?:but|however|and|so|that)\b,? )*"
    rf"\bi ?(?:(?:simply|just|really|also|personally) )?{_NOT}{_BETWEEN} (?:{_WHAT})\b",
    # "As an AI, I don't have opinions. However, ..." is a disclaimer that an answer follows, so it is not here
    rf"(?:(?:{_PREAMBLE})[^.!?\n]{{0,120}}?[.!?]? ?)?\bi (?:do not|don't|lack) (?:{_LACKED})\b",
    r"i (?:(?:must|have to|will have to|need to|respectfully) )+(?:decline|refuse)\b",
    r"(?:i am|i'm) not (?:comfortable|programmed|designed|allowed|permitted) (?:to|with)\b",
]
_OTHER_LANGUAGES = [
    r"(?:es )?tut mir (?:sehr )?leid\b[^.!?\n]{0,40}\bkann\b[^.!?\n]{0,80}\b(?:nicht|keine)\b",
    r"leider kann ich\b[^.!?\n]{0,80}\b(?:nicht|keine)\b",
    r"(?:je suis (?:vraiment )?)?désolée?\b[^.!?\n]{0,40}\bje ne (?:peux|suis pas en mesure|pourrai)\b",
    r"(?:lo siento|lamento|lo lamento|disculpa|perdón)\b[^.!?\n]{0,40}\bno puedo\b",
    r"(?:desculpe|sinto muito|lamento|peço desculpas)\b[^.!?\n]{0,40}\bnão (?:posso|consigo)\b",
    r"(?:mi dispiace|spiacente)\b[^.!?\n]{0,40}\bnon (?:posso|sono in grado)\b",
    r"(?:извините|простите|к сожалению|прошу прощения)\b[^.!?\n]{0,40}\bне (?:могу|в состоянии)\b",
    r"(?:非常|很)?(?:抱歉|对不起)[^。!?!?\n]{0,30}(?:无法|不能)",
    r"作为一?[个名]?(?:人工智能|ai|大?型?语言模型)[^。!?!?\n]{0,40}(?:无法|不能)",
    r"(?:申し訳|すみません|ごめんなさい)[^\n]{0,60}(?:できません|できかねます|いたしかねます)",
    r"(?:죄송|미안)[^\n]{0,60}(?:수 없습니다|어렵습니다)",
]
_DECLINES = re.compile(f"{_START}(?:{'|'.join(_ENGLISH + _OTHER_LANGUAGES)})", re.IGNORECASE)


def declines(turns: Turns) -> bool:
    """Return whether any turn of a response opens as a refusal does ("I'm sorry, but I can't help with that").

    One refused turn is enough, wherever it is: people judge a conversation as a whole, and a model that answers the
    first question and declines the second did decline.

    It is a guess: a list of openings in some big languages, looked for at the start of each turn. It misses a response
    that declines in other words, or only after a preamble. It counts a response that opens with such a phrase and
    answers after all ("I cannot open links, but here is ...").

    Args:
        turns: one text a turn, None where a turn is null.
    """
    return any(turn is not None and _DECLINES.match(turn[:READ].replace("’", "'")) is not None for turn in turns)
