"""`judge data mix` as a user runs it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from judge.errors import JudgeError
from judge.tables.split import group_key
from tests.kit.data_commands import Judge, read, row, several, write

# -- mix ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_mix_has_all_rows_with_source_and_weight(judge: Judge, tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "one.csv", [row("1", "p", 0, model_a="m", model_b="n"), row("2", "null", 1)])
    write(
        tmp_path / "two.jsonl",
        [
            {"id": 2, "prompt": ["q", None], "response_a": ["a"], "response_b": "x\r\ny", "p_a": 0.5, "p_b": 0.25}
            | {"p_tie": 0.25, "winner": None, "weight": 3, "source": "web"}
        ],
    )
    status, _ = judge(
        "mix", "-o", f"m.{suffix}", "--source", "one.csv", "--source", "two.jsonl", "--weight", "1", "--weight", "0.5"
    )
    assert status == 0
    first, second, third = read(tmp_path / f"m.{suffix}")
    assert [r.id for r in (first, second, third)] == ["one:1", "one:2", "two:2"]  # 2 is in both
    assert [(r.label, r.target, r.weight, r.source) for r in (first, second, third)] == [
        (0, None, 1.0, "one"),
        (1, None, 1.0, "one"),
        (-1, (0.5, 0.25, 0.25), 1.5, "web"),
    ]
    assert (first.prompt, third.prompt, third.response_b) == (("p",), ("q", None), ("x\r\ny",))
    if suffix == "csv":
        with (tmp_path / "m.csv").open(newline="") as file:
            header, one, *_ = csv.reader(file)
        assert header == [
            *("id", "model_a", "model_b", "prompt", "response_a", "response_b"),
            *("winner_model_a", "winner_model_b", "winner_tie", "p_a", "p_b", "p_tie", "source", "weight"),
        ]
        assert one == ["one:1", "m", "n", '["p"]', '["a"]', '["b"]', "1", "0", "0", "", "", "", "one", "1.0"]


@pytest.mark.parametrize(
    ("one", "two", "ids"),
    [
        ([1, 2], [3], [1, 2, 3]),
        ([1, 2], ["x"], ["1", "2", "x"]),
        (["a"], ["a"], ["one:a", "two:a"]),
        ([1], ["1"], ["one:1", "two:1"]),
    ],
)
def test_ids_stay_unless_they_clash(
    judge: Judge, tmp_path: Path, one: list[Any], two: list[Any], ids: list[Any]
) -> None:
    write(tmp_path / "one.parquet", [row(i, f"p{i}") for i in one])
    write(tmp_path / "two.parquet", [row(i, f"q{i}") for i in two])
    judge("mix", "-o", "m.parquet", "--source", "one.parquet", "--source", "two.parquet")
    assert [r.id for r in read(tmp_path / "m.parquet")] == ids


def test_rows_are_drawn_by_prompt_in_proportion_to_the_weights(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "one.csv", [r | {"prompt": f"p{i // 2}", "weight": 2} for i, r in enumerate(several(60))])
    write(tmp_path / "two.csv", several(40, first=1000))
    arguments = ["--source", "one.csv", "--source", "two.csv", "--weight", "3", "--weight", "1", "--rows", "40"]
    _, lines = judge("mix", "-o", "m.csv", *arguments)
    rows = read(tmp_path / "m.csv")
    assert [sum(r.source == s for r in rows) for s in ("one", "two")] == [30, 10]
    assert {r.weight for r in rows if r.source == "one"} == {2.0}  # the source's weight is in the draw
    groups = [group_key(r) for r in rows if r.source == "one"]
    assert {groups.count(g) for g in groups} == {2}
    assert lines[0].startswith("one: 30 rows of 60, 85.7% of the weight; A ")
    judge("mix", "-o", "again.csv", *arguments)
    judge("mix", "-o", "other.csv", *arguments, "--seed", "1")
    again, other = ((tmp_path / n).read_bytes() for n in ("again.csv", "other.csv"))
    assert (tmp_path / "m.csv").read_bytes() == again != other


def test_verdicts_that_drift_and_shared_prompts_are_reported(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "one.csv", several(90))  # a third are ties
    write(tmp_path / "two.csv", several(90, first=80, ties=9))  # a ninth; ten prompts in common
    _, lines = judge("mix", "-o", "m.csv", "--source", "one.csv", "--source", "two.csv")
    assert lines[:3] == [
        "one: 90 rows of 90, 50.0% of the weight; A 33.3%, B 33.3%, tie 33.3%",
        "two: 90 rows of 90, 50.0% of the weight; A 44.4%, B 44.4%, tie 11.1%",
        "the mix: 180 rows; A 38.9%, B 38.9%, tie 22.2%",
    ]
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings[2] == "warning: tie is 11.1% of two and 33.3% of one; a judge learns such rates"
    assert [w.split(";")[0].split(" and ")[0] for w in warnings] == [
        f"warning: {verdict} is {share} of {name}"
        for name, shares in (("two", ("44.4%", "44.4%", "11.1%")), ("the mix", ("38.9%", "38.9%", "22.2%")))
        for verdict, share in zip(("A", "B", "tie"), shares, strict=True)
    ]
    assert any(line.startswith("two against one: 10 same prompts, ") for line in lines)


def test_sources_with_the_same_verdicts_give_no_warning(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "one.csv", several(90))
    write(tmp_path / "two.csv", several(90, first=500))
    _, lines = judge(
        "mix", "-o", "m.csv", "--source", "one.csv", "--source", "two.csv", "--weight", "1", "--weight", "0.1"
    )
    assert not [line for line in lines if "warning" in line]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--weight 1", "2 sources and 1 weight: give one --weight for each --source, in the same order, or none"),
        ("--weight 1 --weight 0", "weight 0.0 of two.csv: expected a number over 0"),
        ("--weight 1 --weight nan", "weight nan of two.csv: expected a number over 0"),
        ("--rows 1", "--rows 1: expected at least 2, one of each source"),
        (
            "--rows 30 --weight 1 --weight 2",
            "two.csv: has 12 rows, its part of 30 is 20; ask for at most --rows 18, or give it less weight",
        ),
    ],
)
def test_a_mix_that_cannot_be_made_writes_nothing(judge: Judge, tmp_path: Path, arguments: str, error: str) -> None:
    write(tmp_path / "one.csv", several(20))
    write(tmp_path / "two.csv", several(12, first=50))
    with pytest.raises(JudgeError) as caught:
        judge("mix", "-o", "m.csv", "--source", "one.csv", "--source", "two.csv", *arguments.split())
    assert str(caught.value) == error
    assert not (tmp_path / "m.csv").exists()


def test_sources_of_one_name_and_outputs_that_are_inputs_are_refused(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "one.csv", several(3))
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "one.csv", several(3))
    with pytest.raises(JudgeError, match="two sources are named 'one'; rename one"):
        judge("mix", "-o", "m.csv", "--source", "one.csv", "--source", "sub/one.csv")
    with pytest.raises(JudgeError, match=r"one.csv: is one of the inputs"):
        judge("mix", "-o", "one.csv", "--source", "one.csv")
