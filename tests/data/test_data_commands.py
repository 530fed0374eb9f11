"""`judge data validate`, `split` and `dedupe` as a user runs them: output, files and exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from judge.cli.main import main
from judge.errors import JudgeError
from judge.tables.comparison import Comparison
from judge.tables.split import group_key
from tests.kit.data_commands import LONG, Judge, question, read, row, several, write

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


def test_a_split_overwrites_neither_its_input_nor_another_split(judge: Judge, tmp_path: Path) -> None:
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
