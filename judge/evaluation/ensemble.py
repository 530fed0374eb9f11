"""An ensemble of judges: predictions blended (`judge.evaluation.blend`), and whether that beats the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.evaluation.blend import blend, fit_weights, on_simplex
from judge.evaluation.members import MemberRows, joint_flags, labelled_rows
from judge.evaluation.settings import EnsembleSettings
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float
from judge.stats.metrics import hits, log_losses
from judge.stats.resample import Estimate, Resampler, check_resampling
from judge.stats.words import interval
from judge.tables.comparison import UNREAD
from judge.tables.split import folds
from judge.tables.table import Table

_SUM_TOLERANCE = 1e-6
_NOTHING = 1e-9  # nats: a smaller gain is a rounding error


@dataclass(frozen=True)
class Score:
    """Log loss in nats and accuracy on the labelled rows."""

    log_loss: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class EnsembleFigures:
    """The figures of a blend on labelled rows.

    Attributes:
        folds: number of folds of the cross-validation: each row is blended with weights that were fitted on other
            prompt groups; None where the weights were given.
        fold_weights: the weights of each fold, shape (folds, members).
        equal: the score of the blend with equal weights.
        blend: the score of the blend; out of fold where its weights were fitted.
        best: name of the member with the lowest log loss on these rows. It is chosen on the same rows that it is
            compared on, which favours it.
        gain: the best member's log loss minus the blend's; over 0 where the blend is better. All resamples of the
            interval use the same weights of the folds.
    """

    table: str
    rows: int
    groups: int
    unlabelled: int
    unpredicted: int
    dropped: int
    folds: int | None
    fold_weights: list[list[float]]
    members: list[Score]
    equal: Score
    blend: Score
    best: str
    gain: Estimate
    conclusion: str
    warnings: list[str]


@dataclass(frozen=True)
class Ensemble:
    """A blend of members, in the order of the first one's rows.

    Attributes:
        weights: of each member, summing to 1.
        fitted: whether they were fitted on labelled rows.
        p: probabilities of A, B and tie, shape (rows, 3).
        flags: the members' flags together, shape (rows,).
        measured: None without a table.
    """

    names: list[str]
    weights: list[float]
    fitted: bool
    p: Float
    flags: NDArray[np.uint32]
    measured: EnsembleFigures | None


def parse_weights(text: str) -> tuple[float, ...]:
    """Read weights as `0.6,0.4`.

    Raises:
        JudgeError: a part is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise JudgeError(f"--weights={printable(text)}: expected numbers joined by commas, such as 0.6,0.4") from None


def _check(members: Sequence[StoredPredictions], settings: EnsembleSettings) -> None:
    check_resampling(settings.resamples, settings.seed)
    if len(members) < 2:
        raise JudgeError(f"an ensemble needs at least two files of predictions, {len(members)} given")
    weights = settings.weights
    if weights is None:
        return
    shown = ",".join(f"{w:g}" for w in weights)
    if len(weights) != len(members):
        raise JudgeError(
            f"--weights={shown}: {counted(len(weights), 'weight')} for {len(members)} files; give one each"
        )
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise JudgeError(f"--weights={shown}: expected numbers of 0 or more")
    if abs(sum(weights) - 1) > _SUM_TOLERANCE:
        raise JudgeError(f"--weights={shown}: they sum to {sum(weights):.8g}, expected 1")


def ensemble(
    members: Sequence[StoredPredictions], table: Table | None = None, settings: EnsembleSettings | None = None
) -> Ensemble:
    """Blend the predictions of several judges.

    Args:
        members: of `judge.evaluation.members.read_members`, at least two.
        table: to fit the weights on and to measure with; read once. None: equal or given weights, nothing measured.

    Raises:
        JudgeError: fewer than two members, impossible weights or settings, ids that are not the table's, rows that
            trained a member (unless dropped), or fewer prompt groups than folds.
    """
    settings = settings or EnsembleSettings()
    _check(members, settings)
    count = len(members)
    weights = np.full(count, 1 / count) if settings.weights is None else on_simplex(np.array(settings.weights))
    measured = None
    if table is not None:
        labelled = labelled_rows(members, table, settings.trained_rows, settings.partial)
        fold_weights: list[Float] = []
        if settings.weights is None:
            out_of_fold, fold_weights = _cross_validated(labelled, settings)
            weights = _fit(labelled, np.ones(len(labelled.rows), dtype=np.bool_))
        else:
            out_of_fold = blend(labelled.p, weights, labelled.scored)
        measured = _measured(members, labelled, weights, out_of_fold, fold_weights, table, settings)
    return Ensemble(
        names=[member.name for member in members],
        weights=[float(w) for w in weights],
        fitted=table is not None and settings.weights is None,
        p=blend(np.stack([m.p for m in members]), weights, np.stack([~m.has(UNREAD) for m in members])),
        flags=joint_flags(members),
        measured=measured,
    )


