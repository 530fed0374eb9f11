"""The token budget: properties that hold for any lengths, and the places where each policy cuts."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from judge.prompting.budget import (
    MIN_TEXT_TOKENS,
    POLICIES,
    Cuts,
    Frame,
    Lengths,
    Policy,
    Span,
    allocate,
    cut_part,
    minimum_budget,
    plan_cuts,
    whole,
)

LENGTH = st.one_of(st.integers(0, 12), st.integers(0, 400))
POLICY = st.sampled_from(POLICIES)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))


@st.composite
def lengths(draw: st.DrawFn, max_turns: int = 8) -> Lengths:
    turns = draw(st.integers(1, max_turns))
    parts = [tuple(draw(st.lists(LENGTH, min_size=turns, max_size=turns))) for _ in range(3)]
    return Lengths(*parts)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    base, each = draw(st.integers(0, 60)), draw(st.integers(0, 20))
    return Frame(
        fixed=lambda turns: base + each * turns,
        mark=draw(st.integers(0, 6)),
        prompt_copies=draw(st.integers(1, 2)),
        response_copies=draw(st.integers(1, 2)),
    )


def frame(fixed: int = 10, each: int = 0, mark: int = 2, prompt_copies: int = 1, response_copies: int = 1) -> Frame:
    return Frame(lambda turns: fixed + each * turns, mark, prompt_copies, response_copies)


def parts(cuts: Cuts) -> tuple[tuple[Span, ...], ...]:
    return cuts.prompt, cuts.response_a, cuts.response_b


def cost(cuts: Cuts, frame: Frame) -> int:
    """Count the prompt's tokens again, from the spans alone."""
    total = frame.fixed(len(cuts.prompt)) + (frame.mark * frame.prompt_copies if cuts.dropped_turns else 0)
    copies = (frame.prompt_copies, frame.response_copies, frame.response_copies)
    for spans, times in zip(parts(cuts), copies, strict=True):
        for span in spans:
            marked = frame.mark if span.head + span.tail < span.length else 0
            total += times * (span.head + span.tail + marked)
    return total


def text_cost(lengths: Lengths, frame: Frame) -> int:
    """Count the tokens that uncut texts take, each as often as it is shown."""
    responses = sum(lengths.response_a) + sum(lengths.response_b)
    return frame.prompt_copies * sum(lengths.prompt) + frame.response_copies * responses


def kept(spans: tuple[Span, ...]) -> int:
    return sum(span.head + span.tail for span in spans)


def planned(lengths: Lengths, frame: Frame, extra: int, policy: Policy, shares: tuple[float, float]) -> Cuts:
    cuts = plan_cuts(lengths, frame, minimum_budget(frame) + extra, policy, shares)
    assert cuts is not None
    return cuts


@settings(max_examples=400)
@given(lengths(), frames(), st.integers(0, 1500), POLICY, SHARES)
@example(Lengths((0,), (0,), (0,)), frame(), 0, "middle", (0.0, 0.0))
def test_minimum_budget_suffices_and_no_plan_is_over_budget(
    lengths: Lengths, frame: Frame, extra: int, policy: Policy, shares: tuple[float, float]
) -> None:
    cuts = planned(lengths, frame, extra, policy, shares)
    assert cost(cuts, frame) <= minimum_budget(frame) + extra
    spans = [span for part in parts(cuts) for span in part]
    assert all(span.head >= 0 and span.tail >= 0 and span.head + span.tail <= span.length for span in spans)


@given(lengths(), frames(), st.integers(-80, 600), POLICY, SHARES)
def test_below_the_minimum_a_plan_still_fits_or_there_is_none(
    lengths: Lengths, frame: Frame, extra: int, policy: Policy, shares: tuple[float, float]
) -> None:
    max_tokens = minimum_budget(frame) + extra
    cuts = plan_cuts(lengths, frame, max_tokens, policy, shares)
    assert cuts is None or cost(cuts, frame) <= max_tokens


@given(lengths(), frames(), st.integers(0, 1500), POLICY, SHARES)
def test_exchanging_a_and_b_exchanges_their_cuts_exactly(
    lengths: Lengths, frame: Frame, extra: int, policy: Policy, shares: tuple[float, float]
) -> None:
    cuts = planned(lengths, frame, extra, policy, shares)
    swapped = planned(Lengths(lengths.prompt, lengths.response_b, lengths.response_a), frame, extra, policy, shares)
    assert swapped == Cuts(cuts.dropped_turns, cuts.prompt, cuts.response_b, cuts.response_a)


