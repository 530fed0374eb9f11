"""The bias report: what moves a judge's verdicts and should not, next to what moves people's.

The report tests seven effects, each at the 95% level. For a judge that has none of them, about 30% of reports would
show an effect whose interval excludes 0. So an effect must also be 2 points or more to be called present
(`judge.evaluation.bias_effects.call_of`). Only the scores of models are corrected for their number, which can be large.

All effects except position compare the judge with the labels. A judge that knows little says 50:50 where people do
not: people often prefer the longer response and rarely one that declines, so such a judge "favours the longer response
less than people do". That difference is real, but it shows a lack of knowledge, not a taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from judge.evaluation.bias_effects import MARGIN, Effect, Mask, ScoredRows, Wording, not_measured, points, score_of_a
from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.self_preference import ModelScore, model_scores, own_family
from judge.prompting.verdict import Float
from judge.stats.metrics import called, verdicts
from judge.stats.resample import Estimate, Resampler

# Lower ends of bins of rows, by how many times as long the longer response is; the last bin has no upper end.
LENGTH_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0)

_POSITION = Wording(
    "position",
    "position bias",
    "Position bias: a response scores {} points more when it is shown first than when it is shown second",
    "Position bias: a response scores {} points more when it is shown second than when it is shown first",
)
_VERBOSITY = Wording(
    "verbosity",
    "verbosity bias",
    "Verbosity bias: the longer response scores {} points more with the judge than with people",
    "The longer response scores {} points less with the judge than with people",
)
_TIES = Wording(
    "ties",
    "tie bias",
    "Too many ties: their mean probability is {} points above people's rate",
    "Too few ties: their mean probability is {} points below people's rate",
)
_IDENTICAL = Wording(
    "identical",
    "identical responses",
    "Between identical responses a tie is {} points more probable than people's rate",
    "Between identical responses a tie is {} points less probable than people's rate",
)
_REFUSALS = Wording(
    "refusals",
    "refusal bias",
    "Refusal bias: a response that declines scores {} points more with the judge than with people",
    "Refusal bias: a response that declines scores {} points less with the judge than with people",
)
_EMPTY = Wording(
    "empty",
    "empty answers",
    "An empty response scores {} points more with the judge than with people",
    "An empty response scores {} points less with the judge than with people",
)


@dataclass(frozen=True)
class PositionFigures:
    """How the most probable verdicts of the two orders (`judge.stats.metrics.verdicts`) agree, as shares of the rows.

    Attributes:
        consistency: rows where both verdicts are the same.
        flip_rate: rows where they differ, 1 - consistency.
        to_first: rows where they differ, and a response fares better in the order that shows it first.
        to_second: rows where it fares better in the other order; to_first + to_second = flip_rate.
    """

    rows: int
    consistency: Estimate
    flip_rate: Estimate
    to_first: Estimate
    to_second: Estimate


@dataclass(frozen=True)
class LengthBin:
    """Rows whose longer response is more than `low` and at most `high` times as long, in characters.

    Attributes:
        high: None in the last bin.
        judge: the longer response's mean score with the judge; None in a bin without rows, as are the next two.
        people: its mean score with people.
        difference: `judge` minus `people`.
    """

    low: float
    high: float | None
    rows: int
    judge: Estimate | None
    people: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class TieFigures:
    """The probability of a tie beside people's ties.

    Attributes:
        judge: mean probability of a tie.
        people: share of the rows that people call a tie.
        most_probable: share of the rows in which a tie is the most probable verdict; where k verdicts are equally
            probable, each counts 1/k.
        on_ties: mean probability in rows that people call a tie; None where there are no such rows.
        on_others: mean probability in the other rows; None where there are no such rows.
        separation: `on_ties` minus `on_others`.
    """

    rows: int
    judge: Estimate
    people: Estimate
    most_probable: Estimate
    on_ties: Estimate | None
    on_others: Estimate | None
    separation: Estimate | None


@dataclass(frozen=True)
class Bias:
    """The bias report; shares and differences are fractions of 1, with 95% intervals.

    Attributes:
        rows: labelled rows that were scored.
        margin: the least effect that matters.
        effects: position, verbosity, ties, identical, refusals, empty, self_preference.
        a_surplus: A's mean score with the judge minus its mean score with people, in whatever orders were read.
        position: None where no row was read in both orders.
        lengths: one for each bin of `LENGTH_RATIOS`.
        ties: None where no row was scored.
        identical_gap: mean |P(A) - P(B)| between identical responses; None where there are none.
        models: see `judge.evaluation.self_preference.model_scores`.
        models_left_out: how many models have too few rows for that.
        own_family: names of the models that --self matches.
    """

    rows: int
    margin: float
    effects: list[Effect]
    a_surplus: Estimate | None
    position: PositionFigures | None
    lengths: list[LengthBin]
    ties: TieFigures | None
    identical_gap: Estimate | None
    models: list[ModelScore]
    models_left_out: int
    own_family: list[str]


def bias_report(rows: JudgedRows, resampler: Resampler, self_names: Sequence[str] = ()) -> Bias:
    """Measure a judge's biases on labelled rows, at least one; the resampler is of the same rows.

    Args:
        self_names: (parts of) the names of the judge's own model or family.

    Raises:
        JudgeError: a name of `self_names` without a letter or digit.
    """
    measured = ScoredRows(rows, resampler)
    facts, scored, p = rows.facts, measured.scored, measured.p
    a_surplus = measured.mean(measured.judge - measured.people, scored)
    tie_surplus: Float = p[:, 2] - (rows.labels == 2)
    family, names = own_family(measured, self_names)
    models, left_out = model_scores(measured)
    a, b = facts.characters[:, 1:].T
    longer = np.column_stack([a > b, b > a])
    return Bias(
        rows=int(scored.sum()),
        margin=MARGIN,
        effects=[
            _position_effect(measured, a_surplus),
            measured.preference(_VERBOSITY, longer, "all responses are as long as their rivals"),
            measured.effect(_TIES, tie_surplus, scored, "there are no rows"),
            measured.effect(_IDENTICAL, tie_surplus, scored & facts.identical, "no row has two identical responses"),
            measured.preference(_REFUSALS, facts.refusal, "no row has exactly one response that declines"),
            measured.preference(_EMPTY, facts.empty, "no row has exactly one empty response"),
            family,
        ],
        a_surplus=a_surplus,
        position=_position_figures(measured),
        lengths=_length_bins(measured, longer),
        ties=_tie_figures(measured),
        identical_gap=measured.mean(np.abs(p[:, 0] - p[:, 1]), scored & facts.identical),
        models=models,
        models_left_out=left_out,
        own_family=names,
    )


def _position_effect(measured: ScoredRows, a_surplus: Estimate | None) -> Effect:
    orders = (measured.rows.first, measured.rows.second)
    first, second = (score_of_a(p / p.sum(axis=1, keepdims=True)) for p in orders)
    if measured.both.any():
        return measured.effect(_POSITION, first - second, measured.both, "")
    if a_surplus is None:
        return not_measured(_POSITION, "no row was scored")
    if not np.isfinite(measured.rows.first).any():
        return not_measured(_POSITION, "the file does not hold the log-probabilities of the two orders")
    return not_measured(
        _POSITION,
        "only one order was read; score with --swap all. In that order A scores "
        f"{points(a_surplus)} points more with the judge than with people, which position bias may explain",
    )


def _position_figures(measured: ScoredRows) -> PositionFigures | None:
    both = measured.both
    if not both.any():
        return None
    # A counts 1, a tie 0, B -1. A higher rank in the order that shows A first means that being first helps.
    ranks = np.array([1, -1, 0])
    filled = [np.where(both[:, np.newaxis], p, 0.0) for p in (measured.rows.first, measured.rows.second)]
    first, second = (ranks[verdicts(p)] for p in filled)
    shares = [first == second, first != second, first > second, first < second]
    means = measured.resampler.means(shares, both, shares=True)
    return PositionFigures(int(both.sum()), *means)


def _length_bins(measured: ScoredRows, longer: Mask) -> list[LengthBin]:
    lengths = measured.rows.facts.characters[:, 1:].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite beside an empty response: the last bin
        ratio = lengths.max(axis=1) / lengths.min(axis=1)
    sign = longer[:, 0].astype(np.float64) - longer[:, 1]
    bins = []
    for low, high in zip(LENGTH_RATIOS, (*LENGTH_RATIOS[1:], None), strict=True):
        chosen: Mask = measured.scored & (sign != 0) & (ratio > low) & (ratio <= (high or np.inf))
        means = measured.scores(sign, chosen) if chosen.any() else [None] * 3
        bins.append(LengthBin(low, high, int(chosen.sum()), *means))
    return bins


def _tie_figures(measured: ScoredRows) -> TieFigures | None:
    scored, p = measured.scored, measured.p
    if not scored.any():
        return None
    tie = measured.rows.labels == 2
    judge, people, most = measured.resampler.means([p[:, 2], tie, called(p)[:, 2]], scored, shares=True)
    separation = None
    groups = [measured.resampler.groups_of(scored & part) for part in (tie, ~tie)]
    if min(groups):
        columns = [(scored & part) * weight for part in (tie, ~tie) for weight in (p[:, 2], 1.0)]
        separation = measured.resampler.estimate(
            np.column_stack(columns),
            lambda totals, _: (totals[0] / totals[1] - totals[2] / totals[3])[np.newaxis],
            about=scored & (tie if groups[0] <= groups[1] else ~tie),
        )[0]
    return TieFigures(
        rows=int(scored.sum()),
        judge=judge,
        people=people,
        most_probable=most,
        on_ties=measured.mean(p[:, 2], scored & tie),
        on_others=measured.mean(p[:, 2], scored & ~tie),
        separation=separation,
    )
