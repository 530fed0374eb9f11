"""`judge plan --rehearsal`: the speed that a rehearsal measured, used for the same model on the same machine only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from judge.cli.plan import plan
from judge.errors import JudgeError
from judge.planning.plan import config_digest, find_machine, make_plan, open_plan_model, read_rehearsal
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table

COSTS = {"per_flop": 0.0, "per_token": 1e-3, "per_prompt": 0.0, "spread": 0.1, "inverse": [], "points": 9}


@pytest.fixture
def rehearsal(tmp_path: Path, tiny_model: Path, small_cpu: None) -> Any:
    """A function that writes what `judge rehearse --json` prints of the tiny model on the small CPU."""
    del small_cpu
    config = json.loads((tiny_model / "config.json").read_text())

    def write(**changes: Any) -> Path:
        figures = {
            "model": "tiny",
            "config_sha256": config_digest(config),
            "cards": [],
            "engines": 2,
            "dtype": "float32",
            "time_model": {**COSTS, "source": "measured on this machine with this model"},
            "rows": 200,  # and other figures, which a plan passes over
        }
        path = tmp_path / "rehearsal.json"
        path.write_text(json.dumps({**figures, **changes}))
        return path

    return write


def test_the_measured_speed_of_this_machine_is_used(rows: Path, tiny_model: Path, rehearsal: Any) -> None:
    model, table, settings = open_plan_model(tiny_model), Table.open(rows), ScoreSettings(workers=2)
    found = make_plan(model, table, find_machine("cpu"), settings, rehearsed=read_rehearsal(rehearsal()))
    assert found.outcome.read.value == pytest.approx(found.case.lengths.tokens.sum() * 1e-3)
    assert found.outcome.read.high == pytest.approx(found.outcome.read.value * math.exp(0.1))


def test_a_line_says_where_the_figures_come_from(
    rows: Path, tiny_model: Path, rehearsal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tiny_model, rows, ScoreSettings(workers=2), gpu="cpu", rehearsal=rehearsal())
    expected = "measured with this model by judge rehearse, in 9 timed parts (rehearsal.json)"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config_sha256": "0" * 64}, "the rehearsal was of tiny, and its config.json is not that of"),
        ({"cards": ["Tesla T4"]}, "the rehearsal ran on Tesla T4, and the plan is for CPU, 2 cores"),
        ({"engines": 1}, "the rehearsal ran 1 engine in float32, and the plan has 2 in float32"),
        ({"dtype": "bfloat16"}, "the rehearsal ran 2 engines in bfloat16, and the plan has 2 in float32"),
        ({"engines": "two"}, "expected what judge rehearse --json prints (engines: "),
        ({"time_model": {**COSTS, "per_flop": -1.0}}, "costs below 0"),
    ],
)
def test_a_rehearsal_of_something_else_is_refused(
    rows: Path, tiny_model: Path, rehearsal: Any, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(JudgeError) as error:
        make_plan(
            *(open_plan_model(tiny_model), Table.open(rows), find_machine("cpu"), ScoreSettings(workers=2)),
            rehearsed=read_rehearsal(rehearsal(**changes)),
        )
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_holds_no_rehearsal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    for content in ("[1]", "not JSON", "{}"):
        path.write_text(content)
        with pytest.raises(JudgeError, match="expected what judge rehearse --json prints"):
            read_rehearsal(path)