@given(lengths(), frames(), st.integers(0, 50), POLICY)
def test_what_fits_is_left_whole(lengths: Lengths, frame: Frame, spare: int, policy: Policy) -> None:
    max_tokens = frame.fixed(len(lengths.prompt)) + text_cost(lengths, frame) + spare
    assume(max_tokens > len(lengths.prompt))
    cuts = plan_cuts(lengths, frame, max_tokens, policy)
    assert cuts is not None
    assert cuts.dropped_turns == 0
    assert [[span.length for span in part] for part in parts(cuts)] == [
        list(lengths.prompt),
        list(lengths.response_a),
        list(lengths.response_b),
    ]
    assert not any(span.cut for part in parts(cuts) for span in part)


@given(lengths(), frames(), st.integers(0, 1500), POLICY, SHARES)
def test_no_part_of_the_remaining_turns_is_pushed_out(
    lengths: Lengths, frame: Frame, extra: int, policy: Policy, shares: tuple[float, float]
) -> None:
    for spans in parts(planned(lengths, frame, extra, policy, shares)):
        assert kept(spans) >= min(MIN_TEXT_TOKENS, sum(span.length for span in spans))


@given(lengths(), frames(), st.integers(0, 1500), POLICY)
def test_spans_are_those_of_the_newest_turns(lengths: Lengths, frame: Frame, extra: int, policy: Policy) -> None:
    cuts = planned(lengths, frame, extra, policy, (0.2, 0.4))
    for spans, turns in zip(parts(cuts), (lengths.prompt, lengths.response_a, lengths.response_b), strict=True):
        assert [span.length for span in spans] == list(turns[cuts.dropped_turns :])


@given(lengths(), frames(), st.integers(0, 1500), POLICY)
def test_no_more_turns_are_dropped_than_must_be(lengths: Lengths, frame: Frame, extra: int, policy: Policy) -> None:
    max_tokens = minimum_budget(frame) + extra
    cuts = planned(lengths, frame, extra, policy, (0.2, 0.4))
    turns = len(lengths.prompt)
    for fewer in range(max(turns - max_tokens, 0), cuts.dropped_turns):
        rest = [part[fewer:] for part in (lengths.prompt, lengths.response_a, lengths.response_b)]
        fixed = frame.fixed(turns - fewer) + (frame.mark * frame.prompt_copies if fewer else 0)
        assert fixed + text_cost(Lengths(*rest), frame) > max_tokens
        if policy != "oldest-turns":
            copies = (frame.prompt_copies, frame.response_copies, frame.response_copies)
            least = sum(
                c * min(sum(part), sum(min(n, frame.mark) for n in part) + MIN_TEXT_TOKENS)
                for part, c in zip(rest, copies, strict=True)
            )
            assert 2 * fixed > max_tokens or fixed + least > max_tokens


def test_minimum_budget_is_tight_for_a_long_turn_of_a_longer_row() -> None:
    costs = frame(fixed=30, each=5, mark=3, prompt_copies=2)
    least = minimum_budget(costs)
    long = Lengths((1000, 1000), (1000, 1000), (1000, 1000))
    cuts = plan_cuts(long, costs, least)
    assert cuts is not None
    assert cuts.dropped_turns == 1
    assert [kept(spans) for spans in parts(cuts)] == [MIN_TEXT_TOKENS] * 3
    assert cost(cuts, costs) == least
    assert plan_cuts(long, costs, least - 1) is None


def test_minimum_budget_is_more_than_a_single_turn_needs() -> None:
    costs = frame(fixed=30, mark=3)
    single = Lengths((1000,), (1000,), (1000,))
    assert plan_cuts(single, costs, minimum_budget(costs) - costs.mark) is not None
    assert plan_cuts(single, costs, minimum_budget(costs) - costs.mark - 1) is None


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), frames(), st.integers(0, 400), POLICY)
def test_a_cut_single_turn_prompt_wastes_only_rounding(
    prompt: int, a: int, b: int, frame: Frame, extra: int, policy: Policy
) -> None:
    cuts = planned(Lengths((prompt,), (a,), (b,)), frame, extra, policy, (0.2, 0.4))
    if any(span.cut for part in parts(cuts) for span in part):
        waste = minimum_budget(frame) + extra - cost(cuts, frame)
        # two tokens of rounding among three parts, and what one more copy of a text would have needed
        assert waste <= 2 + (frame.prompt_copies - 1) + 2 * (frame.response_copies - 1)


