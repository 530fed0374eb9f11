"""The bias report: planted biases are found, none is not, and nothing is called from too little."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.cli.evaluate import bias_lines
from judge.evaluation.bias import Bias
from judge.evaluation.bias_effects import LEAST_GROUPS, call_of
from judge.evaluation.judged_rows import JudgedRows
from judge.stats.resample import Estimate
from tests.kit.effects import bias_of, effect, value
from tests.kit.made_rows import certain, made_rows, probabilities_of, sampled


def simulated(
    rows: int, rng: np.random.Generator, *, position: float = 0.0, verbosity: float = 0.0, tie: float = 0.0
) -> JudgedRows:
    """Return rows whose labels follow true probabilities in which people like longer responses too.

    The judge knows them up to noise, and adds its biases, in score.
    """
    lengths = rng.integers(50, 1000, (rows, 2))
    longer = np.sign(lengths[:, 0] - lengths[:, 1])
    lead = rng.uniform(-0.3, 0.3, rows) + 0.08 * longer
    truth = probabilities_of(lead)
    noise = rng.normal(0, 0.03, (2, rows)).clip(-0.1, 0.1)
    orders = [
        probabilities_of(lead + 2 * verbosity * longer + sign * position + noise[k], 0.3 + tie)
        for k, sign in enumerate((1, -1))
    ]
    return made_rows(
        (orders[0] + orders[1]) / 2,
        sampled(truth, rng),
        first=orders[0],
        second=orders[1],
        lengths=lengths,
        groups=rng.integers(0, max(2, rows * 2 // 3), rows),
    )


@pytest.fixture(scope="module")
def clean() -> Bias:
    return bias_of(simulated(20_000, np.random.default_rng(1)), resamples=400)


@pytest.mark.parametrize("key", ["position", "verbosity", "ties"])
def test_no_bias_is_called_absent(clean: Bias, key: str) -> None:
    assert effect(clean, key).call == "absent"
    assert effect(clean, key).sentence.startswith(f"No {effect(clean, key).title} to speak of: ")


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"position": 0.05}, "Position bias: a response scores {} points more when it is shown first than"),
        ({"position": -0.05}, "Position bias: a response scores {} points more when it is shown second than"),
        ({"verbosity": 0.05}, "Verbosity bias: the longer response scores {} points more with the judge than with"),
        ({"verbosity": -0.05}, "The longer response scores {} points less with the judge than with people"),
        ({"tie": 0.05}, "Too many ties: their mean probability is {} points above people's rate"),
        ({"tie": -0.05}, "Too few ties: their mean probability is {} points below people's rate"),
    ],
)
def test_a_planted_bias_is_found_and_the_others_are_not(planted: dict[str, float], words: str) -> None:
    bias = bias_of(simulated(20_000, np.random.default_rng(2), **planted), resamples=400)
    (name,) = planted
    keys = {"position": "position", "verbosity": "verbosity", "tie": "ties"}
    for planted_name, key in keys.items():
        assert effect(bias, key).call == ("present" if planted_name == name else "absent")
    found = effect(bias, keys[name]).estimate
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < planted[name] < found.high
    shown = sorted(abs(100 * bound) for bound in (found.low, found.high))
    size = f"{abs(100 * found.value):.1f} ({shown[0]:.1f} to {shown[1]:.1f})"
    assert effect(bias, keys[name]).sentence.startswith(words.format(size))


def test_a_longer_response_that_people_like_as_much_is_no_bias(clean: Bias) -> None:
    for one in clean.lengths:
        if one.rows > 1000:
            assert one.judge is not None
            assert one.people is not None
            assert one.judge.value > 0.52  # both like it
            assert one.judge.value == pytest.approx(one.people.value, abs=0.03)


def test_the_intervals_hold_the_truth_in_about_95_of_100_sets() -> None:
    rng = np.random.default_rng(3)
    sets, held = 400, {"position": 0, "verbosity": 0, "ties": 0}
    planted = {"position": 0.03, "verbosity": 0.04, "ties": -0.02}
    for _ in range(sets):
        rows = simulated(240, rng, position=0.03, verbosity=0.04, tie=-0.02)
        bias = bias_of(rows, resamples=300)
        for key in held:
            found = effect(bias, key).estimate
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            held[key] += found.low < planted[key] < found.high
    # 3.5 standard errors around 0.945 (few groups cost half a point), of 400 sets
    assert all(362 <= number <= 394 for number in held.values()), held


def test_nothing_is_called_from_few_groups() -> None:
    rows = simulated(24, np.random.default_rng(4), position=0.3)
    found = effect(bias_of(rows), "position")
    assert found.call == "undecided"
    assert re.fullmatch(
        rf"Cannot be told from 24 rows in {found.groups} prompt groups: \+\S+ \(\S+ to \S+\) points; 30 groups are "
        r"the least\.",
        found.sentence,
    )


def test_a_single_group_gives_figures_without_intervals() -> None:
    rows = replace(simulated(200, np.random.default_rng(5), position=0.3), groups=np.zeros(200, dtype=np.uint64))
    bias = bias_of(rows)
    for one in bias.effects:
        assert one.call in ("undecided", "not measured")
        assert one.estimate is None or (one.estimate.low, one.estimate.high) == (None, None)
    assert bias.position is not None
    assert bias.position.flip_rate.low is None
    assert bias.ties is not None
    assert bias.ties.separation is not None
    assert bias.ties.separation.low is None
    assert "in 1 prompt group: +" in effect(bias, "position").sentence


def test_a_part_of_a_single_group_has_no_interval_either() -> None:
    refusal = np.zeros((100, 2), dtype=bool)
    refusal[:2, 0] = True
    groups = np.arange(100).clip(1)  # rows 0 and 1 share a prompt
    bias = bias_of(made_rows(probabilities_of(np.zeros(100)), [0] * 100, refusal=refusal, groups=groups))
    assert effect(bias, "refusals").estimate == Estimate(-0.5, None, None)
    assert effect(bias, "refusals").rows == 2


def test_position_figures_of_hand_made_rows() -> None:
    # verdicts with A first and with B first: same, towards the first, towards the second, to and from a tie
    first, second = "AABATT", "ABATAT"
    rows = made_rows(certain(first), [0] * 6, first=certain(first), second=certain(second))
    position = bias_of(rows).position
    assert position is not None
    assert position.rows == 6
    assert position.consistency.value == pytest.approx(2 / 6)
    assert position.flip_rate.value == pytest.approx(4 / 6)
    assert position.to_first.value == pytest.approx(2 / 6)  # A then B; A then tie
    assert position.to_second.value == pytest.approx(2 / 6)  # B then A; tie then A
    # scores of A: (0.7, 0.7), (0.7, 0.3), (0.3, 0.7), (0.7, 0.5), (0.5, 0.7), (0.5, 0.5)
    assert value(bias_of(rows), "position") == pytest.approx(0)


def test_equally_probable_verdicts_favour_no_position() -> None:
    even = np.tile([0.45, 0.45, 0.1], (4, 1))
    figures = bias_of(made_rows(even, [0] * 4, first=even, second=certain("ABTT")))
    assert figures.position is not None
    # a tie in the first order; in the second A, which was shown second, then B, which was shown first
    assert figures.position.to_first.value == pytest.approx(1 / 4)
    assert figures.position.to_second.value == pytest.approx(1 / 4)
    assert figures.position.consistency.value == pytest.approx(2 / 4)
    assert figures.ties is not None
    most = figures.ties.most_probable
    assert [most.value, most.low, most.high] == pytest.approx([0.0, 0.0, 1 - 0.025 ** (1 / 4)])


def test_other_effects_of_hand_made_rows() -> None:
    p = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]]
    rows = made_rows(
        p,
        [0, 0, 2, 2],
        lengths=[[20, 10], [10, 30], [0, 10], [10, 10]],
        refusal=[[True, False], [False, True], [False, False], [True, True]],
        empty=[[False, False], [False, False], [True, False], [False, False]],
        identical=[False, False, False, True],
    )
    bias = bias_of(rows)
    # scores of A: 0.6, 0.3, 0.5, 0.5; people's: 1, 1, 0.5, 0.5
    assert value(bias, "verbosity") == pytest.approx(((0.6 - 1) - (0.3 - 1) - 0) / 3)
    assert value(bias, "ties") == pytest.approx(0.4 - 0.5)
    assert value(bias, "identical") == pytest.approx(0.8 - 1)
    assert value(bias, "refusals") == pytest.approx(((0.6 - 1) - (0.3 - 1)) / 2)
    assert value(bias, "empty") == pytest.approx(0)
    assert bias.a_surplus is not None
    assert bias.a_surplus.value == pytest.approx((0.6 + 0.3 - 2) / 4)
    assert bias.identical_gap is not None
    assert bias.identical_gap.value == pytest.approx(0)
    assert [(one.low, one.high, one.rows) for one in bias.lengths] == [
        (1, 1.1, 0),
        (1.1, 1.25, 0),
        (1.25, 1.5, 0),
        (1.5, 2, 1),
        (2, 4, 1),
        (4, None, 1),
    ]
    assert bias.lengths[0].judge is None
    assert bias.lengths[4].judge is not None
    assert bias.lengths[4].judge.value == pytest.approx(0.7)
    assert bias.lengths[4].people is not None
    assert bias.lengths[4].people.value == pytest.approx(0)
    ties = bias.ties
    assert ties is not None
    assert ties.on_ties is not None
    assert ties.on_others is not None
    assert ties.separation is not None
    assert ties.most_probable.value == pytest.approx(0.5)
    assert ties.on_ties.value == pytest.approx(0.6)
    assert ties.on_others.value == pytest.approx(0.2)
    assert ties.separation.value == pytest.approx(0.4)


def test_probabilities_are_normalised_first() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4]])
    rows, scaled = (made_rows(q, [0, 2], first=q, second=q[::-1]) for q in (p, 1.001 * p))
    for key in ("ties", "position"):
        assert value(bias_of(scaled), key) == pytest.approx(value(bias_of(rows), key), rel=1e-12)


def test_one_order_says_what_it_cannot_tell_and_what_it_can() -> None:
    p = probabilities_of(np.full(100, 0.2))
    bias = bias_of(made_rows(p, [0, 1] * 50, first=p))
    found = effect(bias, "position")
    assert (found.call, found.estimate, bias.position) == ("not measured", None, None)
    assert found.sentence.startswith(
        "Not measured: only one order was read; score with --swap all. In that order A scores +10.0 ("
    )


def test_a_file_without_orders_says_so() -> None:
    found = effect(bias_of(made_rows(probabilities_of([0.1, 0.2]), [0, 1])), "position")
    assert found.sentence == "Not measured: the file does not hold the log-probabilities of the two orders."


def test_position_is_measured_on_the_rows_read_twice() -> None:
    first, second = probabilities_of(np.full(100, 0.2)), probabilities_of(np.full(100, -0.2))
    second[40:] = np.nan
    bias = bias_of(made_rows(first, [0, 1] * 50, first=first, second=second))
    assert (effect(bias, "position").rows, effect(bias, "position").call) == (40, "present")
    assert value(bias, "position") == pytest.approx(0.2)


def test_rows_that_were_not_scored_are_in_no_effect() -> None:
    p = np.full((3, 3), 1 / 3)
    bias = bias_of(made_rows(p, [0, 1, 2], first=p, second=p, unscored=[True] * 3))
    assert bias.rows == 0
    assert {one.sentence for one in bias.effects[:6]} == {"Not measured: no row was scored."}


@pytest.mark.parametrize("label", [0, 1, 2])
def test_one_class_only_and_ties_only_give_figures(label: int) -> None:
    rng = np.random.default_rng(6)
    rows = replace(simulated(60, rng), labels=np.full(60, label))
    bias = bias_of(rows)
    json.dumps(asdict(bias), allow_nan=False)
    assert bias.ties is not None
    assert bias.ties.separation is None
    assert (bias.ties.on_ties is None, bias.ties.on_others is None) == (label != 2, label == 2)
    assert all("nan" not in line for line in bias_lines(bias))


def swapped(rows: JudgedRows) -> JudgedRows:
    facts = rows.facts
    return replace(
        rows,
        p=rows.p[:, [1, 0, 2]],
        first=rows.second[:, [1, 0, 2]],
        second=rows.first[:, [1, 0, 2]],
        labels=np.array([1, 0, 2])[rows.labels],
        facts=replace(
            facts,
            characters=facts.characters[:, [0, 2, 1]],
            models=facts.models[:, ::-1],
            empty=facts.empty[:, ::-1],
            refusal=facts.refusal[:, ::-1],
        ),
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_swapping_a_and_b_changes_no_effect(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    rows = made_rows(
        rng.dirichlet([1, 1, 1], count),
        rng.integers(0, 3, count),
        first=rng.dirichlet([1, 1, 1], count),
        second=rng.dirichlet([1, 1, 1], count),
        lengths=rng.integers(0, 20, (count, 2)),
        models=rng.choice(["x", "y", "z"], (count, 2)),
        refusal=rng.random((count, 2)) < 0.3,
        empty=rng.random((count, 2)) < 0.3,
        identical=rng.random(count) < 0.3,
        groups=rng.integers(0, 40, count),
    )
    one = json.loads(json.dumps(asdict(bias_of(rows, resamples=100, self_names=["X"])), allow_nan=False))
    two = json.loads(json.dumps(asdict(bias_of(swapped(rows), resamples=100, self_names=["X"])), allow_nan=False))
    before, after = one.pop("a_surplus"), two.pop("a_surplus")
    assert before["value"] == pytest.approx(-after["value"], abs=1e-12)
    assert_close(one, two)


def assert_close(one: Any, two: Any) -> None:
    """Compare nested results, texts exactly but for the numbers in them."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            if key != "sentence":
                assert_close(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_close(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(two, abs=1e-9)
    else:
        assert one == two


@pytest.mark.parametrize(
    ("estimate", "groups", "call"),
    [
        (Estimate(0.06, 0.05, 0.07), 100, "present"),
        (Estimate(-0.06, -0.07, -0.05), 100, "present"),
        (Estimate(0.0, -0.01, 0.01), 100, "absent"),
        (Estimate(0.01, 0.005, 0.015), 100, "absent"),  # surely there, and too small to matter
        (Estimate(0.015, 0.005, 0.025), 100, "undecided"),
        (Estimate(0.06, -0.01, 0.13), 100, "undecided"),
        (Estimate(0.06, 0.05, 0.07), LEAST_GROUPS - 1, "undecided"),
        (Estimate(0.06, None, None), 1, "undecided"),
    ],
)
def test_the_rule_that_calls_an_effect(estimate: Estimate, groups: int, call: str) -> None:
    assert call_of(estimate, groups) == call


def test_the_text_is_aligned_and_safe_to_print(clean: Bias) -> None:
    rng = np.random.default_rng(10)
    models = rng.choice(np.array(["evil\x1b[31m", "other"], dtype=object), (200, 2))
    bias = bias_of(replace(simulated(200, rng), facts=replace(simulated(200, rng).facts, models=models)))
    lines = [*bias_lines(clean), *bias_lines(bias)]
    assert all(line.isprintable() for line in lines)
    assert any("evil\\x1b[31m" in line for line in lines)
    assert lines[0].startswith("position bias        absent        No position bias to speak of: ")
    for title in ("both orders, 20,000 rows", "the longer response scores", "ties, 20,000 rows", "model   "):
        assert any(line.startswith(title) for line in lines), title
