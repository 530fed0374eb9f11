"""Which arms differ from the baseline, on the same rows: intervals, tests, and a call in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from judge.errors import counted, printable
from judge.experiment.paired import Paired, estimates, paired, seed_errors
from judge.experiment.power import LEAST_GROUPS, POWER, Demand, Spread, fewest_rows
from judge.experiment.settings import DEFAULT_MARGIN
from judge.prompting.verdict import Float
from judge.stats.metrics import MEASURES, Metric
from judge.stats.permutation import PERMUTATIONS, holm
from judge.stats.resample import CONFIDENCE, RESAMPLES, Estimate, Resampler
from judge.stats.words import amount, amount_interval, p_text

Call = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Difference:
    """How an arm differs from the baseline on the rows that both scored.

    Attributes:
        estimate: mean of arm minus baseline in the metric's unit, and its interval (for this arm alone, not corrected
            for their number).
        p_value: two-sided, that there is no difference.
        p_holm: the same, corrected for the number of arms by Holm's method.
        p_equivalent: that the difference is at least the margin (two one-sided tests), corrected by Holm's method.
        call: `equivalent` if the test shows equivalence, else `better` or `worse` if it shows a difference, else
            `undecided`.
        rows: labelled rows that arm and baseline both scored.
        groups: their prompt groups.
        smallest: the smallest true difference that these rows would have shown at the power wanted, with the spread
            that was seen; infinite for a single group or seed.
        rows_needed: rows, in groups like these, with which the test decides at the power wanted, whatever the true
            difference is; None where it is decided, or where 10 million rows are not enough.
        sentence: all this in words.
        unscored: rows left out because the arm or the baseline has no score for them.
        seeds: training seeds of the arm; 0 for an arm that is not trained.
    """

    arm: str
    estimate: Estimate
    p_value: float
    p_holm: float
    p_equivalent: float
    call: Call
    rows: int
    groups: int
    smallest: float
    rows_needed: int | None
    sentence: str
    unscored: int = 0
    seeds: int = 0


def differences(
    scores: Mapping[str, NDArray[np.floating]],
    baseline: str,
    groups: NDArray[np.integer],
    metric: Metric = "log_loss",
    *,
    margin: float | None = None,
    level: float = CONFIDENCE,
    power: float = POWER,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Difference]:
    """Compare each arm with the baseline on the same rows, paired by row.

    The interval resamples prompt groups; the p-value flips the signs of whole groups. A difference counts as shown if
    the corrected p-value is small and the interval excludes 0. In simulations with 80 groups of skewed losses, that
    happened to 4.4 to 4.9% of tables on which the arms were equal, with one arm beside the baseline and with five. Two
    one-sided t tests with the standard error between groups show equivalence (D. J. Schuirmann, A comparison of the
    two one-sided tests procedure and the power approach, 1987). Holm's method corrects both families of tests for the
    number of arms.

    Where arms are trained, the spread between their seeds widens the interval and both tests (`seed_errors`).

    Args:
        scores: of each arm (`judge.stats.metrics.Measure.scores`), shape (rows,), or (seeds, rows) if it is trained;
            NaN where the engine gave no number. A row where the arm or the baseline has no score is left out and
            counted.
        baseline: name of the arm that the others are compared with.
        groups: the key of each row's prompt group, shape (rows,).
        metric: of the scores; says which direction is better.
        margin: a difference below it does not matter; None for the metric's default.
        level: of the intervals; 1 minus the rate of wrong calls over all arms.
        power: how often a difference should be found, for `smallest` and `rows_needed`.
        resamples: of groups.
        permutations: of signs.
        seed: the same seed and rows give the same result.

    Returns:
        One for each arm but the baseline, in the order of `scores`.

    Raises:
        ValueError: the baseline is not an arm, there are no rows, or shapes that do not belong together.
    """
    names = [name for name in scores if name != baseline]
    arrays = _checked(scores, baseline, groups)
    if not names:
        return []
    margin = DEFAULT_MARGIN[metric] if margin is None else margin
    demand = Demand(1 - level, power, len(names))
    errors = seed_errors(arrays)
    pairs = [paired(arrays[name], arrays[baseline], groups, (errors[name], errors[baseline])) for name in names]
    mean_differences = estimates(pairs, Resampler(groups, resamples, seed, level))
    p_values = [pair.p_value(permutations, seed) for pair in pairs]
    of_equivalence = [pair.p_equivalent(margin, metric) for pair in pairs]
    p_holm, p_equivalent = ([p for p in holm(values) if p is not None] for values in (p_values, of_equivalence))
    cases = [
        _Case(*parts, baseline, metric, margin, demand) for parts in zip(names, pairs, mean_differences, strict=True)
    ]
    return [_difference(*parts) for parts in zip(cases, p_values, p_holm, p_equivalent, strict=True)]


@dataclass(frozen=True)
class _Case:
    """An arm beside the baseline, and what the user asks of the test."""

    arm: str
    pair: Paired
    estimate: Estimate
    baseline: str
    metric: Metric
    margin: float
    demand: Demand


def _checked(
    scores: Mapping[str, NDArray[np.floating]], baseline: str, groups: NDArray[np.integer]
) -> dict[str, Float]:
    if baseline not in scores:
        raise ValueError(f"the baseline {baseline!r} is not among the arms")
    if not len(groups):
        raise ValueError("there are no rows to compare")
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    for name, values in arrays.items():
        if values.ndim not in (1, 2) or values.shape[-1] != len(groups) or not len(values):
            rows = len(groups)
            raise ValueError(f"{name}: expected scores (rows,) or (seeds, rows) of {rows} rows, found {values.shape}")
    return arrays


def _difference(case: _Case, p_value: float, p_holm: float, p_equivalent: float) -> Difference:
    pair, demand, estimate = case.pair, case.demand, case.estimate
    decidable = pair.spread.measured and pair.group_count >= LEAST_GROUPS
    shown = decidable and p_holm <= demand.error and not (estimate.low or 0.0) <= 0 <= (estimate.high or 0.0)
    call: Call = "undecided"
    if decidable and p_equivalent <= demand.error:  # also where a difference is shown that is smaller than the margin
        call = "equivalent"
    elif shown:
        call = "better" if (estimate.value > 0) == (case.metric == "accuracy") else "worse"
    needed = _rows_needed(case) if call == "undecided" and pair.spread.measured else None
    remarks = _remarks(case, call, shown, needed)
    return Difference(
        arm=case.arm,
        estimate=estimate,
        p_value=p_value,
        p_holm=p_holm,
        p_equivalent=p_equivalent,
        call=call,
        rows=pair.rows,
        groups=pair.group_count,
        smallest=demand.smallest(pair.spread) if pair.spread.measured else math.inf,
        rows_needed=needed,
        sentence=_sentence(case, call, p_equivalent if call == "equivalent" else p_holm, remarks),
        unscored=len(pair.scored) - pair.rows,
        seeds=pair.seeds,
    )


def _rows_needed(case: _Case) -> int | None:
    """Return how many rows, more than there are, decide at the power wanted, whatever the true difference is."""
    pair, demand, margin = case.pair, case.demand, case.margin

    def enough(spread: Spread, surely: bool = False) -> bool:
        rare = pair.p_rare(margin, case.metric, spread.group_count / pair.group_count)
        return rare <= demand.error / demand.arms and demand.decides(spread, margin, surely)

    # If these rows had that power and were unlucky, ask for so many that they cannot fail.
    surely = enough(pair.spread)
    return fewest_rows(lambda spread: enough(spread, surely), pair.spread, pair.rows, pair.rows + 1)


def _sentence(case: _Case, call: Call, p_value: float, remarks: Sequence[str]) -> str:
    """Return one line: the call, the difference with its interval, the p-value, and the remarks."""
    metric, estimate, name = case.metric, case.estimate, MEASURES[case.metric].name
    arm, baseline = printable(case.arm), printable(case.baseline)
    if math.isnan(estimate.value):
        return f"{name}: {arm} against {baseline} is undecided: no row has a score of both"
    p = p_text(p_value) + (f" after correction for {case.demand.arms} arms" if case.demand.arms > 1 else "")
    if call in ("better", "worse"):
        size = estimate.times(-1) if estimate.value < 0 else estimate
        text = f"{arm} is {call} than {baseline} by {_with_interval(size, metric, '')}, {p}"
    elif call == "equivalent":
        within = f"±{amount(case.margin, metric)}"
        text = f"{arm} is equivalent to {baseline} within {within}: {_with_interval(estimate, metric, '+')}, {p}"
    else:
        text = f"{arm} against {baseline} is undecided: {_with_interval(estimate, metric, '+')}, {p}"
    return "; ".join([f"{name}: {text}", *remarks])


def _with_interval(estimate: Estimate, metric: Metric, sign: str) -> str:
    """Return a difference with its unit, and its interval without one: `0.0123 nats (0.0012 to 0.0234)`."""
    ends = amount_interval(estimate, metric, sign)
    return amount(estimate.value, metric, sign) + (f" ({ends})" if ends else "")


def _remarks(case: _Case, call: Call, shown: bool, needed: int | None) -> list[str]:
    pair, remarks = case.pair, []
    groups = counted(pair.group_count, "prompt group")
    if call == "equivalent" and shown:
        remarks.append("a difference is shown, smaller than what matters")
    if call == "undecided":
        few = pair.group_count < LEAST_GROUPS
        if few:
            verb = "is" if pair.group_count == 1 else "are"
            remarks.append(f"{groups} {verb} too few to decide, {LEAST_GROUPS} are needed")
        elif pair.differing < LEAST_GROUPS:
            remarks.append(f"only {pair.differing:,} of {groups} differ, too few to say by how much others would")
        if pair.spread.measured and not few:
            remarks.append(_rows_to_decide(case, needed))
    if pair.spread.seeds:
        remarks.append(_of_seeds(case))
    if pair.rows < len(pair.scored):
        remarks.append(f"{counted(len(pair.scored) - pair.rows, 'row')} without a score left out")
    return remarks


def _rows_to_decide(case: _Case, needed: int | None) -> str:
    """Say how many rows would decide it: whatever the true difference is, and if it is the one seen."""
    pair, value = case.pair, case.pair.mean
    as_seen = None
    if pair.differing >= LEAST_GROUPS:
        as_seen = fewest_rows(
            lambda spread: case.demand.decides_at(spread, case.margin, value), pair.spread, pair.rows, pair.rows + 1
        )
    if needed is None:
        if as_seen is None:
            return "more rows alone would not decide it" + (", more training seeds might" if pair.spread.seeds else "")
        return f"about {_about(as_seen)} rows would decide it if the difference is the one seen"
    if as_seen is None or as_seen > 0.8 * needed:
        return f"about {_about(needed)} rows would decide it"
    return f"about {_about(needed)} rows would decide it, {_about(as_seen)} if the difference is the one seen"


def _about(rows: int) -> str:
    """Return a number rounded up to two digits."""
    step: int = 10 ** max(len(str(rows)) - 2, 0)
    return f"{-(-rows // step) * step:,}"


def _of_seeds(case: _Case) -> str:
    """Say what the training seeds leave open."""
    spread = case.pair.spread
    if math.isinf(spread.seeds):
        return "one training seed does not show what training leaves to chance: train two or more"
    tail = case.demand.error / 2
    part = amount(spread.seeds_quantile(tail), case.metric)
    if spread.seeds_quantile(tail) < spread.quantile(tail) / 2:
        return f"of which ±{part} are due to the training seeds"
    return f"the training seeds alone leave ±{part}: {case.pair.seeds or 'few'} seeds say little, train more"
