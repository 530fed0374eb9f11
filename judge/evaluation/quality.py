"""How good probabilities are on labelled rows: every figure with its interval, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.reliability import Reliability, class_wise_error, reliabilities
from judge.prompting.verdict import as_three, entropy, probabilities
from judge.stats.metrics import UNIFORM_LOG_LOSS, brier_scores, called, hits, label_rates, log_losses
from judge.stats.resample import Estimate, Float, Resampler, Undefined
from judge.stats.softmax_fit import fit_softmax
from judge.tables.comparison import VERDICTS
from judge.tables.split import folds

Figure = Estimate | Undefined
LENGTH_FOLDS = 5


@dataclass(frozen=True)
class VerdictFigures:
    """One verdict against the other two.

    Attributes:
        labelled: rows to which people gave this verdict.
        called: rows in which it is the most probable verdict (k equally probable ones count 1/k each).
        precision: of the rows in which it is the most probable, the share to which people gave it.
        recall: of the rows to which people gave it, the share in which it is the most probable.
        auc: how often its probability is higher in a row to which people gave it than in another row.
    """

    verdict: str
    labelled: int
    called: float
    precision: Figure
    recall: Figure
    auc: Figure


@dataclass(frozen=True)
class TieLosses:
    """What ties cost, and how well the judge knows the better response apart from ties.

    Attributes:
        on_ties: log loss in rows that people call a tie, nats.
        on_others: log loss in rows where people prefer a response, nats.
        decided_accuracy: of the rows where people prefer a response, the share in which the judge gives it a higher
            probability than the other response, whatever the probability of a tie is.
    """

    on_ties: Figure
    on_others: Figure
    decided_accuracy: Figure


@dataclass(frozen=True)
class Figures:
    """The figures of a set of rows; log losses are in nats.

    Attributes:
        over_class_rates: the judge's log loss minus that of the class rates, below 0 where the judge knows more. The
            class rates are those of these very labels, so no other constant prediction has a lower log loss on them.
        over_length_baseline: the same for `length_baseline`, which is cross-validated.
        confusion: people's verdicts in rows, the judge's most probable verdicts in columns.
        reliability: of the most probable verdict, then of A, B and tie.
    """

    rows: int
    groups: int
    log_loss: Estimate
    accuracy: Estimate
    brier: Estimate
    over_class_rates: Estimate
    over_length_baseline: Figure
    class_rates_log_loss: float
    class_rates_accuracy: float
    class_rates_brier: float
    length_baseline_log_loss: float | None
    uniform_log_loss: float
    uniform_accuracy: float
    uniform_brier: float
    mean_p: tuple[float, float, float]
    label_rates: tuple[float, float, float]
    median_verdict_mass: float | None
    reliability: list[Reliability]
    class_wise_ece: Figure
    verdicts: list[VerdictFigures]
    confusion: list[list[float]]
    ties: TieLosses

    @property
    def ece(self) -> Figure:
        """The top-label expected calibration error."""
        return self.reliability[0].error


def figures_of(rows: JudgedRows, resampler: Resampler) -> Figures:
    """Return the figures of some rows, at least one; the resampler is of the same rows."""
    rates = label_rates(rows.labels)
    losses = log_losses(rows.p, rows.labels)
    # All resamples use the same class rates. Fitting the rates to each resample would change the interval in second
    # order only (they are at the minimum of the loss), and would favour them on small tables.
    beyond = losses + np.log(rates[rows.labels])
    values = [losses, hits(rows.p, rows.labels), brier_scores(rows.p, rows.labels), beyond]
    loss, accuracy, brier, over = resampler.estimate(np.column_stack(values), shares=[False, True, False, False])
    baseline = length_baseline(rows)
    over_baseline: Figure = (
        baseline if isinstance(baseline, Undefined) else resampler.estimate((losses - baseline)[:, np.newaxis])[0]
    )
    mass = rows.verdict_mass[np.isfinite(rows.verdict_mass)]
    reliability = reliabilities(rows, resampler)
    return Figures(
        rows=len(rows),
        groups=resampler.groups,
        log_loss=loss,
        accuracy=accuracy,
        brier=brier,
        over_class_rates=over,
        over_length_baseline=over_baseline,
        class_rates_log_loss=float(entropy(rates[np.newaxis])[0]),
        class_rates_accuracy=float(rates.max()),
        class_rates_brier=float(1 - (rates**2).sum()),
        length_baseline_log_loss=None if isinstance(baseline, Undefined) else float(baseline.mean()),
        uniform_log_loss=UNIFORM_LOG_LOSS,
        uniform_accuracy=1 / 3,
        uniform_brier=2 / 3,
        mean_p=as_three((rows.p / rows.p.sum(axis=1, keepdims=True)).mean(axis=0)),
        label_rates=as_three(rates),
        median_verdict_mass=float(np.median(mass)) if len(mass) else None,
        reliability=reliability,
        class_wise_ece=class_wise_error(rows, resampler),
        verdicts=[_verdict_figures(k, rows, resampler) for k in range(3)],
        confusion=(np.eye(3)[rows.labels].T @ called(rows.p)).tolist(),
        ties=_tie_losses(rows, losses, resampler),
    )


def _verdict_figures(verdict: int, rows: JudgedRows, resampler: Resampler) -> VerdictFigures:
    name = VERDICTS[verdict]
    true, said = rows.labels == verdict, called(rows.p)[:, verdict]
    none_true = f"nobody's verdict is {name}"
    if not true.any():
        auc: Figure = Undefined(none_true)
    elif true.all():
        auc = Undefined(f"every verdict is {name}")
    else:
        auc = area_under_curve(rows.p[:, verdict] / rows.p.sum(axis=1), true, resampler)
    return VerdictFigures(
        name,
        int(true.sum()),
        float(said.sum()),
        precision=mean_where(true, said, resampler, f"{name} is the most probable in no row", share=True),
        recall=mean_where(said, true, resampler, none_true, share=True),
        auc=auc,
    )


def area_under_curve(score: Float, true: NDArray[np.bool_], resampler: Resampler) -> Estimate:
    """Return the area under the ROC curve, where ties count one half, with its interval.

    A row's placement is the share of rows of the other kind that it is on the right side of. We compute the placements
    once. The resamples take the mean placement of either kind, which is the linear part of the statistic
    (N. A. Obuchowski, Nonparametric analysis of clustered ROC curve data, 1997), so that we need not sort 2,000 times.

    Args:
        score: shape (rows,), higher where `true` is more likely.
        true: shape (rows,), with both values in it.
    """
    positive, negative = np.sort(score[true]), np.sort(score[~true])
    placement = np.where(true, _share_below(negative, score), 1 - _share_below(positive, score))
    area = float(placement[true].mean())

    def mean_placements(totals: Float, _: Float) -> Float:
        return np.stack([(totals[0] / totals[1] + totals[2] / totals[3] - area).clip(0, 1)])

    columns = np.column_stack([placement * true, true, placement * ~true, ~true])
    # An area of 0 or 1 has no width in the resamples. It says as much as that many independent pairs of rows of either
    # kind, one pair for each group of the rarer kind.
    rarer = min(true, ~true, key=resampler.groups_of)
    (estimate,) = resampler.estimate(columns, mean_placements, about=rarer, shares=True)
    return Estimate(area, estimate.low, estimate.high)


def _share_below(ordered: Float, score: Float) -> Float:
    below, up_to = (np.searchsorted(ordered, score, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(ordered)))


def mean_where(
    values: NDArray[np.generic], weight: NDArray[np.generic], resampler: Resampler, reason: str, *, share: bool = False
) -> Figure:
    """Return the mean of numbers or truth values, or `Undefined` with the reason if all weights are 0.

    Args:
        values, weight: shape (rows,); weights are 0 or more.
        share: whether the values lie between 0 and 1 (see `Resampler.estimate`).
    """
    return resampler.means([values], weight, share)[0] if weight.any() else Undefined(reason)


def _tie_losses(rows: JudgedRows, losses: Float, resampler: Resampler) -> TieLosses:
    ties = rows.labels == 2
    preferred = np.where(rows.labels == 0, 1, -1) * (rows.p[:, 0] - rows.p[:, 1])
    right = (np.sign(preferred) + 1) / 2
    no_ties, only_ties = "nobody's verdict is tie", "every verdict is tie"
    return TieLosses(
        on_ties=mean_where(losses, ties, resampler, no_ties),
        on_others=mean_where(losses, ~ties, resampler, only_ties),
        decided_accuracy=mean_where(right, ~ties, resampler, only_ties, share=True),
    )


def length_baseline(rows: JudgedRows) -> Float | Undefined:
    """Return the log loss of each row by a model that knows only the lengths of the two responses.

    People prefer the longer response more often than not, and call a tie less often the more the lengths differ. On
    the LMSYS contest's table this alone gives a log loss of about 1.06, where the class rates give 1.097.

    The model is a multinomial logistic regression on the log ratio of the lengths and its absolute value, fitted
    without the row's prompt group (cross-validation over groups). One row of each verdict is added to its fit (the
    rule of succession): otherwise a verdict that is missing from the other folds would cost 15 nats or more.

    Returns:
        Shape (rows,), nats; undefined with fewer groups than folds or a single class.
    """
    if len(np.unique(rows.labels)) < 2:
        return Undefined("the labels have one class only")
    groups = len(np.unique(rows.groups))
    if groups < LENGTH_FOLDS:
        return Undefined(f"fewer prompt groups ({groups}) than folds ({LENGTH_FOLDS})")
    design = _length_design(rows.facts.characters)
    fold = folds(rows.groups, rows.labels, LENGTH_FOLDS, seed=0)
    losses = np.empty(len(rows))
    for number in range(LENGTH_FOLDS):
        held = fold == number
        theta = fit_softmax(design[~held], rows.labels[~held])
        fitted = int((~held).sum())
        p = (fitted * probabilities(design[held] @ theta) + 1) / (fitted + 3)
        losses[held] = log_losses(p, rows.labels[held])
    return losses


def _length_design(characters: np.ndarray) -> Float:
    """Return the design of the regression, shape (rows, 3, 6): A's and the tie's logits have three parameters each.

    Args:
        characters: of the prompt, of A and of B, shape (rows, 3).
    """
    a, b = np.log1p(characters[:, 1:].astype(np.float64)).T
    design = np.zeros((len(a), 3, 6))  # B's logit is 0: the softmax needs only differences
    design[:, 0, :3] = design[:, 2, 3:] = np.column_stack([np.ones(len(a)), a - b, np.abs(a - b)])
    return design
