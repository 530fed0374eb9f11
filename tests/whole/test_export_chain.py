"""From a trained bundle to a 4-bit judge with the commands alone, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.judge_file import read_judge_file
from quantize.drift import default_table

pytestmark = [pytest.mark.training, pytest.mark.engine]
JUDGE = str(Path(sys.executable).parent / "judge")


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([JUDGE, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def merged(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "merged"
    done = run("merge", trained["bundle"], "-o", output)
    assert done.returncode == 0, done.stderr
    assert "the adapter moves a verdict's log-probability by up to" in done.stdout
    return output


def test_quantising_uses_what_trained_the_judge_drift_what_did_not(
    trained: dict[str, Path], merged: Path, tmp_path: Path
) -> None:
    output = tmp_path / "4bit"
    done = run("quantize", merged, "-o", output, "--samples", 9, "--max-log-loss", 5, "--max-flips", 1)
    assert done.returncode == 0, done.stderr
    content = read_judge_file(output)
    assert content is not None
    assert [stage["stage"] for stage in content.stages] == ["merged", "quantized"]
    figures = content.stages[1]
    assert figures["calibration"]["trained_rows_only"] is True
    held_out = pd.read_csv(trained["held_out.csv"])
    drift = json.loads((output / "drift.json").read_text())
    assert drift["rows"] == len(held_out)
    assert [stage["kind"] for stage in drift["stages"]] == ["merged", "4-bit"]
    assert drift["passed"] is True
    assert "PASS" in done.stdout
    assert 0 < drift["stages"][1]["largest_change"] < 0.5
    # the record is what judge score and judge evaluate say of the 4-bit judge
    predictions = tmp_path / "p.parquet"
    assert run("score", output, trained["held_out.csv"], "-o", predictions).returncode == 0
    evaluated = run("evaluate", predictions, trained["held_out.csv"], "--json")
    value = json.loads(evaluated.stdout)["figures"]["all"]["log_loss"]["value"]
    assert value == pytest.approx(drift["stages"][1]["log_loss"]["value"], abs=1e-3)
    # the same comparison with limits that nothing meets
    again = run("drift", merged, output, "--data", trained["table.csv"], "--max-log-loss", 0, "--max-flips", 0)
    strict = json.loads((output / "drift.json").read_text())
    assert again.returncode == (0 if strict["passed"] else 1), again.stderr
    refused = run("evaluate", predictions.with_name("none.parquet"), trained["held_out.csv"])
    assert refused.returncode == 2
    twice = run("quantize", output, "-o", tmp_path / "twice")
    assert twice.returncode == 2
    assert "quantised already" in twice.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if "parts" in path.name or "twice" in path.name) == []


def test_an_adapter_is_to_be_merged_first(trained: dict[str, Path], tmp_path: Path) -> None:
    done = run("quantize", trained["bundle"], "-o", tmp_path / "4bit")
    assert done.returncode == 2
    assert "judge merge" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_drift_without_rows_to_measure_on_is_refused_before_the_work(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    done = run("quantize", trained["base"], "-o", tmp_path / "4bit")
    assert done.returncode == 2
    assert "--drift-data, or --no-drift" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_table_that_is_measured_on_by_default(trained: dict[str, Path], tmp_path: Path) -> None:
    bundle, table = open_model(trained["bundle"]), trained["table.csv"]
    assert default_table(bundle, None) == table
    assert default_table(bundle, [trained["held_out.csv"]]) == trained["held_out.csv"]
    with pytest.raises(JudgeError, match="there are several tables"):
        default_table(bundle, [table, trained["held_out.csv"]])
    with pytest.raises(JudgeError, match="it is gone"):
        default_table(bundle, [tmp_path / "none.csv"])
    with pytest.raises(JudgeError, match="no table is known"):
        default_table(open_model(trained["base"]), None)
