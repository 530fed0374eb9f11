"""The token budget: how many tokens of each text a prompt may keep. Pure functions over lengths.

The fixed text of a prompt (chat template, headers, the verdict cue) is never cut. What is left is shared
between the prompt, response A and response B by weight; a share that a part does not need flows to the
others. A and B have the same weight and the same rounding, so exchanging them exchanges their cuts.

Cutting in the middle beat cutting the start by 0.003 accuracy in the WSDM Cup (5th place), and the
weights .2/.4/.4 are those of the 4th place of the LMSYS contest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Policy = Literal["middle", "start", "end", "oldest-turns"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

# The least number of text tokens that each part is left with when it has that many, so that nothing is
# reduced to its cut mark alone.
MIN_TEXT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """What one text keeps: its first `head` and its last `tail` of `length` tokens."""

    length: int
    head: int
    tail: int

    @property
    def lost(self) -> int:
        """Tokens cut out."""
        return self.length - self.head - self.tail

    @property
    def cut(self) -> bool:
        """Whether a cut mark stands in the text."""
        return self.lost > 0

    def cost(self, mark: int) -> int:
        """Tokens that the text takes in the prompt, its cut mark included."""
        return self.head + self.tail + (mark if self.cut else 0)


def whole(length: int) -> Span:
    """Return the span of a text that is kept whole."""
    return Span(length, length, 0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of one comparison's texts: one number a turn for each part, all of equal length."""

    prompt: tuple[int, ...]
    response_a: tuple[int, ...]
    response_b: tuple[int, ...]

    def swapped(self) -> Lengths:
        """Return the lengths with A and B exchanged."""
        return Lengths(self.prompt, self.response_b, self.response_a)


