"""What an experiment found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.evaluation.judged_rows import JudgedRows
from judge.experiment.arm_scores import ArmScores
from judge.experiment.settings import ExperimentSettings

if TYPE_CHECKING:
    from judge.experiment.statistics import Difference


@dataclass(frozen=True)
class Cost:
    """What an arm costs, beside how well it judges; over the rows that it read, and over its training seeds.

    Attributes:
        arm: its name.
        tokens_per_row: prompt tokens of a row, all orders together, on average.
        rows_per_second: at the speed at which this run read the arm's prompts; None where all came from the cache.
        cut_share: share of the rows that lost something to the budget.
        median_mass: median verdict mass, None where the read-out does not know it.
        consistency: share of the rows read in both orders whose verdict is the same in both; None where there is none.
        both_share: share of the rows that were read in both orders.
        not_scored: rows for which the engine gave no number.
    """

    arm: str
    tokens_per_row: float
    rows_per_second: float | None
    cut_share: float
    median_mass: float | None
    consistency: float | None
    both_share: float
    not_scored: int


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment found.

    Attributes:
        settings: how it was done.
        table: name of the table.
        rows: the rows that all arms judged, in the order of their ids as text; `p`, `first`, `second`, `mass`, `cut`
            and `flags` are the baseline's (of its first seed, where it is trained).
        arms: in the order of the settings; an arm that is trained has one entry for each seed, next to each other.
        differences: of each arm but the baseline, in the order of the settings.
        planned_smallest: the difference that was foreseen to show at the power wanted, before anything was read.
        dropped: arms that `stop_early` dropped, and after how many rows.
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
    dropped: dict[str, int]
    warnings: list[str]
    costs: list[Cost]
    record: dict[str, Any]
    folder: Path

    @property
    def baseline(self) -> str:
        """The name of the arm that the others are compared with."""
        return self.settings.baseline_name

    @property
    def names(self) -> list[str]:
        """The names of the arms, each once, in the order of the settings."""
        return [arm.name for arm in self.settings.arms]

    def scores_of(self, name: str) -> list[ArmScores]:
        """Return the scores of an arm: one entry, or one for each training seed."""
        return [arm for arm in self.arms if arm.name == name]
