"""`judge experiment` as a user runs it, with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest

DEMO_TABLE = Path(str(resources.files("judge.demo"))) / "comparisons.csv"


def experiment(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "judge"), "experiment", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_two_templates_are_compared_and_a_third_reads_only_its_prompts(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--readout", "transformers", "--max-tokens", "700", "--resamples", "200", "-o", out)
    done = experiment(tiny_model, DEMO_TABLE, "--template", "minimal", "--template", "rubric", *options)
    assert done.returncode == 0, done.stderr
    assert "24 rows in 24 prompt groups, the same for every arm" in done.stderr
    assert "cannot be shown with 80% power" in " ".join(done.stderr.split())
    assert "undecided" in done.stdout or "worse" in done.stdout or "better" in done.stdout
    frame = pd.read_parquet(out / "results.parquet")
    assert len(frame) == 48
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((out / "experiment.json").read_text(encoding="utf-8"))["state"] != "unfinished"

    more = ("--template", "minimal", "--template", "rubric", "--template", "side-by-side")
    done = experiment(tiny_model, DEMO_TABLE, *more, *options)
    assert done.returncode == 0, done.stderr
    again = pd.read_parquet(out / "results.parquet")
    assert len(again) == 72
    columns = ["p_a", "p_b", "p_tie"]
    assert again[columns][:48].to_numpy().tolist() == frame[columns].to_numpy().tolist()
    cost = done.stdout[done.stdout.index("tokens/row") :]
    assert cost.count("cached") == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("MODEL", "TABLE", "--template", "minimal", "--template", "minimal"), "--template minimal is given twice"),
        (("MODEL", "TABLE", "--template", "minimal", "--template", "rubric", "--baseline", "x"), "baseline"),
        (("nothing.yaml",), "nothing.yaml"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    known = {"MODEL": str(tiny_model), "TABLE": str(DEMO_TABLE)}
    done = experiment(*(known.get(word, word) for word in arguments), "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("judge: ")
    assert error in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "results.parquet").exists()
