"""`judge data` as a user runs it: output, files and exit status."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from judge.cli.main import app, main
from judge.errors import JudgeError
from judge.tables.comparison import Comparison
from judge.tables.split import group_key
from judge.tables.table import Labels, Table
from judge.tables.table_writing import write_records

Row = dict[str, Any]
VERDICTS = ["model_a", "model_b", "tie"]
LONG = "Please write a short poem about the river and the cloud above the city"


def row(row_id: Any, prompt: str, verdict: int = 0, a: str = "a", b: str = "b", **more: Any) -> Row:
    return {"id": row_id, "prompt": prompt, "response_a": a, "response_b": b, "winner": VERDICTS[verdict], **more}


def write(path: Path, rows: list[Row]) -> Path:
    write_records(path, list(rows[0]), rows)
    return path


def question(number: int) -> str:
    """A prompt that is no near-duplicate of another number's."""
    return f"{10007 * number * number}?"


def several(count: int, first: int = 0, ties: int = 3) -> list[Row]:
    """Rows with different prompts; every `ties`-th is a tie."""
    return [
        row(first + i, question(first + i), 2 if i % ties == 0 else i % 2, a=f"a{i}", b=f"b{i}") for i in range(count)
    ]


def read(path: Path, labels: Labels = "required") -> list[Comparison]:
    return [r for chunk in Table.open(path, labels=labels).chunks() for r in chunk]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """Run `judge data …` in the test's folder; its exit status and lines. A `JudgeError` is raised as it is."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = CliRunner().invoke(app, ["data", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output.splitlines()

    return run


Judge = Callable[..., tuple[int, list[str]]]


# -- validate ----------------------------------------------------------------------------------------------


def test_a_valid_table_exits_0(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [row(1, "p", 0), row(2, "P ", 1, a="c"), row(3, "q", 2), row(4, "r", 2)])
    assert judge("validate", "t.csv") == (
        0,
        ["t.csv: 4 rows, 3 prompts; A 25.0%, B 25.0%, tie 50.0%", "  no flags", "valid"],
    )


def test_what_is_unusual_is_noted_and_a_contradiction_is_a_problem(judge: Judge, tmp_path: Path) -> None:
    rows = [
        row(1, "p", 0, weight=0.5),
        row(2, " P", 1, a="B", b="a", weight=1.0),  # a copy with A and B exchanged: the same verdict
        row(3, "p", 1, weight=1.0),  # a copy with another verdict
        row(4, "q", 0, a="", b="", weight=2.0),
    ]
    write(tmp_path / "t.jsonl", rows)
    assert judge("validate", "t.jsonl") == (
        1,
        [
            "t.jsonl: 4 rows, 2 prompts; A 50.0%, B 50.0%, tie 0.0%",
            "  weights 0.5 to 2, empty_text 1, identical 1",
            "note: t.jsonl: no row has the verdict tie",
            "note: t.jsonl: 1 row with a winner between two identical responses",
            "note: 2 rows with the texts of an earlier row: id 2, id 3",
            "problem: 3 rows with one text and several verdicts: id 1, id 2, id 3",
            "not valid (1 problem)",
        ],
    )


def test_copies_in_two_tables_are_named_with_their_table(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [row("x", "p", 2)])
    write(tmp_path / "b.jsonl", [row("\x1b[31m", "p", 0), row(f"{'y' * 99}", "q", 0)])
    status, lines = judge("validate", "a.csv", "b.jsonl")
    assert status == 1
    assert "note: 1 row with the texts of an earlier row: b.jsonl id \\x1b[31m" in lines
    assert "problem: 2 rows with one text and several verdicts: a.csv id x, b.jsonl id \\x1b[31m" in lines


def test_an_order_that_gives_verdicts_away_is_noted(judge: Judge, tmp_path: Path) -> None:
    def notes(b_wins: int) -> list[str]:
        rows = [row(i, f"p{i}", 1 if i < b_wins else 0, a=f"a{i}") for i in range(100)] + [row(100, "t", 2)]
        write(tmp_path / "t.csv", rows)
        return [line for line in judge("validate", "t.csv")[1] if "gives verdicts away" in line]

    assert notes(80) == [
        "note: t.csv: A wins 20 times and B 80: the order gives verdicts away; exchange A and B in half of the rows"
    ]
    assert notes(60) == []


def test_a_table_of_weights_of_0_is_a_problem(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [row(i, f"p{i}", i % 3, weight=0) for i in range(3)])
    status, lines = judge("validate", "t.csv")
    assert (status, lines[-2:]) == (
        1,
        ["problem: t.csv: every weight is 0, so nothing would be learnt", "not valid (1 problem)"],
    )


def test_a_table_that_training_cannot_read_exits_2_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("id,prompt,response_a,response_b,winner\n5,p,a,b,gpt-4\n")
    monkeypatch.setattr("sys.argv", ["judge", "data", "validate", str(tmp_path / "t.csv")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err == (
        "judge: t.csv: row 1 (id 5): winner is 'gpt-4', expected one of model_a, model_b, tie, tie (bothbad)\n"
    )


def test_a_table_that_is_given_twice_is_refused(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", several(3))
    with pytest.raises(JudgeError, match=r"t.csv: is given twice"):
        judge("validate", "t.csv", str(tmp_path / "t.csv"))


# -- split -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_split_writes_every_row_once_with_all_its_columns(judge: Judge, tmp_path: Path, suffix: str) -> None:
    rows = [r | {"prompt": question(i // 2), "note": f"=1+{i}"} for i, r in enumerate(several(60))]
    write(tmp_path / f"t.{suffix}", rows)
    status, lines = judge("split", f"t.{suffix}", "-o", "parts", "--holdout", "0.2")
    assert status == 0
    assert lines == [
        "train: 48 rows, 24 prompts; A 33.3%, B 33.3%, tie 33.3%",
        "heldout: 12 rows, 6 prompts; A 33.3%, B 33.3%, tie 33.3%",
        "heldout against train: 0 same prompts, 0 near-duplicate prompts; 0 of 12 rows (0.0%)",
    ]
    train, held = (read(tmp_path / "parts" / f"{name}.{suffix}") for name in ("train", "heldout"))
    whole = read(tmp_path / f"t.{suffix}")
    assert sorted([*train, *held], key=lambda r: int(r.id)) == whole
    assert {group_key(r) for r in train}.isdisjoint(group_key(r) for r in held)
    if suffix == "csv":
        lines_of = [(tmp_path / p).read_text().splitlines() for p in ("t.csv", "parts/train.csv", "parts/heldout.csv")]
        assert sorted(lines_of[0][1:]) == sorted(lines_of[1][1:] + lines_of[2][1:])
        assert lines_of[0][0] == lines_of[1][0] == lines_of[2][0]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", several(50))
    for folder, seed in [("a", "0"), ("b", "0"), ("c", "1")]:
        judge("split", "t.csv", "-o", folder, "--seed", seed)
    a, b, c = ((tmp_path / folder / "heldout.csv").read_bytes() for folder in "abc")
    assert a == b != c


def test_folds_of_two_tables_keep_shared_prompts_together_and_are_compared(judge: Judge, tmp_path: Path) -> None:
    first = several(30)
    second = [r | {"id": f"x{i}", "response_a": "other", "source": "web"} for i, r in enumerate(first[:10])]
    second.append(row("near", LONG, 0, source="web"))
    first.append(row(99, LONG + "!", 1))
    write(tmp_path / "one.csv", first)
    write(tmp_path / "two.jsonl", second)
    status, lines = judge("split", "one.csv", "two.jsonl", "-o", "parts", "--folds", "3", "--suffix", "parquet")
    assert status == 0
    fold_of: dict[int, set[int]] = {}
    for fold in (1, 2, 3):
        for name in ("one", "two"):
            for r in read(tmp_path / "parts" / f"fold-{fold}-{name}.parquet"):
                fold_of.setdefault(group_key(r), set()).add(fold)
    assert len(fold_of) == 32
    assert {len(folds) for folds in fold_of.values()} == {1}
    assert [line.split(":")[0] for line in lines[:3]] == ["fold-1", "fold-2", "fold-3"]
    assert "source web against source one: 10 same prompts, 1 near-duplicate prompt; 11 of 11 rows (100.0%)" in lines
    near = [fold_of[group_key(Comparison(0, (text,), (), ()))] for text in (LONG, LONG + "!")]
    reported = sum("1 near-duplicate prompt" in line for line in lines if " against the others" in line)
    assert reported == (0 if near[0] == near[1] else 2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--holdout", "1.5"], "hold-out share 1.5: expected a number between 0 and 1"),
        (["--folds", "1"], "1 folds: expected at least 2"),
        (["--folds", "4"], "3 groups of rows with the same first prompt cannot be divided into 4 parts"),
        (["--folds", "2", "--holdout", "0.1"], "--holdout and --folds: give one of them"),
    ],
)
def test_a_split_that_cannot_be_made_writes_nothing(
    judge: Judge, tmp_path: Path, arguments: list[str], error: str
) -> None:
    write(tmp_path / "t.csv", several(3))
    with pytest.raises(JudgeError, match=error):
        judge("split", "t.csv", "-o", "parts", *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_a_split_never_overwrites_its_input_and_does_not_mix_with_another_split(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "train.csv", several(9))
    (tmp_path / "training.md").write_text("mine")
    with pytest.raises(JudgeError, match=r"train.csv: is one of the inputs, which are never overwritten"):
        judge("split", "train.csv", "-o", ".")
    (tmp_path / "train.csv").rename(tmp_path / "t.csv")
    assert judge("split", "t.csv", "-o", ".", "--folds", "3")[0] == 0
    assert judge("split", "t.csv", "-o", ".", "--folds", "3")[0] == 0  # again, the same
    with pytest.raises(JudgeError, match=r"fold-3.csv: is of another split; move it away, or give another folder"):
        judge("split", "t.csv", "-o", ".", "--folds", "2")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "t.csv", several(9))
    with pytest.raises(JudgeError, match="two tables have the same name"):
        judge("split", "t.csv", "sub/t.csv", "-o", "parts")
    with pytest.raises(JudgeError, match=r"training.md: is a file, expected a folder"):
        judge("split", "t.csv", "-o", "training.md")


# -- dedupe ------------------------------------------------------------------------------------------------


COPIES = [
    row(1, "p", 0),
    row(2, "q", 0),
    row(3, "P", 1, a="b", b="a"),  # a swapped copy of 1 with its verdict
    row(4, LONG, 2),
    row(5, LONG + "!", 2),  # a near-copy of 4
    row(6, LONG + "!", 2, a="other"),
    row(7, "q", 1),  # contradicts 2
]


@pytest.mark.parametrize(
    ("options", "ids", "report"),
    [
        (
            [],
            "12456",
            ["copies: 2", "2 rows with one text and several verdicts, the first of each is kept: id 2, id 7"],
        ),
        (
            ["--conflicts", "drop"],
            "1456",
            ["copies: 2", "2 rows with one text and several verdicts, all of them are dropped: id 2, id 7"],
        ),
        (
            ["--near"],
            "1246",
            [
                "copies: 2",
                "near-copies: 1",
                "2 rows with one text and several verdicts, the first of each is kept: id 2, id 7",
            ],
        ),
    ],
)
def test_copies_are_taken_out(judge: Judge, tmp_path: Path, options: list[str], ids: str, report: list[str]) -> None:
    write(tmp_path / "t.csv", COPIES)
    status, lines = judge("dedupe", "t.csv", "-o", "out.csv", *options)
    assert status == 0
    assert "".join(str(r.id) for r in read(tmp_path / "out.csv")) == ids
    assert lines[0].startswith(f"7 rows, of which {len(ids)} stay; A ")
    assert lines[1:] == report


def test_a_table_without_copies_stays_what_it_is(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", several(20))
    for options in ([], ["--near"]):
        judge("dedupe", "t.csv", "-o", "out.csv", *options)
        assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()


def test_near_copies_of_a_copy_go_too_and_their_verdicts_count(judge: Judge, tmp_path: Path) -> None:
    rows = [row(1, LONG, 0), row(2, LONG + "!", 1), row(3, LONG + "!", 1), row(4, LONG, 0)]
    write(tmp_path / "t.jsonl", rows)
    _, lines = judge("dedupe", "t.jsonl", "-o", "out.jsonl", "--near")
    assert [r.id for r in read(tmp_path / "out.jsonl")] == [1]
    assert lines[1:3] == ["copies: 2", "near-copies: 1"]
    assert lines[3].startswith("4 rows with one text and several verdicts")


def test_a_table_of_contradictions_cannot_be_emptied(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [row(1, "p", 0), row(2, "p", 1)])
    with pytest.raises(JudgeError, match=r"t.csv: every row has a copy with another verdict; nothing would be left"):
        judge("dedupe", "t.csv", "-o", "out.csv", "--conflicts", "drop")
    with pytest.raises(JudgeError, match="is one of the inputs"):
        judge("dedupe", "t.csv", "-o", "t.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


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


# -- describe ----------------------------------------------------------------------------------------------


FRENCH = "Pouvez-vous traduire cette longue phrase en anglais, s'il vous plaît ?"


def test_the_figures_of_a_table_are_what_is_in_it(judge: Judge, tmp_path: Path, tiny_model: Path) -> None:
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    rows: list[Row] = [
        {
            "id": 1,
            "prompt": [LONG, "And now a longer one"],
            "response_a": ["a" * 10, None],
            "response_b": ["b" * 20, "c"],
        },
        {"id": 2, "prompt": [FRENCH], "response_a": ["a"], "response_b": ["bb"]},
        {"id": 3, "prompt": ["Hi"], "response_a": ["same"], "response_b": ["same"]},
        {"id": 4, "prompt": [None], "response_a": ["a"], "response_b": ["b"]},
    ]
    for r, winner in zip(rows, ["model_b", "model_a", "tie", None], strict=True):
        r["winner"] = winner
    write(tmp_path / "t.jsonl", rows)
    status, lines = judge("describe", "t.jsonl", "--model", str(tiny_model), "--json")
    assert status == 0
    found = json.loads("\n".join(lines))
    assert (found["rows"], found["prompts"], found["labelled"]) == (4, 4, 3)
    assert found["verdicts"] == {"A": 1, "B": 1, "tie": 1}
    assert found["longer_response_wins"] == 0.5  # of the two decided rows
    assert found["turns"] == {"1": 3, "2": 1}
    assert found["flags"] == {"identical": 1, "null_turn": 2}
    assert found["languages"] == {"too short": 2, "en": 1, "fr": 1}
    lengths = np.array([[len(LONG) + 20, 10, 21], [len(FRENCH), 1, 2], [2, 4, 4], [0, 1, 1]])
    encoder = TextEncoder(load_tokenizer(tiny_model))

    def tokens(turns: list[str | None]) -> int:
        return sum(len(ids) for ids in encoder.user_text([t or "" for t in turns]))

    in_tokens = np.array([[tokens(r[c]) for c in ("prompt", "response_a", "response_b")] for r in rows])
    for unit, table in (("characters", lengths), ("tokens", in_tokens)):
        whole = np.column_stack([table, table.sum(axis=1)])
        for part, column in zip(("prompt", "response_a", "response_b", "comparison"), whole.T, strict=True):
            assert found[unit][part]["mean"] == column.mean()
            assert found[unit][part]["max"] == column.max()
            assert found[unit][part]["p50"] == np.median(column)
            assert found[unit][part]["p95"] == pytest.approx(np.quantile(column, 0.95))
    assert found["tokens_over"] == {"1024": 0.0, "2048": 0.0, "4096": 0.0}


def test_the_share_of_long_comparisons_is_counted_in_tokens(judge: Judge, tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(i, "x y z " * n) for i, n in enumerate([1, 3000, 3000, 30_000])]
    write(tmp_path / "t.csv", rows)
    over = json.loads("\n".join(judge("describe", "t.csv", "--model", str(tiny_model), "--json")[1]))["tokens_over"]
    assert over == {"1024": 0.75, "2048": 0.75, "4096": 0.75}


def test_cells_that_cannot_be_read_are_counted(judge: Judge, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [row(1, "['python']"), row(2, "fine")])
    assert json.loads("\n".join(judge("describe", "t.csv", "--json")[1]))["flags"] == {"bad_cell": 1}


def test_a_language_is_guessed_where_there_is_enough_to_guess_from(judge: Judge, tmp_path: Path) -> None:
    prompts = [LONG, FRENCH, "日本で一番高い山は何ですか。", "Bonjour le monde", " ", "你好"]
    write(tmp_path / "t.csv", [row(i, prompt) for i, prompt in enumerate(prompts)])
    found = json.loads("\n".join(judge("describe", "t.csv", "--json")[1]))
    assert found["languages"] == {"too short": 3, "en": 1, "fr": 1, "ja": 1}


def test_figures_are_shown_as_lines_and_a_table_without_verdicts_is_described_too(judge: Judge, tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k != "winner"} for r in [row(1, LONG), row(2, "Hi")]]
    write(tmp_path / "t.csv", rows)
    assert judge("describe", "t.csv") == (
        0,
        [
            "t.csv: 2 rows, 2 prompts",
            "turns       1 100.0%",
            "flags       none",
            "languages   en 50.0%, too short 50.0%",
            "characters       mean      p50      p90      p95      p99      max",
            "  prompt           36       36       63       67       69       70",
            "  response_a        1        1        1        1        1        1",
            "  response_b        1        1        1        1        1        1",
            "  comparison       38       38       65       69       71       72",
        ],
    )


# -- the page ----------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_print_what_it_shows(judge: Judge, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "demo").symlink_to(root / "judge" / "demo")
    page = (root / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n\$ judge data (.*?)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    for command, shown in blocks:
        assert judge(*command.split()) == (0, shown.splitlines()), command
