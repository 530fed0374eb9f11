"""Mistakes of a user: one clear line, exit status 2, nothing written, no engine started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from judge.errors import JudgeError

pytestmark = pytest.mark.slow  # each case starts the program

JUDGE = str(Path(sys.executable).parent / "judge")
TABLE = "id,prompt,response_a,response_b\n1,Hi,Hello,Hey\n"


def refuse(*arguments: object, folder: Path) -> str:
    done = subprocess.run([JUDGE, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-model", "t.csv", "-o", "p.csv"], "no-model: no such model folder"),
        (["MODEL", "gone.csv", "-o", "p.csv"], "gone.csv: cannot be read (No such file or directory)"),
        (["MODEL", "t.csv", "-o", "p.txt"], "p.txt: predictions are written as .parquet or .csv"),
        (["MODEL", "t.csv", "-o", "no/p.csv"], "no/p.csv: there is no folder no to write to"),
        (["MODEL", "t.csv", "-o", "p.csv", "--swap", "some"], "--swap=some: expected off, all, auto or a percentage"),
        (["MODEL", "t.csv", "-o", "p.csv", "--swap", "101%"], "--swap=101%: expected"),
        (["MODEL", "t.csv", "-o", "p.csv", "--template", "side-by-sid"], "did you mean 'side-by-side'?"),
        (
            ["MODEL", "t.csv", "-o", "p.csv", "--max-tokens", "5000"],
            "--max-tokens=5000 is more than the model",
        ),
        (["MODEL", "t.csv", "-o", "p.csv", "--max-tokens", "60"], "a budget of 60 tokens is too small for template"),
        (["MODEL", "t.csv", "-o", "p.csv", "--max-tokens", "0"], "--max-tokens=0: input should be greater than 0"),
        (["MODEL", "t.csv", "-o", "p.csv", "--sample", "t.csv"], "--sample is only used with --submission"),
        (["MODEL", "t.csv", "-o", "p.csv", "--submission", "s.txt"], "s.txt: a submission is a .csv file"),
        (["MODEL", "t.csv", "-o", "p.csv", "--submission", "s.csv", "--floor", "0.5"], "--floor=0.5: expected"),
        (
            ["MODEL", "t.csv", "-o", "p.csv", "--submission", "s.csv", "--sample", "t.csv"],
            "t.csv: unknown kind of submission, columns id, prompt, response_a, response_b",
        ),
        (["MODEL", "t.csv", "-o", "p.csv", "--device", "cuda"], "--device=cuda: "),
        (["MODEL", "t.csv", "-o", "t.csv"], "t.csv: is both the table and the output; give each a file of its own"),
        (["MODEL", "t.csv", "-o", "p.csv", "--submission", "t.csv"], "t.csv: is both the table and the submission"),
        (["MODEL", "t.csv", "-o", "p.csv", "--submission", "p.csv"], "p.csv: is both the output and the submission"),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    tiny_model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    given = [str(tiny_model) if a == "MODEL" else a for a in arguments]
    shown = refuse("score", *given, folder=tmp_path)
    assert shown.startswith("judge: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,prompt,response_a,response_b\n1,Hi,Hello,Hey\n1,Hi,Hello,Hey\n",
            "row 2 (id 1), column 'id' appears twice",
        ),
        (
            'id,prompt,response_a,response_b\n1,Hi,"[""a"", ","[]"\n',
            "row 1 (id 1), column 'response_a' is not a valid JSON",
        ),
        ("id,prompt,response_a,response_b\n", "the table has no rows"),
        ("id,prompt,response_a\n1,Hi,Hello\n", "no column 'response_b'"),
    ],
)
def test_a_mistake_in_the_table_leaves_nothing_behind(
    tiny_model: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    shown = refuse("score", tiny_model, "t.csv", "-o", "p.parquet", "--max-tokens", 700, folder=tmp_path)
    assert message in shown
    assert shown.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_an_output_that_judge_did_not_write_is_not_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "p.csv").write_text("precious")
    shown = refuse("score", tiny_model, "t.csv", "-o", "p.csv", "--max-tokens", 700, folder=tmp_path)
    assert "p.csv exists and is not a finished run of judge; pass --restart to overwrite it" in shown
    assert (tmp_path / "p.csv").read_text() == "precious"


def test_a_sample_of_another_table_is_refused_before_anything_is_scored(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "sample.csv").write_text("id,winner_model_a,winner_model_b,winner_tie\n7,1,0,0\n")
    arguments = ("-o", "p.csv", "--submission", "s.csv", "--sample", "sample.csv", "--max-tokens", 700)
    shown = refuse("score", tiny_model, "t.csv", *arguments, folder=tmp_path)
    assert "the sample submission has 1 ids and the table 1, for example 7 is not in the table" in shown
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample.csv", "t.csv"]


def test_a_folder_of_somebody_elses_is_not_emptied(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "p.csv.parts").mkdir()
    (tmp_path / "p.csv.parts" / "thesis.txt").write_text("precious")
    shown = refuse("score", tiny_model, "t.csv", "-o", "p.csv", "--max-tokens", 700, folder=tmp_path)
    assert "p.csv.parts: holds files that are not of a run" in shown
    assert (tmp_path / "p.csv.parts" / "thesis.txt").read_text() == "precious"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [JUDGE, "score", "no-model", "t.csv", "-o", "p.csv", "--debug"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" in done.stderr
    assert "JudgeError" in done.stderr


def test_unknown_settings_of_the_python_interface_are_named_together(tiny_model: Path) -> None:
    from judge import Judge

    with pytest.raises(JudgeError) as error:
        Judge(tiny_model, tempate="rubric", swap="all", workers=0)
    assert str(error.value) == (
        "workers=0: input should be greater than or equal to 1; unknown setting 'tempate' (did you mean 'template'?)"
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (["prompt", "list"], ["interleaved", "minimal", "rubric", "side-by-side"]),
        (["prompt", "show", "minimal"], ["minimal: ", "{prompt of turn 1}", "Better response:"]),
    ],
)
def test_templates_can_be_listed_and_shown(call: list[str], expected: list[str]) -> None:
    done = subprocess.run([JUDGE, *call], capture_output=True, text=True, check=True)
    for text in expected:
        assert text in done.stdout


def test_the_prompt_of_a_row_is_shown_without_its_terminal_escapes(
    tiny_model: Path, tmp_path: Path, make_table: Callable[[str], Path]
) -> None:
    path = make_table("id,prompt,response_a,response_b\n1,Hi \x1b[31mred,Hello,Hey\n")
    done = subprocess.run(
        [JUDGE, "prompt", "show", "side-by-side", "--model", tiny_model, "--table", path, "--max-tokens", "700"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert "Hi \\x1b[31mred" in done.stdout
    assert "\x1b" not in done.stdout
    assert "verdict token ids: (" in done.stdout
