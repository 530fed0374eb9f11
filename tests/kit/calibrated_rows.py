"""Simulated predictions whose labels follow a known calibration of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from judge.models.calibration import Calibration
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, probabilities
from judge.tables.table import Table

WINNERS = ("model_a", "model_b", "tie")
AS_IT_IS = Calibration(method="temperature", scale=(1, 1, 1), bias=(0, 0, 0))


def drawn(p: Float, seed: int) -> NDArray[np.int64]:
    """Draw a label for each row from its probabilities, shape (rows,)."""
    u = np.random.default_rng([seed, 1]).random(len(p))
    labels: NDArray[np.int64] = (u[:, np.newaxis] > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    return labels


def frame_of(labels: NDArray[np.integer], prompts: int | None = None) -> pd.DataFrame:
    """A table with these labels (-1: none); each of `prompts` prompts (default: as many as rows) on some rows."""
    rows = len(labels)
    return pd.DataFrame(
        {
            "id": [f"row-{i}" for i in range(rows)],
            "prompt": [f"Question {i % (prompts or rows)}?" for i in range(rows)],
            "response_a": "yes",
            "response_b": "no",
            "winner": [None if k < 0 else WINNERS[k] for k in labels],
        }
    )


def stored_for(frame: pd.DataFrame, first: Float, second: Float | None = None) -> StoredPredictions:
    """Predictions with these log-probabilities, in the table's order; nothing trained the judge."""
    p = probabilities(first) if second is None else (probabilities(first) + probabilities(second)) / 2
    flags = np.zeros(len(frame), dtype=np.uint32)
    ids = [str(i) for i in frame["id"]]
    return StoredPredictions("p.parquet", "predictions", ids, p, None, flags, first, second)


def table_of(frame: pd.DataFrame) -> Table:
    return Table("t.csv", on_bad_row="placeholder", frame=frame)


def logprobs(rows: int, seed: int) -> Float:
    """Log-probabilities of a judge that is sure of some rows and not of others, shape (rows, 3)."""
    return np.log(probabilities(1.3 * np.random.default_rng([seed, 0]).normal(size=(rows, 3))))


def simulated(
    rows: int, truth: Calibration = AS_IT_IS, seed: int = 0, prompts: int | None = None
) -> tuple[StoredPredictions, pd.DataFrame]:
    """Predictions in one order, and a table whose labels are drawn from their calibration."""
    first = logprobs(rows, seed)
    p = truth.apply(probabilities(first), np.full((rows, 3), np.nan))
    frame = frame_of(drawn(p, seed), prompts)
    return stored_for(frame, first), frame
