"""What is shown of an experiment besides its differences: each arm's own score, slices, disagreements and sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from judge.evaluation.slices import FEWEST_GROUPS, parts_of
from judge.experiment.paired import seed_errors
from judge.experiment.power import Spread
from judge.experiment.result import Cost, ExperimentResult, metric_scores
from judge.experiment.statistics import Difference
from judge.prompting.verdict import Float, as_three
from judge.stats.resample import Estimate, Resampler

SweepOf = Literal["max_tokens", "train_rows"]


@dataclass(frozen=True)
class ArmFigures:
    """An arm as a line of a table.

    Attributes:
        score: the metric over the rows that have one, the mean over its training seeds, with an interval over prompt
            groups and seeds; None where no row has one.
        rows: that have a score.
        difference: from the baseline; None for the baseline itself.
    """

    name: str
    score: Estimate | None
    rows: int
    difference: Difference | None
    cost: Cost


def arm_figures(result: ExperimentResult) -> list[ArmFigures]:
    """Return a line for each arm, in the order of the settings."""
    differences = {difference.arm: difference for difference in result.differences}
    costs = {cost.arm: cost for cost in result.costs}
    of_arms = {name: _scores(result, name) for name in result.names}
    errors = seed_errors(of_arms)
    settings, figures = result.settings, []
    for name, scores in of_arms.items():
        means = np.atleast_2d(scores).mean(axis=0)
        scored, score = np.isfinite(means), None
        if scored.any():
            resampler = Resampler(result.rows.groups[scored], settings.resamples, settings.seed, settings.level)
            (score,) = resampler.estimate(means[scored][:, np.newaxis])
            between = errors[name]
            score = Spread(0.0, 2, math.sqrt(between.variance), between.freedom).widened(score, settings.level)
        figures.append(ArmFigures(name, score, int(scored.sum()), differences.get(name), costs[name]))
    return figures


def _scores(result: ExperimentResult, name: str) -> Float:
    return metric_scores(result.scores_of(name), result.rows.labels, result.settings.metric)


@dataclass(frozen=True)
class SliceDifference:
    """An arm minus the baseline on a part of the rows; `few` where it has fewer than `FEWEST_GROUPS` prompt groups."""

    dimension: str
    name: str
    rows: int
    groups: int
    difference: Estimate
    few: bool


def slice_differences(result: ExperimentResult, name: str) -> list[SliceDifference]:
    """Return an arm's difference from the baseline on each slice of the rows that both have a score for.

    The slices are those of `judge.evaluation.slices`; what was cut is by the baseline's budget. Differences are paired
    by row and their intervals are over prompt groups, without a correction for how many slices there are.
    """
    arm, base = (np.atleast_2d(_scores(result, one)).mean(axis=0) for one in (name, result.settings.baseline_name))
    change = arm - base
    scored = np.isfinite(change)
    if not scored.any():
        return []
    rows, change, settings = result.rows.where(scored), change[scored], result.settings
    parts = list(parts_of(rows))
    if not parts:
        return []
    masks = np.column_stack([inside for _, _, inside in parts])
    resampler = Resampler(rows.groups, settings.resamples, settings.seed, settings.level)
    estimates = resampler.estimate(
        np.column_stack([masks * change[:, np.newaxis], masks]),
        lambda totals, _: totals[: len(parts)] / totals[len(parts) :],
    )
    slices = []
    for (dimension, part, inside), estimate in zip(parts, estimates, strict=True):
        groups = len(np.unique(rows.groups[inside]))
        shown = estimate if groups > 1 else Estimate(estimate.value, None, None)
        slices.append(SliceDifference(dimension, part, int(inside.sum()), groups, shown, groups < FEWEST_GROUPS))
    return slices


@dataclass(frozen=True)
class DisputedRow:
    """A row of which the arms think differently.

    Attributes:
        apart: the largest difference between two arms: the share of probability that one gives other verdicts.
        label: 0, 1 or 2.
        p: of each arm, A, B and tie.
    """

    id: str
    apart: float
    label: int
    p: dict[str, tuple[float, float, float]]


def mean_p(result: ExperimentResult, name: str) -> Float:
    """Return an arm's probabilities, the mean over its training seeds, shape (rows, 3)."""
    p: Float = np.mean([arm.p for arm in result.scores_of(name)], axis=0)
    return p


def apart(result: ExperimentResult) -> Float:
    """Return how far the two arms that differ most are apart in each row (total variation, 0 to 1), shape (rows,)."""
    largest = np.zeros(len(result.rows))
    for p, other in combinations([mean_p(result, name) for name in result.names], 2):
        largest = np.maximum(largest, np.abs(p - other).sum(axis=1) / 2)
    return largest


def most_disputed(result: ExperimentResult, count: int = 12) -> list[DisputedRow]:
    """Return the rows on which arms disagree most, the most disputed first."""
    distance, rows = apart(result), result.rows
    order = np.argsort(-distance, kind="stable")[:count]  # rows are sorted by id
    means = {name: mean_p(result, name) for name in result.names}
    return [
        DisputedRow(
            str(rows.ids[i]), float(distance[i]), int(rows.labels[i]), {k: as_three(p[i]) for k, p in means.items()}
        )
        for i in order
        if distance[i] > 0
    ]


@dataclass(frozen=True)
class Sweep:
    """Arms that differ in one number alone: which one, and each arm's value of it, in rising order."""

    of: SweepOf
    points: list[tuple[float, str]]


def sweep_of(result: ExperimentResult) -> Sweep | None:
    """Return the sweep that the arms are, or None.

    They are one where they differ in nothing but `max_tokens`, or in nothing but the number of rows that they were
    trained on.
    """
    arms = result.settings.arms
    for of in get_args(SweepOf):
        others = [arm.model_dump(exclude={"name", of}) for arm in arms]
        # what an arm was read or trained with, which its settings may leave open
        values = [(result.scores_of(arm.name)[0].settings.get(of) or getattr(arm, of), arm.name) for arm in arms]
        points = sorted((float(value), name) for value, name in values if isinstance(value, (int, float)) and value > 0)
        is_alike = all(other == others[0] for other in others)
        if is_alike and len(points) == len(arms) == len({value for value, _ in points}):
            return Sweep(of, points)
    return None