@dataclass(frozen=True, slots=True)
class Cuts:
    """The outcome for one comparison.

    `dropped_turns` oldest turns are left out of the prompt altogether; the spans are of the turns that
    remain. When turns were dropped, a cut mark stands before the first remaining prompt text.
    """

    dropped_turns: int
    prompt: tuple[Span, ...]
    response_a: tuple[Span, ...]
    response_b: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template costs besides the texts, in tokens.

    Attributes:
        fixed: fixed tokens of a prompt with a given number of turns.
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
        policy: `middle` keeps the first and last tokens of each part (a part is all its turns, one
            after the other), `start` cuts the first ones, `end` the last ones, `oldest-turns` drops
            whole turns from the oldest on and cuts the last turn in the middle if that is not enough.
        shares: weights of the prompt and of each response.

    Returns:
        The cuts, or None when not even the last turn fits (see `minimum_budget`).

    Whole turns are also dropped by the other policies, oldest first, where the headers of a long
    conversation would take more than half of the budget.
    """
    turns = len(lengths.prompt)

    def keep_from(dropped: int) -> Cuts | None:
        rest = Lengths(lengths.prompt[dropped:], lengths.response_a[dropped:], lengths.response_b[dropped:])
        fixed = frame.fixed(turns - dropped) + (frame.mark * frame.prompt_copies if dropped else 0)
        if fixed + text_cost(rest, frame) <= max_tokens:
            return _uncut(rest, dropped)
        if dropped < turns - 1 and (policy == "oldest-turns" or 2 * fixed > max_tokens):
            return None
        return _cut_parts(rest, frame, max_tokens - fixed, policy, shares, dropped)

    # Every turn has a header, so more turns than tokens cannot fit: they are not even laid out.
    first = min(max(turns - max_tokens, 0), turns - 1)
    cuts = keep_from(first)
    low, high = (first + 1, turns - 1) if cuts is None else (0, -1)
    # The fewer turns the less they cost, so that halving finds the most that fit; a hostile row can have
    # 100,000 turns, and each attempt lays them out.
    while low <= high:
        middle = (low + high) // 2
        attempt = keep_from(middle)
        if attempt is None:
            low = middle + 1
        else:
            cuts, high = attempt, middle - 1
    return cuts


def minimum_budget(frame: Frame) -> int:
    """Return the smallest `max_tokens` with which `plan_cuts` always finds an answer.

    The worst case is one very long turn left of a longer conversation.
    """
    copies = frame.prompt_copies + 2 * frame.response_copies
    return frame.fixed(1) + frame.mark * frame.prompt_copies + copies * (frame.mark + MIN_TEXT_TOKENS)


def text_cost(lengths: Lengths, frame: Frame) -> int:
    """Return the tokens that uncut texts take, counting each as often as it is shown."""
    responses = sum(lengths.response_a) + sum(lengths.response_b)
    return frame.prompt_copies * sum(lengths.prompt) + frame.response_copies * responses


def _uncut(lengths: Lengths, dropped: int) -> Cuts:
    def spans(values: Sequence[int]) -> tuple[Span, ...]:
        return tuple(whole(n) for n in values)

    return Cuts(dropped, spans(lengths.prompt), spans(lengths.response_a), spans(lengths.response_b))


def _cut_parts(
    lengths: Lengths,
    frame: Frame,
    available: int,
    policy: Policy,
    shares: tuple[float, float],
    dropped: int,
) -> Cuts | None:
    parts = (lengths.prompt, lengths.response_a, lengths.response_b)
    copies = (frame.prompt_copies, frame.response_copies, frame.response_copies)
    demands = [c * sum(part) for part, c in zip(parts, copies, strict=True)]
    least = [c * _least(part, frame.mark) for part, c in zip(parts, copies, strict=True)]
    if sum(least) > available:
        return None
    grants = allocate(available, demands, least, (shares[0], shares[1], shares[1]))
    spans = [
        cut_part(part, grant // c, frame.mark, policy) for part, grant, c in zip(parts, grants, copies, strict=True)
    ]
    return Cuts(dropped, *spans)


def _least(turns: Sequence[int], mark: int) -> int:
    """Return the least cost that a part is granted: its marks, and a few tokens of text."""
    return min(sum(turns), sum(min(n, mark) for n in turns) + MIN_TEXT_TOKENS)


def allocate(available: int, demands: Sequence[int], least: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Share `available` tokens by weight; nobody gets more than its demand or less than its least.

    Shares that are not needed flow to those who need more (water-filling). Parts of equal demand, least
    and weight are granted the same, whatever their order; a rounding remainder is left unused.

    `sum(least) <= available` must hold, and each `least <= demand`.
    """
    grants: list[int | None] = [None] * len(demands)
    while True:
        open_parts = [i for i, grant in enumerate(grants) if grant is None]
        left = available - sum(grant for grant in grants if grant is not None)
        if not open_parts:
            return [int(grant or 0) for grant in grants]
        total = math.fsum(weights[i] for i in open_parts)
        share = {i: left * weights[i] / total if total else left / len(open_parts) for i in open_parts}
        bounded = {i: min(max(share[i], least[i]), demands[i]) for i in open_parts}
        # As CSS lays out flexible boxes: when raising some to their least takes more than others give back,
        # the raised ones are settled; when less, those at their demand; what is left is shared again.
        balance = math.fsum(bounded[i] - share[i] for i in open_parts)
        raised = [i for i in open_parts if bounded[i] > share[i] and balance > 0]
        capped = [i for i in open_parts if bounded[i] < share[i] and balance < 0]
        for i in raised or capped or open_parts:
            grants[i] = math.floor(bounded[i] + 1e-9)  # 109 * w / w can be 108.99999999999999


def cut_part(turns: Sequence[int], keep: int, mark: int, policy: Policy) -> tuple[Span, ...]:
    """Cut one part, given as the token counts of its turns, to a cost of at most `keep`.

    The turns are one stream of tokens: `middle` cuts one hole into it, `start` and `end` cut from that
    side. A turn that would not get shorter, because its mark costs as much as the cut saves, stays whole.

    `keep` must be at least the cost of marks alone, `sum(min(n, mark))`.
    """
    text = min(keep, sum(turns))
    while True:
        spans = _hole(turns, text, mark, policy)
        over = sum(span.cost(mark) for span in spans) - keep
        if over <= 0 or text == 0:
            return spans
        text = max(text - over, 0)


def _hole(turns: Sequence[int], text: int, mark: int, policy: Policy) -> tuple[Span, ...]:
    """Keep `text` tokens of the stream in the policy's place, and whole turns where a cut saves nothing."""
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
