"""What the tests of plans share: a table, and a function that plans for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judge.hardware import machine
from judge.planning.plan import ScoringPlan, find_machine, make_plan, open_plan_model
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table

MakePlan = Callable[..., ScoringPlan]


def long_rows(count: int) -> list[dict[str, Any]]:
    """Rows of some thousand characters, of many lengths."""
    rows = labelled_rows(count)
    for i, row in enumerate(rows):
        row["response_a"] = json.dumps(["four words and more " * (5 + 37 * i % 400)])
    return rows


@pytest.fixture(scope="package")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("plan") / "rows.csv", long_rows(200))


@pytest.fixture
def small_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of two cores with 64 GiB free and no fast 16-bit arithmetic, whatever machine the tests run on."""
    monkeypatch.setattr(machine, "cpu_cores", lambda: [0, 1])
    monkeypatch.setattr(machine, "available_memory", lambda: 64 * machine.GIB)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(machine, "vllm_has_cpu_kernel", lambda: False)


@pytest.fixture
def plan(tmp_path: Path, rows: Path, small_cpu: None) -> MakePlan:
    """A function from a config, cards, hours and settings to a plan for the table `rows`."""
    del small_cpu

    def make(content: dict[str, Any], gpu: str, hours: float | None = None, **settings: Any) -> ScoringPlan:
        (tmp_path / "config.json").write_text(json.dumps(content))
        model, table = open_plan_model(tmp_path / "config.json"), Table.open(rows)
        deadline = None if hours is None else hours * 3600
        return make_plan(model, table, find_machine(gpu), ScoreSettings(**settings), deadline)

    return make
