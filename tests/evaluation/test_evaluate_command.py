"""What `judge evaluate` prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.cli.evaluate import text_lines
from tests.kit.evaluated_tables import evaluated, frame_of, stored_for

pytestmark = pytest.mark.slow


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
