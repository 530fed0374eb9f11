"""What an experiment shows on the terminal and in its file of results: their numbers are the result's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from judge.cli.experiment import experiment_settings
from judge.cli.experiment_text import result_lines
from judge.errors import JudgeError
from judge.experiment.arm_figures import arm_figures, slice_differences
from judge.experiment.files import results_table, write_results
from judge.experiment.result import ExperimentResult
from judge.experiment.text import plan_lines, power_lines
from judge.stats.metrics import MEASURES, hits, log_losses
from judge.stats.resample import Estimate, Resampler
from judge.tables.comparison import VERDICTS
from tests.kit.made_experiment import FOUR, NOISE, ROWS, made_experiment, page, words


@pytest.fixture(scope="module")
def four() -> ExperimentResult:
    return made_experiment(FOUR, NOISE)


@pytest.fixture(scope="module")
def mixed() -> ExperimentResult:
    """Return an experiment in which one arm reads both orders, and two arms have rows without a number."""
    arms = [{"name": "base"}, {"name": "both", "swap": "all"}, {"name": "failing", "template": "rubric"}]
    noise = {"base": 0.4, "both": 0.4, "failing": 2.0}
    return made_experiment(arms, noise, not_scored={"both": (3, 5), "failing": range(100, ROWS)})


def lines_of(result: ExperimentResult) -> list[str]:
    return list(result_lines(result))


def test_an_arms_score_is_that_of_the_rows_it_read(mixed: ExperimentResult) -> None:
    base, both, failing = arm_figures(mixed)
    labels = mixed.rows.labels
    by_name = {arm.name: arm for arm in mixed.arms}
    assert base.score is not None
    assert both.score is not None
    assert failing.score is not None
    assert base.score.value == pytest.approx(log_losses(by_name["base"].p, labels).mean())
    scored = np.delete(np.arange(ROWS), [3, 5])
    assert both.score.value == pytest.approx(log_losses(by_name["both"].p[scored], labels[scored]).mean())
    assert failing.score.value == pytest.approx(log_losses(by_name["failing"].p[:100], labels[:100]).mean())
    assert [arm.rows for arm in (base, both, failing)] == [ROWS, ROWS - 2, 100]
    for arm in (base, both, failing):
        assert arm.score is not None
        assert arm.score.low is not None
        assert arm.score.high is not None
        assert arm.score.low < arm.score.value < arm.score.high
    assert base.difference is None


def test_a_trained_arms_interval_holds_the_spread_of_its_seeds() -> None:
    from scipy.stats import t

    arms = [{"name": name, "train": f"{name}.yaml"} for name in ("one", "two")]
    result = made_experiment(arms, {"one": 0.3, "two": 0.5})
    labels, groups = result.rows.labels, result.rows.groups
    scores = [log_losses(arm.p, labels) for arm in result.arms]
    means = np.array([one.mean() for one in scores]).reshape(2, 2)
    figures = arm_figures(result)[0]
    (rows_alone,) = Resampler(groups, 200).estimate(((scores[0] + scores[1]) / 2)[:, np.newaxis])
    error = t.ppf(0.975, 2) * np.sqrt(means.var(axis=1, ddof=1).mean() / 2)
    assert figures.score is not None
    assert rows_alone.low is not None
    assert rows_alone.high is not None
    assert vars(figures.score) == pytest.approx(
        {
            "value": means[0].mean(),
            "low": means[0].mean() - np.hypot(means[0].mean() - rows_alone.low, error),
            "high": means[0].mean() + np.hypot(rows_alone.high - means[0].mean(), error),
        }
    )


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "brier"])
def test_the_terminals_table_has_the_results_numbers(metric: str) -> None:
    result = made_experiment(FOUR, NOISE, metric=metric)
    measure, lines = MEASURES[result.settings.metric], lines_of(result)
    for arm in arm_figures(result):
        line = next(line for line in lines if line.startswith(f"{arm.name} "))
        assert arm.score is not None
        assert f"{arm.score.value:{measure.form}}  {arm.score.low:{measure.form}} to " in line
        if arm.difference is None:
            assert line.endswith("(baseline)")
            continue
        value, low, high = (f"{v:{measure.signed_form}}" for v in vars(arm.difference.estimate).values())
        assert re.search(rf"{re.escape(value)}  {re.escape(low)} to {re.escape(high)} ", line)
        assert line.endswith(f"{arm.difference.p_holm:.4f}  {arm.difference.call}")
        assert " ".join(arm.difference.sentence.split()) in " ".join(" ".join(lines).split())


def test_the_terminals_costs_are_the_results(mixed: ExperimentResult) -> None:
    lines = lines_of(mixed)
    start = next(i for i, line in enumerate(lines) if line.startswith("cost"))
    assert lines[start].split()[-2:] == ["not", "scored"]
    for line, cost in zip(lines[start + 1 :], mixed.costs, strict=False):
        assert cost.rows_per_second is not None
        consistent = "-" if cost.consistency is None else f"{cost.consistency:.1%}"
        assert line.split() == [
            cost.arm, f"{cost.tokens_per_row:,.0f}", f"{cost.rows_per_second:.3g}", f"{cost.cut_share:.1%}",
            "0.7500", consistent, str(cost.not_scored),
        ]  # fmt: skip
    assert [cost.consistency is None for cost in mixed.costs] == [True, False, True]
    assert "warning: the rows have few prompts" in lines


def test_what_is_not_known_is_said_and_not_drawn(four: ExperimentResult) -> None:
    costs = [replace(cost, rows_per_second=None, median_verdict_mass=None) for cost in four.costs]
    alone = Estimate(0.1, None, None)
    one, two, three = four.differences
    differences = [
        replace(one, estimate=Estimate(float("nan"), None, None), call="undecided"),
        replace(two, estimate=alone, call="undecided"),
        three,
    ]
    result = replace(four, costs=costs, differences=differences, planned_smallest=float("inf"), warnings=[])
    lines = lines_of(result)
    assert any(re.fullmatch(r"rubric +\d+ +cached +[0-9.]+% +- +-", line) for line in lines)
    assert any(re.search(r"minimal .* \+0\.1000  none ", line) for line in lines)
    assert not any("warning" in line for line in lines)
    root = page(result)
    assert "cached" in words(root)
    assert "no interval" in words(root)
    assert "nan" not in words(root)


def test_an_arm_without_any_score_is_shown_without_one() -> None:
    result = made_experiment(
        [{"name": "a"}, {"name": "b", "template": "rubric"}], {"a": 0.4, "b": 0.5}, not_scored={"b": range(ROWS)}
    )
    assert arm_figures(result)[1].score is None
    assert any(re.match(r"b +-  +", line) for line in lines_of(result))
    assert "no rows" in words(page(result))
    assert slice_differences(result, "b") == []


def test_the_terminal_fits_in_100_columns(four: ExperimentResult, mixed: ExperimentResult) -> None:
    long = [{"name": f"{i} " + "long name " * 5, "template": name} for i, name in enumerate(("rubric", "minimal"))]
    wide = made_experiment(long, {str(arm["name"]).strip(): 0.5 + i for i, arm in enumerate(long)}, metric="brier")
    for result in (four, mixed, wide):
        plan = [*plan_lines(result.settings), *power_lines(result.settings, 1_000_000, 900_000, 0.0123, 0.3)]
        assert max(map(len, [*plan, *lines_of(result)])) <= 100


def test_before_the_run_it_is_said_what_the_rows_can_show(four: ExperimentResult) -> None:
    said = " ".join(" ".join([*power_lines(four.settings, 2000, 1900, 0.0234, 0.3)]).split())
    assert "2,000 rows in 1,900 prompt groups" in said
    assert "differences under 0.0234 nats cannot be shown with 80% power" in said
    assert "(assumed spread of a row's difference: 0.3000 nats)" in said
    assert "more than the margin of 0.0100 nats" in said
    enough = " ".join(power_lines(four.settings, 10**6, 10**6, 0.001, 0.3))
    assert "margin" not in enough
    assert "no difference can be shown" in " ".join(power_lines(four.settings, 3, 1, float("inf"), 0.3))
    plan = " ".join(plan_lines(four.settings))
    assert "4: side-by-side; rubric; minimal; interleaved" in plan


def test_the_file_of_results_has_a_row_for_each_arm_and_row(mixed: ExperimentResult, tmp_path: Path) -> None:
    write_results(tmp_path, mixed)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table.column_names == [
        "id", "arm", "seed", "p_a", "p_b", "p_tie", "tokens", "cut", "log_loss", "label", "prompt_group",
    ]  # fmt: skip
    assert len(table) == 3 * ROWS
    frame = table.to_pandas()
    for arm in mixed.arms:
        mine = frame[frame.arm == arm.name].reset_index()
        assert mine.id.tolist() == mixed.rows.ids.tolist()
        assert mine.label.tolist() == [VERDICTS[label] for label in mixed.rows.labels]
        np.testing.assert_array_equal(mine[["p_a", "p_b", "p_tie"]].to_numpy(), arm.p)
        scores = arm.row_scores(mixed.rows.labels, "log_loss")
        np.testing.assert_array_equal(mine.log_loss.to_numpy(), scores)
        assert mine.tokens.tolist() == arm.tokens.tolist()
        assert mine.cut.tolist() == arm.cut.tolist()
        assert mine.seed.isna().all()
        assert mine.prompt_group.tolist() == mixed.rows.groups.tolist()
    assert table["p_a"].null_count == 0
    assert table["log_loss"].null_count == ROWS - 100 + 2
    before = (tmp_path / "results.parquet").read_bytes()
    write_results(tmp_path, mixed)
    assert (tmp_path / "results.parquet").read_bytes() == before


def test_seeds_have_rows_of_their_own() -> None:
    arms = [{"name": "plain"}, {"name": "taught", "train": "c.yaml"}]
    result = made_experiment(arms, {"plain": 0.5, "taught": 0.4}, metric="accuracy")
    frame = results_table(result).to_pandas()
    assert frame.groupby("arm").size().to_dict() == {"plain": ROWS, "taught": 2 * ROWS}
    assert sorted(frame[frame.arm == "taught"].seed.unique()) == [0, 1]
    first = frame[(frame.arm == "taught") & (frame.seed == 0)]
    np.testing.assert_array_equal(first.accuracy, hits(result.arms[1].p, result.rows.labels))


def test_a_command_line_is_a_file_or_models_and_a_table(tmp_path: Path) -> None:
    found = experiment_settings(["m", "t.csv"], {"template": ["minimal", "rubric"]}, {"seed": 3, "rows": None})
    assert [arm.template for arm in found.arms] == ["minimal", "rubric"]
    assert (found.model, found.data, found.seed, found.rows) == ("m", "t.csv", 3, None)
    two = experiment_settings(["m", "n", "t.csv"], {}, {})
    assert [arm.model for arm in two.arms] == ["m", "n"]
    file = tmp_path / "e.yaml"
    file.write_text("model: m\ndata: t.csv\narms: [{template: minimal}, {template: rubric}]\n", encoding="utf-8")
    assert experiment_settings([str(file)], {}, {"seed": 5}).seed == 5
    with pytest.raises(JudgeError, match=r"--template makes arms, and .* names them"):
        experiment_settings([str(file)], {"template": ["minimal"]}, {})
    with pytest.raises(JudgeError, match="give an experiment file"):
        experiment_settings(["m"], {"template": ["minimal", "rubric"]}, {})
    with pytest.raises(JudgeError, match="give a table"):
        experiment_settings([], {"train": ["a.yaml", "b.yaml"]}, {})
