"""`judge evaluate`: its figures against other libraries, what must not change them, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from judge.cli.evaluate import json_text
from judge.cli.evaluate_text import text_lines
from judge.errors import JudgeError
from judge.evaluation.evaluate import Evaluation, evaluate
from judge.evaluation.judged_rows import join
from judge.evaluation.settings import EvaluateSettings, TrainedRows
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import entropy
from judge.tables.comparison import Flag
from judge.tables.table import Table

unhurried = settings(deadline=None, max_examples=25)  # the cores are shared
WINNERS = ("model_a", "model_b", "tie")
QUICK = EvaluateSettings(resamples=100)
SEEDS = st.integers(0, 2**32 - 1)


def frame_of(count: int, seed: int = 0, prompts: int | None = None) -> pd.DataFrame:
    """A table of `count` rows with a label; each of `prompts` prompts (default: as many as rows) on some of them."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"row-{i}" for i in range(count)],
            "prompt": [f"Question {i % (prompts or count)}?" for i in range(count)],
            "response_a": [f"first {i}" for i in range(count)],
            "response_b": [f"second {i}" for i in range(count)],
            "winner": [WINNERS[k] for k in rng.integers(0, 3, count)],
        }
    )


def stored_for(frame: pd.DataFrame, seed: int = 1, flags: list[int] | None = None) -> StoredPredictions:
    """Random predictions for a table, in its order, with the flags given (default: none set)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([2, 2, 2], len(frame))
    mass = rng.random(len(frame))
    words = np.array(flags or [0] * len(frame), dtype=np.uint32)
    return StoredPredictions("p.parquet", "predictions", [str(i) for i in frame["id"]], p, mass, words)


def table_of(frame: pd.DataFrame) -> Table:
    return Table("t.csv", on_bad_row="placeholder", frame=frame)


def evaluated(frame: pd.DataFrame, stored: StoredPredictions, options: EvaluateSettings = QUICK) -> Evaluation:
    return evaluate(stored, table_of(frame), options)


def error_of(frame: pd.DataFrame, stored: StoredPredictions, options: EvaluateSettings = QUICK) -> str:
    with pytest.raises(JudgeError) as caught:
        evaluated(frame, stored, options)
    assert str(caught.value).isprintable()
    return str(caught.value)


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


def test_a_row_is_joined_with_all_that_is_stored_of_it_and_with_the_tables_facts() -> None:
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


TRAINED = [int(Flag.TRAINED_ON | Flag.TRAINED_PROMPT)] * 12 + [int(Flag.TRAINED_PROMPT)] * 8 + [0] * 100


def trained_rows(choice: TrainedRows) -> tuple[pd.DataFrame, StoredPredictions, EvaluateSettings]:
    frame = frame_of(120)
    return frame, stored_for(frame, flags=TRAINED), QUICK.model_copy(update={"trained_rows": choice})


def test_rows_that_trained_the_judge_are_refused() -> None:
    assert error_of(*trained_rows("refuse")) == (
        "p.parquet: 12 of 120 labelled rows trained this judge (for example id row-0), so its figures would say "
        "little about new rows; pass --trained-rows=drop to leave them out, or --trained-rows=mark to evaluate all the "
        "same"
    )


def test_rows_that_trained_the_judge_can_be_left_out() -> None:
    frame, stored, options = trained_rows("drop")
    result = evaluated(frame, stored, options)
    rest = evaluated(frame[12:], replace(stored, ids=stored.ids[12:], p=stored.p[12:], flags=None, verdict_mass=None))
    assert list(result.figures) == ["all"]
    assert result.figures["all"].log_loss == rest.figures["all"].log_loss
    assert (result.rows.dropped, result.rows.evaluated, result.rows.trained_on) == (12, 108, 0)
    text = "\n".join(text_lines(result))
    assert "t.csv, 120 rows; left out: 12 that trained this judge" in text
    assert "warning: 8 rows with the prompt of another row that trained this judge: the figures may be too good" in text


def test_marked_rows_that_trained_the_judge_are_shown_apart() -> None:
    frame, stored, options = trained_rows("mark")
    result = evaluated(frame, stored, options)
    whole, trained, other = (result.figures[part] for part in ("all", "trained", "untrained"))
    assert (whole.rows, trained.rows, other.rows) == (120, 12, 108)
    assert (result.rows.trained_on, result.rows.trained_prompt) == (12, 8)
    mean = (12 * trained.log_loss.value + 108 * other.log_loss.value) / 120
    assert whole.log_loss.value == pytest.approx(mean, rel=1e-12)
    assert other == evaluated(*trained_rows("drop")).figures["all"]
    assert result.warnings[0] == (
        "TRAINED ROWS: 12 of 120 rows trained this judge; figures that include them say little about new rows"
    )
    lines = list(text_lines(result))
    assert [line for line in lines if line.startswith("==")] == [
        "== all rows, those that trained this judge included ==",
        "== rows that trained this judge ==",
        "== other rows ==",
        "== biases ==",
        "== agreement and consistency as published benchmarks count them ==",
    ]
    assert result.bias.rows == 108  # what follows the figures is of the rows that are new to the judge
    assert "warning: " + result.warnings[0] in lines
    content = json.loads(json_text(result))
    assert content["settings"]["trained_rows"] == "mark"
    assert content["rows"]["trained_on"] == 12
    assert content["warnings"][0].startswith("TRAINED ROWS: ")


def test_where_every_row_trained_the_judge_the_output_says_so() -> None:
    frame = frame_of(60)
    stored = stored_for(frame, flags=[int(Flag.TRAINED_ON)] * 60)
    assert error_of(frame, stored, QUICK.model_copy(update={"trained_rows": "drop"})) == (
        "p.parquet: every labelled row trained this judge, so --trained-rows=drop leaves none"
    )
    result = evaluated(frame, stored, QUICK.model_copy(update={"trained_rows": "mark"}))
    assert list(result.figures) == ["all"]
    assert result.warnings[0].startswith("TRAINED ROWS: 60 of 60 rows")
    assert "== all rows, those that trained this judge included ==" in text_lines(result)


def test_unlabelled_rows_that_trained_the_judge_do_no_harm() -> None:
    frame = frame_of(60)
    frame.loc[0, "winner"] = ""
    result = evaluated(frame, stored_for(frame, flags=[int(Flag.TRAINED_ON)] + [0] * 59))
    assert (result.rows.evaluated, result.rows.trained_on) == (59, 0)


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
def test_the_class_rates_have_the_lowest_log_loss_of_all_constant_predictions(weights: list[float]) -> None:
    frame = frame_of(50)
    stored = stored_for(frame)
    stored.p[:] = np.array(weights) / sum(weights)
    figures = evaluated(frame, stored).figures["all"]
    assert figures.over_class_rates.value >= -1e-12
    assert figures.class_rates_log_loss == pytest.approx(entropy(np.array([figures.label_rates]))[0], rel=1e-12)


# The command.


def judge(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Run `judge evaluate` in `folder`; return its exit status, its output and the lines of its errors."""
    command = [str(Path(sys.executable).parent / "judge"), "evaluate", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()


def write(folder: Path, p: list[list[float]], **more: Any) -> None:
    """Write a table of four rows, labelled A, B, tie and not, as CSV, and predictions for it as Parquet."""
    (folder / "t.csv").write_text(
        'id,prompt,response_a,response_b,winner\n1,"[""Why?"", ""So?""]",a,b,model_a\n2,[bold]Who?,a,b,model_b\n'
        "3,WHY? ,a,b,tie\n4,Where?,a,b,\n",
        encoding="utf-8",
    )
    columns = {f"p_{name}": column for name, column in zip(("a", "b", "tie"), zip(*p, strict=True), strict=True)}
    pd.DataFrame({"id": [4, 3, 2, 1], **columns, **more}).to_parquet(folder / "p.parquet")


P = [[0.2, 0.3, 0.5], [0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    write(tmp_path, P, flags=["", "identical", "", ""], verdict_mass=[0.1, 0.9, 0.8, 0.7])
    status, out, err = judge(tmp_path, "p.parquet", "t.csv", "--resamples", "100", "--brief")
    assert (status, err) == (0, [])
    assert out == (
        "predictions     p.parquet, predictions\n"
        "table           t.csv, 4 rows; left out: 1 without a label\n"
        "rows            3 in 2 prompt groups\n"
        "\n"
        "                           95% interval\n"
        "log loss           0.6931  0.6931 to 0.6931\n"
        "  class rates      1.0986\n"
        "  difference      -0.4055  -0.4055 to -0.4055\n"
        "  lengths alone         -  fewer prompt groups (2) than folds (5)\n"
        "  uniform          1.0986\n"
        "accuracy           100.0%  12.9% to 100.0%\n"
        "  class rates       33.3%\n"
        "  uniform           33.3%\n"
        "Brier score        0.3750  0.3750 to 0.3750\n"
        "  class rates      0.6667\n"
        "  uniform          0.6667\n"
        "ECE                     -  fewer rows (3) than bins (15)  (most probable verdict, 15 equal bins)\n"
        "verdict mass       0.8000  median\n"
        "\n"
        "                        A        B      tie\n"
        "mean p              0.333    0.333    0.333\n"
        "label rates         0.333    0.333    0.333\n"
        "\n"
        "warning: only 2 prompt groups: the intervals are too narrow\n"
        "warning: no calibration error: fewer rows (3) than bins (15)\n"
    )


def test_all_of_it_is_printed_where_figures_are_missing() -> None:
    """One class, one prompt, one order, no known model: every figure is there, or the reason why it is not."""
    frame = frame_of(8, prompts=1).assign(winner="model_b")
    lines = "\n".join(text_lines(evaluated(frame, stored_for(frame))))
    assert "nan" not in lines.lower()
    for text in (
        "lengths alone         -  the labels have one class only",
        "tie       ",
        "- (nobody's verdict is A)",
        "- (every verdict is B)",
        "none (one prompt group)",
        "log loss where people tied - (nobody's verdict is tie)",
        "position bias        not measured",
    ):
        assert text in lines


def test_the_command_prints_the_same_json_twice(tmp_path: Path) -> None:
    write(tmp_path, P)
    status, out, err = judge(tmp_path, "p.parquet", "t.csv", "--json", "--seed", "3")
    assert (status, err) == (0, [])
    content = json.loads(out)
    assert content["predictions"] == "p.parquet"
    assert content["kind"] == "predictions"
    assert content["settings"] == {
        "trained_rows": "refuse",
        "resamples": 2000,
        "seed": 3,
        "partial": False,
        "self_names": [],
        "level": 0.95,
    }
    assert content["rows"]["evaluated"] == 3
    assert content["figures"]["all"]["log_loss"]["value"] == pytest.approx(np.log(2))
    assert content["figures"]["all"]["groups"] == 2
    assert judge(tmp_path, "p.parquet", "t.csv", "--json", "--seed", "3")[1] == out


def test_the_command_takes_a_submission_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, P)
    rows = "".join(f"{4 - i},{','.join(map(str, p))}\n" for i, p in enumerate(P))
    (tmp_path / "s.csv").write_text("id,winner_model_a,winner_model_b,winner_tie\n" + rows, encoding="utf-8")
    status, out, _ = judge(tmp_path, "s.csv", "t.csv", "--resamples", "100")
    assert status == 0
    assert out.startswith("predictions     s.csv, a submission (winner_model_a, ...)\n")
    assert "log loss           0.6931  0.6931 to 0.6931\n" in out
    assert "warning: the predictions have no column flags, so it is not known whether rows trained this judge\n" in out


def test_the_command_exits_2_with_one_line_on_standard_error(tmp_path: Path) -> None:
    write(tmp_path, P, flags=["", "", "trained_on", ""])
    for arguments, error in (
        (
            ("p.parquet", "t.csv"),
            "judge: p.parquet: 1 of 3 labelled rows trained this judge (for example id 2), so its",
        ),
        (("t.csv", "t.csv"), "judge: t.csv: is a table of comparisons; give the predictions that judge score wrote"),
        (("p.parquet", "no.csv"), "judge: no.csv: cannot be read (No such file or directory)"),
    ):
        status, out, err = judge(tmp_path, *arguments, "--resamples", "100")
        assert (status, out, len(err)) == (2, "", 1)
        assert err[0].startswith(error)


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
