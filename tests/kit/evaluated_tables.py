"""Labelled tables with predictions for them, and their evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from judge.errors import JudgeError
from judge.evaluation.evaluate import Evaluation, evaluate
from judge.evaluation.settings import EvaluateSettings
from judge.predictions.file import StoredPredictions
from judge.tables.table import Table

WINNERS = ("model_a", "model_b", "tie")
QUICK = EvaluateSettings(resamples=100)


def frame_of(count: int, seed: int = 0, prompts: int | None = None) -> pd.DataFrame:
    """A table of `count` rows with a label; each of `prompts` prompts (default: as many as rows) on some of them."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"row-{i}" for i in range(count)],
            "prompt": [f"Question {i % (prompts or count)}?" for i in range(count)],
            "response_a": [f"first {i}" for i in range(count)],
            "response_b": [f"second {i}" for i in range(count)],
            "winner": [WINNERS[k] for k in rng.integers(0, 3, count)],
        }
    )


def stored_for(frame: pd.DataFrame, seed: int = 1, flags: list[int] | None = None) -> StoredPredictions:
    """Random predictions for a table, in its order, with the flags given (default: none set)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([2, 2, 2], len(frame))
    mass = rng.random(len(frame))
    words = np.array(flags or [0] * len(frame), dtype=np.uint32)
    return StoredPredictions("p.parquet", "predictions", [str(i) for i in frame["id"]], p, mass, words)


def table_of(frame: pd.DataFrame) -> Table:
    return Table("t.csv", on_bad_row="placeholder", frame=frame)


def evaluated(frame: pd.DataFrame, stored: StoredPredictions, options: EvaluateSettings = QUICK) -> Evaluation:
    return evaluate(stored, table_of(frame), options)


def error_of(frame: pd.DataFrame, stored: StoredPredictions, options: EvaluateSettings = QUICK) -> str:
    with pytest.raises(JudgeError) as caught:
        evaluated(frame, stored, options)
    assert str(caught.value).isprintable()
    return str(caught.value)
