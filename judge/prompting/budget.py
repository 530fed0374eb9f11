"""The token budget: how many tokens of each text a prompt keeps. Pure functions over lengths.

The fixed text of a prompt (chat template, headers, the verdict cue) is never cut. The prompt, response A and response B
share the rest by weight, and what one of them does not need goes to the others. A and B have the same weight and the
same rounding, so exchanging them exchanges their cuts.

Cutting in the middle beat cutting the start by 0.003 accuracy in the WSDM Cup (5th place). The weights .2/.4/.4 are
those of the 4th place of the LMSYS contest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Policy = Literal["middle", "start", "end", "oldest-turns"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

# Each part keeps at least so many tokens of text if it has them, so that more than a cut mark is left of it.
MIN_TEXT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """What one text keeps: its first `head` and its last `tail` of `length` tokens."""

    length: int
    head: int
    tail: int

    @property
    def cut(self) -> bool:
        """Whether tokens are cut out, with a cut mark in their place."""
        return self.head + self.tail < self.length

    def cost(self, mark: int) -> int:
        """Tokens that the text takes in the prompt, its cut mark included."""
        return self.head + self.tail + (mark if self.cut else 0)


def whole(length: int) -> Span:
    """Return the span of a text that is kept whole."""
    return Span(length, length, 0)


class Lengths(NamedTuple):
    """Token counts of one comparison's texts: for each part one number a turn; all parts have equally many turns."""

    prompt: tuple[int, ...]
    response_a: tuple[int, ...]
    response_b: tuple[int, ...]