def _fit(labelled: MemberRows, chosen: NDArray[np.bool_]) -> Float:
    """Return weights fitted on those chosen rows that every member scored: only on these is the loss convex."""
    complete = chosen & labelled.scored.all(axis=0)
    if not complete.any():
        raise JudgeError("no labelled row was scored by every member, so no weights can be fitted; pass --weights")
    return fit_weights(labelled.p[:, complete], labelled.rows.labels[complete])


def _cross_validated(labelled: MemberRows, settings: EnsembleSettings) -> tuple[Float, list[Float]]:
    """Return each row blended with weights fitted on other prompt groups, shape (rows, 3), and each fold's weights."""
    rows = labelled.rows
    groups = len(np.unique(rows.groups))
    if settings.folds < 2:
        raise JudgeError(f"--folds={settings.folds}: expected 2 or more")
    if groups < settings.folds:
        raise JudgeError(
            f"--folds={settings.folds}: the labelled rows have {counted(groups, 'prompt group')}, fewer than folds; "
            + (f"pass --folds={groups}" if groups > 1 else "pass --weights, or give more rows")
        )
    fold = folds(rows.groups, rows.labels, settings.folds, settings.seed)
    result = np.empty((len(rows), 3))
    fold_weights = []
    for number in range(settings.folds):
        held_out = fold == number
        weights = _fit(labelled, ~held_out)
        result[held_out] = blend(labelled.p[:, held_out], weights, labelled.scored[:, held_out])
        fold_weights.append(weights)
    return result, fold_weights


def _measured(
    members: Sequence[StoredPredictions],
    labelled: MemberRows,
    weights: Float,
    blended: Float,
    fold_weights: list[Float],
    table: Table,
    settings: EnsembleSettings,
) -> EnsembleFigures:
    rows, count = labelled.rows, len(members)
    equal = blend(labelled.p, np.full(count, 1 / count), labelled.scored)
    # columns: the members, the blend with equal weights, the blend; shape (rows, members + 2)
    losses = np.column_stack([log_losses(p, rows.labels) for p in (*labelled.p, equal, blended)])
    right = np.column_stack([hits(p, rows.labels) for p in (*labelled.p, equal, blended)])
    best = int(losses[:, :count].mean(axis=0).argmin())
    values = np.column_stack([losses, right, losses[:, best] - losses[:, -1]])
    shares = [False] * losses.shape[1] + [True] * right.shape[1] + [False]
    estimates = Resampler(rows.groups, settings.resamples, settings.seed).estimate(values, shares=shares)
    scores = [Score(*pair) for pair in zip(estimates[: count + 2], estimates[count + 2 : -1], strict=True)]
    return EnsembleFigures(
        table=table.name,
        rows=len(rows),
        groups=len(np.unique(rows.groups)),
        unlabelled=labelled.unlabelled,
        unpredicted=labelled.unpredicted,
        dropped=labelled.dropped,
        folds=len(fold_weights) or None,
        fold_weights=[[float(w) for w in weights] for weights in fold_weights],
        members=scores[:count],
        equal=scores[count],
        blend=scores[count + 1],
        best=members[best].name,
        gain=estimates[-1],
        conclusion=_conclusion(members[best].name, float(weights[best]), estimates[-1]),
        warnings=labelled.warnings(),
    )


def _conclusion(best: str, weight: float, gain: Estimate) -> str:
    """Return a sentence on the gain over the best member, whose weight in the blend of all rows is `weight`."""
    if weight == 1:
        return f"the blend is not better than {best} alone: it is {best} alone, the other members got no weight"
    if gain.low is None or gain.high is None:
        return f"with one prompt group it cannot be said whether the blend is better than {best} alone"
    if gain.low > _NOTHING:
        return f"the blend is better than {best} alone by {gain.value:.4f} nats ({interval(gain, '.4f')})"
    if gain.high < -_NOTHING:
        loss = gain.times(-1)
        return f"the blend is worse than {best} alone by {loss.value:.4f} nats ({interval(loss, '.4f')})"
    return (
        f"the blend is not shown to be better than {best} alone: a gain of {gain.value:+z.4f} nats, and the interval "
        f"reaches from {interval(gain, '+z.4f')}"
    )