def test_an_unused_share_flows_to_whoever_needs_it() -> None:
    cuts = plan_cuts(Lengths((5,), (1000,), (10,)), frame(fixed=0, mark=2), 500)
    assert cuts is not None
    assert kept(cuts.prompt) == 5
    assert kept(cuts.response_b) == 10
    assert kept(cuts.response_a) == 500 - 5 - 10 - 2


def test_shares_weigh_what_is_left_when_all_are_too_long() -> None:
    cuts = plan_cuts(Lengths((1000,), (1000,), (1000,)), frame(fixed=100, mark=2), 1100, "end", (0.2, 0.4))
    assert cuts is not None
    assert [kept(spans) for spans in parts(cuts)] == [198, 398, 398]


def test_equally_long_responses_keep_equally_much_whatever_the_rounding() -> None:
    for max_tokens in range(100, 140):
        cuts = plan_cuts(Lengths((50,), (300,), (300,)), frame(fixed=7), max_tokens)
        assert cuts is not None
        assert cuts.response_a == cuts.response_b


@pytest.mark.parametrize(
    ("policy", "head", "tail"),
    [("middle", 24, 24), ("start", 0, 48), ("end", 48, 0), ("oldest-turns", 24, 24)],
)
def test_each_policy_cuts_a_single_turn_in_its_place(policy: Policy, head: int, tail: int) -> None:
    cuts = plan_cuts(Lengths((0,), (200,), (200,)), frame(fixed=0, mark=2), 100, policy)
    assert cuts is not None
    assert cuts.response_a == (Span(200, head, tail),)


@pytest.mark.parametrize(
    ("policy", "spans"),
    [
        ("middle", (Span(100, 32, 0), Span(100, 0, 0), Span(100, 0, 32))),
        ("start", (Span(100, 0, 0), Span(100, 0, 0), Span(100, 0, 64))),
        ("end", (Span(100, 64, 0), Span(100, 0, 0), Span(100, 0, 0))),
    ],
)
def test_turns_are_cut_as_one_stream(policy: Policy, spans: tuple[Span, ...]) -> None:
    assert cut_part((100, 100, 100), 70, 2, policy) == spans


def test_oldest_turns_drops_whole_turns_and_keeps_the_others_whole() -> None:
    long = Lengths((10, 10, 10), (100, 50, 20), (100, 50, 20))
    cuts = plan_cuts(long, frame(fixed=10, each=5, mark=2), 10 + 5 * 2 + 2 + 20 + 140, "oldest-turns")
    assert cuts == Cuts(1, (whole(10),) * 2, (whole(50), whole(20)), (whole(50), whole(20)))


def test_oldest_turns_cuts_the_middle_of_a_last_turn_that_is_too_long() -> None:
    cuts = plan_cuts(Lengths((10, 10), (5, 500), (5, 500)), frame(fixed=0, mark=2), 112, "oldest-turns")
    assert cuts is not None
    assert cuts.dropped_turns == 1
    assert cuts.response_a == (Span(500, 24, 24),)


@pytest.mark.parametrize("policy", ["middle", "start", "end"])
def test_turns_are_dropped_where_headers_take_over_half_of_the_budget(policy: Policy) -> None:
    turns = 40
    long = Lengths((20,) * turns, (50,) * turns, (50,) * turns)
    cuts = plan_cuts(long, frame(fixed=20, each=20, mark=2), 400, policy)
    assert cuts is not None
    assert cuts.dropped_turns == turns - 8
    assert 2 * (20 + 20 * 8 + 2) <= 400


def test_a_conversation_of_100_000_turns_is_not_laid_out_100_000_times() -> None:
    asked: list[int] = []

    def fixed(turns: int) -> int:
        asked.append(turns)
        return 10 + 4 * turns

    turns = 100_000
    cuts = plan_cuts(Lengths((1,) * turns, (1,) * turns, (1,) * turns), Frame(fixed, 2, 1, 1), 2048)
    assert cuts is not None
    assert len(asked) < 20
    assert max(asked) <= 2048
    assert cost(cuts, Frame(fixed, 2, 1, 1)) <= 2048


