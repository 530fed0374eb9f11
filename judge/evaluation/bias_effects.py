"""Effects that a judge should not have: how each is measured, and when it is called present or absent.

All effects are differences of *scores*. The judge's score of a response is the probability that it wins plus half the
probability of a tie; people's score is 1, 0.5 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from judge.errors import counted
from judge.evaluation.judged_rows import JudgedRows
from judge.prompting.verdict import Float
from judge.stats.resample import Estimate, Resampler
from judge.stats.words import with_interval
from judge.tables.comparison import UNREAD

Call = Literal["present", "absent", "undecided", "not measured"]
Mask = NDArray[np.bool_]

# Two points of score move a rating by 400 log10(0.52 / 0.48) = 14 Elo points, about the distance between neighbours in
# a table of models. A smaller bias changes few decisions, whatever its p-value.
MARGIN = 0.02
# With fewer groups the bootstrap's intervals are too narrow to call an effect (FEW_GROUPS in judge.stats.resample), and
# they have no width at all where all the rows happen to agree.
LEAST_GROUPS = 30


@dataclass(frozen=True)
class Effect:
    """One effect, and whether the judge has it.

    Attributes:
        key, title: a short name for programs, and one for people.
        rows, groups: how many rows it is measured on, and how many prompt groups these have.
        estimate: the effect as a fraction of 1; None where it is not measured.
        call: present, absent, undecided or not measured (`call_of`).
        sentence: whether the judge has it and how big it is, in points of 1/100; or why it is not measured.
    """

    key: str
    title: str
    rows: int
    groups: int
    estimate: Estimate | None
    call: Call
    sentence: str


@dataclass(frozen=True)
class Wording:
    """The words for an effect: `more` where it is positive, `less` where it is negative; `{}` is the points."""

    key: str
    title: str
    more: str
    less: str


class ScoredRows:
    """Labelled rows with the judge's and people's scores, and means over parts of them, all on the same resamples.

    Attributes:
        scored: which rows the judge could score, shape (rows,); the others count for no effect.
        both: which rows it scored in both orders, shape (rows,).
        p: probabilities of A, B and tie, rows summing to 1, shape (rows, 3).
        judge: A's score by the predictions, shape (rows,).
        people: A's score by the labels, shape (rows,).
    """

    def __init__(self, rows: JudgedRows, resampler: Resampler) -> None:
        self.rows, self.resampler = rows, resampler
        self.scored: Mask = ~rows.has(UNREAD)
        self.both: Mask = self.scored & np.isfinite(rows.first).all(axis=1) & np.isfinite(rows.second).all(axis=1)
        self.p: Float = rows.p / rows.p.sum(axis=1, keepdims=True)
        self.judge = score_of_a(self.p)
        self.people = score_of_a(np.eye(3)[rows.labels])

    def scores(self, sign: Float, chosen: Mask) -> tuple[Estimate, Estimate, Estimate]:
        """Return a response's mean score with the judge, with people, and the difference of the two.

        Args:
            sign: 1 where the response is A, -1 where it is B, shape (rows,).
            chosen: the rows that count, shape (rows,), at least one True.
        """
        judge, people = (0.5 + sign * (score - 0.5) for score in (self.judge, self.people))
        means = self.resampler.means([judge, people, judge - people], chosen, [True, True, False])
        return means[0], means[1], means[2]

    def mean(self, column: Float, chosen: Mask) -> Estimate | None:
        """Return the mean of one column over the chosen rows, or None if no row is chosen."""
        return self.resampler.means([column], chosen)[0] if chosen.any() else None

    def effect(self, wording: Wording, column: Float, chosen: Mask, otherwise: str) -> Effect:
        """Return the mean of a column over the chosen rows as an effect; `otherwise` says why no row is chosen."""
        estimate = self.mean(column, chosen)
        if estimate is None:
            return not_measured(wording, otherwise if self.scored.any() else "no row was scored")
        groups, rows = self.resampler.groups_of(chosen), int(chosen.sum())
        call = call_of(estimate, groups)
        return Effect(
            wording.key, wording.title, rows, groups, estimate, call, sentence(wording, estimate, call, rows, groups)
        )

    def preference(self, wording: Wording, marked: Mask, otherwise: str) -> Effect:
        """Return by how much more than people the judge favours the marked response, in rows with one marked response.

        Args:
            marked: which of A and B have the mark, shape (rows, 2).
            otherwise: why it is not measured where no row has exactly one.
        """
        sign = marked[:, 0].astype(np.float64) - marked[:, 1]
        return self.effect(wording, sign * (self.judge - self.people), self.scored & (sign != 0), otherwise)


def score_of_a(p: Float) -> Float:
    """Return the score of A, P(A) + P(tie) / 2, shape (rows,); B's score is 1 minus it.

    Args:
        p: probabilities of A, B and tie, shape (rows, 3).
    """
    return np.asarray((1 + p[:, 0] - p[:, 1]) / 2)


def call_of(estimate: Estimate, groups: int) -> Call:
    """Return whether the judge has an effect.

    - present: the 95% interval excludes 0, and the effect is at least `MARGIN`.
    - absent: the whole interval lies between -`MARGIN` and `MARGIN` (an equivalence test by confidence interval:
      D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). If it excludes 0 all the same, the effect is too small
      to matter.
    - undecided: anything else, no interval, or fewer than `LEAST_GROUPS` groups.
    """
    if estimate.low is None or estimate.high is None or groups < LEAST_GROUPS:
        return "undecided"
    if estimate.low > -MARGIN and estimate.high < MARGIN:
        return "absent"
    return "present" if excludes_zero(estimate) and abs(estimate.value) >= MARGIN else "undecided"


def excludes_zero(estimate: Estimate) -> bool:
    """Return whether the whole interval lies on one side of 0."""
    return estimate.low is not None and estimate.high is not None and (estimate.low > 0 or estimate.high < 0)


def not_measured(wording: Wording, reason: str) -> Effect:
    """Return an effect that no row can show."""
    return Effect(wording.key, wording.title, 0, 0, None, "not measured", f"Not measured: {reason}.")


def sentence(wording: Wording, estimate: Estimate, call: Call, rows: int, groups: int) -> str:
    """Return in one sentence whether the judge has the effect."""
    if call == "present":
        words, sign = (wording.more, 1) if estimate.value >= 0 else (wording.less, -1)
        return f"{words.format(with_interval(estimate.times(100 * sign), 'z.1f'))}."
    if call == "absent":
        small = ", which is too small to matter" if excludes_zero(estimate) else ""
        return f"No {wording.title} to speak of: {points(estimate)} points, within ±{MARGIN * 100:.0f}{small}."
    if groups < LEAST_GROUPS:
        return (
            f"Cannot be told from {counted(rows, 'row')} in {counted(groups, 'prompt group')}: {points(estimate)} "
            f"points; {LEAST_GROUPS} groups are the least."
        )
    return f"Cannot be told from {counted(rows, 'row')}: {points(estimate)} points."


def points(estimate: Estimate) -> str:
    """Return `+6.1 (+4.9 to +7.3)`, in points of 1/100."""
    return with_interval(estimate.times(100), "+z.1f")
