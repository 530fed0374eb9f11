"""Experiments that cannot be done: one clear line each, before any model is loaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from judge.errors import JudgeError
from judge.experiment.arms import refuse_identical, resolve_arms
from judge.experiment.rows import draw_rows
from judge.experiment.run import run_experiment
from judge.experiment.settings import experiment_of, load_experiment, parse_experiment
from judge.models.trained_rows import joined
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table

TWO = [{"template": "minimal"}, {"template": "rubric"}]


def values(**others: Any) -> dict[str, Any]:
    return {"model": "m", "data": "t.csv", "arms": TWO, **others}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": "m"}, "unknown key 'modle' (did you mean 'model'?)"),
        ({"arms": [*TWO, {"tempalte": "x"}]}, "arm 3: unknown key 'tempalte' (did you mean 'template'?)"),
        ({"arms": TWO[:1]}, "an experiment has 2 to 20 arms"),
        ({"arms": [{"max_tokens": n} for n in range(100, 121)]}, "an experiment has 2 to 20 arms"),
        ({"arms": ["a", "b"]}, "arm 1: expected settings such as `template: rubric`"),
        ({"arms": 3}, "arms=3: expected a list of arms"),
        ({"arms": [*TWO, {"template": "minimal"}]}, "arms 1 and 3 are identical"),
        ({"arms": [{"swap": True}, {}]}, "arm 1: swap=True: "),
        ({"baseline": "mimimal"}, "the baseline 'mimimal' is not among the arms (did you mean 'minimal'?)"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "two arms are called 'a'"),
        ({"arms": [{"name": "a\nb"}, {"name": "a"}]}, "arm 1: name=a\\nb: a name is 1 to 60 characters in one line"),
        ({"arms": [{"swap": "120%"}, {"swap": "off"}]}, "swap=120%: expected off, all, auto or a percentage"),
        ({"model": None}, "arm 'minimal' has no model"),
        ({"model": None, "base": "b"}, "base is that of the experiment's model, and there is none"),
        ({"metric": "f1"}, "metric=f1: "),
        ({"margin": -1}, "margin=-1"),
        ({"rows": 0}, "rows=0"),
        ({"level": 1.5}, "level=1.5"),
        ({"train_seeds": [1]}, "train_seeds=[1]: expected 2 to 20 different numbers"),
        ({"train_seeds": [1, 1]}, "train_seeds=[1, 1]: expected 2 to 20 different numbers"),
        ({"arms": [{"model": "m", "train": "c.yaml"}, {}]}, "train trains a model of its own"),
        ({"arms": [{"train_rows": 5}, {}]}, "train_rows has no effect without train"),
        ({"stop_early": True}, "unknown key 'stop_early': it is gone, every arm judges all rows; leave it out"),
    ],
)
def test_a_mistake_in_the_settings_is_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(JudgeError) as error:
        parse_experiment(values(**given), "x.yaml")
    text = str(error.value)
    assert text.startswith("x.yaml: ")
    assert message in text
    assert "\n" not in text
    assert "Value error" not in text


def test_a_file_is_read_and_names_itself_in_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("model: m\ndata: t.csv\nrows: 100\narms:\n- {template: minimal}\n- {name: B, template: rubric}\n")
    settings = load_experiment(path, {"seed": 7})
    assert (settings.rows, settings.seed, settings.baseline_name) == (100, 7, "minimal")
    assert [arm.name for arm in settings.arms] == ["minimal", "B"]
    path.write_text("model: m\ndata: t.csv\nrow: 100\narms: [{}, {}]\n")
    with pytest.raises(JudgeError, match=r"e\.yaml: unknown key 'row' \(did you mean 'rows'"):
        load_experiment(path)
    path.write_text("model: m\nmodel: n\n")
    with pytest.raises(JudgeError, match="'model' is given twice"):
        load_experiment(path)
    with pytest.raises(JudgeError, match=r"none\.yaml: the config cannot be read"):
        load_experiment(tmp_path / "none.yaml")


def test_arms_are_all_combinations_and_are_called_by_what_differs() -> None:
    settings = experiment_of(
        ["m"], "t.csv", {"template": ["minimal", "x/rubric.yaml"], "max_tokens": [256, 512], "swap": ["all"]}
    )
    assert [arm.name for arm in settings.arms] == [
        "minimal, 256 tokens",
        "minimal, 512 tokens",
        "rubric.yaml, 256 tokens",
        "rubric.yaml, 512 tokens",
    ]
    assert {arm.swap for arm in settings.arms} == {"all"}
    assert settings.model == "m"
    models = experiment_of(["x/base", "y/judge"], "t.csv", {"template": ["minimal"]}, margin=None, seed=3)
    assert [(arm.name, arm.model) for arm in models.arms] == [("base", "x/base"), ("judge", "y/judge")]
    assert (models.seed, models.smallest_that_matters) == (3, 0.01)
    learning = experiment_of([], "t.csv", {"train": ["c.yaml"], "train_rows": [100, 200]})
    assert [arm.name for arm in learning.arms] == ["100 rows", "200 rows"]


def test_a_plain_off_and_a_number_in_yaml_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    arms = "- {swap: off, calibration: off}\n- {swap: all, calibration: off}\n- {name: 512}\n"
    path.write_text(f"model: m\ndata: t.csv\narms:\n{arms}")
    first, second, third = load_experiment(path).arms
    assert (first.swap, first.calibration, second.swap, second.calibration) == ("off", "off", "all", "off")
    assert [arm.name for arm in (first, second, third)] == [
        "swap off, calibration off",
        "swap all, calibration off",
        "512",
    ]


def test_a_forgotten_dash_between_two_arms_is_told(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("model: m\ndata: t.csv\narms:\n- template: minimal\n- swap: all\n  swap: off\n- {}\n")
    with pytest.raises(JudgeError, match=r"e\.yaml: arm 2: 'swap' is given twice; each arm begins with a dash"):
        load_experiment(path)


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    names = [arm.name for arm in experiment_of(["runs/a/best", "runs/b/best/", "/x/other", "best"], "t.csv", {}).arms]
    assert names == ["a/best", "b/best", "other", "best"]
    with pytest.raises(JudgeError, match=r"MODEL \./m is given twice"):
        experiment_of(["m", "./m"], "t.csv", {})


def test_the_baseline_can_be_any_arm_and_the_margin_depends_on_the_metric() -> None:
    settings = parse_experiment(values(baseline="rubric", metric="accuracy"))
    assert (settings.baseline_name, settings.smallest_that_matters) == ("rubric", 0.02)
    assert parse_experiment(values(margin=0.005)).smallest_that_matters == 0.005


def test_nothing_to_compare_and_too_much_are_refused() -> None:
    with pytest.raises(JudgeError, match="nothing to compare"):
        experiment_of(["m"], "t.csv", {"template": ["minimal"]})
    with pytest.raises(JudgeError, match="these are 40 combinations, more than 20"):
        experiment_of(["m"], "t.csv", {"template": ["a", "b"], "max_tokens": range(100, 120)})


def experiment(model: Path, table: Path, *arms: dict[str, Any], **others: Any) -> Any:
    shared = {"model": str(model), "data": str(table), "readout": "transformers"}
    return parse_experiment({**shared, "arms": list(arms), **others})


def test_an_unknown_template_or_model_names_its_arm_and_leaves_no_files(
    tiny_model: Path, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for arm, message in (
        ({"template": "rubrik"}, r"arm 'x': no template 'rubrik' \(did you mean 'rubric'\?\)"),
        ({"model": "/nowhere"}, "arm 'x': /nowhere: no such model folder"),
        ({"max_tokens": 20}, "arm 'x': a budget of 20 tokens is too small"),
        ({"max_tokens": 5000}, "arm 'x': --max-tokens=5000 is more than the model takes"),
        ({"base": str(tiny_model), "model": str(tiny_model)}, "arm 'x': .* is a whole model, so --base has no effect"),
    ):
        with pytest.raises(JudgeError, match=message):
            run_experiment(experiment(tiny_model, table, {"name": "x", **arm}, {}), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"template": "minimal"}, {"template": "prompts/minimal.yaml"}),
        ({}, {"template": "side-by-side"}),
        ({"truncation": "middle"}, {}),
        ({"swap": "off"}, {"swap": "0%"}),
        ({"swap": "all"}, {"swap": "100%"}),
        ({"calibration": "auto"}, {"calibration": "off"}),
    ],
)
def test_arms_that_are_the_same_in_effect_are_refused(
    tiny_model: Path, table: Path, tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    settings = experiment(tiny_model, table, {"name": "x", **one}, {"name": "y", **other})
    with pytest.raises(JudgeError, match="arms 'x' and 'y' are identical"):
        run_experiment(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_without_labels_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("winner")} for row in labelled_rows(4)]
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(JudgeError, match=r"t\.csv: no row has a label; give the columns winner_model_a"):
        run_experiment(experiment(tiny_model, table, *TWO), tmp_path / "out")
    with pytest.raises(JudgeError, match="No such file"):
        run_experiment(experiment(tiny_model, tmp_path / "none.csv", *TWO), tmp_path / "out")


def test_the_results_go_into_a_folder_of_their_own(tiny_model: Path, table: Path, tmp_path: Path) -> None:
    settings = experiment(tiny_model, table, *TWO)
    (tmp_path / "file").write_text("x")
    with pytest.raises(JudgeError, match="is a file; an experiment is kept in a folder"):
        run_experiment(settings, tmp_path / "file")
    with pytest.raises(JudgeError, match="holds files that are not of an experiment"):
        run_experiment(settings, tmp_path)
    with pytest.raises(JudgeError, match="there is no folder"):
        run_experiment(settings, tmp_path / "a" / "b")


def test_training_configs_that_compare_nothing_are_refused(base: Path, table: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {base}\ndata: {table}\n")
    settings = experiment(base, table, {"name": "x", "train": str(config)}, {"name": "y"})
    with pytest.raises(JudgeError, match=r"c\.yaml: give eval_data: without it, each seed holds out other rows"):
        run_experiment(settings, tmp_path / "out")
    config.write_text(f"model: {base}\ndata: {table}\nlearning_rat: 1\n")
    with pytest.raises(JudgeError, match="unknown setting 'learning_rat'"):
        run_experiment(settings, tmp_path / "out")
    config.write_text(f"model: {base}\ndata: {table}\neval_data: {table}\n")
    settings = experiment(base, table, *({"name": name, "train": str(config)} for name in "xy"))
    with pytest.raises(JudgeError, match="arms 'x' and 'y' are identical: trained alike"):
        run_experiment(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.training
def test_rows_that_trained_a_judge_are_left_out_for_all_arms(trained: dict[str, Path], tmp_path: Path) -> None:
    bundle, held_out = trained["bundle"], pd.read_csv(trained["held_out.csv"])
    arms = ({"name": "base", "template": "rubric"}, {"name": "judge", "model": str(bundle)})
    settings = experiment(trained["base"], trained["table.csv"], *arms)
    resolved = resolve_arms(settings, tmp_path, {})
    refuse_identical(resolved)
    trained_rows = joined([arm.scorer.trained_rows for arm in resolved if arm.scorer.trained_rows is not None])
    rows = draw_rows(Table.open(trained["table.csv"]), trained_rows, None, 0)
    assert sorted(rows.ids) == sorted(map(str, held_out["id"]))
    assert rows.trained_on == 40 - len(rows)
    assert f"{rows.trained_on} rows that trained a judge are left out for all arms" in rows.notes
    everything = pd.read_csv(trained["table.csv"])
    seen = everything[~everything["id"].isin(held_out["id"])]
    seen.to_csv(tmp_path / "seen.csv", index=False)
    with pytest.raises(JudgeError, match="rows trained a judge of this experiment; compare the arms on rows that none"):
        draw_rows(Table.open(tmp_path / "seen.csv"), trained_rows, None, 0)


def test_drawn_rows_are_whole_prompts_and_more_rows_hold_fewer(tmp_path: Path) -> None:
    table = Table.open(write_table(tmp_path / "t.csv", labelled_rows(60, prompts=20)))
    draws = [set(draw_rows(table, None, wanted, 5).ids) for wanted in (9, 30, 31, 60, 500)]
    assert [len(draw) for draw in draws] == [9, 30, 30, 60, 60]
    for smaller, larger in pairwise(draws):
        assert smaller <= larger
    assert set(draw_rows(table, None, 9, 6).ids) != draws[0]
    nine = draw_rows(table, None, 9, 5)
    assert len(set(nine.groups.tolist())) == 3
    assert list(nine.ids) == sorted(nine.ids)
    # the drawn table gives the same rows, in its own order
    inside = [row for chunk in nine.table.chunks() for row in chunk]
    assert [str(inside[i].id) for i in nine.order] == list(nine.ids)
    assert [inside[i].label for i in nine.order] == nine.labels.tolist()
    with pytest.raises(JudgeError, match="all have the same prompt"):
        draw_rows(table, None, 3, 5)
