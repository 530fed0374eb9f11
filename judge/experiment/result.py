"""What an experiment finds: what each arm says of every row, what it costs, and how it differs from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.judged_rows import JudgedRows
from judge.experiment.settings import ExperimentSettings
from judge.experiment.statistics import Difference
from judge.prompting.template import Template
from judge.prompting.verdict import Float, unread
from judge.stats.metrics import MEASURES, Metric
from judge.tables.comparison import Flag


@dataclass(frozen=True)
class ArmScores:
    """What one arm says of every row, in the order of the experiment's rows (by id as text).

    An arm that is trained has one of these for each training seed, all with the same name.

    Attributes:
        settings: what decides its numbers: digests of the model, template and prompt, budget, swap, calibration.
        p: probabilities of A, B and tie, shape (rows, 3): calibrated where the arm is, uniform where the engine gave
            no number.
        first: probabilities with A shown first, as read, shape (rows, 3); NaN where not read.
        second: with B shown first, mapped back to the table's A and B, shape (rows, 3); NaN where not read.
        verdict_mass: of the first order, shape (rows,); NaN where not known.
        tokens: prompt tokens of all orders that were read, int64, shape (rows,).
        cut: whether the prompt lost something to the budget, shape (rows,).
        flags: `judge.tables.comparison.Flag`, uint32, shape (rows,).
        rows_read: rows of which this run read a prompt instead of taking it from the cache.
        tokens_read: prompt tokens that this run read.
        seconds: the time that this reading took.
        seed: the seed that its judge was trained with, None where nothing was trained.
    """

    name: str
    template: Template
    settings: dict[str, Any]
    p: Float
    first: Float
    second: Float
    verdict_mass: Float
    tokens: NDArray[np.int64]
    cut: NDArray[np.bool_]
    flags: NDArray[np.uint32]
    rows_read: int
    tokens_read: int
    seconds: float
    seed: int | None = None

    @property
    def not_scored(self) -> NDArray[np.bool_]:
        """The rows for which the engine gave no number, shape (rows,)."""
        without: NDArray[np.bool_] = (self.flags & np.uint32(Flag.NOT_SCORED)) != 0
        return without

    def row_scores(self, labels: NDArray[np.int64], metric: Metric) -> Float:
        """Return the metric of each row, shape (rows,); NaN where the engine gave no number."""
        return np.where(self.not_scored, np.nan, MEASURES[metric].scores(self.p, labels))


def metric_scores(arms: Sequence[ArmScores], labels: NDArray[np.int64], metric: Metric) -> Float:
    """Return the metric of an arm in each row; NaN where the engine gave no number.

    Args:
        arms: its scores: one, or one for each training seed.
        labels: 0, 1 or 2, shape (rows,).

    Returns:
        Shape (rows,), or (seeds, rows) if the arm is trained.
    """
    scores = np.stack([arm.row_scores(labels, metric) for arm in arms])
    return scores[0] if arms[0].seed is None else scores


@dataclass(frozen=True)
class Cost:
    """What an arm costs, over all rows and over its training seeds.

    Attributes:
        tokens_per_row: prompt tokens of a row, all orders together, on average.
        rows_per_second: the speed at which this run read the arm's prompts; None where all came from the cache.
        cut_share: share of the rows that lost something to the budget.
        median_verdict_mass: None where the read-out does not know it.
        consistency: share of the rows read in both orders whose verdict is the same in both; None where no row was
            read in both.
        both_share: share of the rows that were read in both orders.
        not_scored: rows for which the engine gave no number.
    """

    arm: str
    tokens_per_row: float
    rows_per_second: float | None
    cut_share: float
    median_verdict_mass: float | None
    consistency: float | None
    both_share: float
    not_scored: int


def cost_of(arms: Sequence[ArmScores]) -> Cost:
    """Return the cost of an arm from its scores: one, or one for each training seed."""
    tokens_per_row = float(np.concatenate([arm.tokens for arm in arms]).mean())
    # by tokens: the cache may have had one order of a row and not the other
    tokens_read, seconds = sum(arm.tokens_read for arm in arms), sum(arm.seconds for arm in arms)
    is_timed = tokens_read and seconds > 0 and tokens_per_row > 0
    mass = np.concatenate([arm.verdict_mass for arm in arms])
    first, second = (np.concatenate([getattr(arm, order) for arm in arms]) for order in ("first", "second"))
    both = ~unread(first) & ~unread(second)
    same_verdict = first[both].argmax(axis=1) == second[both].argmax(axis=1)
    known_mass = mass[np.isfinite(mass)]
    return Cost(
        arm=arms[0].name,
        tokens_per_row=tokens_per_row,
        rows_per_second=tokens_read / seconds / tokens_per_row if is_timed else None,
        cut_share=float(np.concatenate([arm.cut for arm in arms]).mean()),
        median_verdict_mass=float(np.median(known_mass)) if len(known_mass) else None,
        consistency=float(same_verdict.mean()) if len(same_verdict) else None,
        both_share=float(both.mean()),
        not_scored=sum(int(arm.not_scored.sum()) for arm in arms),
    )


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment found.

    Attributes:
        settings: how it was done.
        table: name of the table.
        rows: the rows that all arms judged, in the order of their ids as text; `p`, `first`, `second`,
            `verdict_mass`, `cut` and `flags` are the baseline's (of its first seed, where it is trained).
        arms: in the order of the settings; an arm that is trained has one entry for each seed, next to each other.
        differences: of each arm but the baseline, in the order of the settings.
        planned_smallest: the difference that was foreseen to show at the power wanted, before anything was read.
        warnings: what may make the comparison unfair or uncertain, in the user's words.
        costs: one for each arm, in the order of the settings.
        record: what `experiment.json` holds: settings, digests and versions, all that is needed to repeat it.
        folder: where the experiment is kept.
    """

    settings: ExperimentSettings
    table: str
    rows: JudgedRows
    arms: list[ArmScores]
    differences: list[Difference]
    planned_smallest: float
    warnings: list[str]
    costs: list[Cost]
    record: dict[str, Any]
    folder: Path

    @property
    def names(self) -> list[str]:
        """The names of the arms, each once, in the order of the settings."""
        return [arm.name for arm in self.settings.arms]

    def scores_of(self, name: str) -> list[ArmScores]:
        """Return the scores of an arm: one entry, or one for each training seed."""
        return [arm for arm in self.arms if arm.name == name]
