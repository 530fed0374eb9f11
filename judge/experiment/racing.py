"""Reading all arms: one after the other, or in batches of prompt groups where clearly worse arms are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from judge.errors import printable
from judge.experiment.arm_scores import ArmScores
from judge.experiment.arms import Arm, by_engine
from judge.experiment.reading import ArmReading, Engine
from judge.experiment.rows import ExperimentRows
from judge.experiment.sequential import Race, Stopped
from judge.experiment.settings import ExperimentSettings, Metric
from judge.experiment.statistics import row_scores
from judge.prompting.verdict import Float
from judge.scoring.reading import Events
from judge.tables.comparison import Flag
from judge.tables.split import shuffled

# A race looks so often, but not after fewer groups than these.
MOST_BATCHES = 20
FEWEST_GROUPS_A_BATCH = 25


@dataclass
class Readings:
    """All arms' readings, in the order of the settings, and the arms that a race stopped.

    Attributes:
        dropped: after how many rows an arm was dropped.
    """

    readings: list[ArmReading]
    stopped: dict[str, Stopped] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def read_all(
    settings: ExperimentSettings, rows: ExperimentRows, readings: Sequence[ArmReading], events: Events
) -> Readings:
    """Read every arm's prompts; arms with the same model share one start of the engine.

    The arms that share an engine with the baseline come first, so that others can be compared with it as they go.

    Raises:
        JudgeError: an engine does not work.
    """
    found = Readings(list(readings))
    of_arm = {id(reading.arm): reading for reading in readings}
    for group in by_engine([reading.arm for reading in readings], settings.baseline_name):
        engine = Engine(_widest(group), events)
        try:
            members = [of_arm[id(arm)] for arm in group]
            for reading in members:
                reading.engine = engine
            if settings.stop_early:
                _race(settings, rows, members, found, events)
            else:
                for reading in members:
                    reading.read_rows(rows.order)
        finally:
            engine.close()
    return found


def _widest(arms: Sequence[Arm]) -> Arm:
    return max(arms, key=lambda arm: arm.scorer.budget.max_tokens)


def _race(
    settings: ExperimentSettings,
    rows: ExperimentRows,
    members: Sequence[ArmReading],
    found: Readings,
    events: Events,
) -> None:
    """Read the arms of one engine in batches; the baseline is among them, or has been read."""
    baseline = next(r for r in found.readings if r.arm.name == settings.baseline_name)
    others = [arm.name for arm in settings.arms if arm.name != settings.baseline_name]
    race = Race(others, len(np.unique(rows.groups)), settings.metric, settings.level)
    mine = {r.arm.name: r for r in members if r is not baseline}
    done = 0
    for batch in batches(rows.groups, settings.seed):
        places = rows.order[batch]
        if baseline in members:
            baseline.read_rows(places)
        # arms of other engines have no rows in this race, and still their share of its error rate
        changes = {name: np.full(len(batch), np.nan) for name in others}
        base = _batch_scores(baseline, places, rows.labels[batch], settings.metric)
        for name in race.running():
            if name in mine:
                mine[name].read_rows(places)
                changes[name] = _batch_scores(mine[name], places, rows.labels[batch], settings.metric) - base
        done += len(batch)
        for name in race.update(changes, rows.groups[batch]):
            found.stopped[name], found.dropped[name] = race.stopped[name], done
            if done < len(rows):
                mine[name].drop()
                events.note(f"arm {printable(name)} is clearly worse than the baseline: dropped after {done:,} rows")


def batches(groups: NDArray[np.uint64], seed: int) -> list[NDArray[np.int64]]:
    """Return the row numbers of each batch: whole prompt groups, in a random order."""
    keys, number = np.unique(groups, return_inverse=True)
    order = np.argsort(shuffled(keys, seed), kind="stable")
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys))
    count = min(MOST_BATCHES, max(len(keys) // FEWEST_GROUPS_A_BATCH, 1))
    batch = (place * count // len(keys))[number]
    return [np.flatnonzero(batch == i) for i in range(count)]


def _batch_scores(reading: ArmReading, places: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric) -> Float:
    scores = row_scores(reading.p(places), labels, metric)
    return np.where(reading.lost()[places], np.nan, scores)


def scores_of(arm: ArmScores, labels: NDArray[np.int64], metric: Metric) -> Float:
    """Return an arm's score in each row, shape (rows,); NaN where it was not read, or not scored by the engine."""
    lost = ~arm.read | ((arm.flags & np.uint32(Flag.NOT_SCORED)) != 0)
    p = np.where(lost[:, np.newaxis], 1 / 3, arm.p)
    return np.where(lost, np.nan, row_scores(p, labels, metric))
