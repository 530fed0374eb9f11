"""What the tests of training share: a run with few steps, and a look into what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from judge.engine.protocol import EngineConfig
from judge.engine.transformers import TransformersEngine
from judge.models.bundle import open_model
from judge.models.prompting import choose_template
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from judge.training.settings import parse_train_settings
from judge.training.train import train
from tests.kit.recorded_progress import RecordedProgress

Run = Callable[..., tuple[Path, RecordedProgress]]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> None:
    """Tiny matrices are not worth two threads that wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def run(base: Path, table: Path, tmp_path: Path) -> Run:
    """Train with few steps; keyword arguments are settings."""

    def runner(output: str = "bundle", resume: bool = False, **settings: Any) -> tuple[Path, RecordedProgress]:
        values = {
            "model": str(base),
            "data": [str(table)],
            "template": "minimal",
            "holdout": 0.2,
            "learning_rate": 1e-3,
            "max_steps": 4,
            "evaluations": 2,
            "warmup": 0.0,
            "log_every": 1,
            "lora_rank": 4,
        }
        if settings.get("method") == "full" or settings.get("continue_from"):
            values.pop("lora_rank")
        if settings.get("eval_data") or settings.get("fold"):
            values.pop("holdout")
        events = RecordedProgress()
        train(parse_train_settings({**values, **settings}), tmp_path / output, resume, False, events)
        return tmp_path / output, events

    return runner


def score_by_hand(bundle: Path, table: Path, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and labels of rows, by the scorer's own builder and slow read-out."""
    from judge.models.prompting import choose_budget
    from judge.prompting.builder import PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    model, settings = open_model(bundle), ScoreSettings(readout="transformers")
    builder = PromptBuilder(
        TextEncoder(load_tokenizer(model.path)), choose_template(model, settings), choose_budget(model, settings)
    )
    comparisons = [row for chunk in Table.open(table).chunks() for row in chunk]
    prompts = [builder.build([comparisons[row]])[0].ids.tolist() for row in rows]
    engine = TransformersEngine(
        EngineConfig(
            model=str(model.path),
            adapter=str(model.adapter.path) if model.adapter else None,
            adapter_rank=model.adapter.rank if model.adapter else 0,
            readout="transformers",
            verdict_ids=builder.verdict_ids,
            max_prompt_tokens=builder.budget.max_tokens,
        )
    )
    return engine.read(prompts, lambda _: None), np.array([comparisons[row].label for row in rows])


def held_out_rows(bundle: Path) -> list[int]:
    return [i - 1 for i in pq.read_table(bundle / "held_out.parquet").column("id").to_pylist()]


def adapter_of(bundle: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(bundle / "adapter_model.safetensors"))


def assert_same_adapter(one: Path, two: Path, atol: float) -> None:
    a, b = adapter_of(one), adapter_of(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=atol, err_msg=name)


def no_weights(*_: Any) -> None:
    raise AssertionError("weights were loaded before the mistake was found")