class Cuts(NamedTuple):
    """What one comparison keeps: the number of oldest turns that are left out, and a span for each text that remains.

    If turns are left out, a cut mark stands before the first prompt text that remains.
    """

    dropped_turns: int
    prompt: tuple[Span, ...]
    response_a: tuple[Span, ...]
    response_b: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template costs besides the texts, in tokens.

    Attributes:
        fixed: from a number of turns to the fixed tokens of such a prompt.
        mark: tokens of the cut mark.
        prompt_copies, response_copies: how often the template shows each prompt and each response.
    """

    fixed: Callable[[int], int]
    mark: int
    prompt_copies: int
    response_copies: int


def plan_cuts(
    lengths: Lengths,
    frame: Frame,
    max_tokens: int,
    policy: Policy = "middle",
    shares: tuple[float, float] = (0.2, 0.4),
) -> Cuts | None:
    """Decide what a comparison keeps so that its prompt has at most `max_tokens` tokens.

    Args:
        lengths: token counts of the texts, one a turn.
        frame: the template's costs.
        max_tokens: the budget of the whole prompt, fixed text included.
        policy: `middle` keeps the first and last tokens of each part (a part is all its turns, one after the other);
            `start` cuts its first tokens, `end` its last ones. `oldest-turns` drops whole turns from the oldest on, and
            cuts the last turn in the middle if that is not enough. The other policies drop oldest turns too, where
            the headers of a long conversation would take more than half of the budget.
        shares: weights of the prompt and of each response.

    Returns:
        The cuts, or None if not even the last turn fits (see `minimum_budget`).
    """
    turns = len(lengths.prompt)
    copies = (frame.prompt_copies, frame.response_copies, frame.response_copies)

    def keep_from(dropped: int) -> Cuts | None:
        parts = [part[dropped:] for part in lengths]
        fixed = frame.fixed(turns - dropped) + (frame.mark * frame.prompt_copies if dropped else 0)
        demands = [c * sum(part) for part, c in zip(parts, copies, strict=True)]
        if fixed + sum(demands) <= max_tokens:
            return Cuts(dropped, *(tuple(map(whole, part)) for part in parts))
        if dropped < turns - 1 and (policy == "oldest-turns" or 2 * fixed > max_tokens):
            return None
        # Each part is granted at least the cost of its cut marks and a few tokens of text.
        least = [min(sum(part), sum(min(n, frame.mark) for n in part) + MIN_TEXT_TOKENS) for part in parts]
        least = [c * tokens for tokens, c in zip(least, copies, strict=True)]
        if sum(least) > max_tokens - fixed:
            return None
        grants = allocate(max_tokens - fixed, demands, least, (shares[0], shares[1], shares[1]))
        kept = zip(parts, grants, copies, strict=True)
        return Cuts(dropped, *(cut_part(part, grant // c, frame.mark, policy) for part, grant, c in kept))

    # Every turn has a header, so more turns than tokens cannot fit: we do not even lay them out.
    first = min(max(turns - max_tokens, 0), turns - 1)
    if (cuts := keep_from(first)) is None:
        # Fewer turns cost less, so bisection finds the most turns that fit. A hostile row can have 100,000 turns, and
        # each attempt lays them out.
        rest = range(first + 1, turns)
        place = bisect_left(rest, True, key=lambda dropped: keep_from(dropped) is not None)
        cuts = keep_from(rest[place]) if place < len(rest) else None
    return cuts


def minimum_budget(frame: Frame) -> int:
    """Return the smallest `max_tokens` with which `plan_cuts` always finds an answer.

    In the worst case, one very long turn remains of a longer conversation.
    """
    copies = frame.prompt_copies + 2 * frame.response_copies
    return frame.fixed(1) + frame.mark * frame.prompt_copies + copies * (frame.mark + MIN_TEXT_TOKENS)


def allocate(available: int, demands: Sequence[int], least: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Share `available` tokens by weight: each part gets at most its demand, and at least its least.

    Tokens that one part does not need go to those that need more (water-filling). Parts of equal demand, least and
    weight get the same, whatever their order. A remainder of the rounding is left unused.

    Args:
        available: tokens to share, at least `sum(least)`.
        demands: the tokens that each part could use.
        least: the tokens that each part must get, at most its demand.
        weights: of the parts.

    Returns:
        The tokens that each part gets.
    """
    grants: dict[int, int] = {}
    while open_parts := [i for i in range(len(demands)) if i not in grants]:
        left = available - sum(grants.values())
        total = math.fsum(weights[i] for i in open_parts)
        share = {i: left * weights[i] / total if total else left / len(open_parts) for i in open_parts}
        bounded = {i: min(max(share[i], least[i]), demands[i]) for i in open_parts}
        # The algorithm of CSS for flexible boxes. Some parts are raised to their least, others are capped at their
        # demand. If raising takes more than capping gives back, the raised parts are settled, otherwise the capped
        # ones; then the rest is shared again.
        balance = math.fsum(bounded[i] - share[i] for i in open_parts)
        raised = [i for i in open_parts if bounded[i] > share[i] and balance > 0]
        capped = [i for i in open_parts if bounded[i] < share[i] and balance < 0]
        for i in raised or capped or open_parts:
            grants[i] = math.floor(bounded[i] + 1e-9)  # 109 * w / w can be 108.99999999999999
    return [grants[i] for i in range(len(demands))]


def cut_part(turns: Sequence[int], keep: int, mark: int, policy: Policy) -> tuple[Span, ...]:
    """Cut one part to a cost of at most `keep` tokens, and return the span of each turn.

    The turns are one stream of tokens: `middle` cuts one hole into it, `start` and `end` cut from that side. A turn
    stays whole if its mark would cost as much as the cut saves.

    Args:
        turns: token counts of the part's turns.
        keep: most tokens, at least the cost of marks alone, `sum(min(n, mark))`.
        mark: tokens of the cut mark.
        policy: where to cut.
    """
    text = min(keep, sum(turns))
    while True:
        spans = _hole(turns, text, mark, policy)
        over = sum(span.cost(mark) for span in spans) - keep
        if over <= 0 or text == 0:
            return spans
        text = max(text - over, 0)


def _hole(turns: Sequence[int], text: int, mark: int, policy: Policy) -> tuple[Span, ...]:
    """Keep `text` tokens of the stream where the policy says, and whole turns where a cut saves nothing."""
    first = {"start": 0, "end": text}.get(policy, (text + 1) // 2)
    hole_start, hole_end = first, sum(turns) - (text - first)
    spans = []
    position = 0
    for length in turns:
        head = min(max(hole_start - position, 0), length)
        tail = min(max(position + length - hole_end, 0), length - head)
        span = Span(length, head, tail)
        spans.append(span if span.cut and span.cost(mark) < length else whole(length))
        position += length
    return tuple(spans)