def test_texts_without_tokens_need_nothing_and_lose_nothing() -> None:
    cuts = plan_cuts(Lengths((0, 0), (0, 0), (0, 300)), frame(fixed=10, each=1, mark=2), 100)
    assert cuts is not None
    assert cuts.prompt == cuts.response_a == (whole(0), whole(0))
    assert kept(cuts.response_b) == 100 - 12 - 2


@st.composite
def allocations(draw: st.DrawFn) -> tuple[int, list[int], list[int], list[float]]:
    demands = draw(st.lists(st.integers(0, 3000), min_size=1, max_size=5))
    least = [draw(st.integers(0, demand)) for demand in demands]
    weights = [draw(st.floats(0, 1)) for _ in demands]
    return sum(least) + draw(st.integers(0, 4000)), demands, least, weights


@settings(max_examples=400)
@given(allocations())
def test_allocate_stays_between_least_and_demand_and_within_what_there_is(
    case: tuple[int, list[int], list[int], list[float]],
) -> None:
    available, demands, least, weights = case
    grants = allocate(available, demands, least, weights)
    assert sum(grants) <= available
    assert all(low <= grant <= high for low, grant, high in zip(least, grants, demands, strict=True))


@given(allocations())
def test_allocate_leaves_nothing_unused_but_rounding(case: tuple[int, list[int], list[int], list[float]]) -> None:
    available, demands, least, weights = case
    assume(all(weight >= 0.01 for weight in weights))
    grants = allocate(available, demands, least, weights)
    if grants != demands:
        assert available - sum(grants) < len(demands)


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000), SHARES, st.integers(30, 4000))
def test_allocate_treats_parts_of_equal_weight_alike(
    prompt: int, a: int, b: int, shares: tuple[float, float], available: int
) -> None:
    def grants(first: int, second: int) -> list[int]:
        demands = [prompt, first, second]
        return allocate(available, demands, [min(n, 10) for n in demands], (shares[0], shares[1], shares[1]))

    one, other = grants(a, b), grants(b, a)
    assert other == [one[0], one[2], one[1]]


@settings(max_examples=400)
@given(st.lists(LENGTH, min_size=1, max_size=8), st.integers(0, 6), st.integers(0, 800), POLICY)
def test_a_cut_part_costs_at_most_what_it_may(turns: list[int], mark: int, more: int, policy: Policy) -> None:
    keep = sum(min(n, mark) for n in turns) + more
    spans = cut_part(turns, keep, mark, policy)
    assert sum(span.cost(mark) for span in spans) <= keep
    assert kept(spans) >= min(more, sum(turns))
    assert [span.length for span in spans] == turns


@given(st.lists(LENGTH, min_size=1, max_size=8), st.integers(0, 6), st.integers(0, 800), POLICY)
def test_a_cut_text_is_shorter_than_the_whole_text(turns: list[int], mark: int, more: int, policy: Policy) -> None:
    for span in cut_part(turns, sum(min(n, mark) for n in turns) + more, mark, policy):
        assert span.cost(mark) < span.length if span.cut else span == whole(span.length)


@given(st.lists(st.integers(20, 200), min_size=1, max_size=6), st.integers(60, 400))
def test_the_policies_keep_the_first_or_last_tokens_or_both_evenly(turns: list[int], keep: int) -> None:
    assume(keep < sum(turns))
    flat = {policy: [n for s in cut_part(turns, keep, 2, policy) for n in _kept_mask(s)] for policy in POLICIES}
    assert flat["start"][-1]
    assert flat["end"][0]
    assert flat["middle"][0]
    assert flat["middle"][-1]
    assert flat["oldest-turns"] == flat["middle"]
    head = flat["middle"].index(False)
    tail = flat["middle"][::-1].index(False)
    # a turn that a cut would not make shorter stays whole, which can move one edge of the hole
    assert abs(head - tail) <= 1 + 2 * 2


def _kept_mask(span: Span) -> list[bool]:
    return [i < span.head or i >= span.length - span.tail for i in range(span.length)]
