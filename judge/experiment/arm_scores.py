"""What one arm of an experiment said of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.prompting.template import Template
from judge.prompting.verdict import Float


@dataclass(frozen=True)
class ArmScores:
    """The scores of one arm, in the order of the experiment's rows (by id as text).

    An arm that is trained has one of these for each training seed, all with the same name.

    Attributes:
        name: the arm's name.
        model: the name of its model's folder.
        template: its template.
        settings: what decides its numbers: digests of the model, template and prompt, budget, swap, calibration.
        p: probabilities of A, B and tie, shape (rows, 3): calibrated where the arm is, uniform where the engine gave
            no number, NaN where the arm had been dropped before it came to the row.
        first: probabilities with A shown first, as read, shape (rows, 3); NaN where not read.
        second: with B shown first, mapped back to the table's A and B, shape (rows, 3); NaN where not read.
        mass: verdict mass of the first order, shape (rows,); NaN where not known.
        tokens: prompt tokens of all orders that were read, int64, shape (rows,).
        cut: whether the prompt lost something to the budget, shape (rows,).
        flags: `judge.tables.comparison.Flag`, uint32, shape (rows,).
        read: rows that were scored at all, shape (rows,); racing may stop an arm early.
        rows_read: rows of which a prompt was read in this run, and not taken from the cache.
        tokens_read: prompt tokens that were read in this run.
        seconds: the time that this reading took.
        seed: the seed that its judge was trained with, None where nothing was trained.
    """

    name: str
    model: str
    template: Template
    settings: dict[str, Any]
    p: Float
    first: Float
    second: Float
    mass: Float
    tokens: NDArray[np.int64]
    cut: NDArray[np.bool_]
    flags: NDArray[np.uint32]
    read: NDArray[np.bool_]
    rows_read: int
    tokens_read: int
    seconds: float
    seed: int | None = None
