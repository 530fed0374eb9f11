"""The programs in examples/ run as they stand, on a tiny model and with a few steps of training."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.training, pytest.mark.engine]


def test_the_shell_script_trains_scores_and_evaluates(base: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    quick = ["--epochs", "0.02", "--evaluations", "1", "--holdout", "0.08"]
    command: list[str | Path] = [EXAMPLES / "train_score_evaluate.sh", base, tmp_path / "out", *quick]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^after +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^log loss +\d", done.stdout, re.MULTILINE)
    assert {"judge", "predictions.parquet"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_python_program_trains_scores_and_evaluates(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = runpy.run_path(str(EXAMPLES / "train_score_evaluate.py"))
    program["main"](base, tmp_path / "out", epochs=0.02, evaluations=1, holdout=0.08)
    first, *rest = capsys.readouterr().out.splitlines()[-3:]
    assert re.fullmatch(r"held-out log loss [\d.]+ before, [\d.]+ after", first)
    assert [re.sub(r"[\d.]+", "N", line) for line in rest] == [
        f"{name} N (N to N) on N rows" for name in ("log loss", "accuracy")
    ]
