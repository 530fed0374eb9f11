"""Whether a response declines to answer, guessed from how it begins.

It is a guess: a list of openings in some big languages, looked for at the start of each turn. A response that declines
in other words, or only after a preamble, is missed; one that opens with such a phrase and answers after all ("I cannot
open links, but here is ...") counts as declining.
"""

from __future__ import annotations

import re

from judge.tables.comparison import Turns

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
    first question and declines the second did decline. It is a guess; see the module's text.

    Args:
        turns: one text a turn, None where a turn is null.
    """
    return any(turn is not None and _DECLINES.match(turn[:READ].replace("’", "'")) is not None for turn in turns)
