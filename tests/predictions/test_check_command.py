"""`judge check` as a user runs it: the console script, its output and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TABLE = "id,prompt,response_a,response_b\n10,p,a,b\n20,p,a,b\n30,['unreadable,a,b\n"
HEADER = "id,winner_model_a,winner_model_b,winner_tie\n"
GOOD = HEADER + "10,0.5,0.25,0.25\n20,0.1,0.2,0.7\n30,0.3,0.3,0.4\n"


def judge(folder: Path, *arguments: str) -> tuple[int, list[str], list[str]]:
    """Run the installed command in `folder`; return its exit status and the lines of its two outputs."""
    command = Path(sys.executable).parent / "judge"
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def check(folder: Path, submission: str, table: str = TABLE) -> tuple[int, list[str], list[str]]:
    (folder / "s.csv").write_text(submission, encoding="utf-8")
    (folder / "t.csv").write_text(table, encoding="utf-8")
    return judge(folder, "check", "s.csv", "t.csv")


def test_a_valid_submission_exits_0(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD) == (0, ["s.csv: valid, 3 rows"], [])


def test_notes_do_not_make_a_submission_invalid(tmp_path: Path) -> None:
    status, out, err = check(tmp_path, HEADER + "30,0.5,0.5,0\n20,0.1,0.2,0.7\n10,0.3,0.3,0.4\n")
    assert (status, err) == (0, [])
    assert out == [
        "note: the rows are in another order than the table's",
        "note: 1 row with a probability of 0, which costs 36 nats if wrong",
        "s.csv: valid, 3 rows",
    ]


def test_an_invalid_submission_exits_1_with_one_line_per_problem(tmp_path: Path) -> None:
    status, out, err = check(tmp_path, HEADER + "10,0.5,0.5,0.5\n20,inf,-inf,0.7\n\x1b[31m,0.3,0.3,0.4\n")
    assert (status, err) == (1, [])
    assert out == [
        "problem: 1 row of the table missing: id 30",
        "problem: 1 row not in the table: id \\x1b[31m",
        "problem: 1 row with a value that is missing, NaN, infinite or no number: id 20",
        "problem: 1 row with probabilities that do not sum to 1: id 10",
        "s.csv: not valid (4 problems)",
    ]


@pytest.mark.parametrize(
    ("submission", "table", "error"),
    [
        ("", TABLE, "judge: s.csv: the file is empty"),
        (
            GOOD,
            "id,prompt,response_a\n1,p,a\n",
            "judge: t.csv: no column 'response_b' (did you mean 'response_a'?); the",
        ),
        (
            GOOD,
            TABLE + "10,p,a,b\n",
            "judge: t.csv: row 4 (id 10), column 'id' appears twice (first in row 1); ids must",
        ),
        (GOOD + "1,2\n", TABLE, "judge: s.csv: the row that ends in line 5 has 2 fields, the header 4; texts"),
    ],
)
def test_what_cannot_be_read_exits_2_with_one_line_on_standard_error(
    tmp_path: Path, submission: str, table: str, error: str
) -> None:
    status, out, err = check(tmp_path, submission, table)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(error)


def test_missing_files_exit_2_with_one_line_on_standard_error(tmp_path: Path) -> None:
    check(tmp_path, GOOD)
    for arguments in (("no.csv", "t.csv"), ("s.csv", "no.csv")):
        assert judge(tmp_path, "check", *arguments) == (
            2,
            [],
            ["judge: no.csv: cannot be read (No such file or directory)"],
        )
