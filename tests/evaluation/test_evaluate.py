"""`judge evaluate`: its figures against other libraries, what must not change them, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from judge.cli.evaluate import json_text, text_lines
from judge.evaluation.judged_rows import join
from judge.evaluation.settings import EvaluateSettings
from judge.prompting.verdict import entropy
from judge.tables.comparison import Flag
from tests.kit.evaluated_tables import QUICK, WINNERS, error_of, evaluated, frame_of, stored_for, table_of

unhurried = settings(deadline=None, max_examples=25)  # the cores are shared


SEEDS = st.integers(0, 2**32 - 1)


def test_figures_are_those_of_scikit_learn() -> None:
    frame = frame_of(200)
    stored = stored_for(frame)
    labels = [WINNERS.index(w) for w in frame["winner"]]
    figures = evaluated(frame, stored).figures["all"]
    assert figures.rows == 200
    assert figures.log_loss.value == pytest.approx(sklearn_metrics.log_loss(labels, stored.p), rel=1e-12)
    right = sklearn_metrics.accuracy_score(labels, stored.p.argmax(axis=1))
    assert figures.accuracy.value == pytest.approx(right, rel=1e-12)
    rates = np.bincount(labels) / 200
    prior = sklearn_metrics.log_loss(labels, np.tile(rates, (200, 1)))
    assert figures.class_rates_log_loss == pytest.approx(prior, rel=1e-12)
    assert figures.over_class_rates.value == pytest.approx(figures.log_loss.value - prior, rel=1e-12)
    assert figures.class_rates_accuracy == rates.max()
    assert figures.label_rates == tuple(rates)
    assert figures.mean_p == pytest.approx(tuple(stored.p.mean(axis=0)), rel=1e-12)
    assert stored.verdict_mass is not None
    assert figures.median_verdict_mass == np.median(stored.verdict_mass)
    uniform = sklearn_metrics.log_loss(labels, np.full((200, 3), 1 / 3))
    assert figures.uniform_log_loss == pytest.approx(uniform, rel=1e-12)
    for estimate in (figures.log_loss, figures.accuracy, figures.over_class_rates):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high


@unhurried
@given(SEEDS, st.integers(2, 40), st.integers(1, 9))
def test_the_order_of_either_file_changes_nothing(seed: int, count: int, prompts: int) -> None:
    rng = np.random.default_rng(seed)
    frame = frame_of(count, seed, prompts)
    stored = stored_for(frame, seed, flags=[int(f) for f in rng.choice([0, 32, 512], count)])
    assert stored.flags is not None
    assert stored.verdict_mass is not None
    order = rng.permutation(count)
    shuffled = replace(
        stored,
        ids=[stored.ids[i] for i in order],
        p=stored.p[order],
        flags=stored.flags[order],
        verdict_mass=stored.verdict_mass[order],
    )
    expected = json_text(evaluated(frame, stored))
    assert json_text(evaluated(frame.sample(frac=1, random_state=seed), stored)) == expected
    assert json_text(evaluated(frame, shuffled)) == expected


@unhurried
@given(SEEDS, st.integers(2, 40), st.integers(1, 9))
def test_exchanging_a_and_b_everywhere_changes_no_score(seed: int, count: int, prompts: int) -> None:
    frame, other = frame_of(count, seed, prompts), frame_of(count, seed, prompts)
    other["response_a"], other["response_b"] = frame["response_b"], frame["response_a"]
    other["winner"] = frame["winner"].replace({"model_a": "model_b", "model_b": "model_a"})
    stored = stored_for(frame, seed)
    stored.p[0] = 1 / 3  # equally probable verdicts must not favour A
    swapped = replace(stored, p=stored.p[:, [1, 0, 2]])
    one, two = evaluated(frame, stored).figures["all"], evaluated(other, swapped).figures["all"]
    assert two.log_loss == one.log_loss
    assert two.accuracy == one.accuracy
    assert two.over_class_rates == one.over_class_rates
    assert (two.mean_p, two.label_rates) == (
        (one.mean_p[1], one.mean_p[0], one.mean_p[2]),
        (one.label_rates[1], one.label_rates[0], one.label_rates[2]),
    )


def test_rows_with_the_same_first_prompt_are_resampled_together() -> None:
    frame = frame_of(400, prompts=20)
    frame.loc[::2, "prompt"] = frame.loc[::2, "prompt"].str.upper() + "  "
    stored = stored_for(frame)
    level = np.arange(400) % 20 / 20  # every question is judged equally well in all its rows
    labels = np.array([WINNERS.index(w) for w in frame["winner"]])
    stored.p[:] = (0.9 - 0.8 * level[:, np.newaxis]) / 2
    stored.p[np.arange(400), labels] = 0.1 + 0.8 * level
    together = evaluated(frame, stored).figures["all"]
    apart = evaluated(frame.assign(prompt=frame["id"]), stored).figures["all"]
    assert (together.groups, apart.groups) == (20, 400)
    widths = [f.log_loss.high - f.log_loss.low for f in (together, apart) if f.log_loss.high and f.log_loss.low]
    assert widths[0] > 3 * widths[1]


def test_the_class_rates_themselves_are_no_better_than_the_class_rates() -> None:
    frame = frame_of(90)
    labels = [WINNERS.index(w) for w in frame["winner"]]
    stored = stored_for(frame)
    stored.p[:] = np.bincount(labels) / 90
    result = evaluated(frame, stored)
    over = result.figures["all"].over_class_rates
    assert (over.value, over.low, over.high) == pytest.approx((0, 0, 0), abs=1e-12)
    (warning,) = result.warnings
    assert warning.startswith("the judge knows nothing that the class rates don't say: its log loss is 1.0")


def test_a_judge_that_knows_something_earns_no_warning() -> None:
    frame = frame_of(60)
    stored = stored_for(frame)
    labels = [WINNERS.index(w) for w in frame["winner"]]
    stored.p[:] = np.eye(3)[labels] * 0.2 + 0.8 / 3
    result = evaluated(frame, stored)
    assert result.figures["all"].over_class_rates.value < -0.1
    assert result.warnings == []


def test_a_gain_within_the_margin_is_none() -> None:
    frame = frame_of(60)
    stored = stored_for(frame)
    labels = np.array([WINNERS.index(w) for w in frame["winner"]])
    rates = np.bincount(labels) / 60
    for gain, warned in ((0.004, True), (0.006, False)):
        chosen = rates[labels] * np.exp(gain)
        stored.p[:] = rates * ((1 - chosen) / (1 - rates[labels]))[:, np.newaxis]
        stored.p[np.arange(60), labels] = chosen
        result = evaluated(frame, stored)
        assert result.figures["all"].over_class_rates.value == pytest.approx(-gain)
        assert any("knows nothing" in w for w in result.warnings) == warned


def test_rows_without_a_label_are_left_out_and_counted() -> None:
    frame = frame_of(60)
    frame.loc[10:29, "winner"] = ""
    frame.loc[30:34, "winner"] = "both"
    stored = stored_for(frame)
    kept = [*range(10), *range(35, 60)]
    result = evaluated(frame, stored)
    assert (result.rows.table, result.rows.unlabelled, result.rows.evaluated) == (60, 25, 35)
    labels = [WINNERS.index(frame["winner"][i]) for i in kept]
    expected = sklearn_metrics.log_loss(labels, stored.p[kept], labels=[0, 1, 2])
    assert result.figures["all"].log_loss.value == pytest.approx(expected, rel=1e-12)
    assert "t.csv, 60 rows; left out: 25 without a label" in "\n".join(text_lines(result))


def test_a_row_is_joined_with_all_its_stored_values_and_the_tables_facts() -> None:
    frame = frame_of(3).assign(id=["b", "c", "a"])
    frame.loc[0, ["prompt", "response_a", "response_b"]] = ["Why?", "I'm sorry, but I can't help with that.", " "]
    stored = stored_for(frame)
    first, second = np.log([[[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1]]] * 2) + np.array([[[0.0]], [[-1.0]]])
    second[:, [0, 1]] = second[:, [1, 0]]
    second[1] = np.nan
    stored = replace(stored, first=first, second=second, cut=np.array([True, False, False]))
    rows = join(stored, table_of(frame))
    assert rows.ids.tolist() == ["a", "b", "c"]
    assert rows.first == pytest.approx(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))
    assert rows.second[:2] == pytest.approx(np.array([[0.2, 0.7, 0.1], [0.3, 0.5, 0.2]]))
    assert np.isnan(rows.second[2]).all()
    assert rows.cut.tolist() == [False, True, False]
    assert rows.facts.characters[1].tolist() == [4, 38, 1]
    assert rows.facts.refusal.tolist() == [[False, False], [True, False], [False, False]]
    assert rows.facts.empty.tolist() == [[False, False], [False, True], [False, False]]


def test_only_a_zero_for_the_true_verdict_is_impossible() -> None:
    frame = frame_of(30)
    stored = stored_for(frame)
    wrong = (WINNERS.index(frame["winner"][3]) + 1) % 3
    stored.p[3, wrong] = 0
    assert evaluated(frame, stored).rows.impossible == 0


def test_a_table_without_labels_is_refused() -> None:
    frame = frame_of(3).drop(columns="winner")
    assert error_of(frame, stored_for(frame)) == (
        "t.csv: no row has a label; give the columns winner_model_a, winner_model_b and winner_tie (one of them 1), "
        "or winner (model_a, model_b or tie)"
    )


def test_ids_must_be_the_same_in_both_files() -> None:
    frame = frame_of(5)
    frame.loc[3, "id"] = "\x1b[31m"
    stored = stored_for(frame)
    end = "; give the predictions and the table that belong together"
    short = replace(stored, ids=stored.ids[:3], p=stored.p[:3])
    assert error_of(frame, short) == (
        "p.parquet: has no prediction for 2 rows of t.csv (for example id \\x1b[31m)"
        + end
        + ", or pass --partial to leave out the rows without a prediction"
    )
    assert error_of(frame[:4], stored) == (
        "p.parquet: has predictions for 1 row that t.csv does not have (for example id row-4)" + end
    )
    assert error_of(frame.assign(id=range(5)), stored) == (
        "p.parquet: has no prediction for 5 rows of t.csv (for example id 0); "
        "p.parquet: has predictions for 5 rows that t.csv does not have (for example id \\x1b[31m)" + end
    )


def test_rows_are_joined_by_id_with_all_that_belongs_to_them() -> None:
    frame = frame_of(4)
    stored = stored_for(frame, flags=[1, 2, 4, 8])
    rows = join(stored, table_of(frame[::-1]))
    assert rows.ids.tolist() == ["row-0", "row-1", "row-2", "row-3"]
    assert rows.labels.tolist() == [WINNERS.index(w) for w in frame["winner"]]
    assert rows.flags.tolist() == [1, 2, 4, 8]
    assert rows.p.tolist() == stored.p.tolist()
    assert stored.verdict_mass is not None
    assert rows.verdict_mass.tolist() == stored.verdict_mass.tolist()
    assert rows.groups.dtype == np.uint64
    assert len(set(rows.groups.tolist())) == 4


def test_what_makes_figures_doubtful_is_said() -> None:
    frame = frame_of(30)
    frame.loc[0, "response_a"] = "['no JSON']"
    stored = stored_for(frame, flags=[int(Flag.NOT_SCORED)] * 2 + [0] * 28)
    label = WINNERS.index(frame["winner"][7])
    stored.p[7] = [0.5, 0.5, 0.5]
    stored.p[7, label] = 0
    result = evaluated(frame, stored)
    assert result.warnings[1:] == [
        "only 30 prompt groups: the intervals are too narrow",
        "1 row got a probability of 0 for the true verdict, 36 nats each",
        "2 rows could not be scored and count with 1/3 each",
        "1 row of the table with a cell that cannot be read: rows with such a prompt are grouped by their responses",
    ]
    assert result.warnings[0].startswith("the judge knows nothing")
    unknown = evaluated(frame, replace(stored, flags=None, verdict_mass=None))
    assert unknown.warnings[0] == (
        "the predictions have no column flags, so it is not known whether rows trained this judge"
    )
    assert (unknown.rows.trained_on, unknown.figures["all"].median_verdict_mass) == (None, None)


def test_a_single_prompt_group_has_no_interval() -> None:
    frame = frame_of(3, prompts=1)
    result = evaluated(frame, stored_for(frame))
    content = json.loads(json_text(result))
    assert content["figures"]["all"]["log_loss"]["low"] is None
    assert any(line.endswith("none (one prompt group)") for line in text_lines(result))
    assert "only 1 prompt group: there is no interval" in result.warnings


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (EvaluateSettings(resamples=99), "--resamples=99: expected 100 to 100,000"),
        (EvaluateSettings(resamples=10**9), "--resamples=1000000000: expected 100 to 100,000"),
        (EvaluateSettings(seed=-1), "--seed=-1: expected a number of 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(options: EvaluateSettings, error: str) -> None:
    frame = frame_of(3)
    assert error_of(frame, stored_for(frame), options) == error


@unhurried
@given(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3))
def test_class_rates_have_the_lowest_log_loss_of_constant_predictions(weights: list[float]) -> None:
    frame = frame_of(50)
    stored = stored_for(frame)
    stored.p[:] = np.array(weights) / sum(weights)
    figures = evaluated(frame, stored).figures["all"]
    assert figures.over_class_rates.value >= -1e-12
    assert figures.class_rates_log_loss == pytest.approx(entropy(np.array([figures.label_rates]))[0], rel=1e-12)


def test_partial_predictions_are_evaluated_on_their_rows_alone_when_asked() -> None:
    frame = frame_of(50)
    stored = stored_for(frame)
    half = replace(stored, ids=stored.ids[:30], p=stored.p[:30], verdict_mass=None, flags=np.zeros(30, dtype=np.uint32))
    assert error_of(frame, half) == (
        "p.parquet: has no prediction for 20 rows of t.csv (for example id row-30); give the predictions and the table "
        "that belong together, or pass --partial to leave out the rows without a prediction"
    )
    result = evaluated(frame, half, QUICK.model_copy(update={"partial": True}))
    assert result.figures["all"] == evaluated(frame[:30], half).figures["all"]
    assert (result.rows.table, result.rows.evaluated, result.rows.unpredicted, result.rows.unlabelled) == (
        50,
        30,
        20,
        0,
    )
    assert "left out: 20 without a prediction" in "\n".join(text_lines(result))
    strange = replace(half, ids=[f"other-{i}" for i in range(30)])
    assert "has no prediction for 50 rows" in error_of(frame, strange, QUICK.model_copy(update={"partial": True}))


def test_ids_that_became_decimal_numbers_on_one_side_are_named() -> None:
    frame = frame_of(4).assign(id=["1", "2", "3", "4"])
    stored = replace(stored_for(frame), ids=["1.0", "2.0", "3.0", "4.0"])
    assert error_of(frame, stored) == (
        "p.parquet: its ids are decimal numbers (1.0), those of t.csv are not (1); write both in one type"
    )
